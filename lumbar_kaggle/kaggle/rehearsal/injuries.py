"""What can be wrong with a study of the hidden test set, done to a phantom's study on disk.

Each injury writes its files anew: the study's folder may be of hard links to the sound one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from lumbar_kaggle.dicom.instances import decode

GRADED, PRIOR, LEFT_OUT = "graded", "prior", "left out"
"""What becomes of an injured study: the models grade it, it keeps the prior, or it is no test study."""

MANY_SLICES = 300


@dataclass(frozen=True)
class Injury:
    """One kind of odd study.

    Attributes:
        name: of the kind, in words.
        outcome: what the submission's log must say of such a study, one of the three above.
        noted: whether the log must give a reason although the study is graded.
        harm: changes the folder of the study's sagittal T1 series, or of the study.
        whole: whether `harm` takes the study's folder.
    """

    name: str
    outcome: str
    harm: Callable[[Path], None]
    whole: bool = False
    noted: bool = False


def _files(series: Path) -> list[Path]:
    return sorted(series.iterdir())


def _replace(path: Path, content: bytes) -> None:
    """Write a file anew, so that a hard link's other name keeps the old content."""
    path.unlink()
    path.write_bytes(content)


def truncate(series: Path) -> None:
    """Cut every file in the middle, as an upload that broke off leaves it."""
    for path in _files(series):
        content = path.read_bytes()
        _replace(path, content[: len(content) // 2])


def truncate_some(series: Path) -> None:
    """Cut every other file after a few bytes: the rest of the series is sound."""
    for path in _files(series)[::2]:
        _replace(path, path.read_bytes()[:200])


def fill_with_noise(series: Path) -> None:
    """Put random bytes in place of every file."""
    generator = np.random.default_rng(7)
    for path in _files(series):
        _replace(path, generator.bytes(4096))


def empty_files(series: Path) -> None:
    """Leave files of no bytes."""
    for path in _files(series):
        _replace(path, b"")


def empty_folder(series: Path) -> None:
    """Leave a series folder without files."""
    for path in _files(series):
        path.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a series or a study that the tables name."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def drop_tags(series: Path) -> None:
    """Take every tag away that says where a slice lies, how large its pixels are, and which it is."""
    absent = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "InstanceNumber")

    def edit(dataset: Dataset) -> None:
        for name in absent:
            if name in dataset:
                delattr(dataset, name)

    for path in _files(series):
        _rewrite(path, edit)


def drop_pixels(series: Path) -> None:
    """Leave headers without an image."""
    for path in _files(series):
        _rewrite(path, lambda dataset: delattr(dataset, "PixelData"))


def mix_sizes(series: Path) -> None:
    """Give every third slice half the rows and columns."""
    for path in _files(series)[::3]:
        _set_pixels(path, decode(path)[::2, ::2])


def blacken(series: Path) -> None:
    """Make every pixel 0: there is nothing to window."""
    for path in _files(series):
        _set_pixels(path, np.zeros_like(decode(path)))


def multiply_slices(series: Path) -> None:
    """Make the series as long as a dynamic one: `MANY_SLICES` files along the same normal."""
    first = pydicom.dcmread(_files(series)[0])
    _store(first, decode(_files(series)[0]))
    start = np.array([float(value) for value in first.ImagePositionPatient])
    for number in range(1000, 1000 + MANY_SLICES - len(_files(series))):
        first.InstanceNumber = number
        # 16 characters at most, the limit of a decimal string (DICOM PS3.5, 6.2).
        place = np.add(start, (0.01 * (number - 999), 0.0, 0.0))
        first.ImagePositionPatient = [f"{value:.6g}" for value in place]
        pydicom.dcmwrite(series / f"{number}.dcm", first)


def add_strays(series: Path) -> None:
    """Add what a desktop leaves behind, and a folder where files are expected."""
    (series / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 64)
    (series / ".DS_Store").write_bytes(b"Bud1" * 16)
    (series / "readme.txt").write_text("not an image")
    (series / "notes").mkdir()
    (series / "notes" / "readme.txt").write_text("not an image")


def _rewrite(path: Path, edit: Callable[[Dataset], object]) -> None:
    dataset = pydicom.dcmread(path)
    edit(dataset)
    path.unlink()
    pydicom.dcmwrite(path, dataset)


def _set_pixels(path: Path, pixels: np.ndarray) -> None:
    def edit(dataset: Dataset) -> None:
        _store(dataset, pixels)

    _rewrite(path, edit)


def _store(dataset: Dataset, pixels: np.ndarray) -> None:
    """Put pixels into a data set, uncompressed."""
    stored = np.ascontiguousarray(pixels, dtype="<i2" if pixels.dtype.kind == "i" else "<u2")
    dataset.Rows, dataset.Columns = stored.shape
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset["PixelData"].is_undefined_length = False


INJURIES = (
    Injury("a series of the tables has no folder", PRIOR, remove_folder),
    Injury("every file of the series is cut off", PRIOR, truncate),
    Injury("every other file is cut off", GRADED, truncate_some, noted=True),
    Injury("random bytes in place of files", PRIOR, fill_with_noise),
    Injury("files of no bytes", PRIOR, empty_files),
    Injury("an empty series folder", PRIOR, empty_folder),
    Injury("no tags of place, size and number", GRADED, drop_tags),
    Injury("headers without pixels", PRIOR, drop_pixels),
    Injury("slices of two sizes", GRADED, mix_sizes),
    Injury("a black series", GRADED, blacken),
    Injury(f"{MANY_SLICES} slices", GRADED, multiply_slices),
    Injury("foreign files in the series", GRADED, add_strays, noted=True),
    Injury("a study of the tables has no folder", PRIOR, remove_folder, whole=True),
)
"""Injuries of the files; those of the tables are in `hidden`."""
