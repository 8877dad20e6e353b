"""Checkpoints that came back as folders: Kaggle unpacks archives, and a torch checkpoint is a zip."""

import io
import shutil
import zipfile
from pathlib import Path

from lumbar_kaggle.core.files import write_atomic

_MARKER = "data.pkl"


def repack_checkpoints(root: Path) -> list[Path]:
    """Turn every unpacked ``*.pt`` folder below `root` back into the file that torch wrote.

    Args:
        root: a writable folder.

    Returns:
        The files that were made.
    """
    unpacked = [path for path in root.rglob("*.pt") if path.is_dir()]
    for folder in unpacked:
        content = repacked(folder)
        shutil.rmtree(folder)
        write_atomic(folder, lambda path, content=content: path.write_bytes(content))  # type: ignore[misc]
    return unpacked


def repacked(folder: Path) -> bytes:
    """Return the checkpoint whose members lie in `folder`, or in one folder inside it.

    torch reads archives whose members are stored, not compressed, under one top folder of any name.
    """
    inside = folder if (folder / _MARKER).is_file() else next(folder.glob(f"*/{_MARKER}")).parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(inside.rglob("*")):
            if path.is_file():
                archive.write(path, f"{folder.stem}/{path.relative_to(inside).as_posix()}")
    return buffer.getvalue()
