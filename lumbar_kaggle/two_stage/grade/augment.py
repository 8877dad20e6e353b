"""From cached crops to the network's input, on the device and for a whole batch: cut, augmented, mixed."""

from collections.abc import Callable

import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from torch.nn import functional

from lumbar_kaggle.two_stage.config import GradeConfig
from lumbar_kaggle.two_stage.grade.data import UNKNOWN, Batch
from lumbar_kaggle.two_stage.grade.views import VIEWS, View, Window, window

SWAPPED = [0, 2, 1, 4, 3]  # order of the five outputs, see `views.PLACES`, of a mirrored patient
Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # images, present slices and annotated slices of a view


def _by_view(batch: Batch, change: Callable[[View, torch.Tensor, torch.Tensor, torch.Tensor], Parts]) -> Batch:
    """Return a batch with the `Parts` of each view changed; annotated slices beyond the window become `UNKNOWN`."""
    parts = zip(VIEWS, batch["images"], batch["present"], batch["slices"], strict=True)
    images, present, slices = zip(*(change(*one) for one in parts), strict=True)
    pairs = zip(slices, present, strict=True)
    within = [torch.where((at >= 0) & (at < there.shape[2]), at, UNKNOWN) for at, there in pairs]
    return {**batch, "images": list(images), "present": list(present), "slices": within}


def cut(batch: Batch, config: GradeConfig, turn: float = 0.0) -> Batch:
    """Cut the middle out of cached crops, turned by some degrees: what validation and inference see."""

    def change(view: View, images: torch.Tensor, present: torch.Tensor, at: torch.Tensor) -> Parts:
        size = window(view, config)
        middle = slice(size.extra, size.extra + size.slices)
        images, present = images[:, :, middle].float(), present[:, :, middle]
        if turn:
            angle = torch.full((present.shape[0] * present.shape[1],), turn * torch.pi / 180, device=images.device)
            images = _resample(images, size, angle, torch.ones_like(angle), angle.new_zeros(len(angle), 2))
        else:
            inside = slice(size.margin_px, size.margin_px + size.px)
            images = images[..., inside, inside]
        return _standardise(images, present), present, at - size.extra

    return _by_view(batch, change)


def augment(batch: Batch, config: GradeConfig) -> Batch:
    """Cut shifted, turned, scaled, re-windowed, noisy and mirrored crops out of cached ones."""

    def change(view: View, images: torch.Tensor, present: torch.Tensor, at: torch.Tensor) -> Parts:
        size, device, px = window(view, config), at.device, images.shape[-1]
        steps = torch.multinomial(torch.tensor(config.slice_shift, device=device), at.numel(), replacement=True)
        first = size.extra + steps.view(at.shape) * (torch.randint(0, 2, at.shape, device=device) * 2 - 1)
        index = first[..., None] + torch.arange(size.slices, device=device)
        images = images.gather(2, index[..., None, None].expand(-1, -1, -1, px, px)).float()
        present = present.gather(2, index)
        turn = torch.randn(at.numel(), device=device) * torch.pi / 180 * config.turn_degrees
        scale = torch.exp(torch.randn(at.numel(), device=device) * config.scale)
        shift = torch.randn(at.numel(), 2, device=device) * config.shift_mm / size.pixel_mm
        warped = _resample(images, size, turn, scale, shift.clamp(-size.margin_px, size.margin_px))
        return _develop(warped, present, config), present, at - first

    moved = _by_view(batch, change)
    if not config.mirror:
        return moved
    return mirror(moved, torch.rand(len(batch["level"]), device=batch["level"].device) < 0.5)


