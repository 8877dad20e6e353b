"""Crops in millimetres around points of the patient, each resampled once from the original slices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom import geometry
from lumbar_kaggle.dicom.geometry import FOOT
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.two_stage.config import GradeConfig
from lumbar_kaggle.two_stage.grade.views import VIEWS, View, Window, window, with_middle

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CropFacts:
    """What one crop was made of; numbers of the cached window, extra slices included.

    Attributes:
        view, level, side: of the crop; side 0 is the left, or the only one.
        series_id, kind: where it comes from; empty without a picture.
        instance_number, row, column: the point on the slice nearest to it, px of the stored image.
        distance_mm: of the point from that slice.
        first, last: slices of the window that exist; without a picture 0 and -1.
        target: slice of the window that the annotated point lies on, -1 where not known.
        reason: why there is no picture, or empty.
    """

    view: str
    level: str
    side: int
    series_id: str = ""
    kind: str = ""
    instance_number: int | None = None
    row: float = -1.0
    column: float = -1.0
    distance_mm: float = -1.0
    first: int = 0
    last: int = -1
    target: int = -1
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Cut:
    """One crop to make.

    Attributes:
        view, level, side: of the crop; the level is its number from 0, side 0 is the left, or the only one.
        size: of the crop.
        point: LPS mm ``[3]`` that its middle lies on; NaN where not known.
        down: direction ``[3]`` in the patient that points down in a sagittal crop.
    """

    view: View
    level: int
    side: int
    size: Window
    point: Floats
    down: Floats

    @property
    def place(self) -> str:
        """What the crop is centred on."""
        return self.view.places[self.side]

    @property
    def mirrored(self) -> bool:
        """The patient's right: mirrored, so that both sides look like left ones."""
        return self.side == 1


class Excerpt(NamedTuple):
    """What a crop is cut from.

    Attributes:
        volume: the stack.
        indices: ``[cached slices]`` its slices, -1 beyond its ends.
    """

    volume: Volume
    indices: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class StudyCrops:
    """All crops of a study.

    Attributes:
        images: per view ``[5 levels, sides, cached slices, px, px]`` uint8, 0 where there is no picture.
        facts: of every view, level and side, in that order.
        cuts: what was to be made, in the same order.
        sources: what each was cut from; None without a picture.
    """

    images: tuple[NDArray[np.uint8], ...]
    facts: tuple[CropFacts, ...]
    cuts: tuple[Cut, ...]
    sources: tuple[Excerpt | None, ...]


def crop_shape(view: View, config: GradeConfig) -> tuple[int, ...]:
    """Return the shape of a view's crops of a study: levels, sides, slices, rows, columns."""
    size = window(view, config)
    return (len(LEVELS), view.sides, size.cached_slices, size.cached_px, size.cached_px)


def crop_study(
    stacks: Sequence[Volume], points: Floats, config: GradeConfig, annotated: Floats | None = None
) -> StudyCrops:
    """Cut out every view of every level of one study.

    Args:
        stacks: those that crops can be cut from, see `StudyVolumes.croppable`.
        points: ``[5 places, 5 levels, 3]`` LPS mm in the order of `views.PLACES`, NaN where not known.
        config: sizes and windows.
        annotated: the annotated points alike, for the slice attention's target.
    """
    marked = with_middle(annotated) if annotated is not None else None
    images = [np.zeros(crop_shape(view, config), dtype=np.uint8) for view in VIEWS]
    facts, sources, cuts = [], [], tuple(_plan(points, config))
    for cut in cuts:
        mark = marked[cut.place][cut.level] if marked is not None else np.full(3, np.nan)
        found, source = _find(cut, stacks, mark, config)
        if source is not None:
            images[VIEWS.index(cut.view)][cut.level, cut.side] = _crop(cut, source)
        facts.append(found)
        sources.append(source)
    return StudyCrops(tuple(images), tuple(facts), cuts, tuple(sources))


def _plan(points: Floats, config: GradeConfig) -> Iterator[Cut]:
    """Yield every crop of a study: views, levels, sides."""
    named = with_middle(points)
    for view in VIEWS:
        size = window(view, config)
        for level in range(len(LEVELS)):
            for side, place in enumerate(view.places):
                upright = _upright(named[place], level) if config.align and view.plane == "sagittal" else FOOT
                yield Cut(view, level, side, size, named[place][level], upright)


def _find(cut: Cut, stacks: Sequence[Volume], mark: Floats, config: GradeConfig) -> tuple[CropFacts, Excerpt | None]:
    """Return the facts of a crop and what to cut it from; without that, the facts give the reason."""
    facts = CropFacts(cut.view.name, LEVELS[cut.level], cut.side)
    if np.isnan(cut.point).any():
        return replace(facts, reason="the point was not found"), None
    chosen = _choose(cut, stacks, config.reach_mm)
    if chosen is None:
        reason = f"no {' or '.join(cut.view.kinds)} slice within {config.reach_mm:g} mm of the point"
        return replace(facts, reason=reason), None
    volume, nearest = chosen
    indices = _window(volume, nearest, cut, config.step_mm)
    there = np.flatnonzero(indices >= 0)
    row, column, distance = volume.to_slice(nearest, cut.point)
    found = replace(
        facts,
        series_id=volume.series_id,
        kind=volume.kind,
        instance_number=volume.instance_numbers[nearest],
        row=round(float(row), 3),
        column=round(float(column), 3),
        distance_mm=round(abs(float(distance)), 3),
        first=int(there[0]),
        last=int(there[-1]),
        target=_slice_of(volume, indices, mark, config.reach_mm),
    )
    return found, Excerpt(volume, indices)


