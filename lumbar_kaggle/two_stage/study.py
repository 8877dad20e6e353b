"""A study's volumes, from the cache or straight from DICOM, and the points that are marked on them.

Without the cache a study is decoded each time that it is asked for, and nothing is written: where the disk
has no room for the cache beside the crops, as in a Kaggle session.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom.cache import OK, Cache
from lumbar_kaggle.dicom.preprocess import read_volumes, scan_sources, windowed_stacks
from lumbar_kaggle.dicom.series import UnreadableSeries, read_series
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.inference.base import Study
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.two_stage.grade.views import CANAL, PLACE_OF_CONDITION, PLACES, RECESSES

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

READERS = 4
"""Series that are read at once; a study has three or four."""

SCANNERS = 16
"""Folders that are listed at once: it hides the latency of a slow mount."""


def empty_points() -> Floats:
    """Return ``[5 places, 5 levels, 3]`` unknown points."""
    return np.full((len(PLACES), len(LEVELS), 3), np.nan)


class MarkedPoint(NamedTuple):
    """A point of ``train_label_coordinates.csv`` in the patient.

    Attributes:
        volume: number of the study's volume that it is marked on.
        place, level: numbers in `views.PLACES` and `targets.LEVELS`.
        point: LPS mm ``[3]``.
    """

    volume: int
    place: int
    level: int
    point: Floats


@dataclass(frozen=True, eq=False)
class StudyVolumes:
    """All that was read of a study.

    Attributes:
        study_id: whose it is.
        volumes: the stacks of its readable series, see `preprocess.windowed_stacks`.
        notes: what could not be read.
        marks: points that are marked on its slices.
    """

    study_id: str
    volumes: tuple[Volume, ...]
    notes: tuple[str, ...] = ()
    marks: tuple[MarkedPoint, ...] = ()

    def sagittal(self) -> list[Volume]:
        """Return of each sagittal series the largest stack whose slices are sagittal."""
        largest: dict[tuple[str, str], Volume] = {}
        for one in self.volumes:
            key = one.series_id, one.kind
            if one.kind.startswith("sagittal") and one.plane == "sagittal":
                largest[key] = max(largest.get(key, one), one, key=len)
        return list(largest.values())

    def axial(self) -> list[Volume]:
        """Return the axial stacks that know their place."""
        return [one for one in self.volumes if one.kind == "axial_t2" and one.placed and one.plane == "axial"]

    def croppable(self) -> list[Volume]:
        """Return the stacks that crops can be cut from: those of one frame.

        Sagittal slices that do not know their place are used in their assumed frame, where the study has no
        others; axial ones that do not are of no use, since nothing says which level they show.
        """
        sagittal = [one.kind.startswith("sagittal") for one in self.volumes]
        pairs = list(zip(self.volumes, sagittal, strict=True))
        anchored = any(one.placed and upright for one, upright in pairs)
        return [one for one, upright in pairs if one.placed or (upright and not anchored)]

    def marked(self, volumes: Sequence[Volume]) -> Floats:
        """Return the points ``[5 places, 5 levels, 3]`` that are marked on some of its volumes, NaN: none."""
        points = empty_points()
        for mark in self.marks:
            if any(self.volumes[mark.volume] is one for one in volumes):
                points[mark.place, mark.level] = mark.point
        return points

    def known(self, volume: Volume) -> Floats:
        """Return what is marked on a sagittal volume and, in the same frame, on the study's others."""
        points = self.marked([volume])
        others = [one for one in self.sagittal() if one.placed] if volume.placed else []
        for other in others:
            points = np.where(np.isnan(points), self.marked([other]), points)
        return points

    def centres(self) -> Floats:
        """Return the levels' marked canal points ``[5, 3]``, or the middles between their recesses."""
        placed = [one for one in self.sagittal() if one.placed]
        canal = (self.known(placed[-1]) if placed else empty_points())[CANAL]
        recesses = self.marked(self.axial())[RECESSES]
        return np.asarray(np.where(np.isnan(canal), recesses.mean(axis=0), canal))


class Studies(Protocol):
    """Where the volumes of studies come from."""

    @property
    def sources(self) -> Mapping[str, list[str]]:
        """Per study the fingerprints of its series' files, see `cache.Source`."""
        ...

    def read(self, study: str) -> StudyVolumes:
        """Read a study."""
        ...


