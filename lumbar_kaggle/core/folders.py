"""What of a tree of folders may hold slices: what systems leave behind is passed over, trouble is told."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

JUNK = frozenset(
    {
        "__macosx",
        "@eadir",
        "lost+found",
        "$recycle.bin",
        "system volume information",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "dicomdir",
    }
)
"""Names, in lower case, of what is neither a study nor a slice; so is whatever begins with a dot."""


@dataclass(frozen=True)
class Folder:
    """One folder of a tree: what is in it in natural order, without junk, or why it could not be listed."""

    path: Path
    folders: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()
    problem: str = ""


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Return the key by which names sort as people count: ``2.dcm`` before ``10.dcm``."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)


def shown(name: object) -> str:
    r"""Return a name as text that can be printed and stored: bytes that are no UTF-8 become escapes.

    >>> print(shown("M\udcfcller"))
    M\udcfcller
    """
    return str(name).encode(errors="backslashreplace").decode()


def list_folder(path: Path) -> Folder:
    """List one folder; one that is missing or may not be read has a problem."""
    folders, files = [], []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in JUNK:
                    continue
                if _is(entry.is_dir):
                    folders.append(path / entry.name)
                # A dangling link is kept: that it cannot be read is said where it is read.
                elif _is(entry.is_file) or entry.is_symlink():
                    files.append(path / entry.name)
    except FileNotFoundError:
        return Folder(path, problem="no such folder")
    except OSError as error:
        return Folder(path, problem=f"the folder cannot be read ({error.strerror or error})")

    def ordered(paths: list[Path]) -> tuple[Path, ...]:
        return tuple(sorted(paths, key=lambda one: (natural(one.name), one.name)))

    return Folder(path, ordered(folders), ordered(files))


def walk(path: Path) -> Iterator[Folder]:
    """Yield a folder and all below it, depth first; a folder that links lead to again comes once."""
    seen: set[tuple[int, int]] = set()
    pending = [path]
    while pending:
        folder = list_folder(pending.pop())
        try:
            status = os.stat(folder.path)
            known = (status.st_dev, status.st_ino)
        except OSError:
            yield folder  # it has the problem already
            continue
        if known not in seen:
            seen.add(known)
            yield folder
            pending += reversed(folder.folders)


def _is(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:
        return False  # a link that leads round in a circle, for example
