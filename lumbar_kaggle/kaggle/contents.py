"""What the package consists of on Kaggle: its files, and the fingerprint that tells versions apart."""

import re
from pathlib import Path

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, sha256_file

PACKAGE_FOLDER = Path(__file__).parents[1]

_SECRETS = re.compile(rb'KGAT_[A-Za-z0-9]{16,}|"key"\s*:\s*"[0-9a-f]{32}"')
"""The shapes of Kaggle's access tokens and of the key in kaggle.json."""

_SUFFIXES = {".py", ".html", ".css", ".js", ".svg", ".jinja", ".j2", ".csv", ".typed"}


def package_files(folder: Path = PACKAGE_FOLDER) -> dict[str, str]:
    """Return the package's files: path relative to `folder` → SHA-256.

    Only what belongs to a source tree is taken, so caches, compiled files and strays stay behind.
    An empty file cannot be uploaded safely; it does not occur, since each module has a docstring,
    save for the marker ``py.typed``, which nothing on Kaggle reads.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.stat().st_size)
    kept = [path for path in paths if path.is_file() and not path.is_symlink() and not _hidden(path, folder)]
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in kept}


def package_fingerprint(folder: Path = PACKAGE_FOLDER) -> str:
    """Return 16 hexadecimal digits that identify the package's source."""
    return digest(package_files(folder))


def has_secret(content: bytes) -> bool:
    """Whether a file holds what looks like a Kaggle credential."""
    return _SECRETS.search(content) is not None


def check_no_secrets(folder: Path = PACKAGE_FOLDER) -> None:
    """Look through the package before it goes up.

    Raises:
        InputError: a file holds a credential.
    """
    for name in package_files(folder):
        if has_secret((folder / name).read_bytes()):
            raise InputError(f"{folder / name}: holds a Kaggle credential; remove it before anything is sent")


def _hidden(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    return any(part.startswith(".") or part == "__pycache__" for part in parts)
