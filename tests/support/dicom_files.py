"""Real DICOM files for the tests, written with pydicom; GDCM encodes what pydicom cannot."""

from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from lumbar_kaggle.dicom.instances import Instance, read_instances

SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)

NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
ENCODED = (RLELossless, JPEGLSLossless, JPEGLossless, JPEGLosslessSV1, JPEG2000Lossless)
GDCM_NAMES = {
    JPEGLossless: "JPEGLosslessProcess14",
    JPEGLosslessSV1: "JPEGLosslessProcess14_1",
    JPEG2000Lossless: "JPEG2000Lossless",
}


def tilted(degrees: float) -> tuple[float, ...]:
    """Axial orientation, turned about the patient's x axis."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (1.0, 0.0, 0.0, 0.0, float(cosine), float(sine))


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
    """Write one slice; `pixels` 8 or 16 bit ``[rows, columns]``; `tags` are set by keyword."""
    signed = pixels.dtype.kind == "i"
    bits = 8 * pixels.dtype.itemsize
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, f"1.2.3.{number}"
    dataset.InstanceNumber = number
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.PixelSpacing = list(spacing)
    if position is not None:
        dataset.ImagePositionPatient = list(position)
    if orientation is not None:
        dataset.ImageOrientationPatient = list(orientation)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    if syntax in NATIVE:
        meta.TransferSyntaxUID = syntax
    elif syntax not in GDCM_NAMES:
        dataset.compress(syntax)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    if syntax in GDCM_NAMES:
        encode_with_gdcm(path, GDCM_NAMES[syntax])
    return path


def encode_with_gdcm(path: Path, name: str) -> None:
    """Encode an uncompressed file anew; `name` is one of ``gdcm.TransferSyntax``."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def rewrite(path: Path, *, remove: tuple[str, ...] = (), preamble: bool = True, **tags: Any) -> Path:
    """Change a file's tags by keyword, group 2 included, with no regard to what the standard allows."""
    dataset = pydicom.dcmread(path)
    with pydicom.config.disable_value_validation():
        for keyword in remove:
            delattr(dataset.file_meta if keyword in dataset.file_meta else dataset, keyword)
        for keyword, value in tags.items():
            setattr(dataset.file_meta if keyword in dataset.file_meta else dataset, keyword, value)
        dataset.save_as(path)
    if not preamble:
        path.write_bytes(path.read_bytes()[132:])
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


def read_instance(path: Path | str) -> Instance:
    """The header of a file's first frame."""
    return read_instances(path)[0]


def read_slices(path: Path | str) -> list[Instance]:
    """All frames of a file with their pictures."""
    return read_instances(path, pixels=True)


def decode(path: Path | str) -> np.ndarray:
    """The picture of a file's first frame."""
    return read_slices(path)[0].image
