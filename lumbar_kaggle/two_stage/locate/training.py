"""What a locator network learns from: slices with their targets, augmentation and the loss."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from fastai.callback.core import Callback
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom.volume import ASSUMED_STEP_MM, Floats, Volume
from lumbar_kaggle.training.devices import training_device
from lumbar_kaggle.two_stage.config import LocateConfig
from lumbar_kaggle.two_stage.locate.find import CHANNELS, REACH_MM, STRIDE, Picture, slices_near, to_input
from lumbar_kaggle.two_stage.study import CANAL, FORAMINA, RECESSES, StudyVolumes

UNKNOWN, ABSENT, PRESENT = -1, 0, 1

# mm from a slice's plane: a point nearer than the first lies on it, one further than the second does not, and between
# them nothing is asked. The canal is wide, a foramen around two slices long; a recess is marked on its slice or on one
# beside it, and is not on slices further away than the second.
CANAL_MM, FORAMEN_MM, AXIAL_MM = (3.5, 13.0), (2.6, 8.5), (3.0, 9.0)

# Sagittal pictures are bent by random shifts at so many rows and columns of points, smoothly in between. The shifts
# deviate by so much, in halves of the picture's sides.
BEND_POINTS, BEND = (4, 3), 0.06


class Sample(NamedTuple):
    """One slice of a study to learn from."""

    study_id: str
    image: NDArray[np.uint8]  # [rows, columns] in the network's frame
    places: Floats  # [channels, 2] column and row in the picture, NaN where not on it
    state: NDArray[np.int64]  # [channels] `UNKNOWN`, `ABSENT` or `PRESENT`


# Samples of one plane on a device: images ``[n, rows, columns]`` of 0 to 255, places ``[n, channels, 2]`` and states.
Slices = tuple[Tensor, Tensor, Tensor]


def sagittal_samples(study: StudyVolumes, config: LocateConfig) -> list[Sample]:
    """Return of each sagittal series the slices on which points lie, those with the most first, and their targets."""
    samples = []
    for volume in study.sagittal():
        points = study.known(volume)
        targets = [(index, *_targets(volume, points, index)) for index in range(len(volume))]
        shown = [target for target in targets if (target[2] == PRESENT).any()]
        shown.sort(key=lambda target: -int((target[2] == PRESENT).sum()))
        for index, pixels, state in shown[: config.slices]:
            picture = Picture(volume, index, config.picture, config.pixel_mm)
            samples.append(_sample(study.study_id, picture, pixels, state))
    return samples


def _targets(volume: Volume, points: Floats, index: int) -> tuple[Floats, NDArray[np.int64]]:
    """Return row and column of each channel's point ``[channels, 2]`` on a slice, and its state."""
    row, column, distance = volume.to_slice(index, points)  # [5 places, 5 levels]
    distance = np.abs(distance)
    if not volume.placed:
        # The distance of the slices is assumed: a point lies on its own; of the others nothing is known.
        distance = np.where(distance < ASSUMED_STEP_MM / 2, 0.0, 5.0)
    levels, sides = np.arange(len(LEVELS)), distance[FORAMINA]
    nearer = FORAMINA.start + np.nan_to_num(sides, nan=np.inf).argmin(axis=0)
    canal, foramina = _states(distance[CANAL], CANAL_MM), _states(distance[nearer, levels], FORAMEN_MM)
    # One side's mark says nothing of the other side's slices.
    foramina[np.isnan(sides).any(axis=0) & (foramina == ABSENT)] = UNKNOWN
    channels = np.concatenate([np.full(len(levels), CANAL), nearer]), np.tile(levels, 2)
    return np.stack([row[channels], column[channels]], axis=1), np.concatenate([canal, foramina])


def _states(distance: Floats, limits: tuple[float, float]) -> NDArray[np.int64]:
    """Return the states of points at some distance, in mm, from a slice; NaN is not known."""
    return np.select([distance <= limits[0], distance >= limits[1]], [PRESENT, ABSENT], UNKNOWN)


def _sample(study_id: str, picture: Picture, pixels: Floats, state: NDArray[np.int64]) -> Sample:
    """Return the sample of points at row and column ``[channels, 2]`` of the picture's slice."""
    places = np.where((state == PRESENT)[:, None], picture.from_slice(*pixels.T), np.nan)
    return Sample(study_id, picture.image(), places, state)


