"""The plan of a study's series: how each is weighted, where its slices lie, how it is stored.

Where slices lie depends on the patient's spine, their number never: it must not tell of degenerated discs."""

from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lumbar_kaggle.core.targets import LEVELS, SERIES_KINDS
from lumbar_kaggle.dicom.geometry import slice_normal
from lumbar_kaggle.phantom.artefacts import Artefacts, draw_artefacts
from lumbar_kaggle.phantom.patient import Spine
from lumbar_kaggle.phantom.settings import Defects, Floats, Scanners, Singles, Vendor, draw_from

Weighting = Enum("Weighting", {"T1": "T1", "T2": "T2", "STIR": "STIR"})

# Attributes that a header may lack while the slice can still be read and placed.
OPTIONAL_TAGS = (
    *("SliceLocation", "WindowCenter", "WindowWidth", "SpacingBetweenSlices", "SliceThickness"),
    *("PatientPosition", "SeriesDescription", "FrameOfReferenceUID"),
)


@dataclass(frozen=True)
class Plane:
    """Where a slice lies: the attributes of its header, see `lumbar_kaggle.dicom.geometry`."""

    position: Floats  # [3] LPS mm, centre of the first pixel
    orientation: Floats  # [6] direction cosines
    spacing: tuple[float, float]  # mm between rows, between columns
    shape: tuple[int, int]  # rows, columns

    @cached_property
    def normal(self) -> Floats:
        """``[3]`` unit normal."""
        return slice_normal(self.orientation)

    def heights(self, points: Floats) -> Floats:
        """Return mm ``[...]`` of LPS points ``[..., 3]`` above the plane, along its normal."""
        return (points - self.position) @ self.normal

    def grid(self, every: int = 1) -> Singles:
        """Return LPS mm x, y, z of every `every`-th pixel each way, ``[3, rows, columns]``."""
        rows, columns = (slice(0, size, every) for size in self.shape)
        return self.local(np.zeros(3), np.eye(3), (0.0,), rows, columns)[:, 0]

    def local(self, origin: Floats, axes: Floats, heights: tuple[float, ...], rows: slice, columns: slice) -> Singles:
        """Return x, y, z (mm) of a rectangle of pixels, its steps included, ``[3, heights, rows, columns]``. They are
        in the frame of `origin` (LPS mm) and `axes` (rows are unit vectors); `heights` are mm above the plane."""
        first, up = axes @ (self.position - origin), axes @ self.normal
        across = axes @ self.orientation[:3] * self.spacing[1]
        down = axes @ self.orientation[3:] * self.spacing[0]
        row = np.arange(rows.start, rows.stop, rows.step)[:, None]
        column = np.arange(columns.start, columns.stop, columns.step)
        start = (first[:, None, None] + up[:, None, None] * np.asarray(heights)[:, None] + 0.0)[..., None]
        start = (start + down[:, None, None, None] * row).astype(np.float32)  # [3, heights, rows, 1]
        return start + (across[:, None] * column).astype(np.float32)[:, None, None, :]


@dataclass(frozen=True)
class SeriesPlan:
    """One planned acquisition."""

    kind: str  # one of `targets.SERIES_KINDS`
    weighting: Weighting
    planes: tuple[Plane, ...]  # middle of each slice, in the order of the instances
    thickness: float  # mm
    step: float  # mm; what the header says lies between two slices' middles
    syntax: str  # name of a transfer syntax, see `generate.SYNTAXES`
    signed: bool  # stored as signed numbers
    vendor: Vendor  # of the scanner, one for all series of a study
    tesla: float  # of its field
    artefacts: Artefacts
    numbers: tuple[int, ...]  # InstanceNumber of each slice, ascending
    absent: tuple[str, ...]  # attributes that the headers lack


class Grid(NamedTuple):
    """The image plane of a series: stored rows and columns, and mm of a pixel."""

    shape: tuple[int, int]
    spacing: float

    def at(self, middle: Floats, across: Floats, down: Floats, shares: Floats) -> Plane:
        """Return the plane along two unit vectors with a point (LPS mm) at the shares ``[2]`` of width and height."""
        rows, columns = self.shape
        corner = middle - self.spacing * (shares[0] * columns * across + shares[1] * rows * down)
        orientation = np.round(np.concatenate([across, down]), 8)  # as precise as a header's decimal text
        return Plane(np.round(corner, 5), orientation, (self.spacing, self.spacing), self.shape)