def _crop(cut: Cut, source: Excerpt) -> NDArray[np.uint8]:
    """Return a crop ``[cached slices, px, px]``; 0 in slices that do not exist."""
    image = np.zeros((cut.size.cached_slices, cut.size.cached_px, cut.size.cached_px), dtype=np.uint8)
    for k in np.flatnonzero(source.indices >= 0):
        image[k] = _resample(source.volume, int(source.indices[k]), cut)
    return image


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


def _choose(cut: Cut, stacks: Sequence[Volume], reach_mm: float) -> tuple[Volume, int] | None:
    """Return the stack with the slice nearest to the point, and that slice; None beyond reach."""
    for kind in cut.view.kinds:
        near = [(distance, order, index) for order, distance, index in _distances(cut, stacks, kind)]
        if near and min(near)[0] <= reach_mm:
            _, order, index = min(near)
            return stacks[order], index
    return None


def _distances(cut: Cut, stacks: Sequence[Volume], kind: str) -> Iterator[tuple[int, float, int]]:
    """Yield number, distance in mm and slice of each stack of a kind that shows the point."""
    for order, volume in enumerate(stacks):
        if volume.kind != kind or volume.plane != cut.view.plane:
            continue
        depth = volume.depth(cut.point)
        index = int(depth.argmin())
        row, column, _ = volume.to_slice(index, cut.point)
        if 0 <= row < volume.shape[0] and 0 <= column < volume.shape[1]:
            yield order, round(float(depth[index]), 6), index


def _window(volume: Volume, nearest: int, cut: Cut, step_mm: float) -> NDArray[np.int64]:
    """Return the window's slices ``[cached slices]`` as indices of the stack, -1 beyond its ends.

    Sagittal windows run from the right to the left, those of the right side from the left to the right:
    from the middle outwards on both sides. Axial windows run from head to foot.
    """
    depth = volume.positions @ geometry.reading_direction(volume.orientation[0])
    order = np.argsort(depth, kind="stable")
    if cut.view.plane == "sagittal" and cut.mirrored:
        order = order[::-1]
    steps = np.diff(np.sort(depth))
    stride = max(1, round(step_mm / float(np.median(steps)))) if len(steps) and np.median(steps) > 0 else 1
    half = cut.size.cached_slices // 2
    at = int(np.flatnonzero(order == nearest)[0]) + stride * np.arange(-half, half + 1)
    inside = (at >= 0) & (at < len(order))
    indices: NDArray[np.int64] = np.where(inside, order[np.clip(at, 0, len(order) - 1)], -1)
    return indices


def _slice_of(volume: Volume, indices: NDArray[np.int64], mark: Floats, reach_mm: float) -> int:
    """Return the place in the window of the slice nearest to an annotated point; -1 where it is not there."""
    if np.isnan(mark).any():
        return -1
    depth = volume.depth(mark)
    nearest = int(depth.argmin())
    found = np.flatnonzero(indices == nearest)
    return int(found[0]) if len(found) and depth[nearest] <= reach_mm else -1


def _axes(volume: Volume, cut: Cut) -> tuple[Floats, Floats]:
    """Return the patient's directions ``[3]`` along the columns and down the rows of a crop, in its plane.

    Those of `geometry.upright_axes`, with the spine downwards in a sagittal crop; an axial one is mirrored on
    the patient's right side. So a turned or reversed stack gives the same crop.
    """
    across, down = geometry.upright_axes(volume.orientation[0], cut.down)
    return across * (-1.0 if cut.mirrored and cut.view.plane == "axial" else 1.0), down


def crop_to_slice(volume: Volume, index: int, cut: Cut) -> Floats:
    """Return the affine map ``[2, 3]`` from (column, row, 1) of a cached crop to column and row of a slice.

    The crop lies in the plane of the slice, its middle at the point's projection.
    """
    axes = _axes(volume, cut)
    middle = (cut.size.cached_px - 1) / 2
    corners = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]
    places = [
        cut.point + cut.size.pixel_mm * ((column - middle) * axes[0] + (row - middle) * axes[1])
        for column, row in corners
    ]
    row, column, _ = volume.to_slice(index, np.array(places))
    return np.array(
        [[column[1] - column[0], column[2] - column[0], column[0]], [row[1] - row[0], row[2] - row[0], row[0]]]
    )


def _resample(volume: Volume, index: int, cut: Cut) -> NDArray[np.uint8]:
    """Return the square ``[px, px]`` of a slice around a crop's point; 0 outside of the slice."""
    matrix, px = crop_to_slice(volume, index, cut), cut.size.cached_px
    image, offset = _part(volume.images[index], matrix, px)
    matrix[:, 2] -= offset
    # warpAffine samples; where the crop is coarser than the slice, what lies between must be averaged first.
    coarser = cut.size.pixel_mm / volume.spacing[index]
    if coarser.max() > 1.2:
        sigma = 0.4 * np.sqrt(np.maximum(coarser**2 - 1, 1e-4))
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma[1], sigmaY=sigma[0]), dtype=np.uint8)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(image, matrix, (px, px), flags=flags)
    return np.asarray(crop, dtype=np.uint8)


def _part(image: NDArray[np.uint8], matrix: Floats, px: int) -> tuple[NDArray[np.uint8], Floats]:
    """Return the part of a slice that a crop needs, and the column and row ``[2]`` where it begins."""
    ends = np.array([[0, 0, 1], [px, 0, 1], [0, px, 1], [px, px, 1]]) @ matrix.T
    low = np.maximum(np.floor(ends.min(axis=0)).astype(int) - 4, 0)
    high = np.minimum(np.ceil(ends.max(axis=0)).astype(int) + 5, image.shape[::-1])
    part = np.ascontiguousarray(image[low[1] : max(high[1], low[1] + 1), low[0] : max(high[0], low[0] + 1)])
    return part, low.astype(np.float64)
