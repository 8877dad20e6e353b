"""One study, from seed and number: identifiers, grades, patient, series; each with its own random stream."""

import hashlib
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from lumbar_kaggle.phantom.acquisition import SeriesPlan, plan_series
from lumbar_kaggle.phantom.arrays import Floats
from lumbar_kaggle.phantom.patient import Patient, draw_patient
from lumbar_kaggle.phantom.population import Grades, draw_grades
from lumbar_kaggle.phantom.settings import SPLITS, Defects, Reader, Scanners
from lumbar_kaggle.phantom.spine import Spine, build_spine

MOST_STUDIES = 100_000
"""Identifiers are unique up to this number of studies per split."""


class Part(IntEnum):
    """What a random stream is for; streams of different parts never touch."""

    IDENTIFIERS = 0
    GRADES = 1
    PATIENT = 2
    SERIES = 3
    ROOTLETS = 4
    READER = 5
    HEADER = 6
    IMAGES = 7


@dataclass(frozen=True)
class StudyPlan:
    """Everything about a study but its pixels and tables.

    Attributes:
        seed, split, index: which study it is.
        study_id: up to ten digits.
        grades, patient, spine: who is scanned.
        series: the acquisitions.
        series_ids: their identifiers.
        standard: whether headers are a scanner's rather than the competition's.
        scanners: what the acquisitions were drawn from.
    """

    seed: int
    split: str
    index: int
    study_id: int
    grades: Grades
    patient: Patient
    spine: Spine
    series: tuple[SeriesPlan, ...]
    series_ids: tuple[int, ...]
    standard: bool
    scanners: Scanners

    def rng(self, part: Part, *more: int) -> np.random.Generator:
        """Return a fresh stream of the study."""
        return np.random.default_rng([self.seed, SPLITS.index(self.split), self.index, part, *more])

    def slices(self, kind: str, points: Floats) -> tuple[list[tuple[int, int]], Floats]:
        """Return every slice of a kind, as indices of series and plane, and mm ``[slices, n]`` from points.

        Args:
            kind: one of `targets.SERIES_KINDS`.
            points: ``[n, 3]`` LPS mm.
        """
        planes = {
            (s, k): plane
            for s, series in enumerate(self.series)
            if series.kind == kind
            for k, plane in enumerate(series.planes)
        }
        return list(planes), np.abs([plane.heights(points) for plane in planes.values()])


def study_id(seed: int, split: str, index: int) -> int:
    """Return the identifier of a study; no two studies of one seed share it."""
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
    patient = draw_patient(stream(Part.PATIENT), grades)
    spine = build_spine(patient)
    series = plan_series(stream(Part.SERIES), spine, index, defects, scanners)
    number = index * len(SPLITS) + SPLITS.index(split)
    return StudyPlan(
        seed=seed,
        split=split,
        index=index,
        study_id=study_id(seed, split, index),
        grades=grades,
        patient=patient,
        spine=spine,
        series=series,
        series_ids=tuple(_scatter(seed, 1, number * 8 + k) for k in range(len(series))),
        standard=bool(stream(Part.HEADER).random() < defects.standard_headers),
        scanners=scanners,
    )


def _scatter(seed: int, kind: int, number: int) -> int:
    """Return `number` moved to an arbitrary place below 2**32 + 1000000, one to one per seed and kind."""
    high, low = divmod(number, 1 << 16)
    for turn in range(4):  # a Feistel network is one to one, whatever its mixing function
        text = f"{seed} {kind} {turn} {low}"
        mixed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:2], "big")
        high, low = low, high ^ mixed
    return 1_000_000 + (high << 16) + low
