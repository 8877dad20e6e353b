"""Slices in the frame of the patient: order and laterality come from positions, never from instance numbers.

MR intensities have no unit; percentiles map them to 8 bits."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lumbar_kaggle.dicom import geometry

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_] | None

LOW, HIGH = 1.0, 99.0  # percentiles that become black and white: the project report's, and the 2nd place's
COUNTED = 2**24  # pixels; OpenCV counts in 32-bit floats, which are exact up to so many

SAME_ORIENTATION_DEGREES = 2.0  # normals of one stack differ by less; tilts per disc differ by 5° and more
SAME_COLUMN_MM = 2.0  # slices of one stack lie over each other: their corners, seen along the normal, differ by less
SAME_POSITION_MM = 0.05  # slices nearer than this along the normal are the same slice taken twice

GEOMETRY = ("positions", "orientation", "spacing")  # of a volume: arrays of a row per slice
PLACE, SPACING = "place", "spacing"  # what may be assumed of a volume
# Height of a picture whose spacing is not known: around the mean of the competition's of either plane.
ASSUMED_FIELD_MM, ASSUMED_AXIAL_FIELD_MM = 280.0, 190.0
ASSUMED_STEP_MM = 4.5  # of sagittal slices that do not know their place; the competition's median is 4.5
# Of slices that do not know theirs: sagittal, front to the left, head up, as such pictures are stored.
_ASSUMED_ORIENTATION = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


class Skipped(NamedTuple):
    """A file of a series that was left out."""

    path: Path
    reason: str


@dataclass(frozen=True, eq=False)
class Volume:
    """Slices of one series with their geometry, from DICOM and the cache to points and crops.

    Sagittal slices run from the patient's right to left (rising LPS x), axial ones from head to foot. What a header
    does not have is NaN, or None where it is an instance number.

    Attributes:
        images: one ``[rows, columns]`` array per slice, intensities as in `instances.Instance` or, once `windowed`,
            uint8. Those of a stack, see `stacks`, have one size; they may lie in a file, see `preprocess.CachedImages`.
        positions: ``[slices, 3]`` LPS mm, centre of each slice's first pixel.
        orientation: ``[slices, 6]`` direction cosines.
        spacing: ``[slices, 2]`` mm between rows, mm between columns.
        instance_numbers: one per slice.
        series_id, kind: of the series; empty where not known.
        skipped, notes: files that were left out, and what is to be said of the series, see `series.notes`.
        padding: one mask ``[rows, columns]`` per slice, True outside of the picture, or None; empty where none has one.
        window: intensities that are 0 and 255 in `images`; None where these are the stored ones.
        assumed: which of `PLACE` and `SPACING` are not the scanner's, see `completed`.
    """

    images: Sequence[NDArray[Any]] | NDArray[Any]
    positions: Floats
    orientation: Floats
    spacing: Floats
    instance_numbers: tuple[int | None, ...]
    series_id: str = ""
    kind: str = ""
    skipped: tuple[Skipped, ...] = ()
    padding: tuple[Mask, ...] = ()
    notes: tuple[str, ...] = ()
    window: tuple[float, float] | None = None
    assumed: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        """Say what it is: ``Volume sagittal_t1 12345: 18 slices of 320 × 320``."""
        words = " ".join(["Volume", *filter(None, (self.kind, self.series_id))])
        slices, (rows, columns) = len(self), self.images[0].shape
        return f"{words}: {slices} slice{'s' if slices > 1 else ''} of {rows} × {columns}"

    def _repr_html_(self) -> str:
        """Show the middle slice in a notebook, 200 px wide and as high as its millimetres ask."""
        middle, width = len(self) // 2, 200
        shown = windowed(self.images[middle], self.padding[middle] if self.padding else None)
        down, across = self.spacing[middle] if np.isfinite(self.spacing[middle]).all() else (1.0, 1.0)
        aspect = float(np.clip(shown.shape[0] * down / (shown.shape[1] * across), 0.25, 4))
        picture = cv2.resize(shown, (width, round(width * aspect)), interpolation=cv2.INTER_AREA)
        data = base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode()
        image = f'<img src="data:image/png;base64,{data}" width="{width}">'
        return f'<figure style="margin:4px">{image}<figcaption>{escape(repr(self))}</figcaption></figure>'

    @property
    def pixels(self) -> NDArray[Any]:
        """All slices as ``[slices, rows, columns]``; ValueError where they differ in size: take the `stacks`."""
        sizes = {image.shape for image in self.images}
        if len(sizes) > 1:
            raise ValueError(f"the slices have the sizes {sorted(sizes)}; take Volume.stacks()")
        return np.stack(list(self.images))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the slices of a stack."""
        shape: tuple[int, ...] = getattr(self.images, "shape", ())[1:] or self.images[0].shape
        return shape[0], shape[1]

    @property
    def placed(self) -> bool:
        """Whether every slice knows its place in the patient."""
        return PLACE not in self.assumed and bool(self._placed(range(len(self))).all())

    @property
    def measured(self) -> bool:
        """Whether the spacing is the scanner's."""
        return SPACING not in self.assumed and bool(np.isfinite(self.spacing).all())

    @property
    def plane(self) -> str:
        """``"sagittal"``, ``"coronal"`` or ``"axial"``, whichever is nearest to the slices of a stack."""
        return geometry.plane(self.orientation[0])

    @property
    def normal(self) -> Floats:
        """Unit vector ``[3]`` across the slices of a stack."""
        return geometry.slice_normal(self.orientation[0])

    def depth(self, point: ArrayLike) -> Floats:
        """Return the distance in mm of an LPS point ``[3]`` from each plane of a stack, ``[slices]``."""
        return np.asarray(np.abs((self.positions - np.asarray(point)) @ self.normal), dtype=np.float64)

    def to_patient(self, index: int, row: ArrayLike, column: ArrayLike) -> Floats:
        """Return LPS mm ``[..., 3]`` of pixels ``[...]`` of one slice; see `geometry.to_patient`."""
        return geometry.to_patient(row, column, self.positions[index], self.orientation[index], self.spacing[index])

    def to_slice(self, index: int, points: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Return row, column (px) and distance (mm) of LPS points ``[..., 3]`` in one slice."""
        return geometry.to_slice(points, self.positions[index], self.orientation[index], self.spacing[index])

    def take(self, indices: Sequence[int]) -> "Volume":
        """Return the volume of some of the slices, in the order of `indices`."""
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            images=tuple(self.images[index] for index in chosen),
            instance_numbers=tuple(self.instance_numbers[index] for index in chosen),
            padding=tuple(self.padding[index] for index in chosen) if self.padding else (),
            **{name: getattr(self, name)[chosen] for name in GEOMETRY},
        )

    def windowed(self) -> "Volume":
        """Return the slices in 8 bits, by one window over the series; padding takes no part in it and becomes 0."""
        pairs = list(zip(self.images, self.padding or (None,) * len(self), strict=True))
        low, high = percentiles(*(image if mask is None else image[~mask] for image, mask in pairs))
        images = tuple(to_8bit(image, low, high, mask) for image, mask in pairs)
        return replace(self, images=images, padding=(), window=(low, high))

    def stacks(self) -> list["Volume"]:
        """Split into groups of parallel slices that lie over each other and have one size and spacing. Within a stack
        the slices are sorted along its own normal, and of slices at the same position only the first stays. Stacks come
        in the order of their first slice. Slices without geometry form one stack per size."""
        groups, rest = [], np.arange(len(self))
        while len(rest):
            same = self._same_stack(rest)
            groups.append(rest[same].tolist())
            rest = rest[~same]
        return [self.take(self._along_normal(group)) for group in groups]

    def completed(self) -> "Volume":
        """Return a stack of one orientation and spacing, with assumptions for what its headers lack. The spacing is
        that of the mean field of the competition's pictures of the plane. Slices without a place become sagittal ones
        `ASSUMED_STEP_MM` apart, in their order, around the origin."""
        orientation, spacing, positions = _first_known(self.orientation), _first_known(self.spacing), self.positions
        (rows, columns), slices, (row_mm, column_mm) = self.shape, len(self), spacing
        # The two directions of an image are perpendicular unit vectors; anything else has no plane.
        area = float(np.linalg.norm(np.cross(orientation[:3], orientation[3:])))
        placed = bool(np.isfinite(positions).all() and 0.9 < area < 1.1)
        # Fields of 100 mm do occur, pixels four times as long as they are wide do not.
        measured = 60 < row_mm * rows < 700 and row_mm / 4 < column_mm < row_mm * 4
        if not measured:
            axial = placed and geometry.plane(orientation) == "axial"
            spacing = np.full(2, (ASSUMED_AXIAL_FIELD_MM if axial else ASSUMED_FIELD_MM) / rows)
        if not placed:
            orientation = np.array(_ASSUMED_ORIENTATION)
            across = (np.arange(slices) - (slices - 1) / 2) * ASSUMED_STEP_MM
            corner = -(columns - 1) / 2 * spacing[1], (rows - 1) / 2 * spacing[0]
            positions = np.column_stack([across, np.tile(corner, (slices, 1))])
        return replace(
            self,
            positions=positions,
            orientation=np.tile(orientation, (slices, 1)),
            spacing=np.tile(spacing, (slices, 1)),
            assumed=frozenset(name for name, known in ((PLACE, placed), (SPACING, measured)) if not known),
        )

    def _same_stack(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of the slices is of the stack of the first of them, ``[indices]``."""
        first, sizes, spacing = indices[0], [self.images[index].shape for index in indices], self.spacing[indices]
        same = (np.array(sizes) == sizes[0]).all(axis=1)
        same &= np.isclose(spacing[0], spacing, rtol=0.01, equal_nan=True).all(axis=1)
        known = self._placed(indices)
        if not known[0]:
            return same & ~known
        axes, others = self.orientation[first].reshape(2, 3), self.orientation[indices].reshape(-1, 2, 3)
        parallel = (axes * others).sum(axis=2).min(axis=1) >= np.cos(np.radians(SAME_ORIENTATION_DEGREES))
        offset = self.positions[indices] - self.positions[first]
        return same & known & parallel & (np.abs(offset @ axes.T).max(axis=1) < SAME_COLUMN_MM)

    def _placed(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of the slices has both position and orientation, ``[indices]``."""
        known = np.hstack([self.positions[indices], self.orientation[indices]])
        return np.asarray(np.isfinite(known).all(axis=1))

    def _along_normal(self, group: list[int]) -> list[int]:
        if not self._placed(group).all():
            return group
        depth = self.positions[group] @ geometry.reading_direction(self.orientation[group[0]])
        ordered, last = [], -np.inf
        for place in np.argsort(depth, kind="stable"):
            if depth[place] - last > SAME_POSITION_MM:
                ordered.append(group[place])
                last = depth[place]
        return ordered


def _first_known(rows: Floats) -> Floats:
    """Return the first row ``[n]`` of ``[slices, n]`` without NaN; NaN without any."""
    known = rows[np.isfinite(rows).all(axis=1)]
    return known[0] if len(known) else np.full(rows.shape[1], np.nan)


def percentiles(*images: NDArray[Any]) -> tuple[float, float]:
    """Return the intensities at `LOW` and `HIGH` of all pixels of images of any shapes, as `numpy.percentile` gives
    them; both 0 where no pixel counts. Pixels that are not finite do not count. Signed integers count as float64: where
    neighbouring values differ by more than half of their range, NumPy's interpolation overflows."""
    kinds = {image.dtype for image in images}
    if kinds in ({np.dtype(np.uint8)}, {np.dtype(np.uint16)}, {np.dtype(np.int16)}):
        return _by_histogram(images, kinds.pop())
    image = np.concatenate([one.ravel() for one in images])
    image = image[np.isfinite(image)]
    image = image.astype(np.float64) if image.dtype.kind == "i" else image
    low, high = np.percentile(image, [LOW, HIGH]) if image.size else (0, 0)
    return float(low), float(high)


def _by_histogram(images: Sequence[NDArray[Any]], kind: np.dtype[Any]) -> tuple[float, float]:
    """Return `percentiles` of images of one type of at most 16 bits, in a tenth of the time that they take."""
    values = np.iinfo(kind)
    counts, most = np.zeros(values.max - values.min + 1, dtype=np.int64), 1
    for image in images:
        codes = np.ascontiguousarray(image).view(f"u{kind.itemsize}").reshape(1, -1)
        if 0 < codes.size <= COUNTED:
            top = int(codes.max()) + 1
            found = cv2.calcHist([codes], [0], None, [top], [0, top]).ravel().astype(np.int64)
        else:
            found = np.bincount(codes[0])
        counts[: len(found)] += found
        most = max(most, len(found))
    # The negative ones, which have the greatest codes, come first.
    counts = np.roll(counts, -values.min) if values.min else counts[:most]
    total = counts.cumsum()
    if not total[-1]:
        return 0.0, 0.0
    place = (total[-1] - 1) * (np.array([LOW, HIGH]) / 100)
    before = np.floor(place).astype(np.int64)
    after = np.minimum(before + 1, total[-1] - 1)
    first, second = (np.searchsorted(total, rank, "right") + values.min for rank in (before, after))
    # NumPy's interpolation, to the last bit.
    share, step = place - before, second - first
    low, high = np.where(share < 0.5, first + step * share, second - step * (1 - share))
    return float(low), float(high)


def to_8bit(image: NDArray[Any], low: float, high: float, padding: Mask = None) -> NDArray[np.uint8]:
    """Map an image of any shape to uint8 linearly, `low` to 0 and `high` to 255, values beyond them clipped. Padding
    and NaN become 0, infinite values are clipped like others. Where `low` and `high` are equal the image is constant
    and becomes 0 throughout."""
    if not high > low:
        return np.zeros(image.shape, dtype=np.uint8)
    # In place: new arrays of this size cost more than what is calculated.
    scaled = np.asarray(image.astype(np.float32))
    scaled -= np.float32(low)
    scaled *= np.float32(255 / (high - low))
    np.clip(scaled, 0, 255, out=scaled)
    np.rint(scaled, out=scaled)
    if image.dtype.kind == "f":
        scaled[np.isnan(scaled)] = 0
    image8: NDArray[np.uint8] = scaled.astype(np.uint8)
    if padding is not None:
        image8[padding] = 0
    return image8


def windowed(image: NDArray[Any], padding: Mask = None) -> NDArray[np.uint8]:
    """Map one image to 8 bit between its own 1st and 99th percentile; padding is left out, and 0."""
    return to_8bit(image, *percentiles(image if padding is None else image[~padding]), padding)
