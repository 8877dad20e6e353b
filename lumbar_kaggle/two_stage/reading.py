"""The stacks of studies that crops are cut from: out of the cache of volumes, or straight from DICOM.

Without the cache a study is decoded each time that it is asked for, and nothing is written: where the disk
has no room for the cache beside the crops, as in a Kaggle session.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pandas as pd

from lumbar_kaggle.dicom.cache import OK, Cache
from lumbar_kaggle.dicom.preprocess import scan_sources
from lumbar_kaggle.dicom.volume import UnreadableSeries
from lumbar_kaggle.inference.base import Study
from lumbar_kaggle.two_stage.grade.crops import Placed, in_one_frame
from lumbar_kaggle.two_stage.stacks import Stack, fresh_stacks, read_stacks

READERS = 4
"""Series that are read at once; a study has three or four."""

SCANNERS = 16
"""Folders that are listed at once: it hides the latency of a slow mount."""


class Studies(Protocol):
    """Where the stacks of studies come from."""

    @property
    def sources(self) -> Mapping[str, list[str]]:
        """Per study the fingerprints of its series' files, see `cache.Source`."""
        ...

    def placed(self, study: str) -> list[Placed]:
        """Return the stacks of a study that crops can be cut from, see `crops.in_one_frame`."""
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

    def placed(self, study: str) -> list[Placed]:
        """Return the stacks of a study that crops can be cut from, see `crops.in_one_frame`."""
        return in_one_frame(
            [
                Placed(str(row.series_id), str(row.kind), stack)
                for row in self.rows[study].itertuples()
                for stack in read_stacks(self.folder, str(row.file))
            ]
        )


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

    def placed(self, study: str) -> list[Placed]:
        """Return the stacks of a study that crops can be cut from; what cannot be read is printed."""
        stacks, notes = read_study(Study(study, self.rows[study]))
        for note in notes:
            print(f"study {study}: {note}")
        return in_one_frame(stacks)


Read = tuple[list[Placed], list[str]]
"""Stacks of a study, and what could not be read."""


def read_study(study: Study) -> Read:
    """Return the stacks of a study's readable series, and what could not be read."""
    with ThreadPoolExecutor(READERS) as pool:
        results = list(pool.map(_read, *(study.series[name] for name in ("folder", "files", "kind"))))
    stacks, notes = [], []
    for row, (read, note) in zip(study.series.itertuples(), results, strict=True):
        stacks += [Placed(str(row.series_id), str(row.kind), stack) for stack in read]
        notes += [f"series {row.series_id}: {one}" for one in note]
    return stacks, notes


def _read(folder: str, files: tuple[str, ...], kind: str) -> tuple[list[Stack], tuple[str, ...]]:
    try:
        return fresh_stacks(Path(folder), files, kind)
    except UnreadableSeries as error:
        return [], (str(error),)
