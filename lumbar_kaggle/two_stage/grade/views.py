"""The four views of a level: places in the patient, and crops around them in millimetres.

Each crop is resampled once from the original slices, and the same whatever way those are stored."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom import geometry
from lumbar_kaggle.dicom.geometry import FOOT
from lumbar_kaggle.dicom.volume import Floats, Volume
from lumbar_kaggle.two_stage.config import GradeConfig
from lumbar_kaggle.two_stage.study import CANAL, DISC_MM, PLACES, RECESSES


class View(NamedTuple):
    """One kind of picture of a level."""

    name: str
    plane: str  # "sagittal" or "axial"
    kinds: tuple[str, ...]  # of series to take it from; the next one where the first is missing
    places: tuple[str, ...]  # that each side's crop is centred on, the patient's left first; one: no sides
    outputs: tuple[int, ...]  # of the network, what each side shows

    @property
    def sides(self) -> int:
        """1, or 2 for a view that is taken on the left and on the right."""
        return len(self.places)


VIEWS = (
    View("canal", "sagittal", ("sagittal_t2", "sagittal_t1"), ("canal",), (0,)),
    View("foramen", "sagittal", ("sagittal_t1", "sagittal_t2"), ("left foramen", "right foramen"), (1, 2)),
    View("axial middle", "axial", ("axial_t2",), ("axial middle",), (0,)),
    View("axial side", "axial", ("axial_t2",), ("left recess", "right recess"), (3, 4)),
)
"""``axial middle`` is the point midway between the two recesses, or the canal's where one is not known."""


class Window(NamedTuple):
    """What the network gets of one view, and what is cached around it for shifts and turns."""

    px: int
    slices: int
    pixel_mm: float
    margin_px: int  # on each side
    extra: int  # slices on each side
    cached_px: int
    cached_slices: int  # an odd number


def window(view: View, config: GradeConfig) -> Window:
    """Return a view's sizes by the configuration."""
    px = config.sagittal_px if view.plane == "sagittal" else config.axial_px
    size_mm, slices = config.size_mm[VIEWS.index(view)], config.slices[VIEWS.index(view)]
    margin, extra = int(np.ceil(config.margin_mm / (size_mm / px))), config.extra_slices
    return Window(px, slices, size_mm / px, margin, extra, px + 2 * margin, slices + 2 * extra)


def crop_settings(config: GradeConfig) -> dict[str, object]:
    """Return what a study's cached crops follow from, besides its slices and its points."""
    windows = [list(window(view, config)[:5]) for view in VIEWS]
    return {"windows": windows, "step": config.step_mm, "reach": config.reach_mm, "align": config.align}


def bytes_of_study(config: GradeConfig) -> int:
    """Return how many bytes the cached crops of one study take, of one kind of points."""
    sizes = [(view.sides, window(view, config)) for view in VIEWS]
    return len(LEVELS) * sum(sides * size.cached_slices * size.cached_px**2 for sides, size in sizes)


@dataclass(frozen=True, eq=False)
class Crop:
    """One crop of a study, of the size that is cached."""

    view: View
    level: int  # from 0
    side: int  # 0 is the left or the only one, 1 the right: mirrored, so that both look like left ones
    size: Window
    point: Floats  # LPS mm [3] that its middle lies on; NaN where not known
    down: Floats  # direction [3] in the patient that points down in a sagittal crop
    indices: NDArray[np.int64]  # [cached slices] of the volume, the middle one nearest; -1 beyond the ends
    volume: Volume | None = None  # what it is cut from
    target: int = -1  # slice of the window that the annotated point lies on, -1 where there is none
    reason: str = ""  # why there is no picture

    @property
    def place(self) -> str:
        """What it is centred on."""
        return self.view.places[self.side]

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """``[cached slices, px, px]``, 0 where there is no slice and outside of the slices."""
        image = np.zeros((self.size.cached_slices, self.size.cached_px, self.size.cached_px), dtype=np.uint8)
        if self.volume is not None:
            for k in np.flatnonzero(self.indices >= 0):
                image[k] = _resample(self.volume, int(self.indices[k]), self)
        return image


