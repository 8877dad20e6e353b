"""What the package consists of on Kaggle: its files, and the fingerprint that tells versions apart."""

from pathlib import Path

from lumbar_kaggle.files import digest, sha256_file

PACKAGE_FOLDER = Path(__file__).parents[1]

_SUFFIXES = {".py", ".html", ".css", ".js", ".svg", ".jinja", ".j2", ".typed"}


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


def _hidden(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    return any(part.startswith(".") or part == "__pycache__" for part in parts)
