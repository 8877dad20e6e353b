"""Files that are either whole or not there: atomic writes, JSON, hashes."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumbar_kaggle.errors import InputError

if TYPE_CHECKING:  # pandas takes a second to import, and `lumbar --help` comes through here
    import pandas as pd


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place in one step.

    A process killed in between leaves the old file, or none, but never half of one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary name keeps the suffix, since some writers choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` with Unix line ends, atomically; bytes of file names that are no text as escapes."""
    write_atomic(path, lambda temporary: temporary.write_bytes(text.encode(errors="backslashreplace")))


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically; the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_csv(path: Path, frame: "pd.DataFrame") -> None:
    """Write `frame` as CSV without its index, floats in full precision, atomically."""
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file ({error})") from None


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """Return 16 hexadecimal digits that identify a JSON-serialisable `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
