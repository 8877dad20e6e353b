"""Real DICOM files for the tests, written with pydicom."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, RLELossless

SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def write_slice(
    path: Path,
    pixels: np.ndarray,
    *,
    position: tuple[float, ...] | None = (0.0, 0.0, 0.0),
    orientation: tuple[float, ...] | None = SAGITTAL,
    spacing: tuple[float, float] = (1.0, 1.0),
    number: int = 1,
    syntax: str = ExplicitVRLittleEndian,
    **tags: Any,
) -> Path:
    """Write one slice; `pixels` uint16 or int16 ``[rows, columns]``; `tags` are set by keyword."""
    signed = pixels.dtype == np.int16
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, f"1.2.3.{number}"
    dataset.InstanceNumber = number
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(signed)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.PixelSpacing = list(spacing)
    if position is not None:
        dataset.ImagePositionPatient = list(position)
    if orientation is not None:
        dataset.ImageOrientationPatient = list(orientation)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    if syntax == RLELossless:
        dataset.compress(RLELossless)
    elif syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def write_sagittal(
    folder: Path, *, slices: int = 5, shape: tuple[int, int] = (24, 20), right_first: bool = True, **tags: Any
) -> list[Path]:
    """Write a sagittal series 4 mm apart; slice k (from the right) has the mean intensity 100 · (k + 1)."""
    paths = []
    for index in range(slices):
        noise = np.random.default_rng(index).integers(0, 20, shape)
        pixels = (100 * (index + 1) + noise).astype(np.uint16)
        number = index + 1 if right_first else slices - index
        position = (-2.0 * slices + 4.0 * index, -30.0, 60.0)
        paths.append(write_slice(folder / f"{number}.dcm", pixels, position=position, number=number, **tags))
    return paths