def axial_samples(study: StudyVolumes, config: LocateConfig) -> list[Sample]:
    """Return, per level, the slices that show a marked recess, and one that does not."""
    samples, recesses = [], study.marked(study.axial())[RECESSES]
    for level, centre in enumerate(study.centres()):
        marks, candidates = recesses[:, level], []
        if np.isnan(marks).all():
            continue
        for picture, _ in sorted(slices_near(study, centre, 2 * REACH_MM), key=lambda entry: entry[1]):
            row, column, distance = picture.volume.to_slice(picture.index, marks)
            state = _states(np.abs(distance), AXIAL_MM)
            candidates.append(_sample(study.study_id, picture, np.stack([row, column], axis=1), state))
        shown = [sample for sample in candidates if (sample.state == PRESENT).any()]
        # Of the slices that show nothing of the level one is enough, the nearest of them.
        empty = [sample for sample in candidates if (sample.state == ABSENT).all()]
        samples += shown[: config.slices // 3 or 1] + empty[:1]
    return samples


SAMPLES = {"sagittal": sagittal_samples, "axial": axial_samples}  # what each network learns from a study


def augment(slices: Slices) -> Slices:
    """Return turned, scaled, shifted, cropped, re-windowed, blurred, noisy or compressed copies; of sagittal slices
    also bent ones, for spines curve in many ways, and of axial slices, which show two sides, mirror images. Wide on
    purpose: pictures from elsewhere are cropped, windowed and compressed in many ways."""
    images, places, state = slices
    (count, *shape), device = images.shape, images.device
    size = torch.tensor(shape[::-1], device=device)
    axial = state.shape[1] == CHANNELS["axial"]
    if axial:
        which, last = torch.rand(count, device=device) < 0.5, torch.stack([size[0] - 1, size.new_zeros(())])
        images = torch.where(which[:, None, None], images.flip(2), images)
        state = torch.where(which[:, None], state.flip(1), state)
        places = torch.where(which[:, None, None], (last - places.flip(1)) * places.new_tensor([1, -1]), places)
    turn = torch.randn(count, device=device) * np.radians(7.0)
    rows = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], dim=1).view(-1, 2, 2)
    scale = torch.empty(count, 1, 1, device=device).uniform_(-0.3, 0.35).exp()
    shift, middle = torch.randn(count, 1, 2, device=device) * 0.07 * size, (size - 1) / 2
    moved = (places - middle) @ (rows * scale).mT + shift + middle
    # Back from the new picture to the old one; `affine_grid` measures in halves of the sides.
    back = rows.mT / scale
    matrix = torch.cat([back * size / size[:, None], -(back @ shift.mT) * 2 / size[:, None]], dim=2)
    grid = functional.affine_grid(matrix, [count, 1, *shape], align_corners=False)
    if not axial:
        field = _bend(count, shape, device)
        grid += field.permute(0, 2, 3, 1)
        moved = _bent(moved, field, size, rows * scale)
    border = torch.empty(count, 1, 1, 1, device=device).uniform_(0, 90)
    border = border * (torch.rand_like(border) < 0.15)
    warped = functional.grid_sample(images[:, None] - border, grid, align_corners=False) + border
    return _develop(warped)[:, 0], moved, state


