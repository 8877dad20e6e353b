"""A cache folder: batches of preprocessed series, each committed in one step.

Layout::

    CACHE/{kind}/config.json                  what the entries were made with
    CACHE/{kind}/batches/{number}-{digest}/   one committed batch: its files and its index.csv
    CACHE/{kind}/index.csv                    all entries, written when every batch is there

A batch is named by a digest of its sources, so a batch that is already there is the one wanted, and a source with
other files makes a new one. Sources are compared by the names and sizes of their files and, in the index, by the first
bytes, which hold the identifiers: a mount may give other times to the same files, and reading every byte would cost
what the work saves.

A cache may lie at an address of an object store. Then a batch is made here and sent, its index last, by which it is
there; and `Cache.fetched` copies whole batches into a folder of this machine, where they can be read piece by piece.
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tqdm import tqdm

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import (
    as_path,
    copy_file,
    csv_bytes,
    digest,
    list_folder,
    read_csv,
    read_json,
    remove_folder,
    spool,
    write_atomic,
    write_csv,
    write_json,
)
from lumbar_kaggle.dicom.headers import UnreadableInstance, read_content
from lumbar_kaggle.dicom.plain import HEAD_BYTES

UPLOADS = 8  # files that are on their way to a store at once
OK = "ok"  # status of an entry that can be used; any other status has a reason beside it
# Of a batch's folder, with a dot before it is committed; whatever else lies there is not ours.
_BATCH_NAME = re.compile(r"\.?\d{5,}-[0-9a-f]{16}")


@dataclass(frozen=True)
class Source:
    """One series to preprocess: a row of `competition.Competition.series`, and the state of its files."""

    study_id: str
    series_id: str
    kind: str
    folder: str
    slices: int  # number of files
    state: str  # digest of their names and sizes, or of what else determines the entry
    files: tuple[str, ...] = ()  # those that are of the series, relative to the folder; none: all
    ends: tuple[str, ...] = ()  # names of the first and the last of the files
    size: int = 0  # bytes of the files

    @staticmethod
    def scan(study_id: str, series_id: str, kind: str, folder: str, only: tuple[str, ...] = ()) -> "Source":
        """List the series folder; a folder that is missing or unreadable counts as empty."""
        # What cannot be listed cannot be read either, and the entry's reason will say why.
        files = list(only) or sorted(path.name for path in list_folder(as_path(folder)).files)
        place, sizes = (
            as_path(folder),
            dict.fromkeys(files, -1),
        )  # what cannot be read differs from what it is once it can
        for name in files:
            with contextlib.suppress(OSError):
                sizes[name] = (place / name).stat().st_size
        ends = tuple(dict.fromkeys([*files[:1], *files[-1:]]))
        size, state = sum(max(one, 0) for one in sizes.values()), digest(list(sizes.items()))
        return Source(study_id, series_id, kind, folder, len(files), state, only, ends, size)

    def fingerprint(self, contents: Mapping[Path, bytes] | None = None) -> str:
        """Return a digest of the state, and of the heads of the first and the last file: out of `contents` by path, or
        else, once more, from the disk. A file that cannot be read has no head."""
        heads = []
        for path in (as_path(self.folder) / name for name in self.ends):
            try:
                content = read_content(path, HEAD_BYTES) if contents is None else contents[path]
                heads.append(hashlib.sha256(content[:HEAD_BYTES]).hexdigest())
            except (UnreadableInstance, KeyError):
                heads.append("")
        return digest([self.state, heads])


class Batch(NamedTuple):
    """Some sources that are committed together."""

    name: str
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class CacheConfig:
    """What determines the entries besides their sources; saved beside them."""

    kind: str  # also the folder's name
    version: int  # raised when the same source would give other bytes
    settings: dict[str, object]  # sizes, percentiles and the like


class Cache:
    """One kind of entries in a cache folder."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = as_path(folder) / kind
        self.batches = self.folder / "batches"
        self.stored = not isinstance(self.folder, Path)
        # Where batches are made.
        self._desk = spool(self.folder) if self.stored else self.batches

    def open(self, config: CacheConfig) -> None:
        """Create the folder; raise InputError where it was made with another configuration."""
        path, wanted = self.folder / "config.json", asdict(config)
        if path.is_file() and read_json(path) != wanted:
            remedy = "choose another --cache folder or delete it"
            raise InputError(f"{path}: this cache was made with other settings; {remedy}")
        for folder in (self.batches, self._desk):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)

    def plan(self, sources: list[Source], batch_size: int) -> list[Batch]:
        """Cut the sources, in order, into batches of `batch_size`."""
        cuts = [tuple(sources[start : start + batch_size]) for start in range(0, len(sources), batch_size)]
        keys = [[(one.study_id, one.series_id, one.kind, one.state) for one in members] for members in cuts]
        return [Batch(f"{number:05d}-{digest(keys[number])}", members) for number, members in enumerate(cuts)]

    def entries(self, batch: Batch) -> pd.DataFrame | None:
        """Return a committed batch's index; None where it is not committed or is damaged, to be made anew."""
        folder = self.batches / batch.name
        try:
            index = _read_index(folder / "index.csv")
        except InputError:
            return None
        # Each source has as many rows as the others; with lines cut off, one has fewer or none.
        rows, studies = len(index) % len(batch.sources), {source.study_id for source in batch.sources}
        files = {one.name for one in folder.iterdir()} if self.stored else None  # one question in place of many
        there = all(file in files if files and file else (folder / file).exists() for file in index["file"].unique())
        return index if there and not rows and set(index["study_id"]) == studies else None

    def begin(self, batch: Batch) -> Path:
        """Return a folder outside of the committed ones for the batch's files; it has those that are there already."""
        folder = self._desk / f".{batch.name}"
        shutil.rmtree(folder, ignore_errors=True)
        if self.entries(batch) is None:
            folder.mkdir()
        else:
            _copy(self.batches / batch.name, folder)
        return folder

    def commit(self, batch: Batch, entries: pd.DataFrame) -> None:
        """Write the batch's index and move its folder into place in one step."""
        folder, target = self._desk / f".{batch.name}", self.batches / batch.name
        remove_folder(target)
        if self.stored:
            with ThreadPoolExecutor(UPLOADS) as pool:
                list(pool.map(lambda file: copy_file(file, target / file.name), sorted(folder.iterdir())))
            write_csv(target / "index.csv", entries)
            shutil.rmtree(folder)
            return
        write_csv(folder / "index.csv", entries)
        os.replace(folder, target)

    def finish(self, batches: Sequence[Batch]) -> None:
        """Join the batches' indices into one, and drop batches that are not wanted. No more than one batch's rows are
        in memory at once: a set may have millions."""
        columns = list(dict.fromkeys(name for batch in batches for name in self._rows(batch)))
        wanted = {batch.name for batch in batches}
        for folder in self.batches.iterdir():
            if _BATCH_NAME.fullmatch(folder.name) and folder.name not in wanted:
                remove_folder(folder)

        def write(path: Path) -> None:
            with path.open("wb") as file:
                for number, batch in enumerate(batches):
                    rows = self._rows(batch).reindex(columns=columns)
                    rows["file"] = [f"batches/{batch.name}/{name}" if name else "" for name in rows["file"]]
                    file.write(csv_bytes(rows, header=not number))

        write_atomic(self.folder / "index.csv", write)

    def _rows(self, batch: Batch) -> pd.DataFrame:
        return _read_index(self.batches / batch.name / "index.csv")

    def fetched(self) -> "Cache":
        """Return a finished cache on this machine: itself, or a copy of one in a store, which is kept until that one
        changes. Raises as `index`."""
        if not self.stored:
            return self
        index, settings = self.index(), read_json(self.folder / "config.json")
        place = self._desk / digest([settings, index.to_csv()])
        copy = Cache(place, self.folder.name)
        if not (copy.folder / "index.csv").is_file():
            for older in self._desk.glob("*"):
                if older != place:
                    shutil.rmtree(older)
            names = sorted({file.split("/")[1] for file in index["file"] if file})
            for name in tqdm([name for name in names if not (copy.batches / name).is_dir()], "fetch", unit="batch"):
                begun = copy.batches / f".{name}"
                shutil.rmtree(begun, ignore_errors=True)
                _copy(self.batches / name, begun)
                os.replace(begun, copy.batches / name)
            write_csv(copy.folder / "index.csv", index)
        return copy

    def identity(self) -> str:
        """Return a digest of the sources of all usable entries of a finished cache; raises as `index`."""
        index = self.index()
        return digest(index.loc[index["status"] == OK, ["study_id", "series_id", "source"]].to_numpy().tolist())

    def index(self) -> pd.DataFrame:
        """Read the index of a finished cache; raise InputError where it is missing, damaged, or was not finished. Text
        columns, at least ``study_id, series_id, kind, status, reason, file``; `file` is relative to `folder`."""
        return _read_index(self.folder / "index.csv")


def _copy(source: Path, target: Path) -> None:
    """Copy a batch, from here or from a store, to this machine."""
    if isinstance(source, Path):
        shutil.copytree(source, target)
    else:
        target.mkdir(parents=True)
        source.fs.get(f"{source.path}/", f"{target}/", recursive=True)


def _read_index(path: Path) -> pd.DataFrame:
    remedy = "run lumbar preprocess with this --cache folder, which makes it anew"
    return read_csv(path, ("study_id", "file"), remedy, dtype=str, keep_default_na=False)
