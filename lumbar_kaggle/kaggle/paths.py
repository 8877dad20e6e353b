"""Where things lie inside a Kaggle session: found by marker files, never by a fixed path.

Kaggle mounts inputs under two generations of paths (``/kaggle/input/{slug}`` and
``/kaggle/input/{type}/{owner}/{slug}``) and unpacks archives at a depth of its own choice.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json

INPUT = Path("/kaggle/input")
DEPTH = 5
"""How deep to look: type / owner / slug, an unpacked archive's folder, and the one inside it."""

COMPETITION_MARKER = "test_series_descriptions.csv"
BUNDLE_MARKER = "bundle.json"
RUN_MARKER = "run/config.json"
CACHE_MARKER = "cache/baseline/config.json"

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
