"""One study, from seed and number: identifiers, grades, patient, and the plan of the scan, without a pixel.

The plan is drawn before anyone looks at the patient, who only decides where the planes lie: it does not depend on the
grades. Each part of a study has its own random stream.
"""

import hashlib
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise

import numpy as np

from lumbar_kaggle.core.targets import LEVELS, SERIES_KINDS
from lumbar_kaggle.phantom.acquisition import (
    Grid,
    Plane,
    Weighting,
    axial_planes,
    coronal_planes,
    draw_grid,
    sagittal_planes,
)
from lumbar_kaggle.phantom.artefacts import Artefacts, draw_artefacts
from lumbar_kaggle.phantom.grades import Grades, draw_grades
from lumbar_kaggle.phantom.patient import Patient, Spine
from lumbar_kaggle.phantom.settings import SPLITS, Defects, Floats, Machine, Reader, Scanners, draw_from, draw_index

OPTIONAL_TAGS = (
    *("SliceLocation", "WindowCenter", "WindowWidth", "SpacingBetweenSlices", "SliceThickness"),
    *("PatientPosition", "SeriesDescription", "FrameOfReferenceUID"),
)
"""Attributes that a header may lack while the slice can still be read and placed."""

SQUARE_AXIAL = 320  # the matrix that a series changes to half-way, unless it has it already: then 256

Part = IntEnum("Part", "IDENTIFIERS GRADES PATIENT SERIES ROOTLETS READER HEADER IMAGES", start=0)
"""What a random stream is for; streams of different parts never touch."""


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
    machine: Machine
    artefacts: Artefacts
    numbers: tuple[int, ...]  # InstanceNumber of each slice, ascending
    absent: tuple[str, ...]  # attributes that the headers lack


@dataclass(frozen=True)
class StudyPlan:
    """Everything about a study but its pixels and tables."""

    seed: int
    split: str
    index: int
    study_id: int  # up to ten digits
    grades: Grades
    patient: Patient
    spine: Spine
    series: tuple[SeriesPlan, ...]
    series_ids: tuple[int, ...]
    standard: bool  # whether headers are a scanner's rather than the competition's
    scanners: Scanners

    def rng(self, part: Part, *more: int) -> np.random.Generator:
        """Return a fresh stream of the study."""
        return np.random.default_rng([self.seed, SPLITS.index(self.split), self.index, part, *more])

    def slices(self, kind: str, points: Floats) -> tuple[list[tuple[int, int]], Floats]:
        """Return indices of series and plane of every slice of a kind, and mm ``[slices, n]`` from LPS ``[n, 3]``."""
        places = [(s, k) for s, one in enumerate(self.series) if one.kind == kind for k in range(len(one.planes))]
        return places, np.abs([self.series[s].planes[k].heights(points) for s, k in places])


def study_id(seed: int, split: str, index: int) -> int:
    """Return the identifier of a study; no two of the first 100,000 studies of a seed's splits share it."""
    return _scatter(seed, 0, index * len(SPLITS) + SPLITS.index(split))


def plan_study(
    seed: int,
    split: str,
    index: int,
    defects: Defects = Defects(),  # noqa: B008
    scanners: Scanners = Scanners(),  # noqa: B008
    reader: Reader = Reader(),  # noqa: B008
) -> StudyPlan:
    """Return study number `index` of a split; it depends on nothing but the arguments."""

    def stream(part: Part) -> np.random.Generator:
        return np.random.default_rng([seed, SPLITS.index(split), index, part])

    grades = draw_grades(stream(Part.GRADES), reader)
    patient = Patient(stream(Part.PATIENT), grades)
    spine = Spine(patient)
    series = plan_series(stream(Part.SERIES), spine, index, defects, scanners)
    number = index * len(SPLITS) + SPLITS.index(split)
    series_ids = tuple(_scatter(seed, 1, number * 8 + k) for k in range(len(series)))
    standard = bool(stream(Part.HEADER).random() < defects.standard_headers)
    identifier = study_id(seed, split, index)
    return StudyPlan(seed, split, index, identifier, grades, patient, spine, series, series_ids, standard, scanners)


def _scatter(seed: int, kind: int, number: int) -> int:
    """Return `number` moved to an arbitrary place below 2**32 + 1000000, one to one per seed and kind."""
    high, low = divmod(number, 1 << 16)
    for turn in range(4):  # a Feistel network is one to one, whatever its mixing function
        mixed = hashlib.sha256(f"{seed} {kind} {turn} {low}".encode()).digest()[:2]
        high, low = low, high ^ int.from_bytes(mixed, "big")
    return 1_000_000 + (high << 16) + low


