"""A cache folder: batches of preprocessed series, each committed in one step.

Layout::

    CACHE/{kind}/config.json                  what the entries were made with
    CACHE/{kind}/batches/{number}-{digest}/   one committed batch: its files and its index.csv
    CACHE/{kind}/index.csv                    all entries, written when every batch is there

A batch is named by a digest of its sources, so a batch that is already there is the one wanted, and
a source that changed makes a new one. Sources are compared by file names and sizes: a mount may
give other times to the same files, and reading every byte would cost as much as the work saved.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from lumbar_kaggle.errors import InputError
from lumbar_kaggle.files import digest, read_json, write_csv, write_json

OK = "ok"
"""Status of an entry that can be used; any other status has a reason beside it."""


@dataclass(frozen=True)
class Source:
    """One series to preprocess.

    Attributes:
        study_id, series_id, kind: as in `competition.Competition.series`.
        folder: the series folder.
        slices: files in it.
        fingerprint: digest of their names and sizes.
        files: those that are of the series, relative to the folder; none: all.
    """

    study_id: str
    series_id: str
    kind: str
    folder: str
    slices: int
    fingerprint: str
    files: tuple[str, ...] = ()

    @staticmethod
    def scan(study_id: str, series_id: str, kind: str, folder: str, only: tuple[str, ...] = ()) -> "Source":
        """List the series folder; a folder that is missing or unreadable counts as empty."""
        try:
            if only:
                files = [(name, Path(folder, name).stat().st_size) for name in only]
            else:
                with os.scandir(folder) as entries:
                    files = sorted((entry.name, entry.stat().st_size) for entry in entries if entry.is_file())
        except OSError:
            files = []
        return Source(study_id, series_id, kind, folder, len(files), digest(files), only)


@dataclass(frozen=True)
class Batch:
    """Some sources that are committed together."""

    name: str
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class CacheConfig:
    """What determines the entries besides their sources; saved beside them.

    Attributes:
        kind: name of the cache kind, also its folder.
        version: raised when the same source would give other bytes.
        settings: sizes, percentiles and the like, as text, numbers or lists of them.
    """

    kind: str
    version: int
    settings: dict[str, object]


class Cache:
    """One kind of entries in a cache folder."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder / kind
        self.batches = self.folder / "batches"

    def open(self, config: CacheConfig) -> None:
        """Create the folder, or check that it was made with the same configuration.

        Raises:
            InputError: it was made with another one.
        """
        path = self.folder / "config.json"
        wanted = asdict(config)
        if path.is_file() and read_json(path) != wanted:
            raise InputError(
                f"{path}: this cache was made with other settings; choose another --cache folder or delete it"
            )
        self.batches.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)

    def plan(self, sources: list[Source], batch_size: int) -> list[Batch]:
        """Cut the sources, in order, into batches of `batch_size`."""
        batches = []
        for number, start in enumerate(range(0, len(sources), batch_size)):
            members = tuple(sources[start : start + batch_size])
            key = [(item.study_id, item.series_id, item.kind, item.fingerprint) for item in members]
            batches.append(Batch(f"{number:05d}-{digest(key)}", members))
        return batches

    def has(self, batch: Batch) -> bool:
        """Whether the batch is committed."""
        return (self.batches / batch.name).is_dir()

    def begin(self, batch: Batch) -> Path:
        """Return an empty folder for the batch's files, outside of the committed ones."""
        folder = self.batches / f".{batch.name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def commit(self, batch: Batch, entries: pd.DataFrame) -> None:
        """Write the batch's index and move its folder into place in one step."""
        folder = self.batches / f".{batch.name}"
        write_csv(folder / "index.csv", entries)
        os.replace(folder, self.batches / batch.name)

    def finish(self, batches: Iterable[Batch]) -> pd.DataFrame:
        """Join the batches' indices into one, drop batches that are no longer wanted, return the index."""
        names = [batch.name for batch in batches]
        parts = []
        for name in names:
            part = _read_index(self.batches / name / "index.csv")
            parts.append(
                part.assign(file=[f"batches/{name}/{file}" if file else "" for file in part["file"]])
            )
        for folder in set(self.batches.iterdir()) - {self.batches / name for name in names}:
            shutil.rmtree(folder)
        index = pd.concat(parts, ignore_index=True)
        write_csv(self.folder / "index.csv", index)
        return index

    def index(self) -> pd.DataFrame:
        """Read the index of a finished cache.

        Returns:
            Text columns, at least ``study_id, series_id, kind, status, reason, file``; `file` is
            relative to `folder`.

        Raises:
            InputError: the cache is missing or was not finished.
        """
        path = self.folder / "index.csv"
        if not path.is_file():
            raise InputError(f"{path}: no such file; run lumbar preprocess with this --cache folder first")
        return _read_index(path)


def _read_index(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)
