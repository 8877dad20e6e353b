"""One batch over the processes of a group: the weights come out as if one process had trained.

Every process draws and prepares the whole batch, from the same seeds, runs the network on its part, and takes the loss
of all outputs together. So whatever a loss averages over, or a callback mixes, stays what it is, batch norm included;
gradients are summed. What fastai's ``distrib_ctx`` does, averaging the parts' losses, is another training here: ours
divide by the labels that a batch has."""

from contextlib import ExitStack
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.torch_core import apply, find_bs
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lumbar_kaggle.training.devices import training_device
from lumbar_kaggle.training.group import added, rank, size


class TrainTogether(Callback):  # type: ignore[misc]
    """Give the network this process's part of a batch, and the loss what all processes' networks make of theirs.
    Dropout differs from part to part, and so from what one process would draw."""

    # After the batch is prepared and gradients are accumulated (6), before mixed precision (10) looks at the sum.
    order = 8

    def before_batch(self) -> None:
        """Take the part, and keep the random numbers of all processes alike."""
        self.count, self.inside = find_bs(self.xb), ExitStack()
        self.part = slice(*(self.count * number // size() for number in (rank(), rank() + 1)))
        if self.count < size():  # the last batch of the validation: each takes all of it
            self.part = slice(None)
            return
        self.learn.xb = apply(lambda tensor: tensor[self.part], self.xb)
        device = training_device()
        self.inside.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        torch.manual_seed(int(torch.randint(2**62, ())) + rank())
        if self.training:
            self.inside.enter_context(NormsOfAll())

    def after_pred(self) -> None:
        """Put the outputs of all processes together."""
        self.inside.close()
        if self.part != slice(None):
            self.learn.pred = apply(self._gather, self.pred)

    def _gather(self, mine: Tensor) -> Tensor:
        everything = mine.new_zeros(self.count, *mine.shape[1:])
        everything[self.part] = mine.detach()
        added(everything)
        return torch.cat([everything[: self.part.start], mine, everything[self.part.stop :]])

    def before_step(self) -> None:
        """Add up the gradients, each of which is of its process's outputs alone."""
        gradients = [one.grad for one in self.learn.model.parameters() if one.grad is not None]
        total = added(torch.cat([one.flatten() for one in gradients]))
        for one, part in zip(gradients, torch.split(total, [one.numel() for one in gradients]), strict=True):
            one.copy_(part.view_as(one))


class NormsOfAll(TorchFunctionMode):
    """Batch norms over the items of all processes, whichever module asks for them. Unlike ``SyncBatchNorm`` it also
    works on a CPU, and leaves modules as they are, of which timm's have an activation that would be lost."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func is not functional.batch_norm or not options.get("training"):
            return func(*args, **options)
        batch, *running = args
        normal, mean, variance = _Norm.apply(batch, options["weight"], options["bias"], options["eps"])
        if running[0] is not None:
            for kept, new in zip(running, (mean, variance), strict=True):
                kept.lerp_(new, options["momentum"])
        return normal


class _Norm(torch.autograd.Function):
    """Batch norm with the mean and the variance of all processes, which it returns too, the latter unbiased. S. Ioffe,
    C. Szegedy, https://arxiv.org/abs/1502.03167, sections 3 and 3.1; their gradients with sums over all processes."""

    @staticmethod
    def forward(ctx: Any, batch: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        ctx.axes = [0, *range(2, batch.dim())]
        ctx.shape = [1, -1] + [1] * (batch.dim() - 2)
        values = batch.to(torch.promote_types(batch.dtype, torch.float32))
        mean = values.mean(ctx.axes)
        squares = (values - mean.view(ctx.shape)).square().sum(ctx.axes)
        parts = mean.new_zeros(size(), 3, len(mean))
        parts[rank()] = torch.stack([mean, squares, torch.full_like(mean, values.numel() / len(mean))])
        means, deviations, counts = added(parts).unbind(1)
        total = counts.sum(0)
        mean = (means * counts).sum(0) / total
        deviation = (deviations + counts * (means - mean).square()).sum(0)
        scale = (deviation / total + eps).rsqrt()
        standard = ((values - mean.view(ctx.shape)) * scale.view(ctx.shape)).to(batch.dtype)
        ctx.save_for_backward(standard, weight, scale, total)
        normal = (standard * weight.view(ctx.shape) + bias.view(ctx.shape)).to(batch.dtype)
        variance = deviation / (total - 1)
        ctx.mark_non_differentiable(mean, variance)
        return normal, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        standard, weight, scale, total = ctx.saved_tensors
        arriving = gradient.to(scale.dtype)
        mine = torch.stack([arriving.sum(ctx.axes), (arriving * standard).sum(ctx.axes)])
        plain, along = (one.view(ctx.shape) for one in added(mine.clone()) / total)
        into = (weight * scale).view(ctx.shape) * (arriving - plain - standard * along)
        return into.to(gradient.dtype), mine[1], mine[0], None
