"""One study, from seed and number: its plan, without a pixel, and the rows of the tables that a reader fills.

Identifiers, grades, patient and scan are drawn from random streams of their own. The scan is drawn before anyone looks
at the patient, who only decides where the planes lie: it does not depend on the grades."""

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from typing import NamedTuple

import numpy as np
import pandas as pd

from lumbar_kaggle.core import targets
from lumbar_kaggle.core.targets import LEVELS, TARGET_NAMES, TARGETS, Target
from lumbar_kaggle.dicom.geometry import to_slice
from lumbar_kaggle.phantom.acquisition import Planner, SeriesPlan
from lumbar_kaggle.phantom.grades import ORACLE_COLUMNS, Grades, best_submission, draw_grades, reader_probabilities
from lumbar_kaggle.phantom.patient import Patient, Spine
from lumbar_kaggle.phantom.settings import SPLITS, Defects, Floats, PhantomSet, Reader
from lumbar_kaggle.tables.reading import COORDINATE_COLUMNS, SERIES_COLUMNS

# Field of `Rows` → the columns of its table.
COLUMNS = {
    "labels": ("study_id", *TARGET_NAMES), "coordinates": COORDINATE_COLUMNS, "series": SERIES_COLUMNS,
    "oracle": ORACLE_COLUMNS, "sample": ("row_id", *targets.SEVERITIES),
}  # fmt: skip
Row = tuple[int | str | float, ...]
IN_REACH_MM = 5.0  # a level whose nearest slice is further away was not scanned
# What a random stream is for; streams of different parts never touch.
Part = IntEnum("Part", "IDENTIFIERS GRADES PATIENT SERIES ROOTLETS READER HEADER IMAGES", start=0)


@dataclass(frozen=True)
class StudyPlan:
    """Everything about a study but its pixels and tables."""

    patients: PhantomSet
    split: str
    index: int
    study_id: int  # up to ten digits
    grades: Grades
    patient: Patient
    spine: Spine
    series: tuple[SeriesPlan, ...]
    series_ids: tuple[int, ...]
    standard: bool  # whether headers are a scanner's rather than the competition's
    reader: Reader

    def rng(self, part: Part, *more: int) -> np.random.Generator:
        """Return a fresh stream of the study."""
        return np.random.default_rng([self.patients.seed, SPLITS.index(self.split), self.index, part, *more])

    def slices(self, kind: str, points: Floats) -> tuple[list[tuple[int, int]], Floats]:
        """Return indices of series and plane of every slice of a kind, and mm ``[slices, n]`` from LPS ``[n, 3]``."""
        places = [(s, k) for s, one in enumerate(self.series) if one.kind == kind for k in range(len(one.planes))]
        return places, np.abs([self.series[s].planes[k].heights(points) for s, k in places])


def study_id(seed: int, split: str, index: int) -> int:
    """Return the identifier of a study; no two of the first 100,000 studies of a seed's splits share it."""
    return _scatter(seed, 0, index * len(SPLITS) + SPLITS.index(split))


def plan_study(patients: PhantomSet, split: str, index: int) -> StudyPlan:
    """Return study number `index` of a split; it depends on the set's seed, scanners and kind, not on its size."""
    seed, scanners = patients.seed, patients.scanners
    defects, reader = (Defects.clean(), Reader.clean()) if patients.clean else (Defects(), Reader())
    rngs = {part: np.random.default_rng([seed, SPLITS.index(split), index, part]) for part in Part}
    grades = draw_grades(rngs[Part.GRADES], reader)
    patient = Patient(rngs[Part.PATIENT], grades, varied=patients.varied)
    spine = Spine(patient)
    series = Planner(rngs[Part.SERIES], spine, defects, scanners).plan(index)
    number = index * len(SPLITS) + SPLITS.index(split)
    series_ids = tuple(_scatter(seed, 1, number * 8 + k) for k in range(len(series)))
    standard = bool(rngs[Part.HEADER].random() < defects.standard_headers)
    own_id = study_id(seed, split, index)
    return StudyPlan(patients, split, index, own_id, grades, patient, spine, series, series_ids, standard, reader)


def _scatter(seed: int, kind: int, number: int) -> int:
    """Return `number` moved to an arbitrary place below 2**32 + 1000000, one to one per seed and kind."""
    high, low = divmod(number, 1 << 16)
    for turn in range(4):  # a Feistel network is one to one, whatever its mixing function
        mixed = hashlib.sha256(f"{seed} {kind} {turn} {low}".encode()).digest()[:2]
        high, low = low, high ^ int.from_bytes(mixed, "big")
    return 1_000_000 + (high << 16) + low


class Rows(NamedTuple):
    """A study's part of the tables: one row of the labels, any number of the others, see `COLUMNS`."""

    study_id: int
    labels: tuple[int | str | None, ...]  # study_id and 25 severity words or None
    coordinates: tuple[Row, ...]
    series: tuple[Row, ...]
    oracle: tuple[Row, ...]  # in `targets.SAMPLE_ORDER`

    @property
    def sample(self) -> list[Row]:
        """Rows of the sample submission."""
        return [(row[0], *[0.333333] * len(targets.SEVERITIES)) for row in self.oracle]


