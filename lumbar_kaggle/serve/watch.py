"""What a folder of studies holds from moment to moment, and which of it has stopped changing.

An entry is what arrives as one: a folder in the folder of studies, or the slices that lie in it directly. Its studies
are read by `dicom.studies.find_studies`, once, when none of its files has changed for a while."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, is_folder, list_folder, shown
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.inference.base import study_rows
from lumbar_kaggle.tables.competition import Competition, read_split

FEW = 16  # a study has hardly more series: so many folders may be those of a single one
TABLES = ("test_series_descriptions.csv", "sample_submission.csv")


class Look(NamedTuple):
    """An entry at one moment."""

    state: str  # digest of the names, sizes and times of all below it
    changed_s: float  # of the newest change, in seconds since 1970 by the clock of the file system
    outside: str = ""  # a link that leads out of the folder


class FolderOfStudies:
    """A folder of studies, or a competition's (its test split). `state` is a folder for links, which may lie in it:
    each entry is read through a folder of its own, so that it alone is read anew. Raises `InputError` where there is no
    such folder, or `state` lies where a study's files may lie."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root, self.state = root.resolve(), state.resolve()
        self.tabled = (self.root / TABLES[0]).is_file()
        within = self.root / "test_images"
        self.images = within if self.tabled or is_folder(within) else self.root
        if problem := list_folder(self.root).problem:
            raise InputError(f"{root}: {problem}; give a competition folder or a folder of studies")
        if self.state != self.images and self.images in self.state.parent.parents:
            raise InputError(f"{state}: lies among the files of a study; choose another --out folder")
        self.single = self._is_one_study()

    def _is_one_study(self) -> bool:
        """Tell whether the folders in it are the series of one study, see `find_studies`."""
        names = {shown(path.name) for path in self._top()}
        if self.tabled or not 2 <= len(names) <= FEW:
            return False
        with contextlib.suppress(InputError):  # it holds no study yet
            return not names & set(find_studies(self.images).studies) and len(find_studies(self.images).studies) == 1
        return False

    def _top(self) -> tuple[Path, ...]:
        return tuple(path for path in list_folder(self.images).folders if path != self.state)

    def entries(self) -> tuple[str, ...]:
        """Return the names of what is there now, in natural order; "" is the slices beside the folders, or all."""
        if self.tabled:
            return self._competition().studies
        if self.single:
            return ("",)
        loose = list_folder(self.images).files
        return (*([""] if loose else []), *(path.name for path in self._top()))

    def look(self, entry: str) -> Look:
        """Look at an entry's files without reading them; what vanishes meanwhile changes what is found next time."""
        told, newest = hashlib.sha256(str(self._tables()).encode()), 0.0
        start = self.images / entry
        if start.is_symlink() and not _inside(start, self.root):
            return Look("", 0.0, start.name)
        for path, status in _below(start, deep=bool(entry) or self.single):
            if status is None:
                if not _inside(path, self.root):
                    return Look("", newest, str(path.relative_to(self.images)))
                continue
            told.update(os.fsencode(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n"))
            newest = max(newest, status.st_ctime)
        return Look(told.hexdigest()[:16], newest)

    def place(self, entry: str) -> Path:
        """Return the folder that holds this entry and nothing else, to be given to what takes a folder of studies."""
        if self.tabled or self.single:
            return self.root if self.tabled else self.images
        view = self.state / "entries" / digest(entry) / (self.images.name or "studies")
        wanted = [self.images / entry] if entry else list_folder(self.images).files
        if not view.is_dir() or {path.name for path in view.iterdir()} != {path.name for path in wanted}:
            shutil.rmtree(view, ignore_errors=True)
            view.mkdir(parents=True)
            for path in wanted:
                (view / path.name).symlink_to(path)
        return view

    def read(self, entry: str) -> Competition:
        """Return the studies of an entry. Raises `InputError` where it holds none."""
        if not self.tabled:
            return find_studies(self.place(entry))
        whole = self._competition()
        mine = study_rows(whole, entry).series
        notes = {entry: whole.notes.get(entry, ())}
        return Competition(whole.root, whole.split, (entry,), mine, notes=notes)

    def _tables(self) -> list[tuple[int, int]]:
        found = []
        for path in (self.root / name for name in TABLES if self.tabled):
            with contextlib.suppress(FileNotFoundError):
                found.append((path.stat().st_size, path.stat().st_mtime_ns))
        return found

    def _competition(self) -> Competition:
        folders = frozenset(path.name for path in self._top())
        return _read_tables(self.root, str(self._tables()), folders)


@lru_cache(maxsize=1)
def _read_tables(root: Path, state: str, folders: frozenset[str]) -> Competition:
    return read_split(root, "test")


def _inside(path: Path, root: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(root)


def _below(folder: Path, *, deep: bool) -> Iterator[tuple[Path, os.stat_result | None]]:
    """Yield what lies in a folder, in all of its folders too where it is to be `deep`: paths with their status, of a
    link twice, first without. Folders that links lead to again come once."""
    pending, seen = [folder], set[str]()
    while pending:
        place = pending.pop()
        if (known := os.path.realpath(place)) in seen:
            continue
        seen.add(known)
        with contextlib.suppress(OSError), os.scandir(place) as entries:  # whoever reads it will say why it cannot
            for entry in sorted(entries, key=lambda one: one.name):
                path = place / entry.name
                if entry.is_symlink():
                    yield path, None
                with contextlib.suppress(OSError):
                    if not entry.is_dir():
                        yield path, entry.stat()
                    elif deep:
                        yield path, entry.stat()
                        pending.append(path)
