"""A study's volumes, from the cache or straight from DICOM, and where the five places of its levels lie.

Without the cache a study is decoded each time that it is asked for, and nothing is written: where the disk has no room
for the cache beside the crops, as in a Kaggle session. Points are those that are marked, gaps filled, or located ones.
"""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import as_path
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, TARGETS
from lumbar_kaggle.dicom.cache import OK, Cache, Source
from lumbar_kaggle.dicom.preprocess import read_volumes, scan_sources, windowed_stacks
from lumbar_kaggle.dicom.series import UnreadableSeries, read_series
from lumbar_kaggle.dicom.volume import Floats, Volume
from lumbar_kaggle.inference.base import Study
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.tables.reading import as_numbers, read_table

log = logging.getLogger(__name__)

# Located in each study at each level; also the order of the network's five outputs per level.
PLACES = ("canal", "left foramen", "right foramen", "left recess", "right recess")
CANAL, FORAMINA, RECESSES = 0, slice(1, 3), slice(3, 5)  # of `PLACES`; the left one first
PLACE_OF_CONDITION = dict(zip(CONDITIONS, PLACES, strict=True))
# Of each target in ``[5 levels, 5 places]``.
CELLS = ([LEVELS.index(of.level) for of in TARGETS], [PLACES.index(PLACE_OF_CONDITION[of.condition]) for of in TARGETS])

DISC_MM = 36.0  # from disc to disc of an adult's lumbar spine, along the canal

Points = dict[str, Floats]  # per study ``[5 places, 5 levels, 3]`` LPS mm in the order of `PLACES`; NaN: there is none

POINT = ["x_mm", "y_mm", "z_mm"]
COLUMNS = ("study_id", "place", "level", *POINT)  # of the table of annotated points


@dataclass(frozen=True, eq=False)
class StudyVolumes:
    """All that was read of a study: the stacks of its readable series, see `preprocess.windowed_stacks`. `notes` tell
    what could not be read; `marks` are per volume the points ``[5 places, 5 levels, 3]`` in LPS mm that are marked on
    its slices, NaN: none; not there where nobody asks for them."""

    study_id: str
    volumes: tuple[Volume, ...]
    notes: tuple[str, ...] = ()
    marks: tuple[Floats, ...] = ()

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
        """Return the stacks that crops can be cut from: those of one frame. Sagittal slices that do not know their
        place are used in their assumed frame, where the study has no others; axial ones that do not are of no use,
        since nothing says which level they show."""
        upright = [one for one in self.volumes if one.kind.startswith("sagittal")]
        anchored = any(one.placed for one in upright)
        return [one for one in self.volumes if one.placed or (one in upright and not anchored)]

    def marked(self, volumes: Sequence[Volume]) -> Floats:
        """Return the points ``[5 places, 5 levels, 3]`` that are marked on some of its volumes, NaN: none."""
        points = np.full((len(PLACES), len(LEVELS), 3), np.nan)
        for volume, marks in zip(self.volumes, self.marks, strict=False):
            if volume in volumes:
                points = np.where(np.isnan(marks), points, marks)
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
        canal = (self.known(placed[-1]) if placed else self.marked([]))[CANAL]
        recesses = self.marked(self.axial())[RECESSES]
        return np.asarray(np.where(np.isnan(canal), recesses.mean(axis=0), canal))


class CachedStudies:
    """Studies out of the folder `cache` of kind ``volumes``; InputError: it is missing or was not finished. Per study
    `sources` has the fingerprints of its series' files, see `cache.Source`."""

    def __init__(self, cache: Path) -> None:
        volumes = Cache(cache, "volumes").fetched()
        index = volumes.index()
        self.folder = volumes.folder
        self.rows = dict(list(index[index["status"] == OK].groupby("study_id", sort=False)))
        self.sources = {str(study): rows["source"].tolist() for study, rows in self.rows.items()}

    def read(self, study: str) -> StudyVolumes:
        """Read the tables of a study; its pixels stay in their files."""
        rows = self.rows[study].itertuples()
        found = [read_volumes(self.folder, str(row.file), str(row.series_id), str(row.kind)) for row in rows]
        return StudyVolumes(study, tuple(one for stacks in found for one in stacks))