def make_table(rows: list[Rows], part: str) -> pd.DataFrame:
    """Return the table of `COLUMNS` called `part`; ``oracle`` is a submission with the plain probabilities beside."""
    found = (getattr(one, part) for one in rows)
    return pd.DataFrame(found if part == "labels" else chain(*found), columns=list(COLUMNS[part]))


def true_point(study: StudyPlan, target: Target, shift: int = 0) -> Floats:
    """Return LPS mm ``[3]`` of what a target's label points at, or the one `shift` levels below. That is the middle of
    the canal or of a foramen, or the entrance of a lateral recess under the facet joint."""
    level, patient, spine = LEVELS.index(target.level) + shift, study.patient, study.spine
    disc, sign, local = spine.first_disc + level, 1.0 if target.side == "left" else -1.0, (0.0, 0.0, 0.0)
    if target.score_group == "foraminal":
        local = sign * patient.foramen_x(disc), -4.0 * patient.size, 6.5 * patient.size
    elif target.score_group == "subarticular":
        local = sign * patient.recess_x(disc), -3.5 * patient.size, 0.0
    return spine.place(spine.level_at(level), local)


def read_study(study: StudyPlan) -> Rows:
    """Return what the simulated reader writes down about a study."""
    rng, reader, shifts = study.rng(Part.READER), study.reader, study.grades.shifts
    labels: list[int | str | None] = [study.study_id]
    coordinates = []
    scanned = _choose_slices(study, (0, 0, 0))
    # Who reads the disc beside may have no slice of it to mark.
    slices = _choose_slices(study, shifts) if any(shifts) else scanned
    for target, severity in zip(TARGETS, study.grades.labels.ravel(), strict=True):
        lost, unmarked, turn = rng.random(3)  # for every cell, so that no cell's outcome shifts the next one's
        jitter = rng.normal(0.0, reader.point_jitter_px, 2)
        labelled = target in scanned and lost >= reader.missing_label
        labels.append(targets.SEVERITY_WORDS[severity] if labelled else None)
        if labelled and target in slices and unmarked >= reader.missing_coordinate:
            aside = (1 if turn < reader.neighbour_slice / 2 else -1) if turn < reader.neighbour_slice else 0
            coordinates.append(_mark(study, target, slices[target], aside, jitter))
    descriptions = {kind: words for words, kind in targets.SERIES_DESCRIPTIONS.items()}
    series = zip(study.series_ids, study.series, strict=True)
    plain = reader_probabilities(study.grades.latent, reader)
    # Ten decimals: the same bytes on every machine, and still a sum of 1.
    values = dict(zip(TARGET_NAMES, np.round(np.hstack([best_submission(plain), plain]), 10), strict=True))
    return Rows(
        study.study_id,
        tuple(labels),
        tuple(coordinates),
        tuple((study.study_id, identifier, descriptions[one.kind]) for identifier, one in series),
        tuple((targets.row_id(str(study.study_id), name), *values[name].tolist()) for name in targets.SAMPLE_ORDER),
    )


def _choose_slices(study: StudyPlan, shifts: tuple[int, ...]) -> dict[Target, tuple[int, int]]:
    """Return series and plane (indices) that show each target best; targets out of reach are left out. The targets of
    each score group are those so many levels further down as `shifts` says."""
    chosen: dict[Target, tuple[int, int]] = {}
    kinds = {"spinal": "sagittal_t2", "foraminal": "sagittal_t1", "subarticular": "axial_t2"}
    for (group, kind), shift in zip(kinds.items(), shifts, strict=True):
        wanted = [target for target in TARGETS if target.score_group == group]
        places, distance = study.slices(kind, np.array([true_point(study, target, shift) for target in wanted]))
        if not places:
            continue
        best = distance.argmin(axis=0)
        if group == "spinal":
            # All levels on one slice, except where the spine bends away from it.
            middle = int(distance.mean(axis=1).argmin())
            best = np.where(distance[middle] < IN_REACH_MM, middle, best)
        near = zip(wanted, best, distance[best, range(len(wanted))], strict=True)
        chosen |= {target: places[at] for target, at, away in near if away <= IN_REACH_MM}
    return chosen


def _mark(study: StudyPlan, target: Target, chosen: tuple[int, int], aside: int, jitter: Floats) -> Row:
    """Return the row of `COORDINATE_COLUMNS` for a target, on the chosen slice or the one beside it."""
    s, k = chosen
    series = study.series[s]
    point = true_point(study, target, study.grades.shifts[targets.SCORE_GROUPS.index(target.score_group)])
    if aside and 0 <= k + aside < len(series.planes):
        k += aside if abs(series.planes[k + aside].heights(point)) < 2 * IN_REACH_MM else 0
    plane = series.planes[k]
    row, column, _ = to_slice(point, plane.position, plane.orientation, plane.spacing)
    x = round(float(np.clip(column + jitter[0], 0, plane.shape[1] - 1)), 6)
    y = round(float(np.clip(row + jitter[1], 0, plane.shape[0] - 1)), 6)
    words = targets.condition_words(target.condition), targets.level_words(target.level)
    return (study.study_id, study.series_ids[s], series.numbers[k], *words, x, y)
