"""What is mounted into a session, and where: both generations of Kaggle's paths.

In 2026 a competition was mounted as ``/kaggle/input/{slug}`` or ``/kaggle/input/competitions/{slug}``, a
dataset as ``{slug}`` or ``datasets/{owner}/{slug}``, a kernel's output as ``{slug}`` or
``notebooks/{owner}/{slug}`` (Kaggle/kaggle-cli issue 1140). Zips are unpacked when they arrive: mostly each
into a folder of its name, a lone one sometimes flat.
"""

import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lumbar_kaggle.core.files import sha256_file

LAYOUTS = ("new", "old")
"""``new`` goes with archives unpacked into folders of their names, ``old`` with flat ones."""


@dataclass(frozen=True)
class Input:
    """One source of a session.

    Attributes:
        kind: ``competitions``, ``datasets`` or ``notebooks``.
        owner: of the dataset or kernel; a competition has none.
        slug: the last part of its address.
        folder: its content on this machine, as mounted.
        key: identifies the content, so that a session is played again when it changes.
    """

    kind: str
    owner: str
    slug: str
    folder: Path
    key: str = ""

    def place(self, layout: str) -> str:
        """Return where it lies below ``/kaggle/input``, by one of `LAYOUTS`.

        >>> Input("datasets", "you", "lumbar-kaggle", Path()).place("new")
        'datasets/you/lumbar-kaggle'
        """
        if layout == "old":
            return self.slug
        return "/".join(part for part in (self.kind, self.owner, self.slug) if part)


def lay_out(items: tuple[Input, ...], layout: str, folder: Path, *, linked: bool) -> None:
    """Make the input folder of a session: a mount point per source, or a link where nothing is mounted.

    Args:
        items: the sources.
        layout: one of `LAYOUTS`.
        folder: to make.
        linked: make links to the sources in place of empty folders.
    """
    for item in items:
        place = folder / item.place(layout)
        place.parent.mkdir(parents=True, exist_ok=True)
        if linked:
            place.symlink_to(item.folder.resolve(), target_is_directory=True)
        else:
            place.mkdir()
    folder.mkdir(parents=True, exist_ok=True)


def ingest(names: Iterable[str], upload: Path, mounted: Path, layout: str) -> Path:
    """Turn the files of a dataset that go up into what Kaggle mounts of them; what is there is made anew.

    Args:
        names: of the files in `upload` that go up.
        upload: the built dataset.
        mounted: to make.
        layout: ``new`` unpacks each archive into a folder of its name, ``old`` a lone one flat.
    """
    shutil.rmtree(mounted, ignore_errors=True)
    mounted.mkdir(parents=True)
    chosen = sorted(names)
    archives = [name for name in chosen if name.endswith(".zip")]
    for name in chosen:
        if name in archives:
            target = mounted if layout == "old" and len(archives) == 1 else mounted / Path(name).stem
            with zipfile.ZipFile(upload / name) as archive:
                archive.extractall(target)
        else:
            shutil.copy2(upload / name, mounted / name)
    return mounted


def unpack_checkpoints(output: Path, mounted: Path) -> Path:
    """Copy a kernel's output with its torch checkpoints as folders, which some users found them mounted as.

    Args:
        output: of the earlier session.
        mounted: to make; what is there is made anew.
    """
    shutil.rmtree(mounted, ignore_errors=True)
    link_tree(output, mounted)
    for path in [path for path in mounted.rglob("*.pt") if zipfile.is_zipfile(path)]:
        packed = path.rename(path.with_suffix(".packed"))
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(path)
        packed.unlink()
    return mounted


def tree_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def link_tree(source: Path, target: Path) -> None:
    """Copy a tree by hard links where the file system has them, by bytes elsewhere.

    Whoever changes a file of the copy must write it anew: a change in place would reach the source.
    """
    shutil.copytree(source, target, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
