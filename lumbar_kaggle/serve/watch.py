"""What a folder of studies holds from moment to moment, and which of it has stopped changing.

An entry is what arrives as one: a folder in the folder of studies, or the slices that lie in it directly. Its studies
are read by `dicom.studies.find_studies`, once, when none of its files has changed for a while."""

import contextlib
import hashlib
import os
import shutil
import stat
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from lumbar_kaggle.core.errors import InputError, system_sentence
from lumbar_kaggle.core.files import Folder, digest, is_folder, list_folder, shown
from lumbar_kaggle.dicom.studies import find_studies
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
        self.images = (within if self.tabled or is_folder(within) else self.root).resolve()
        if self.images in (self.state, *self.state.parent.parents):
            raise InputError(f"{state}: lies where files of studies may lie; choose another --out folder")
        self.single, self._state = False, ""
        self.single = self._is_one_study()

    def _is_one_study(self) -> bool:
        """Tell whether the folders in it are the series of one study, see `find_studies`."""
        if self.tabled:
            return False
        names = [path.name for path in self._listed().folders]
        if not 2 <= len(names) <= FEW or any(self.look(name).outside for name in names):
            return False
        with contextlib.suppress(InputError):  # it holds no study yet
            found = find_studies(self.images).studies
            return len(found) == 1 and found[0] not in map(shown, names)
        return False

    def _listed(self) -> Folder:
        top = list_folder(self.images)
        if top.problem:
            raise InputError(f"{self.images}: {top.problem}; give a competition folder or a folder of studies")
        return Folder(top.path, tuple(path for path in top.folders if path != self.state), top.files)

    def entries(self) -> tuple[str, ...]:
        """Return the names of what is there now, in natural order; "" is the slices beside the folders, or all. Raises
        `InputError` where the folder cannot be listed, as when its mount is lost, or its tables cannot be read."""
        if self.tabled:
            status = [path.stat() for path in (self.root / name for name in TABLES) if path.is_file()]
            self._state = str([(one.st_size, one.st_mtime_ns) for one in status])
            self._whole = read_split(self.root, "test")
            self._series = dict(list(self._whole.series.groupby("study_id")))
            return self._whole.studies
        top = self._listed()
        if self.single:
            return ("",)
        return (*([""] if top.files else []), *(path.name for path in top.folders))

    def look(self, entry: str) -> Look:
        """Look at an entry's files without reading them; what vanishes meanwhile changes what is found next time."""
        told, newest = hashlib.sha256(self._state.encode()), 0.0
        start, seen = self.images / entry, set[str]()
        pending, deep = [str(start)], bool(entry) or self.single
        if not self._inside(str(start)):
            return Look("", start.lstat().st_ctime, entry)
        while pending:
            if (place := os.path.realpath(pending.pop())) in seen:  # a link that leads round in a circle
                continue
            seen.add(place)
            with contextlib.suppress(OSError), os.scandir(place) as found:  # whoever reads it will say why it cannot
                for one in sorted(found, key=attrgetter("name")):
                    if one.is_symlink() and not self._inside(one.path):
                        return Look("", one.stat(follow_symlinks=False).st_ctime, f"{entry}: {one.name}".lstrip(": "))
                    with contextlib.suppress(OSError):  # it is gone again, or a link to nothing
                        status = one.stat()
                        if deep and stat.S_ISDIR(status.st_mode):
                            pending.append(one.path)
                        line = f"{one.path}\0{status.st_size}\0{status.st_mtime_ns}\n"
                        told.update(line.encode(errors="surrogateescape"))
                        newest = max(newest, status.st_ctime)
        return Look(told.hexdigest()[:16], newest)

    def looks(self) -> dict[str, Look]:
        """Look at all `entries`. Raises `InputError` as these do and as `check` does."""
        found = {entry: self.look(entry) for entry in self.entries()}
        self.check()
        return found

    def check(self) -> None:
        """Raise `InputError` where the folder cannot be listed now: what was seen of its files just before, or read of
        them, may be the fault of a lost mount and says nothing of the studies. It costs the same for any number."""
        try:
            with os.scandir(self.images) as found:
                next(found, None)
        except OSError as error:
            self._listed()  # what this raises says what to do
            raise InputError(system_sentence(error)) from None

    def place(self, entry: str) -> Path:
        """Return the folder that holds this entry and nothing else, to be given to what takes a folder of studies."""
        if self.tabled or self.single:
            return self.root if self.tabled else self.images
        view = self.state / ".entries" / digest(entry) / (self.images.name or "studies")
        wanted = [self.images / entry] if entry else list_folder(self.images).files
        if not view.is_dir() or {path.name for path in view.iterdir()} != {path.name for path in wanted}:
            shutil.rmtree(view, ignore_errors=True)
            view.mkdir(parents=True)
            for path in wanted:
                (view / path.name).symlink_to(path)
        return view

    def read(self, entry: str) -> Competition:
        """Return the studies of one of the `entries`. Raises `InputError` where it holds none."""
        if not self.tabled:
            return find_studies(self.place(entry))
        mine = self._series.get(entry, self._whole.series.iloc[:0])
        return Competition(self.root, "test", (entry,), mine, notes={entry: self._whole.notes.get(entry, ())})

    def _inside(self, link: str) -> bool:
        place = Path(os.path.realpath(link))
        return place.is_relative_to(self.root) or place.is_relative_to(self.images)