def plan_series(
    rng: np.random.Generator, spine: Spine, index: int, defects: Defects, scanners: Scanners
) -> tuple[SeriesPlan, ...]:
    """Return a study's series in the order of `SERIES_KINDS`; `index` decides on what one study in so many has."""

    def turn(every: int, which: int) -> bool:
        return every > 0 and index % every == min(which, every - 1)

    vendor = draw_from(rng, [(vendor, vendor.share) for vendor in scanners.vendors])
    planner = _Planner(rng, spine, defects, scanners, Machine(vendor, draw_from(rng, vendor.fields)))
    right_last = rng.random() < defects.sagittal_reversed
    absent = SERIES_KINDS[int(rng.integers(3))] if turn(defects.missing_series_every, 5) else None
    second = Weighting.STIR if rng.random() < defects.inversion_recovery else Weighting.T2
    count = 1 + (rng.random() < defects.extra_sagittal_t1)
    field_mm, first = planner.sagittal_field(), planner.size("sagittal")
    series = [planner.sagittal(Weighting.T1, first, field_mm, right_last) for _ in range(count)]
    # Usually the matrix and the field are copied; if not, the second series is the finer one.
    copied, other = rng.random(2) < (0.75, 0.6), max(first, planner.size("sagittal"))
    field_mm = field_mm if copied[1] else planner.sagittal_field()
    series.append(planner.sagittal(second, first if copied[0] else other, field_mm, right_last))
    series += planner.axials(turn(defects.two_sizes_every, 2))
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
        return [range(first, stop)] * 2  # the same levels, scanned in two ways
    ends = [first, *sorted(int(cut) for cut in cuts[: count - 1]), stop]
    if count == 2 and repeated < 0.85 and first + 3 < stop:
        ends[1] = first + 3 if repeated < 0.7 else first + 2  # three levels and two are the usual parts
    return [range(start, end) for start, end in pairwise(ends)]


@dataclass(frozen=True)
class _Planner:
    """What the series of one study have in common, and how each is drawn."""

    rng: np.random.Generator
    spine: Spine
    defects: Defects
    scanners: Scanners
    machine: Machine

    def size(self, plane: str) -> tuple[int, int]:
        """Return a stored size, ``sagittal`` or ``axial``: one of the vendor's, or a square of the scanners'."""
        squares = tuple(((side, side), 1.0) for side in getattr(self.scanners, f"{plane}_sizes"))
        return draw_from(self.rng, squares or getattr(self.machine.vendor, plane))

    def sagittal_field(self) -> float:
        return float(np.clip(self.rng.normal(*self.scanners.sagittal_field_mm), 225.0, 400.0))

    def sagittal(self, weighting: Weighting, size: tuple[int, int], field_mm: float, right_last: bool) -> SeriesPlan:
        grid = draw_grid(self.rng, size, field_mm, self.scanners.sagittal_spacing_mm)
        planes, step = sagittal_planes(self.rng, self.spine, grid, self.scanners)
        kind = "sagittal_t1" if weighting is Weighting.T1 else "sagittal_t2"
        return self.series(kind, weighting, planes[::-1] if right_last else planes, step)

    def axials(self, two_sizes: bool) -> list[SeriesPlan]:
        """Return the axial series of a study, and what passes for one."""
        size = self.size("axial")
        field_mm = float(np.clip(self.rng.normal(*self.scanners.axial_field_mm), 140.0, 320.0))
        grid = draw_grid(self.rng, size, field_mm, self.scanners.axial_spacing_mm)
        series = [self.axial(levels, grid, two_sizes) for levels in draw_levels(self.rng, self.defects)]
        if self.rng.random() < self.defects.coronal_as_axial:
            wide = Grid(grid.shape, round(300.0 / max(grid.shape), 6))
            series.append(self.series("axial_t2", Weighting.T2, *coronal_planes(self.rng, self.spine, wide)))
        return series

    def axial(self, levels: range, grid: Grid, two_sizes: bool) -> SeriesPlan:
        planes, step = axial_planes(self.rng, self.spine, levels, grid, self.defects, self.scanners)
        if two_sizes:
            size = SQUARE_AXIAL if grid.shape != (SQUARE_AXIAL, SQUARE_AXIAL) else 256
            down, across = (round(grid.spacing * length / size, 6) for length in grid.shape)
            half = len(planes) // 2
            planes[half:] = [replace(plane, shape=(size, size), spacing=(down, across)) for plane in planes[half:]]
        if self.rng.random() < self.defects.axial_reversed:
            planes = planes[::-1]
        return self.series("axial_t2", Weighting.T2, planes, step)

    def series(self, kind: str, weighting: Weighting, planes: list[Plane], step: float) -> SeriesPlan:
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
            kind, weighting, tuple(planes), thickness, step, syntax, signed, self.machine,
            draw_artefacts(rng, kind, defects), tuple(numbers.tolist()), absent,
        )  # fmt: skip
