"""From cached crops to the network's input, on the device and for a whole batch: cut, augmented, mixed."""

from collections.abc import Iterator

import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from torch.nn import functional

from lumbar_kaggle.two_stage.config import GradeConfig
from lumbar_kaggle.two_stage.grade.data import UNKNOWN, Batch
from lumbar_kaggle.two_stage.grade.network import GradeLoss
from lumbar_kaggle.two_stage.grade.views import PLACES, VIEWS, View, Window, window

SWAPPED = [PLACES.index(name) for name in ("canal", "right foramen", "left foramen", "right recess", "left recess")]
"""Order of the five outputs of a mirrored patient."""

MIRRORED_SLICES, MIRRORED_COLUMNS = "canal", "axial middle"
"""Views without sides: in a mirrored patient the first has its slices reversed, the second its columns.
Those with sides are stored mirrored on the right, so there the sides only change places."""


def cut(batch: Batch, config: GradeConfig, turn: float = 0.0) -> Batch:
    """Cut the middle out of cached crops, turned by some degrees: what validation and inference see."""
    images, present, slices = [], [], []
    for view, image, there, at in _views(batch):
        size = window(view, config)
        middle = slice(size.extra, size.extra + size.slices)
        present.append(there[:, :, middle])
        images.append(_standardise(_middle(image[:, :, middle].float(), size, turn), present[-1]))
        slices.append(_within(at - size.extra, size))
    return {**batch, "images": images, "present": present, "slices": slices}