class CachedStudies:
    """Studies out of the cache of kind ``volumes``; see `Studies`.

    Args:
        cache: folder that holds it.

    Raises:
        InputError: it is missing or was not finished.
    """

    def __init__(self, cache: Path) -> None:
        volumes = Cache(cache, "volumes")
        index = volumes.index()
        self.folder = volumes.folder
        self.rows = dict(list(index[index["status"] == OK].groupby("study_id", sort=False)))
        self.sources = {str(study): rows["source"].tolist() for study, rows in self.rows.items()}

    def read(self, study: str) -> StudyVolumes:
        """Read the tables of a study; its pixels stay in their files."""
        found = [
            read_volumes(self.folder, str(row.file), str(row.series_id), str(row.kind))
            for row in self.rows[study].itertuples()
        ]
        return StudyVolumes(study, tuple(one for stacks in found for one in stacks))


class DicomStudies:
    """Studies read from their DICOM files; see `Studies`.

    Args:
        series: as `competition.Competition.series`.
    """

    def __init__(self, series: pd.DataFrame) -> None:
        self.rows = dict(list(series.groupby("study_id", sort=False)))
        self.sources: dict[str, list[str]] = {}
        with ThreadPoolExecutor(SCANNERS) as pool:
            for source in scan_sources(series, pool):
                self.sources.setdefault(source.study_id, []).append(source.fingerprint)

    def read(self, study: str) -> StudyVolumes:
        """Read a study; what cannot be read is logged."""
        found = read_study(Study(study, self.rows[study]))
        for note in found.notes:
            log.info("study %s: %s", study, note)
        return found


def read_study(study: Study) -> StudyVolumes:
    """Read the series of a study from DICOM."""

    def read(row: tuple[str, str, Sequence[str], str]) -> tuple[list[Volume], tuple[str, ...]]:
        name, folder, files, kind = row
        try:
            volume = replace(read_series(Path(folder), files, kind), series_id=str(name))
        except UnreadableSeries as error:
            return [], (str(error),)
        return windowed_stacks(volume), volume.notes

    rows = list(zip(*(study.series[name] for name in ("series_id", "folder", "files", "kind")), strict=True))
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(read, rows))
    notes = [f"series {row[0]}: {note}" for row, (_, mine) in zip(rows, found, strict=True) for note in mine]
    return StudyVolumes(study.study_id, tuple(one for stacks, _ in found for one in stacks), tuple(notes))


def read_marked_studies(competition: Competition, cache: Path) -> list[StudyVolumes]:
    """Read the cached studies of a split, with the points that are marked on them.

    Raises:
        InputError: the cache is missing.
    """
    cached = CachedStudies(cache)
    groups = competition.coordinates.groupby(["study_id", "series_id"])
    marks = {(str(study), str(series)): rows for (study, series), rows in groups}
    known = set(competition.studies)
    studies = [cached.read(study) for study in cached.sources if study in known]
    return [replace(one, marks=tuple(_marks(one, marks))) for one in studies]


def _marks(study: StudyVolumes, marks: Mapping[tuple[str, str], pd.DataFrame]) -> list[MarkedPoint]:
    found = []
    for number, volume in enumerate(study.volumes):
        index_of = {instance: index for index, instance in enumerate(volume.instance_numbers)}
        rows = marks.get((study.study_id, volume.series_id))
        for row in rows.to_dict("records") if rows is not None else []:
            place, index = PLACE_OF_CONDITION.get(row["condition"]), index_of.get(row["instance_number"])
            if place is not None and index is not None:
                point = volume.to_patient(index, row["y"], row["x"])
                found.append(MarkedPoint(number, PLACES.index(place), LEVELS.index(row["level"]), point))
    return found


def tell_unused(
    competition: Competition,
    studies: Collection[StudyVolumes],
    used: Callable[[StudyVolumes, MarkedPoint], bool],
    what: str,
) -> None:
    """Log how many marks of a split are not `used`, if there are such; `what`: the slices looked at."""
    marked = int(competition.coordinates["condition"].isin(list(PLACE_OF_CONDITION)).sum())
    count = sum(used(study, mark) for study in studies for mark in study.marks)
    if count < marked:
        log.info("%d of %d marks are not used: no %s slice in the cache is theirs", marked - count, marked, what)
