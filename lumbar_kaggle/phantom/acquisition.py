"""Which series a study has, in which order, and how they are stored: the plan of the scan, without a pixel.

Nothing here depends on the grades: the plan is drawn before anyone looks at the patient, who only decides
where the planes lie.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from lumbar_kaggle.core.targets import LEVELS, SERIES_KINDS
from lumbar_kaggle.phantom.artefacts import Artefacts, draw_artefacts
from lumbar_kaggle.phantom.planes import (
    Grid,
    axial_planes,
    coronal_planes,
    draw_grid,
    sagittal_planes,
)
from lumbar_kaggle.phantom.rendering import Plane
from lumbar_kaggle.phantom.settings import Defects, Scanners
from lumbar_kaggle.phantom.spine import Spine
from lumbar_kaggle.phantom.tissues import Weighting
from lumbar_kaggle.phantom.vendors import Machine, Sizes, draw_index, draw_machine, draw_size

OPTIONAL_TAGS = (
    "SliceLocation",
    "WindowCenter",
    "WindowWidth",
    "SpacingBetweenSlices",
    "SliceThickness",
    "PatientPosition",
    "SeriesDescription",
    "FrameOfReferenceUID",
)
"""Attributes that a header may lack while the slice can still be read and placed."""

SQUARE_AXIAL = 320
"""The matrix that a series changes to half-way, unless it has it already: then 256."""


@dataclass(frozen=True)
class SeriesPlan:
    """One planned acquisition.

    Attributes:
        kind: one of `targets.SERIES_KINDS`.
        weighting: T1, T2 or STIR.
        planes: middle of each slice, in the order of the instances.
        thickness, step: mm; the step is what the header says lies between two slices' middles.
        syntax: name of a transfer syntax, see `dicom.SYNTAXES`.
        signed: stored as signed numbers.
        machine: the scanner.
        artefacts: what goes wrong in the images.
        numbers: InstanceNumber of each slice, ascending.
        absent: attributes that the headers lack.
    """

    kind: str
    weighting: Weighting
    planes: tuple[Plane, ...]
    thickness: float
    step: float
    syntax: str
    signed: bool
    machine: Machine
    artefacts: Artefacts
    numbers: tuple[int, ...]
    absent: tuple[str, ...]


def plan_series(
    rng: np.random.Generator, spine: Spine, index: int, defects: Defects, scanners: Scanners
) -> tuple[SeriesPlan, ...]:
    """Return the series of the study number `index` of its split, in the order of `SERIES_KINDS`.

    Args:
        rng: of the plan.
        spine: where the levels lie.
        index: decides on the defects that one study in so many has.
        defects, scanners: what is drawn from.
    """
    machine = draw_machine(rng, scanners.vendors)
    planner = _Planner(rng, spine, defects, scanners, machine, bool(rng.random() < defects.sagittal_reversed))
    absent = SERIES_KINDS[int(rng.integers(3))] if _turn(index, defects.missing_series_every, 5) else None
    second = Weighting.STIR if rng.random() < defects.inversion_recovery else Weighting.T2
    extra = rng.random()
    field_mm, first = planner.sagittal_field(), planner.sagittal_size()
    count = 1 + (extra < defects.extra_sagittal_t1)
    series = [planner.sagittal("sagittal_t1", Weighting.T1, first, field_mm) for _ in range(count)]
    # Usually the matrix and the field are copied; if not, the second series is the finer one.
    copied, other = rng.random(2) < (0.75, 0.6), max(first, planner.sagittal_size())
    field_mm = field_mm if copied[1] else planner.sagittal_field()
    series.append(planner.sagittal("sagittal_t2", second, first if copied[0] else other, field_mm))
    series += planner.axials(_turn(index, defects.two_sizes_every, 2))
    return tuple(one for one in series if one.kind != absent)


def draw_levels(rng: np.random.Generator, defects: Defects) -> list[range]:
    """Return which levels (0 is L1/L2) each axial series of a study covers, head to foot."""
    high, low = rng.random(2)
    shares = (defects.axial_below_fourth_level, defects.axial_below_second_level)
    first = (high < shares[0]) * 2 + (high < shares[1]) + (high < defects.axial_below_first_level)
    stop = len(LEVELS) - (low < defects.axial_above_last_level and first < len(LEVELS) - 1)
    count = min(1 + draw_index(rng, defects.axial_series), stop - first)
    repeated, cuts = rng.random(), rng.permutation(np.arange(first + 1, stop))
    if count == 2 and repeated < 0.45:
        return [range(first, stop), range(first, stop)]  # the same levels, scanned in two ways
    ends = [first, *sorted(int(cut) for cut in cuts[: count - 1]), stop]
    if count == 2 and repeated < 0.85 and first + 3 < stop:
        ends[1] = first + 3 if repeated < 0.7 else first + 2  # three levels and two are the usual parts
    return [range(start, end) for start, end in pairwise(ends)]


def _turn(index: int, every: int, which: int) -> bool:
    """Return whether it is the turn of study `index`, when one of `every` is chosen; 0 chooses none."""
    return every > 0 and index % every == min(which, every - 1)


@dataclass(frozen=True)
class _Planner:
    """What the series of one study have in common, and how each is drawn.

    Attributes:
        rng: of the plan.
        spine: where the levels lie.
        defects, scanners: what is drawn from.
        machine: the study's scanner.
        reversed_sagittal: whether the sagittal instances run from left to right.
    """

    rng: np.random.Generator
    spine: Spine
    defects: Defects
    scanners: Scanners
    machine: Machine
    reversed_sagittal: bool

    def size(self, usual: Sizes, instead: tuple[int, ...]) -> tuple[int, int]:
        """Return a stored size: one of the vendor's `usual` ones, or a square with a side of `instead`."""
        return draw_size(self.rng, tuple(((side, side), 1.0) for side in instead) or usual)

    def sagittal_size(self) -> tuple[int, int]:
        return self.size(self.machine.vendor.sagittal, self.scanners.sagittal_sizes)

    def sagittal_field(self) -> float:
        return float(np.clip(self.rng.normal(*self.scanners.sagittal_field_mm), 225.0, 400.0))

    def sagittal(self, kind: str, weighting: Weighting, size: tuple[int, int], field_mm: float) -> SeriesPlan:
        grid = draw_grid(self.rng, size, field_mm, self.scanners.sagittal_spacing_mm)
        planes, step = sagittal_planes(self.rng, self.spine, grid, self.scanners)
        return self.series(kind, weighting, planes[::-1] if self.reversed_sagittal else planes, step)

    def axials(self, two_sizes: bool) -> list[SeriesPlan]:
        """Return the axial series of a study, and what passes for one."""
        size = self.size(self.machine.vendor.axial, self.scanners.axial_sizes)
        field_mm = float(np.clip(self.rng.normal(*self.scanners.axial_field_mm), 140.0, 320.0))
        grid = draw_grid(self.rng, size, field_mm, self.scanners.axial_spacing_mm)
        series = [self.axial(levels, grid, two_sizes) for levels in draw_levels(self.rng, self.defects)]
        if self.rng.random() < self.defects.coronal_as_axial:
            wide = Grid(grid.shape, round(300.0 / max(grid.shape), 6))
            planes, step = coronal_planes(self.rng, self.spine, wide)
            series.append(self.series("axial_t2", Weighting.T2, planes, step))
        return series

    def axial(self, levels: range, grid: Grid, two_sizes: bool) -> SeriesPlan:
        planes, step = axial_planes(self.rng, self.spine, levels, grid, self.defects, self.scanners)
        if two_sizes:
            size = SQUARE_AXIAL if grid.shape != (SQUARE_AXIAL, SQUARE_AXIAL) else 256
            down, across = (round(grid.spacing * length / size, 6) for length in grid.shape)
            half = len(planes) // 2
            planes[half:] = [
                replace(plane, shape=(size, size), spacing=(down, across)) for plane in planes[half:]
            ]
        if self.rng.random() < self.defects.axial_reversed:
            planes = planes[::-1]
        return self.series("axial_t2", Weighting.T2, planes, step)

    def series(self, kind: str, weighting: Weighting, planes: list[Plane], step: float) -> SeriesPlan:
        """Return the series with its slices in the order of the instances, and how they are stored."""
        rng, defects = self.rng, self.defects
        planes = _disturbed(rng, planes, defects)
        syntax = defects.syntaxes[draw_index(rng, tuple(share for _, share in defects.syntaxes))][0]
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
            kind, weighting, tuple(planes), thickness, step, syntax, signed,
            machine=self.machine,
            artefacts=draw_artefacts(rng, kind, defects),
            numbers=tuple(numbers.tolist()),
            absent=absent,
        )  # fmt: skip


def _disturbed(rng: np.random.Generator, planes: list[Plane], defects: Defects) -> list[Plane]:
    """Return the planes with every second one first, or with one taken twice, where that happens."""
    mixed, twice, place = rng.random(3)
    if mixed < defects.interleaved:
        planes = planes[::2] + planes[1::2]
    if twice < defects.duplicate_position:
        # As often as not a slice is taken again at the end.
        k = len(planes) - 1 if place < 0.5 else int((place - 0.5) * 2 * len(planes))
        planes = [*planes[: k + 1], *planes[k:]]
    return planes