def mirror(batch: Batch, which: torch.Tensor) -> Batch:
    """Mirror the patients `which`, ``[batch]`` bool, of a cut batch, labels and slice targets included."""

    def choose(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return torch.where(which.view(-1, *[1] * (before.dim() - 1)), after, before)

    def change(view: View, images: torch.Tensor, present: torch.Tensor, at: torch.Tensor) -> Parts:
        # Views with sides are stored mirrored on the right, so there the sides only change places.
        if view.sides == 2:
            mirrored = images.flip(1), present.flip(1), at.flip(1)
        elif view.plane == "sagittal":
            mirrored = images.flip(2), present.flip(2), present.shape[2] - 1 - at
        else:
            mirrored = images.flip(4), present, at
        return choose(images, mirrored[0]), choose(present, mirrored[1]), choose(at, mirrored[2])

    mirrored = _by_view(batch, change)
    if "severity" in batch:
        mirrored["severity"] = choose(batch["severity"], batch["severity"][:, SWAPPED])
        mirrored["weight"] = choose(batch["weight"], batch["weight"][:, SWAPPED])
    return mirrored


def drop_views(batch: Batch, share: float) -> Batch:
    """Take views away at random, as if their series were missing."""
    kept = [torch.rand(there.shape[:2], device=there.device) >= share for there in batch["present"]]
    return {**batch, "present": [there & one[..., None] for there, one in zip(batch["present"], kept, strict=True)]}


def _resample(
    images: torch.Tensor, size: Window, turn: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """Resample cached crops ``[batch, sides, slices, px, px]`` into the network's, one map per crop.

    Per crop `turn` is in radians, `scale` above 1 shows more of it, and `shift` ``[batch · sides, 2]`` is in px.
    """
    flat = images.flatten(0, 1)
    px = flat.shape[-1]
    # `affine_grid` measures in halves of the side of the picture; corners are not aligned.
    rows = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], dim=1).view(-1, 2, 2)
    matrix = torch.cat([rows * (scale * (size.px / px))[:, None, None], (shift * 2 / px)[:, :, None]], dim=2)
    grid = functional.affine_grid(matrix, [*flat.shape[:2], size.px, size.px], align_corners=False)
    warped = functional.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    return warped.view(*images.shape[:3], size.px, size.px)


def _develop(images: torch.Tensor, present: torch.Tensor, config: GradeConfig) -> torch.Tensor:
    """Change the tone of crops ``[batch, sides, slices, px, px]`` of 0 to 255, standardise, add noise."""
    like = images.new_empty(*images.shape[:2], 1, 1, 1)
    gamma = torch.exp(torch.randn_like(like) * config.contrast)
    standard = _standardise((images / 255).clamp(0, 1) ** gamma * 255, present)
    gain = torch.exp(torch.randn_like(like) * config.contrast)
    offset = torch.randn_like(like) * config.contrast
    strength = torch.rand_like(like) * config.noise
    noisy = standard * gain + offset + strength * torch.randn_like(standard)
    return noisy * present[..., None, None]


def _standardise(images: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return crops of mean 0 and deviation 1 over their present slices; absent slices are 0 throughout."""
    mask = present[..., None, None].to(images.dtype)
    count = (mask.sum(dim=(2, 3, 4), keepdim=True) * images.shape[3] * images.shape[4]).clamp(min=1)
    mean = (images * mask).sum(dim=(2, 3, 4), keepdim=True) / count
    centred = (images - mean) * mask
    deviation = (centred.square().sum(dim=(2, 3, 4), keepdim=True) / count).sqrt()
    return centred / deviation.clamp(min=1.0)


class PrepareBatch(Callback):  # type: ignore[misc]
    """Turn cached crops into the network's input: augmented in training, the plain middle in validation.

    With mixup every level of a training batch is blended with another one, and so is the loss. fastai's own takes one
    image tensor; here a sample is several views, some of which may be missing.
    """

    order = -5

    def __init__(self, config: GradeConfig) -> None:
        self.config = config

    def before_batch(self) -> None:
        """Replace the batch; without mixup the loss takes the same one as the network."""
        with torch.no_grad():
            if self.training:
                batch = drop_views(augment(self.xb[0], self.config), self.config.view_dropout)
            else:
                batch = cut(self.xb[0], self.config)
        self.learn.xb = self.learn.yb = (batch,)
        if self.training and self.config.mixup:
            share = float(torch.distributions.Beta(self.config.mixup, self.config.mixup).sample())
            # The greater part stays the sample's own, so that its level and its missing views remain right.
            self.share = max(share, 1 - share)
            self.partner = torch.randperm(len(batch["level"]), device=batch["level"].device)
            images = [torch.lerp(image[self.partner], image, self.share) for image in batch["images"]]
            self.learn.xb = ({**batch, "images": images},)

    def after_loss(self) -> None:
        """Blend the loss as the images are."""
        if self.training and self.config.mixup:
            batch: Batch = self.yb[0]
            other: Batch = {**batch, "slices": [at[self.partner] for at in batch["slices"]]}
            other["severity"], other["weight"] = batch["severity"][self.partner], batch["weight"][self.partner]
            mixed = torch.lerp(self.learn.loss_func(self.learn.pred, other), self.learn.loss_grad, self.share)
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