def with_middle(points: Floats) -> dict[str, Floats]:
    """Return per place that a view may need ``[5 levels, 3]`` of points ``[5 places, 5 levels, 3]``, NaN: not known."""
    middle = points[RECESSES].mean(axis=0)
    named = dict(zip(PLACES, points, strict=True))
    return named | {"axial middle": np.where(np.isnan(middle), named["canal"], middle)}


def crop_study(
    stacks: Sequence[Volume], points: Floats, config: GradeConfig, annotated: Floats | None = None
) -> list[Crop]:
    """Return the crops of one study: of every view, level and side, in that order. They are cut from `stacks`, see
    `StudyVolumes.croppable`, around `points`: ``[5 places, 5 levels, 3]`` LPS mm in the order of `PLACES`, NaN where
    not known. The `annotated` ones alike are for the slice attention's target. In a stack that does not know the size
    of its pixels the spine is the measure: its discs count as `DISC_MM` apart."""
    named = with_middle(points)
    steps = np.linalg.norm(np.diff(points[CANAL], axis=0), axis=1)
    scale = float(np.median(steps[np.isfinite(steps)])) / DISC_MM if np.isfinite(steps).any() else 1.0
    marked = with_middle(np.full_like(points, np.nan) if annotated is None else annotated)
    crops = []
    for view in VIEWS:
        size = window(view, config)
        for level, (side, place) in product(range(len(LEVELS)), enumerate(view.places)):
            down = _upright(named[place], level) if config.align and view.plane == "sagittal" else FOOT
            crop = Crop(view, level, side, size, named[place][level], down, np.full(size.cached_slices, -1))
            crops.append(_found(crop, stacks, marked[place][level], config, scale))
    return crops


def _upright(points: Floats, level: int) -> Floats:
    """Return the direction ``[3]`` in which the spine runs down past a level of points ``[5, 3]``."""
    ends = points[[max(level - 1, 0), min(level + 1, len(points) - 1)]]
    ends = np.where(np.isnan(ends), points[level], ends)
    along = ends[1] - ends[0]
    # Points of two neighbouring levels in one place are a mistake; so is a spine that runs sideways.
    length = float(np.linalg.norm(along))
    if float(along @ FOOT) < 0.5 * length or length < 5.0:
        return FOOT
    return np.asarray(along / length, dtype=np.float64)


def _found(crop: Crop, stacks: Sequence[Volume], mark: Floats, config: GradeConfig, scale: float) -> Crop:
    """Return a crop with the slices to cut it from, or with the reason why there are none; of a stack whose pixels'
    size is not known it is `scale` times as large."""
    if np.isnan(crop.point).any():
        return replace(crop, reason="the point was not found")

    def distances(volume: Volume) -> Floats:
        depth = volume.depth(crop.point)
        row, column, _ = volume.to_slice(int(depth.argmin()), crop.point)
        inside = 0 <= row < volume.shape[0] and 0 <= column < volume.shape[1]
        return np.where(inside, depth, np.inf)

    for distance, volume, index in nearest_slices(crop.view, stacks, distances):
        if distance <= config.reach_mm:
            indices, depth = _window(volume, index, crop, config.step_mm), volume.depth(mark)
            marked = np.flatnonzero((indices == depth.argmin()) & (depth.min() <= config.reach_mm))
            size = crop.size if volume.measured else crop.size._replace(pixel_mm=crop.size.pixel_mm * scale)
            target = int(marked[0]) if len(marked) else -1
            return replace(crop, volume=volume, size=size, indices=indices, target=target)
    kinds = " or ".join(crop.view.kinds)
    return replace(crop, reason=f"no {kinds} slice within {config.reach_mm:g} mm of the point")