class DicomStudies:
    """Studies read from the DICOM files of `competition.Competition.series`; otherwise as `CachedStudies`."""

    def __init__(self, series: pd.DataFrame) -> None:
        self.rows = dict(list(series.groupby("study_id", sort=False)))
        self.sources: dict[str, list[str]] = {}
        with ThreadPoolExecutor(16) as pool:  # so many hide the latency of a slow mount
            sources = scan_sources(series, pool)
            for source, fingerprint in zip(sources, pool.map(Source.fingerprint, sources), strict=True):
                self.sources.setdefault(source.study_id, []).append(fingerprint)

    def read(self, study: str) -> StudyVolumes:
        """Read a study; what cannot be read is logged."""
        found = read_study(Study(study, self.rows[study]))
        for note in found.notes:
            log.info("study %s: %s", study, note)
        return found


Studies = CachedStudies | DicomStudies  # where the volumes of studies come from


def read_study(study: Study) -> StudyVolumes:
    """Read the series of a study from DICOM."""

    def read(name: object, folder: str, files: Sequence[str], kind: str) -> tuple[list[Volume], tuple[str, ...]]:
        try:
            volume = replace(read_series(as_path(folder), files, kind), series_id=str(name))
        except UnreadableSeries as error:
            return [], (str(error),)
        return windowed_stacks(volume), volume.notes

    columns = [study.series[name] for name in ("series_id", "folder", "files", "kind")]
    with ThreadPoolExecutor(4) as pool:  # a study has three or four series
        found = list(pool.map(read, *columns))
    notes = [f"series {name}: {note}" for name, (_, mine) in zip(columns[0], found, strict=True) for note in mine]
    return StudyVolumes(study.study_id, tuple(one for stacks, _ in found for one in stacks), tuple(notes))


def read_marked_studies(competition: Competition, cache: Path) -> list[StudyVolumes]:
    """Read the cached studies of a split, with the points that are marked on them; see `CachedStudies`."""
    cached, known = CachedStudies(cache), set(competition.studies)
    table = competition.coordinates[competition.coordinates["condition"].isin(list(PLACE_OF_CONDITION))]
    rows = {key: list(group.itertuples()) for key, group in table.groupby(["study_id", "series_id"])}
    studies = [cached.read(study) for study in cached.sources if study in known]
    return [
        replace(
            one, marks=tuple(_marks(volume, rows.get((one.study_id, volume.series_id), [])) for volume in one.volumes)
        )
        for one in studies
    ]


def _marks(volume: Volume, rows: Sequence[Any]) -> Floats:
    """Return ``[5 places, 5 levels, 3]`` of a series' rows of coordinates, those on a volume's slices."""
    points = np.full((len(PLACES), len(LEVELS), 3), np.nan)
    index_of = {instance: index for index, instance in enumerate(volume.instance_numbers)}
    for row in rows:
        if row.instance_number in index_of:
            place, level = PLACES.index(PLACE_OF_CONDITION[row.condition]), LEVELS.index(row.level)
            points[place, level] = volume.to_patient(index_of[row.instance_number], row.y, row.x)
    return points


def tell_unused(competition: Competition, used: Iterable[Floats], what: str) -> None:
    """Log how many marks of a split are not among those that are used, points ``[…, 3]`` with NaN where there is none;
    `what`: the slices looked at."""
    marked = int(competition.coordinates["condition"].isin(list(PLACE_OF_CONDITION)).sum())
    count = sum(int(np.isfinite(points[..., 0]).sum()) for points in used)
    if count < marked:
        log.info("%d of %d marks are not used: no %s slice in the cache is theirs", marked - count, marked, what)


def annotated_places(competition: Competition, cache: Path) -> pd.DataFrame:
    """Return the points of ``train_label_coordinates.csv`` in the patient, gaps filled; columns `COLUMNS`, LPS mm. A
    gap is filled from the level's other points by the set's median offsets between the places, and where the level has
    none at all, from the nearest level by the median step. Studies without any point in a series that knows its
    position are absent. Raises InputError where the cache of the split's volumes is missing."""
    studies = read_marked_studies(competition, cache)
    pairs = (pair for one in studies for pair in zip(one.volumes, one.marks, strict=True))
    tell_unused(competition, (marks for volume, marks in pairs if volume.placed), "placed")
    every = {one.study_id: one.marked([v for v in one.volumes if v.placed]) for one in studies}
    marked = {study: points for study, points in sorted(every.items()) if np.isfinite(points).any()}
    if not marked:
        return pd.DataFrame(columns=list(COLUMNS))
    points = fill(np.stack(list(marked.values())))
    at = pd.MultiIndex.from_product([marked, PLACES, LEVELS], names=COLUMNS[:3])
    return pd.DataFrame(points.reshape(-1, 3), at, POINT).dropna().reset_index()


