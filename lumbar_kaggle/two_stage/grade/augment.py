"""From cached crops to the network's input, on the device and for a whole batch: cutting and augmentation."""

from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from lumbar_kaggle.two_stage.grade.config import GradeConfig
from lumbar_kaggle.two_stage.grade.data import UNKNOWN
from lumbar_kaggle.two_stage.grade.views import PLACES, VIEWS, Window, window

SWAPPED = [
    PLACES.index(name) for name in ("canal", "right foramen", "left foramen", "right recess", "left recess")
]
"""Order of the five outputs of a mirrored patient."""

MIRRORED_SLICES, MIRRORED_COLUMNS = "canal", "axial middle"
"""Views without sides: in a mirrored patient the first has its slices reversed, the second its columns.
Those with sides are stored mirrored on the right, so there the sides only change places."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the network takes of a batch.

    Attributes:
        images: per view ``[batch, sides, slices, px, px]`` float, each crop standardised.
        present: per view ``[batch, sides, slices]`` bool.
        level: ``[batch]`` int64.
    """

    images: tuple[torch.Tensor, ...]
    present: tuple[torch.Tensor, ...]
    level: torch.Tensor

    def flat(self) -> tuple[torch.Tensor, ...]:
        """Return the tensors in the order of `data.Samples`."""
        return (*self.images, *self.present, self.level)


@dataclass(frozen=True, eq=False)
class Truth:
    """What the loss takes of a batch.

    Attributes:
        severity: ``[batch, 5]`` int64, `UNKNOWN` where not graded.
        weight: ``[batch, 5]`` float.
        slices: per view ``[batch, sides]`` int64 slice of the window, `UNKNOWN` for none.
    """

    severity: torch.Tensor
    weight: torch.Tensor
    slices: tuple[torch.Tensor, ...]

    def flat(self) -> tuple[torch.Tensor, ...]:
        """Return the tensors in the order of `data.Samples`."""
        return (self.severity, self.weight, *self.slices)


def unpack(batch: tuple[torch.Tensor, ...]) -> tuple[Inputs, Truth]:
    """Return the parts of a batch as `data.Samples` orders them."""
    views = len(VIEWS)
    inputs = Inputs(tuple(batch[:views]), tuple(batch[views : 2 * views]), batch[2 * views])
    rest = batch[2 * views + 1 :]
    return inputs, Truth(rest[0], rest[1], tuple(rest[2:]))


def cut(inputs: Inputs, truth: Truth, config: GradeConfig, turn: float = 0.0) -> tuple[Inputs, Truth]:
    """Cut the middle out of cached crops: what validation and inference see.

    Args:
        inputs, truth: as cached.
        config: sizes.
        turn: degrees by which the crops are turned on the way, for predictions averaged over several.
    """
    images, present, slices = [], [], []
    for view, image, there, at in zip(VIEWS, inputs.images, inputs.present, truth.slices, strict=True):
        size = window(view, config)
        middle = slice(size.extra, size.extra + size.slices)
        present.append(there[:, :, middle])
        images.append(_standardise(_middle(image[:, :, middle].float(), size, turn), present[-1]))
        slices.append(_within(at - size.extra, size))
    return replace(inputs, images=tuple(images), present=tuple(present)), replace(truth, slices=tuple(slices))


def _middle(images: torch.Tensor, size: Window, turn: float) -> torch.Tensor:
    if turn:
        count = images.shape[0] * images.shape[1]
        angle = torch.full((count,), turn * torch.pi / 180, device=images.device)
        return _resample(images, size, angle, torch.ones_like(angle), angle.new_zeros(count, 2))
    rows = slice(size.margin_px, size.margin_px + size.px)
    return images[:, :, :, rows, rows]


def augment(inputs: Inputs, truth: Truth, config: GradeConfig) -> tuple[Inputs, Truth]:
    """Cut shifted, turned, scaled, re-windowed, noisy and mirrored crops out of cached ones."""
    images, present, slices = [], [], []
    for view, image, there, at in zip(VIEWS, inputs.images, inputs.present, truth.slices, strict=True):
        size = window(view, config)
        first = _first_slices(at, size, config)
        index = first[..., None] + torch.arange(size.slices, device=at.device)
        present.append(there.gather(2, index))
        px = size.cached_px
        chosen = image.gather(2, index[..., None, None].expand(-1, -1, -1, px, px))
        images.append(_develop(_warp(chosen.float(), size, config), present[-1], config))
        slices.append(_within(at - first, size))
    moved = Inputs(tuple(images), tuple(present), inputs.level)
    found = replace(truth, slices=tuple(slices))
    if not config.mirror:
        return moved, found
    return mirror(moved, found, torch.rand(len(inputs.level), device=inputs.level.device) < 0.5)


def mirror(inputs: Inputs, truth: Truth, which: torch.Tensor) -> tuple[Inputs, Truth]:
    """Mirror some patients of a batch, labels and slice targets included.

    Args:
        inputs, truth: cut to the network's windows.
        which: ``[batch]`` bool.
    """
    images: list[torch.Tensor] = []
    present: list[torch.Tensor] = []
    slices: list[torch.Tensor] = []
    for view, image, there, at in zip(VIEWS, inputs.images, inputs.present, truth.slices, strict=True):
        count = there.shape[2]
        if view.name == MIRRORED_SLICES:
            turned = image.flip(2), there.flip(2), torch.where(at == UNKNOWN, at, count - 1 - at)
        elif view.name == MIRRORED_COLUMNS:
            turned = image.flip(4), there, at
        else:
            turned = image.flip(1), there.flip(1), at.flip(1)
        for kept, before, after in zip((images, present, slices), (image, there, at), turned, strict=True):
            shape = (-1, *[1] * (before.dim() - 1))
            kept.append(torch.where(which.view(shape), after, before))
    severity = torch.where(which[:, None], truth.severity[:, SWAPPED], truth.severity)
    weight = torch.where(which[:, None], truth.weight[:, SWAPPED], truth.weight)
    return Inputs(tuple(images), tuple(present), inputs.level), Truth(severity, weight, tuple(slices))


def drop_views(inputs: Inputs, share: float) -> Inputs:
    """Take views away at random, as if their series were missing."""
    present = tuple(
        there & (torch.rand(there.shape[:2], device=there.device) >= share)[..., None]
        for there in inputs.present
    )
    return replace(inputs, present=present)


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