def nearest_slices(
    view: View, stacks: Sequence[Volume], distances: Callable[[Volume], Floats]
) -> Iterator[tuple[float, Volume, int]]:
    """Yield, for each kind of series that a view is taken from and that is there, the slice of the least distance:
    this, the stack and the slice's index in it. `distances` gives those of a stack's slices, ``[slices]``."""
    for kind in view.kinds:
        near = []
        for order, volume in enumerate(stacks):
            if volume.kind == kind and volume.plane == view.plane:
                # The middle of two recesses often lies midway between two slices: no last digit may choose one.
                far = np.round(distances(volume), 3)
                near.append((float(far.min()), order, int(far.argmin())))
        if near:
            distance, order, index = min(near)
            yield distance, stacks[order], index


def _window(volume: Volume, nearest: int, crop: Crop, step_mm: float) -> NDArray[np.int64]:
    """Return the slices ``[cached slices]`` around the nearest, `step_mm` apart, -1 beyond the stack's ends. Sagittal
    windows run from the right to the left, those of the right side from the left to the right: from the middle outwards
    on both sides. Axial windows run from head to foot."""
    depth = volume.positions @ geometry.reading_direction(volume.orientation[0])
    order = np.argsort(depth, kind="stable")
    step = float(np.median(np.diff(depth[order]))) if len(order) > 1 else 0.0
    if crop.view.plane == "sagittal" and crop.side == 1:
        order = order[::-1]
    stride = max(1, round(step_mm / step)) if step > 0 else 1
    half = crop.size.cached_slices // 2
    at = int(np.flatnonzero(order == nearest)[0]) + stride * np.arange(-half, half + 1)
    inside = (at >= 0) & (at < len(order))
    return np.where(inside, order[np.clip(at, 0, len(order) - 1)], -1)


def crop_to_slice(volume: Volume, index: int, crop: Crop) -> Floats:
    """Return the affine map ``[2, 3]`` from (column, row, 1) of a cached crop to column and row of a slice. The crop
    lies in the plane of the slice, its middle at the point's projection, and is as upright as `geometry.upright_axes`,
    a sagittal one with the spine downwards; an axial one is mirrored on the right."""
    across, down = geometry.upright_axes(volume.orientation[0], crop.down)
    if crop.view.plane == "axial" and crop.side == 1:
        across = -across
    # The crop's first pixel, the next one of its row, and that of its column.
    column, row = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])[..., None] - (crop.size.cached_px - 1) / 2
    places = crop.point + crop.size.pixel_mm * (column * across + row * down)
    first, right, below = np.stack(volume.to_slice(index, places)[1::-1], axis=1)
    return np.stack([right - first, below - first, first], axis=1)


def _resample(volume: Volume, index: int, crop: Crop) -> NDArray[np.uint8]:
    """Return the square ``[px, px]`` of a slice around a crop's point; 0 outside of the slice."""
    matrix, px, image = crop_to_slice(volume, index, crop), crop.size.cached_px, volume.images[index]
    # Only the part that the crop needs, and what the average below takes in.
    ends = np.array([[0, 0, 1], [px, 0, 1], [0, px, 1], [px, px, 1]]) @ matrix.T
    low = np.maximum(np.floor(ends.min(axis=0)).astype(int) - 4, 0)
    high = np.maximum(np.minimum(np.ceil(ends.max(axis=0)).astype(int) + 5, image.shape[::-1]), low + 1)
    part = np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]])
    matrix[:, 2] -= low
    # warpAffine samples; where the crop is coarser than the slice, what lies between must be averaged first.
    coarser = crop.size.pixel_mm / volume.spacing[index]
    if coarser.max() > 1.2:
        sigma = 0.4 * np.sqrt(np.maximum(coarser**2 - 1, 1e-4))
        part = np.asarray(cv2.GaussianBlur(part, (0, 0), sigma[1], sigmaY=sigma[0]), dtype=np.uint8)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(part, matrix, (px, px), flags=flags), dtype=np.uint8)