def _views(batch: Batch) -> Iterator[tuple[View, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return per view: it, its images, present slices and annotated slices."""
    return zip(VIEWS, batch["images"], batch["present"], batch["slices"], strict=True)


def _middle(images: torch.Tensor, size: Window, turn: float) -> torch.Tensor:
    if turn:
        count = images.shape[0] * images.shape[1]
        angle = torch.full((count,), turn * torch.pi / 180, device=images.device)
        return _resample(images, size, angle, torch.ones_like(angle), angle.new_zeros(count, 2))
    rows = slice(size.margin_px, size.margin_px + size.px)
    return images[:, :, :, rows, rows]


def augment(batch: Batch, config: GradeConfig) -> Batch:
    """Cut shifted, turned, scaled, re-windowed, noisy and mirrored crops out of cached ones."""
    images, present, slices = [], [], []
    for view, image, there, at in _views(batch):
        size = window(view, config)
        first = _first_slices(at, size, config)
        index = first[..., None] + torch.arange(size.slices, device=at.device)
        present.append(there.gather(2, index))
        px = size.cached_px
        chosen = image.gather(2, index[..., None, None].expand(-1, -1, -1, px, px))
        images.append(_develop(_warp(chosen.float(), size, config), present[-1], config))
        slices.append(_within(at - first, size))
    moved: Batch = {**batch, "images": images, "present": present, "slices": slices}
    if not config.mirror:
        return moved
    return mirror(moved, torch.rand(len(batch["level"]), device=batch["level"].device) < 0.5)


def mirror(batch: Batch, which: torch.Tensor) -> Batch:
    """Mirror the patients `which`, ``[batch]`` bool, of a cut batch, labels and slice targets included."""

    def choose(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return torch.where(which.view(-1, *[1] * (before.dim() - 1)), after, before)

    images, present, slices = [], [], []
    for view, image, there, at in _views(batch):
        if view.name == MIRRORED_SLICES:
            turned = image.flip(2), there.flip(2), torch.where(at == UNKNOWN, at, there.shape[2] - 1 - at)
        elif view.name == MIRRORED_COLUMNS:
            turned = image.flip(4), there, at
        else:
            turned = image.flip(1), there.flip(1), at.flip(1)
        images.append(choose(image, turned[0]))
        present.append(choose(there, turned[1]))
        slices.append(choose(at, turned[2]))
    mirrored: Batch = {**batch, "images": images, "present": present, "slices": slices}
    if "severity" in batch:
        mirrored["severity"] = choose(batch["severity"], batch["severity"][:, SWAPPED])
        mirrored["weight"] = choose(batch["weight"], batch["weight"][:, SWAPPED])
    return mirrored


def drop_views(batch: Batch, share: float) -> Batch:
    """Take views away at random, as if their series were missing."""
    present = [
        there & (torch.rand(there.shape[:2], device=there.device) >= share)[..., None] for there in batch["present"]
    ]
    return {**batch, "present": present}


def _within(at: torch.Tensor, size: Window) -> torch.Tensor:
    """Return slice targets where they lie in the window, `UNKNOWN` elsewhere."""
    return torch.where((at >= 0) & (at < size.slices), at, UNKNOWN)


def _first_slices(like: torch.Tensor, size: Window, config: GradeConfig) -> torch.Tensor:
    """Draw where each window begins ``[batch, sides]``; targets of -1 stay out of any window."""
    chances = torch.tensor(config.slice_shift, device=like.device)
    steps = torch.multinomial(chances, like.numel(), replacement=True).view(like.shape)
    signs = torch.randint(0, 2, like.shape, device=like.device) * 2 - 1
    return size.extra + steps * signs


def _warp(images: torch.Tensor, size: Window, config: GradeConfig) -> torch.Tensor:
    """Resample ``[batch, sides, slices, px, px]`` into the network's crop, one random map per crop."""
    count, device = images.shape[0] * images.shape[1], images.device
    turn = torch.randn(count, device=device) * torch.pi / 180 * config.turn_degrees
    scale = torch.exp(torch.randn(count, device=device) * config.scale)
    shift = torch.randn(count, 2, device=device) * config.shift_mm / size.pixel_mm
    return _resample(images, size, turn, scale, shift.clamp(-size.margin_px, size.margin_px))


def _resample(
    images: torch.Tensor, size: Window, turn: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """Resample cached crops into the network's, one map per crop.

    Args:
        images: ``[batch, sides, slices, px, px]``.
        size: of the network's crop.
        turn: ``[batch · sides]`` radians.
        scale: alike; above 1 shows more of the cached crop.
        shift: ``[batch · sides, 2]`` px.
    """
    batch, sides, slices, px, _ = images.shape
    count = batch * sides
    # `affine_grid` measures in halves of the side of the picture; corners are not aligned.
    ratio = size.px / px
    rows = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], dim=1).view(count, 2, 2)
    matrix = torch.cat([rows * (scale * ratio)[:, None, None], (shift * 2 / px)[:, :, None]], dim=2)
    grid = functional.affine_grid(matrix, [count, slices, size.px, size.px], align_corners=False)
    warped = functional.grid_sample(
        images.reshape(count, slices, px, px), grid, padding_mode="border", align_corners=False
    )
    return warped.view(batch, sides, slices, size.px, size.px)


def _develop(images: torch.Tensor, present: torch.Tensor, config: GradeConfig) -> torch.Tensor:
    """Change the tone of crops ``[batch, sides, slices, px, px]`` of 0 to 255, standardise, add noise."""
    shape = (*images.shape[:2], 1, 1, 1)
    gamma = torch.exp(torch.randn(shape, device=images.device) * config.contrast)
    standard = _standardise((images / 255).clamp(0, 1) ** gamma * 255, present)
    gain = torch.exp(torch.randn(shape, device=images.device) * config.contrast)
    offset = torch.randn(shape, device=images.device) * config.contrast
    strength = torch.rand(shape, device=images.device) * config.noise
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
    """Turn cached crops into the network's input: augmented in training, the plain middle in validation."""

    order = -5

    def __init__(self, config: GradeConfig) -> None:
        self.config = config

    def before_batch(self) -> None:
        """Replace the batch; the loss takes the same one as the network."""
        batch: Batch = self.xb[0]
        with torch.no_grad():
            if self.training:
                batch = drop_views(augment(batch, self.config), self.config.view_dropout)
            else:
                batch = cut(batch, self.config)
        self.learn.xb = self.learn.yb = (batch,)


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
        batch: Batch = self.xb[0]
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        # The greater part stays the sample's own, so that its level and its missing views remain right.
        self.share = max(share, 1 - share)
        self.partner = torch.randperm(len(batch["level"]), device=batch["level"].device)
        images = [torch.lerp(image[self.partner], image, self.share) for image in batch["images"]]
        self.learn.xb = ({**batch, "images": images},)

    def after_loss(self) -> None:
        """Blend the losses likewise."""
        if not self.training:
            return
        batch: Batch = self.yb[0]
        other: Batch = {
            **batch,
            "severity": batch["severity"][self.partner],
            "weight": batch["weight"][self.partner],
            "slices": [at[self.partner] for at in batch["slices"]],
        }
        mixed = torch.lerp(self.loss(self.learn.pred, other), self.learn.loss_grad, self.share)
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