def _bend(count: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Return smooth random shifts ``[n, 2, rows, columns]`` of columns and rows, in halves of the sides."""
    coarse = torch.randn(count, 2, *BEND_POINTS, device=device) * BEND
    return functional.interpolate(coarse, tuple(shape), mode="bicubic", align_corners=True)


def _bent(moved: Tensor, field: Tensor, size: Tensor, linear: Tensor) -> Tensor:
    """Return where places ``[n, channels, 2]`` of pictures that were moved, by `linear` ``[n, 2, 2]``, come to lie once
    these are bent as well. A picture takes each pixel from where the shift at that pixel points, so the place is the
    one from which the shift leads back; it is approached step by step."""
    places = moved
    for _ in range(5):
        # Off the picture the shift is that of its border.
        where = torch.nan_to_num((2 * places + 1) / size - 1)[:, None]
        shift = functional.grid_sample(field, where, padding_mode="border", align_corners=False)[:, :, 0].mT
        places = moved - (shift * size / 2) @ linear.mT
    return places


def _develop(pictures: Tensor) -> Tensor:
    """Return pictures ``[n, 1, rows, columns]`` of 0 to 255, some of them blurred, with another window, tone, shading
    and noise, and some as JPEG leaves them."""

    def uniform(low: float, high: float, like: Tensor, side: int = 1) -> Tensor:
        return like.new_empty(len(like), 1, side, side).uniform_(low, high)

    def change(share: float, how: Callable[[Tensor], Tensor]) -> None:
        """Change a share of the pictures, drawn without having to ask the device how many they are."""
        some = torch.randperm(len(pictures), device=pictures.device)[: round(share * len(pictures))]
        pictures[some] = how(pictures[some])

    change(0.4, lambda some: torch.lerp(some, gaussian_blur(some, [5, 5], [1.0, 1.0]), uniform(0.1, 1.0, some)))
    low, high = uniform(0.0, 0.12, pictures), uniform(0.55, 1.0, pictures)
    pictures = ((pictures / 255 - low) / (high - low)).clamp(0, 1) ** torch.exp(torch.randn_like(low) * 0.35) * 255
    sides = pictures.shape[2:]
    change(0.4, lambda some: some * functional.interpolate(uniform(0.4, 1.2, some, 3), sides, mode="bicubic"))
    change(0.4, lambda some: some + uniform(0.0, 0.08 * 255, some) * torch.randn_like(some))
    pictures = pictures.clamp(0, 255)
    change(0.35, lambda some: compressed(some, uniform(25, 90, some)))
    return pictures


def compressed(pictures: Tensor, quality: Tensor) -> Tensor:
    """Return pictures as JPEG of some `quality` ``[n, 1, 1, 1]`` leaves them: the waves in blocks of 8 × 8 px (ITU-T
    T.81, A.3.3) rounded to steps, which grow with the frequency about as in its table K.1."""
    at = torch.arange(8, device=pictures.device)
    waves = torch.cos((2 * at + 1) * at[:, None] * torch.pi / 16) / torch.where(at[:, None] > 0, 2.0, 8**0.5)
    blocks = (pictures - 128).unfold(2, 8, 8).unfold(3, 8, 8)  # [n, 1, rows / 8, columns / 8, 8, 8]
    steps = (10.0 + 6 * (at + at[:, None])) * torch.where(quality < 50, 50 / quality, 2 - quality / 50)[..., None, None]
    rounded = torch.round(waves @ blocks @ waves.mT / steps) * steps
    return (waves.mT @ rounded @ waves).transpose(3, 4).reshape(pictures.shape).add(128).clamp(0, 255)


def heat_maps(slices: Slices) -> tuple[Tensor, Tensor]:
    """Return the network's targets: probabilities ``[n, channels, cells + 1]`` and weights ``[n, channels]``. A point
    that augmentation moved off the picture is not on it; the weight is 0 where nothing is known."""
    images, places, state = slices
    sides = [side // STRIDE for side in images.shape[:0:-1]]  # columns and rows of cells
    spots = (places - (STRIDE - 1) / 2) / STRIDE
    there = (state == PRESENT) & ((spots >= 0) & (spots < spots.new_tensor(sides))).all(dim=2)
    along = []
    for axis, side in enumerate(sides):
        far = torch.arange(side, device=spots.device) - spots[..., axis, None]
        along.append(torch.softmax(-far.square() / (2 * 1.1**2), dim=2))  # a deviation of 1.1 cells
    maps = (along[1][..., None] * along[0][..., None, :]).flatten(2)
    maps = torch.where(there[..., None], maps, 0.0)
    return torch.cat([maps, ~there[..., None]], dim=2), (state != UNKNOWN).float()


class PrepareSlices(Callback):  # type: ignore[misc]
    """Take the slices of a batch, which has their numbers, from those that lie on the training's device, augmented in
    training, and make their heat maps there."""

    order = -5

    def __init__(self, samples: Sequence[Sample]) -> None:
        _, *parts = (np.array(column) for column in zip(*samples, strict=True))
        self.parts = [torch.from_numpy(part).to(training_device()) for part in parts]

    def before_batch(self) -> None:
        """Replace the batch."""
        images, places, state = (part[self.xb[0]] for part in self.parts)
        slices: Slices = images, places.float(), state
        slices = augment(slices) if self.training else slices
        self.learn.xb, self.learn.yb = (to_input(slices[0]),), (heat_maps(slices),)


def loss(log_probabilities: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross-entropy of the heat maps over the channels of which something is known."""
    maps, weights = targets
    each = -(maps * log_probabilities).sum(dim=2)
    return (each * weights).sum() / weights.sum().clamp(min=1.0)
