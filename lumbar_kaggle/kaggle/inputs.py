"""Where things lie inside a Kaggle session: found by marker files, never by a fixed path.

Kaggle mounts inputs under two generations of paths (``/kaggle/input/{slug}`` and
``/kaggle/input/{type}/{owner}/{slug}``) and unpacks archives at a depth of its own choice.
"""

import io
import logging
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import copy_file, read_json, write_atomic

log = logging.getLogger(__name__)

INPUT = Path("/kaggle/input")
DEPTH = 5
"""How deep to look: type / owner / slug, an unpacked archive's folder, and the one inside it."""

COMPETITION_MARKER = "test_series_descriptions.csv"
BUNDLE_MARKER = "bundle.json"

# Folders of tens of thousands of images; walking into them would take minutes on the mount.
_NEVER = {"train_images", "test_images"}


def find_markers(marker: str, root: Path | None = None) -> Iterator[Path]:
    """Yield the folders that hold the file `marker`, the shallowest first.

    Args:
        marker: file name, also with folders before it.
        root: where to look; by default the environment variable ``LUMBAR_INPUT``, or `INPUT`.
    """
    return (folder for folder in _breadth_first(_start(root)) if (folder / marker).is_file())


def find_marker(marker: str, root: Path | None = None) -> Path:
    """Return the first folder that holds the file `marker`; see `find_markers`.

    Raises:
        InputError: no such file within `DEPTH` levels.
    """
    for folder in find_markers(marker, root):
        return folder
    raise InputError(f"{_start(root)}: no {marker} within {DEPTH} levels; attach the input that holds it")


def find_competition(root: Path | None = None) -> Path:
    """Return the competition's folder."""
    return find_marker(COMPETITION_MARKER, root)


def find_bundle(root: Path | None = None, fingerprint: str = "") -> Path:
    """Return the folder of the exported models.

    Args:
        root: see `find_markers`.
        fingerprint: of the bundle that is meant; empty takes the first.

    Raises:
        InputError: there is none, or only others: Kaggle silently mounts the previous version of a
            dataset whose new one was not ready when the notebook was pushed.
    """
    found = {
        folder: str(read_json(folder / BUNDLE_MARKER).get("fingerprint"))
        for folder in find_markers(BUNDLE_MARKER, root)
    }
    if not found:
        return find_marker(BUNDLE_MARKER, root)
    for folder, its in found.items():
        if fingerprint in ("", its):
            return folder
    raise InputError(
        f"bundle {fingerprint} is not among the inputs, only {', '.join(found.values())}; "
        "wait until its dataset is ready, then push this notebook again"
    )


def _start(root: Path | None) -> Path:
    return root or Path(os.environ.get("LUMBAR_INPUT", INPUT))


def _breadth_first(start: Path) -> Iterator[Path]:
    level = [start]
    for _ in range(DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            yield folder
            if folder.is_dir():
                children = sorted(path for path in folder.iterdir() if path.name not in _NEVER)
                below += [path for path in children if path.is_dir()]
        level = below


def take_up(marker: str, names: tuple[str, ...], working: Path, inputs: Path | None = None) -> None:
    """Copy what earlier sessions' attached outputs hold, from all of them into one; what is there stays.

    Args:
        marker: file by which such an output is known, relative to it.
        names: of the output's folders that are taken up.
        working: where to.
        inputs: see `find_markers`.
    """
    for earlier in find_markers(marker, inputs):
        for name in names:
            if (earlier / name).is_dir():
                log.info("Going on from %s", earlier / name)
            for path in sorted((earlier / name).rglob("*")):
                target = working / path.relative_to(earlier)
                if path.is_file() and not target.exists():
                    copy_file(path, target)
    repack_checkpoints(working)


def copy_pretrained(arch: str, target: Path, inputs: Path | None = None) -> None:
    """Copy the attached pretrained weights of an architecture, unless they are there.

    Args:
        arch: its name.
        target: file to write.
        inputs: where the inputs are mounted.

    Raises:
        InputError: they are not attached.
    """
    name = f"pretrained-{arch}.safetensors"
    if target.is_file():
        return
    try:
        copy_file(find_marker(name, inputs) / name, target)
    except InputError:
        raise InputError(
            f"{name} is not among the inputs; send it with lumbar ship datasets --pretrained {arch}, "
            'or train from random weights with the setting weights = "none"'
        ) from None


def repack_checkpoints(root: Path) -> list[Path]:
    """Turn every ``*.pt`` folder below a writable `root` back into the file that torch wrote.

    Kaggle unpacks archives, and a torch checkpoint is a zip: its members are stored, not compressed, under
    one top folder of any name, which may have been left out.

    Returns:
        The files that were made.
    """
    unpacked = [path for path in root.rglob("*.pt") if path.is_dir()]
    for folder in unpacked:
        (marker,) = folder.rglob("data.pkl")
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(marker.parent.rglob("*")):
                if path.is_file():
                    archive.write(path, f"{folder.stem}/{path.relative_to(marker.parent).as_posix()}")
        shutil.rmtree(folder)
        write_atomic(folder, lambda path, content=buffer: path.write_bytes(content.getvalue()))  # type: ignore[misc]
    return unpacked
