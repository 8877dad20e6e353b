"""Where things lie inside a Kaggle session: found by marker files, never by a fixed path.

Kaggle mounts inputs under two generations of paths (``/kaggle/input/{slug}`` and
``/kaggle/input/{type}/{owner}/{slug}``) and unpacks archives at a depth of its own choice.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from lumbar_kaggle.errors import InputError

INPUT = Path("/kaggle/input")
DEPTH = 5
"""How deep to look: type / owner / slug, an unpacked archive's folder, and the one inside it."""

COMPETITION_MARKER = "test_series_descriptions.csv"
BUNDLE_MARKER = "bundle.json"
RUN_MARKER = "config.json"

# Folders of tens of thousands of images; walking into them would take minutes on the mount.
_NEVER = {"train_images", "test_images"}


def find_marker(marker: str, root: Path | None = None) -> Path:
    """Return the folder that holds the file `marker`, the shallowest first.

    Args:
        marker: file name.
        root: where to look; by default the environment variable ``LUMBAR_INPUT``, or `INPUT`.

    Raises:
        InputError: no such file within `DEPTH` levels.
    """
    start = root or Path(os.environ.get("LUMBAR_INPUT", INPUT))
    for folder in _breadth_first(start):
        if (folder / marker).is_file():
            return folder
    raise InputError(f"{start}: no {marker} within {DEPTH} levels; attach the input that holds it")


def find_competition(root: Path | None = None) -> Path:
    """Return the competition's folder."""
    return find_marker(COMPETITION_MARKER, root)


def find_bundle(root: Path | None = None) -> Path:
    """Return the folder of the exported models."""
    return find_marker(BUNDLE_MARKER, root)


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