def draw_levels(rng: np.random.Generator, defects: Defects) -> list[range]:
    """Return which levels (0 is L1/L2) each axial series of a study covers, head to foot."""
    high, low = rng.random(2)
    shares = (defects.axial_below_fourth_level, defects.axial_below_second_level)
    first = (high < shares[0]) * 2 + (high < shares[1]) + (high < defects.axial_below_first_level)
    stop = len(LEVELS) - (low < defects.axial_above_last_level and first < len(LEVELS) - 1)
    count = min(draw_from(rng, tuple(enumerate(defects.axial_series, 1))), stop - first)
    repeated, cuts = rng.random(), rng.permutation(np.arange(first + 1, stop))
    if count == 2 and repeated < 0.45:
        return [range(first, stop)] * 2  # the same levels, scanned in two ways
    ends = [first, *sorted(int(cut) for cut in cuts[: count - 1]), stop]
    if count == 2 and repeated < 0.85 and first + 3 < stop:
        ends[1] = first + 3 if repeated < 0.7 else first + 2  # three levels and two are the usual parts
    return [range(start, end) for start, end in pairwise(ends)]


class Planner:
    """Draws the series of one study. Planes are ``sagittal`` or ``axial``; a stack comes with its step in mm."""

    def __init__(self, rng: np.random.Generator, spine: Spine, defects: Defects, scanners: Scanners) -> None:
        self.rng, self.spine, self.defects, self.scanners = rng, spine, defects, scanners
        self.vendor = draw_from(rng, [(vendor, vendor.share) for vendor in scanners.vendors])
        self.tesla = draw_from(rng, self.vendor.fields)

    def plan(self, index: int) -> tuple[SeriesPlan, ...]:
        """Return the series in the order of `SERIES_KINDS`; the study's number decides what one in so many has."""

        def turn(every: int, which: int) -> bool:
            return every > 0 and index % every == min(which, every - 1)

        rng, defects = self.rng, self.defects
        right_last = rng.random() < defects.sagittal_reversed
        absent = SERIES_KINDS[int(rng.integers(3))] if turn(defects.missing_series_every, 5) else None
        second = Weighting.STIR if rng.random() < defects.inversion_recovery else Weighting.T2
        count = 1 + (rng.random() < defects.extra_sagittal_t1)
        field_mm, first = self._sagittal_field(), self._size("sagittal")
        series = [self._sagittal(Weighting.T1, first, field_mm, right_last) for _ in range(count)]
        # Usually the matrix and the field are copied; if not, the second series is the finer one.
        copied, other = rng.random(2) < (0.75, 0.6), max(first, self._size("sagittal"))
        field_mm = field_mm if copied[1] else self._sagittal_field()
        series.append(self._sagittal(second, first if copied[0] else other, field_mm, right_last))
        series += self._axials(turn(defects.two_sizes_every, 2))
        return tuple(one for one in series if one.kind != absent)

    def _size(self, plane: str) -> tuple[int, int]:
        """Return a stored size: one of the vendor's, or a square of the scanners'."""
        squares = tuple(((side, side), 1.0) for side in getattr(self.scanners, f"{plane}_sizes"))
        return draw_from(self.rng, squares or getattr(self.vendor, plane))

    def _sagittal_field(self) -> float:
        return float(np.clip(self.rng.normal(*self.scanners.sagittal_field_mm), 225.0, 400.0))

    def _grid(self, plane: str, size: tuple[int, int], field_mm: float) -> Grid:
        """Return a grid whose longer side measures around `field_mm`, within the spacings that occur."""
        spacings = getattr(self.scanners, f"{plane}_spacing_mm")
        return Grid(size, round(float(np.clip(field_mm * self.rng.normal(1.0, 0.01) / max(size), *spacings)), 6))

    def _step(self, plane: str) -> float:
        """Draw a distance of slices (mm): a usual one or, in a tenth of the series, something near it."""
        step: float = draw_from(self.rng, getattr(self.scanners, f"{plane}_steps_mm"))
        aside, amount = self.rng.random(), self.rng.normal(0.0, 0.04)
        return round(step * (1 + amount) if aside < 0.1 else step, 2)

    def _sagittal(self, weighting: Weighting, size: tuple[int, int], field_mm: float, right_last: bool) -> SeriesPlan:
        """Return a stack from the patient's right to left, or from left to right."""
        grid = self._grid("sagittal", size, field_mm)
        rng, scanners = self.rng, self.scanners
        most = scanners.sagittal_slices[1]
        count = int(np.clip(round(rng.normal(*scanners.sagittal_slices_usual)), *scanners.sagittal_slices))
        if rng.random() < 0.01:  # rarely the whole width of the back
            count = min(count + int(rng.integers(5, 15)), most)
        step = self._step("sagittal")
        # Wide enough for the foramina: a technician first takes thicker slices, then more of them.
        needed = 2 * scanners.sagittal_half_width_mm
        if (count - 1) * step < needed:
            step = min(max(step, needed / (count - 1)), 5.2)
            count = min(max(count, int(np.ceil(needed / step)) + 1), most)
            step = round(max(step, needed / (count - 1)), 2)
        swivel, tip = np.radians(rng.normal(0.0, (1.5, 0.8)))
        across = np.array([-np.sin(swivel), np.cos(swivel), 0.0])
        down = np.array([np.sin(tip) * np.cos(swivel), np.sin(tip) * np.sin(swivel), -np.cos(tip)])
        leftwards = np.cross(down, across)
        shares = rng.normal((0.535, 0.53), scanners.sagittal_shift)  # of L3/L4; the mean of the real labels
        middle = self.spine.frame(self.spine.level_at(2))[0] + rng.normal(0.0, 1.5) * leftwards
        offsets = (np.arange(count) - (count - 1) / 2) * step
        planes = [grid.at(middle + offset * leftwards, across, down, shares) for offset in offsets]
        kind = "sagittal_t1" if weighting is Weighting.T1 else "sagittal_t2"
        return self._series(kind, weighting, planes[::-1] if right_last else planes, step)

    def _axials(self, two_sizes: bool) -> list[SeriesPlan]:
        """Return the axial series, and what passes for one."""
        size = self._size("axial")
        field_mm = float(np.clip(self.rng.normal(*self.scanners.axial_field_mm), 140.0, 320.0))
        grid, series = self._grid("axial", size, field_mm), []
        for levels in draw_levels(self.rng, self.defects):
            planes, step = self._axial_stacks(levels, grid)
            if two_sizes:
                side = 320 if grid.shape != (320, 320) else 256
                down, across = (round(grid.spacing * length / side, 6) for length in grid.shape)
                half = len(planes) // 2
                planes[half:] = [replace(plane, shape=(side, side), spacing=(down, across)) for plane in planes[half:]]
            if self.rng.random() < self.defects.axial_reversed:
                planes = planes[::-1]
            series.append(self._series("axial_t2", Weighting.T2, planes, step))
        if self.rng.random() < self.defects.coronal_as_axial:
            # A coronal stack, front to back and so far before the canal that it shows no recess.
            step, count = 5.0, int(self.rng.integers(9, 16))
            points = np.array([self.spine.frame(self.spine.level_at(level))[0] for level in range(5)])
            last = np.array([points[2, 0], points[:, 1].min() - 22.0, points[2, 2]])
            shares, (left, back, up) = self.rng.normal((0.5, 0.5), 0.02), np.eye(3)
            wide = Grid(grid.shape, round(300.0 / max(grid.shape), 6))
            planes = [wide.at(last - k * step * back, left, -up, shares) for k in reversed(range(count))]
            series.append(self._series("axial_t2", Weighting.T2, planes, step))
        return series

    def _axial_stacks(self, levels: range, grid: Grid) -> tuple[list[Plane], float]:
        """Return slices through some levels, head to foot."""
        rng, defects, step = self.rng, self.defects, self._step("axial")
        turn = np.radians(rng.normal(0.0, 1.5))
        across = np.array([np.cos(turn), np.sin(turn), 0.0])
        shares = rng.normal((0.5, 0.525), self.scanners.axial_shift)
        tilted, block, double = defects.tilted_axial, defects.block_axial, defects.double_axial
        ways = {"tilted": tilted, "block": block, "double": double, "straight": max(0.0, 1 - (tilted + block + double))}
        way = draw_from(rng, tuple(ways.items()))
        places: list[tuple[Floats, Floats]] = []
        if way != "tilted":
            cuts = [levels[int(rng.integers(1, len(levels)))]] if way == "block" and len(levels) > 2 else []
            for start, stop in pairwise([levels.start, *cuts, levels.stop]):
                places += self._straight_stack(range(start, stop), across, step)
        if way in ("tilted", "double"):
            places += self._disc_stacks(levels, across, step)
        return [grid.at(middle, across, down, shares) for middle, down in places], step

    def _disc_stacks(self, levels: range, across: Floats, step: float) -> list[tuple[Floats, Floats]]:
        """Return a short stack per disc, parallel to it: LPS mm of the canal and the direction down the image."""
        low, high = self.scanners.axial_slices_per_disc
        # Thin slices need more of them to span a disc and the recess below it.
        count = max(int(self.rng.integers(low, high + 1)), int(np.ceil(8.0 / step)) + 1)
        places = []
        for level in levels:
            middle, axes = self.spine.frame(self.spine.level_at(level))
            down, up = _square_to(axes[1], across)
            offsets = ((count - 1) / 2 - np.arange(count)) * step + self.rng.normal(0.0, 1.2)
            places += [(middle + offset * up, down) for offset in offsets]
        return places

    def _straight_stack(self, levels: range, across: Floats, step: float) -> list[tuple[Floats, Floats]]:
        """Return one stack of parallel slices through the levels, as `_disc_stacks` does."""
        above, below = self.rng.uniform(*self.scanners.axial_margin_mm, 2)
        lean, aside = self.rng.uniform(0.4, 0.9), self.rng.normal(0.0, 3.0)
        frames = [self.spine.frame(self.spine.level_at(level)) for level in levels]
        points, normals = np.array([origin for origin, _ in frames]), np.array([axes[2] for _, axes in frames])
        # Part of the way to the middle disc's own tilt.
        tilt = lean * np.arctan2(normals[:, 1], normals[:, 2]).mean() + np.radians(aside)
        down, up = _square_to(np.array([0.0, np.cos(tilt), -np.sin(tilt)]), across)
        # Planned with the mean heights between neighbouring discs, L1/L2 to L5/S1.
        extent = sum((34.0, 34.2, 32.7, 27.0)[levels.start : levels.stop - 1]) + above + below
        count = int(np.ceil(extent / step)) + 1
        heights, centre = points @ up, points.mean(axis=0)
        top = (heights.max() + heights.min() + (count - 1) * step + above - below) / 2
        return [(centre + (top - k * step - centre @ up) * up, down) for k in range(count)]

    def _series(self, kind: str, weighting: Weighting, planes: list[Plane], step: float) -> SeriesPlan:
        """Return the series with its slices in the order of the instances, and how they are stored."""
        rng, defects = self.rng, self.defects
        mixed, twice, place = rng.random(3)
        if mixed < defects.interleaved:
            planes = planes[::2] + planes[1::2]
        if twice < defects.duplicate_position:
            # As often as not a slice is taken again at the end.
            k = len(planes) - 1 if place < 0.5 else int((place - 0.5) * 2 * len(planes))
            planes = [*planes[: k + 1], *planes[k:]]
        syntax = draw_from(rng, defects.syntaxes)
        thickness = round(step * (1 - rng.uniform(*self.scanners.gap_share)), 2)
        # Decoders disagree on signed pixels inside a JPEG.
        signed = bool(rng.random() < defects.signed_pixels) and not syntax.startswith("jpeg")
        gap, place, lacking = rng.random(3)
        numbers = np.arange(1, len(planes) + 1)
        if gap < defects.instance_gaps:
            numbers[1 + int(place * (len(planes) - 1)) :] += 1
        some = rng.random(len(OPTIONAL_TAGS)) < 0.4
        absent = tuple(np.array(OPTIONAL_TAGS)[some].tolist()) if lacking < defects.absent_tags else ()
        return SeriesPlan(
            kind, weighting, tuple(planes), thickness, step, syntax, signed, self.vendor, self.tesla,
            draw_artefacts(rng, kind, defects), tuple(numbers.tolist()), absent,
        )  # fmt: skip


def _square_to(down: Floats, across: Floats) -> tuple[Floats, Floats]:
    """Return the unit vectors nearest to `down` at right angles to `across`, and up along the normal."""
    level = down - (down @ across) * across
    unit = level / np.linalg.norm(level)
    return unit, np.cross(across, unit)