def read_places(path: Path) -> pd.DataFrame:
    """Read a table as from `annotated_places`; raises InputError for one that is none, or has no numbers."""
    return as_numbers(path, read_table(path, COLUMNS), *POINT)


def to_points(places: pd.DataFrame) -> Points:
    """Return the points of a table, where several rows are of one point as `choose` has it. Raises InputError for an
    unknown place or level."""
    for column, known in (("place", PLACES), ("level", LEVELS)):
        unknown = sorted(set(places[column]) - set(known))
        if unknown:
            raise InputError(f"table of points: {column} {unknown[0]!r} is none of {', '.join(known)}")
    places = choose(places)
    number, studies = pd.factorize(places["study_id"].astype(str))
    points = np.full((len(studies), len(PLACES), len(LEVELS), 3), np.nan)
    place, level = pd.Categorical(places["place"], PLACES), pd.Categorical(places["level"], LEVELS)
    points[number, place.codes, level.codes] = places[POINT].to_numpy(dtype=np.float64)
    return dict(zip(studies, points, strict=True))


def choose(places: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that count, one per ``study_id``, ``place`` and ``level``: of several that of the greatest
    ``confidence``. With a column ``placed``, points of sagittal series that do not know their place count only where
    the study has no others: the two are of different frames."""
    if "placed" in places:
        placed = places["placed"].astype(str) == "True"
        if not placed.all():
            sagittal = ~places["place"].str.endswith("recess")
            places = places[placed | ~places["study_id"].isin(places.loc[placed & sagittal, "study_id"])]
    if "confidence" in places:
        places = places.sort_values("confidence", kind="stable")
    return places.drop_duplicates(["study_id", "place", "level"], keep="last")


def unsided(places: pd.DataFrame) -> set[str]:
    """Return the studies of whose foramina nobody knows which is the left one: their sagittal series do not know their
    place, or all that is there of both sides is one slice. `places` are located points, see `choose`; those of a table
    without a column ``placed`` all know theirs."""
    foramina = choose(places[places["place"].str.endswith("foramen")])
    unknown = foramina.duplicated(["study_id", "level", *POINT])
    if "placed" in foramina:
        unknown |= foramina["placed"].astype(str) != "True"
    return set(foramina.loc[unknown, "study_id"].astype(str))


def fill(points: Floats) -> Floats:
    """Fill the gaps, NaN, of points ``[studies, 5 places, 5 levels, 3]``, LPS mm. Studies that have no point at all
    keep theirs, and so do all where the set never shows two places together."""
    # between[p, q, l]: from place q to place p of one level; steps[p, k, l]: from level k to level l.
    between = _median(points[:, :, None] - points[:, None, :])
    steps = _median(points[:, :, None, :] - points[:, :, :, None])
    filled = points.copy()
    for study in filled:
        _fill_gaps(study, between, same_level=True)
        _fill_gaps(study, steps, same_level=False)
        _fill_gaps(study, between, same_level=True)
    return filled


def _fill_gaps(points: Floats, offsets: Floats, *, same_level: bool) -> None:
    """Fill a study's gaps: by the mean of the level's places, or by the nearest of the place's levels."""
    known = points.copy()
    for place, level in np.argwhere(np.isnan(known).any(axis=-1)):
        guesses = (known[:, level] if same_level else known[place]) + offsets[place, :, level]
        usable = np.flatnonzero(np.isfinite(guesses).all(axis=-1))
        if len(usable):
            nearest = np.abs(usable - level).argmin()
            points[place, level] = guesses[usable].mean(axis=0) if same_level else guesses[usable[nearest]]


def _median(offsets: Floats) -> Floats:
    """Return the median over the studies, axis 0; NaN where no study has the offset."""
    flat = pd.DataFrame(offsets.reshape(len(offsets), -1))  # pandas does not warn of empty medians
    return flat.median().to_numpy().reshape(offsets.shape[1:])
