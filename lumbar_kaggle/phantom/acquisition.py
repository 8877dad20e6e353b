"""Which series a study has, in which order, and how they are stored: the plan of the scan, without a pixel.

Nothing here depends on the grades: the plan is drawn before anyone looks at the patient, who only decides
where the planes lie.
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

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
from lumbar_kaggle.phantom.vendors import VENDORS, Machine, Sizes, draw_index, draw_machine, draw_size
from lumbar_kaggle.targets import LEVELS, SERIES_KINDS

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
    machine: Machine = Machine(VENDORS[0], 1.5)  # noqa: RUF009
    artefacts: Artefacts = field(default_factory=Artefacts)
    numbers: tuple[int, ...] = ()
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Habits:
    """What the series of one study have in common."""

    machine: Machine
    defects: Defects
    scanners: Scanners
    reversed_sagittal: bool


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
    habits = _Habits(
        draw_machine(rng, scanners.vendors),
        defects,
        scanners,
        bool(rng.random() < defects.sagittal_reversed),
    )
    absent = SERIES_KINDS[int(rng.integers(3))] if _turn(index, defects.missing_series_every, 5) else None
    second = Weighting.STIR if rng.random() < defects.inversion_recovery else Weighting.T2
    extra = rng.random()
    field_mm = _sagittal_field(rng, scanners)
    first = _sagittal_size(rng, habits)
    series = [_sagittal(rng, spine, "sagittal_t1", Weighting.T1, habits, first, field_mm)]
    if extra < defects.extra_sagittal_t1:
        series.append(_sagittal(rng, spine, "sagittal_t1", Weighting.T1, habits, first, field_mm))
    # Usually the matrix and the field are copied; if not, the second series is the finer one.
    copied, other = rng.random(2) < (0.75, 0.6), max(first, _sagittal_size(rng, habits))
    size = first if copied[0] else other
    field_mm = field_mm if copied[1] else _sagittal_field(rng, scanners)
    series.append(_sagittal(rng, spine, "sagittal_t2", second, habits, size, field_mm))
    series += _axials(rng, spine, _turn(index, defects.two_sizes_every, 2), habits)
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


def _sagittal_field(rng: np.random.Generator, scanners: Scanners) -> float:
    return float(np.clip(rng.normal(*scanners.sagittal_field_mm), 225.0, 400.0))


def _sagittal_size(rng: np.random.Generator, habits: _Habits) -> tuple[int, int]:
    return _size(rng, habits.machine.vendor.sagittal, habits.scanners.sagittal_sizes)


def _size(rng: np.random.Generator, usual: Sizes, instead: tuple[int, ...]) -> tuple[int, int]:
    """Return a stored size: one of the vendor's `usual` ones, or a square with one of the sides `instead`."""
    return draw_size(rng, tuple(((side, side), 1.0) for side in instead) or usual)


def _sagittal(
    rng: np.random.Generator,
    spine: Spine,
    kind: str,
    weighting: Weighting,
    habits: _Habits,
    size: tuple[int, int],
    field_mm: float,
) -> SeriesPlan:
    scanners = habits.scanners
    grid = draw_grid(rng, size, field_mm, scanners.sagittal_spacing_mm)
    planes, step = sagittal_planes(rng, spine, grid, scanners)
    planes = planes[::-1] if habits.reversed_sagittal else planes
    return _series(rng, kind, weighting, planes, step, habits)


def _axials(rng: np.random.Generator, spine: Spine, two_sizes: bool, habits: _Habits) -> list[SeriesPlan]:
    """Return the axial series of a study, and what passes for one."""
    grid = _axial_grid(rng, habits)
    parts = draw_levels(rng, habits.defects)
    series = [_axial(rng, spine, levels, habits, grid, two_sizes) for levels in parts]
    if rng.random() < habits.defects.coronal_as_axial:
        planes, step = coronal_planes(rng, spine, Grid(grid.shape, round(300.0 / max(grid.shape), 6)))
        series.append(_series(rng, "axial_t2", Weighting.T2, planes, step, habits))
    return series


def _axial_grid(rng: np.random.Generator, habits: _Habits) -> Grid:
    size = _size(rng, habits.machine.vendor.axial, habits.scanners.axial_sizes)
    field_mm = float(np.clip(rng.normal(*habits.scanners.axial_field_mm), 140.0, 320.0))
    return draw_grid(rng, size, field_mm, habits.scanners.axial_spacing_mm)


def _axial(
    rng: np.random.Generator, spine: Spine, levels: range, habits: _Habits, grid: Grid, two_sizes: bool
) -> SeriesPlan:
    planes, step = axial_planes(rng, spine, levels, grid, habits.defects, habits.scanners)
    if two_sizes:
        size = SQUARE_AXIAL if grid.shape != (SQUARE_AXIAL, SQUARE_AXIAL) else 256
        down, across = (round(grid.spacing * length / size, 6) for length in grid.shape)
        half = len(planes) // 2
        planes[half:] = [
            replace(plane, shape=(size, size), spacing=(down, across)) for plane in planes[half:]
        ]
    if rng.random() < habits.defects.axial_reversed:
        planes = planes[::-1]
    return _series(rng, "axial_t2", Weighting.T2, planes, step, habits)


def _series(
    rng: np.random.Generator,
    kind: str,
    weighting: Weighting,
    planes: list[Plane],
    step: float,
    habits: _Habits,
) -> SeriesPlan:
    """Return the series with its slices in the order of the instances, and how they are stored."""
    defects = habits.defects
    planes = _disturbed(rng, planes, defects)
    syntax = defects.syntaxes[draw_index(rng, tuple(share for _, share in defects.syntaxes))][0]
    thickness = round(step * (1 - rng.uniform(*habits.scanners.gap_share)), 2)
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
        machine=habits.machine,
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
