"""fastai callbacks of the second stage: the batch on the device, the moving average, checkpoints."""

from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback, CancelEpochException
from fastai.callback.tracker import TrackerCallback
from fastai.callback.training import GradientAccumulation
from fastai.torch_core import to_device

from lumbar_kaggle.recipes.callbacks import learner_state, read_checkpoint, restore_learner, write_checkpoint
from lumbar_kaggle.recipes.two_stage.grading.augment import (
    Inputs,
    Truth,
    augment,
    cut,
    drop_views,
    unpack,
)
from lumbar_kaggle.recipes.two_stage.grading.config import GradeConfig
from lumbar_kaggle.recipes.two_stage.grading.losses import GradeLoss


class PrepareBatch(Callback):  # type: ignore[misc]
    """Turn cached crops into the network's input: augmented in training, the plain middle in validation."""

    order = -5

    def __init__(self, config: GradeConfig) -> None:
        self.config = config

    def before_batch(self) -> None:
        """Replace the batch."""
        inputs, truth = unpack((*self.xb, *self.yb))
        with torch.no_grad():
            if self.training:
                inputs, truth = augment(inputs, truth, self.config)
                inputs = drop_views(inputs, self.config.view_dropout)
            else:
                inputs, truth = cut(inputs, truth, self.config)
        self.learn.xb, self.learn.yb = inputs.flat(), truth.flat()


class MixSamples(Callback):  # type: ignore[misc]
    """Mixup of whole levels: every sample is blended with another one, and so is the loss.

    fastai's own takes one image tensor; here a sample is several views, some of which may be missing.
    """

    order = PrepareBatch.order + 1

    def __init__(self, alpha: float, loss: GradeLoss) -> None:
        self.alpha, self.loss = alpha, loss
        self.partner, self.share = torch.empty(0), 1.0

    def before_batch(self) -> None:
        """Blend the images with those of a shuffled batch."""
        if not self.training:
            return
        inputs, _ = unpack((*self.xb, *self.yb))
        alpha = torch.tensor(self.alpha)
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        # The greater part stays the sample's own, so that its level and its missing views remain right.
        self.share = max(share, 1 - share)
        self.partner = torch.randperm(len(inputs.level), device=inputs.level.device)
        images = tuple(torch.lerp(image[self.partner], image, self.share) for image in inputs.images)
        self.learn.xb = Inputs(images, inputs.present, inputs.level).flat()

    def after_loss(self) -> None:
        """Blend the losses likewise."""
        if not self.training:
            return
        severity, weight, *slices = self.yb
        other = Truth(
            severity[self.partner], weight[self.partner], tuple(at[self.partner] for at in slices)
        ).flat()
        mixed = torch.lerp(self.loss(self.learn.pred, *other), self.learn.loss_grad, self.share)
        self.learn.loss_grad, self.learn.loss = mixed, mixed.clone()


class Accumulate(GradientAccumulation):  # type: ignore[misc]
    """Add up the gradients of some batches before a step; the last batch of an epoch steps in any case.

    So no gradient is carried from one epoch to the next, and an epoch can be resumed from its weights.
    """

    def before_step(self) -> None:
        """Let the step pass, or cancel it while samples are missing."""
        if self.iter + 1 == self.n_iter:
            self.count = 0
        else:
            super().before_step()


class MovingAverage(Callback):  # type: ignore[misc]
    """Keep an exponential moving average of the weights; validation and the end of the fit use it.

    The decay grows with the steps, so that the first, untrained weights are soon forgotten.
    """

    # Before the recorder and the checkpoint look at the validation's loss.
    order = 40

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.average: dict[str, torch.Tensor] = {}
        self._own: dict[str, torch.Tensor] = {}

    def before_fit(self) -> None:
        """Start from the weights as they are, unless a checkpoint has brought an average."""
        if not self.average:
            self.average = _copy(self.learn.model)

    def after_step(self) -> None:
        """Move the average towards the new weights."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self.learn.model.state_dict().items():
            mean = self.average[name]
            if mean.is_floating_point():
                mean.lerp_(value.detach(), 1 - decay)
            else:
                mean.copy_(value)

    def before_validate(self) -> None:
        """Validate the average."""
        self._own = _copy(self.learn.model)
        self.learn.model.load_state_dict(self.average)

    def after_validate(self) -> None:
        """Train on with the weights themselves."""
        self.learn.model.load_state_dict(self._own)

    def after_fit(self) -> None:
        """End with the average."""
        self.learn.model.load_state_dict(self.average)

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"steps": self.steps, "average": self.average}

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Take up what `state` gave."""
        self.steps, self.average = int(state["steps"]), to_device(state["average"], device)


def _copy(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


class LastEpoch(Callback):  # type: ignore[misc]
    """After each epoch, write all that a resumed run needs; the last epoch's weights are the result.

    Choosing the best epoch by the held-out part would make the out-of-fold score too good.

    Args:
        path: the checkpoint file.
        average: the moving average of the same fit, or None.
    """

    # After the moving average (40), whose state it writes and brings back, and the recorder (50).
    order = TrackerCallback.order + 2

    def __init__(self, path: Path, average: MovingAverage | None) -> None:
        self.path_to_checkpoint, self.average = path, average
        self.done: list[list[float]] = []

    def before_fit(self) -> None:
        """Take up the checkpoint, if there is one."""
        state = read_checkpoint(self.path_to_checkpoint)
        self.done = []
        if state is None:
            return
        self.done = restore_learner(self.learn, state)
        if self.average is not None:
            self.average.load(state["average"], self.learn.dls.device)

    def before_epoch(self) -> None:
        """Skip an epoch that is already done, with its recorded figures."""
        if self.epoch < len(self.done):
            self.learn.recorder.log += self.done[self.epoch]
            raise CancelEpochException

    def after_epoch(self) -> None:
        """Write the checkpoint."""
        if self.epoch < len(self.done):
            return
        average = self.average.state() if self.average is not None else {}
        write_checkpoint(self.path_to_checkpoint, {**learner_state(self.learn), "average": average})
