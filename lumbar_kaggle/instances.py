"""One DICOM file: its header as plain data, and its pixels decoded.

The competition's files are not valid DICOM in several small ways (no Modality tag, identifiers that
are not UIDs, an Enhanced MR storage class on single frames), so nothing here asks for more than it
uses, and pydicom's complaints about values are switched off.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, RLELossless

# Identifiers such as "44036939.1.7" draw a warning per file otherwise; nothing here depends on them.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

PREFERRED_DECODER = {RLELossless: "pylibjpeg"}
"""Decoding plug-in to use where it is installed; pydicom's own RLE decoder takes three times as long."""


class UnreadableInstance(Exception):
    """A file that is no usable slice; the text says why."""


@dataclass(frozen=True)
class Instance:
    """Header of one slice. What is absent is None, or empty where it is text; never a value that occurs.

    Attributes:
        path: the file.
        rows, columns: size in px.
        transfer_syntax: UID of the pixel encoding, or empty.
        frame, frames: which frame of the file the slice is, from 0, and how many it holds.
        instance_number: InstanceNumber; any integer is a real one.
        position: ImagePositionPatient, LPS mm.
        orientation: ImageOrientationPatient, six unit-vector components.
        spacing: PixelSpacing, mm between rows and mm between columns.
        slice_thickness_mm: SliceThickness.
        study_uid, series_uid, sop_uid: the identifiers as they stand; the competition's are no UIDs.
        series_number: SeriesNumber.
        echo_number, temporal_position: EchoNumbers, TemporalPositionIdentifier.
        image_type: values of ImageType, in upper case.
        modality, body_part, contrast_agent: Modality, BodyPartExamined, ContrastBolusAgent.
        description, protocol: SeriesDescription, ProtocolName.
        sequence: ScanningSequence values joined by a space.
        echo_time_ms, repetition_time_ms, inversion_time_ms, flip_angle_degrees: of the sequence.
        b_value: DiffusionBValue, s/mm².
        remarks: one sentence for each attribute that is there but cannot be meant, and so counts as absent.
    """

    path: Path
    rows: int
    columns: int
    transfer_syntax: str = ""
    frame: int = 0
    frames: int = 1
    instance_number: int | None = None
    position: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    spacing: tuple[float, float] | None = None
    slice_thickness_mm: float | None = None
    study_uid: str = ""
    series_uid: str = ""
    sop_uid: str = ""
    series_number: int | None = None
    echo_number: int | None = None
    temporal_position: int | None = None
    image_type: tuple[str, ...] = ()
    modality: str = ""
    body_part: str = ""
    contrast_agent: str = ""
    description: str = ""
    protocol: str = ""
    sequence: str = ""
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None
    inversion_time_ms: float | None = None
    flip_angle_degrees: float | None = None
    b_value: float | None = None
    remarks: tuple[str, ...] = ()


class Slice(NamedTuple):
    """One slice of a file, header and picture.

    Attributes:
        instance: its header.
        image: ``[rows, columns]``, as `decode` gives it.
        padding: ``[rows, columns]``, True where the header says that there is no picture; None where
            there is picture throughout.
    """

    instance: Instance
    image: NDArray[Any]
    padding: NDArray[np.bool_] | None


def read_slices(path: Path) -> list[Slice]:
    """Read one file, header and pixels: a slice per frame.

    Raises:
        UnreadableInstance: as `read_instances` and `decode`.
    """
    return [Slice(read_instance(path), decode(path), None)]


def read_instances(path: Path) -> list[Instance]:
    """Read one file's header: an instance per frame.

    Raises:
        UnreadableInstance: not DICOM, damaged, no image in it, or colour.
    """
    return [read_instance(path)]


def read_instance(path: Path) -> Instance:
    """Read one file's header.

    Raises:
        UnreadableInstance: not DICOM, damaged, no image in it, several frames, or colour.
    """
    header = _read(path, pixels=False)
    try:
        return _instance(path, header)
    except UnreadableInstance:
        raise
    except Exception as error:
        # pydicom converts a value when it is first asked for, and raises whatever the conversion does.
        raise UnreadableInstance(f"header is damaged ({type(error).__name__}: {error})") from error


def decode(path: Path, frame: int = 0) -> NDArray[Any]:
    """Decode the pixels of one slice.

    Rescale slope and intercept are applied, and MONOCHROME1 (white is low) is turned over, so that
    greater always means brighter.

    Returns:
        ``[rows, columns]`` MR intensity (no unit): uint16 or int16 as stored, float32 when the
        header rescales.

    Raises:
        UnreadableInstance: the pixels are missing, truncated, or in an encoding that no installed
            decoder knows.
    """
    dataset = _read(path, pixels=True)
    try:
        stored, rescaled = _decode(dataset, path)
    except UnreadableInstance:
        raise
    except Exception as error:
        # Decoders raise whatever their C library made of a damaged file; the reason is kept.
        text = " ".join(str(error).split())
        raise UnreadableInstance(f"pixels cannot be decoded ({type(error).__name__}: {text})") from error
    if stored.ndim != 2:
        raise UnreadableInstance(f"pixels have the shape {stored.shape}, not rows × columns")
    del frame
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    wide = np.int16 if stored.dtype.kind == "i" else np.uint16
    image = stored if stored.dtype.itemsize > 1 else stored.astype(wide)
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        bits = int(dataset.get("BitsStored") or 16)
        signed = int(dataset.get("PixelRepresentation") or 0)
        image = (np.array(-1 if signed else (1 << bits) - 1) - image.astype(np.int64)).astype(image.dtype)
    if not rescaled and (slope, intercept) != (1.0, 0.0):
        image = (image * np.float32(slope) + np.float32(intercept)).astype(np.float32)
    return image


def _decode(dataset: pydicom.Dataset, path: Path) -> tuple[NDArray[Any], bool]:
    """Return stored pixels, and whether the decoder has applied the rescale tags already."""
    if "PixelData" not in dataset:
        raise UnreadableInstance("no pixels in it (PixelData is absent, or the file is cut off)")
    syntax = UID(getattr(dataset.file_meta, "TransferSyntaxUID", "") or "1.2.840.10008.1.2")
    dataset.file_meta.TransferSyntaxUID = syntax
    try:
        return np.asarray(pixel_array(dataset, raw=True, decoding_plugin=_plugin(syntax))), False
    except (RuntimeError, NotImplementedError):
        # Kaggle's image has no JPEG-lossless plug-in for pydicom, but it has SimpleITK.
        image = _decode_with_simpleitk(path)
        if image is None:
            raise
        return image, True


def _decode_with_simpleitk(path: Path) -> NDArray[Any] | None:
    try:
        import SimpleITK
    except ImportError:
        return None
    try:
        image: NDArray[Any] = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0]
    except RuntimeError:
        # It cannot either; pydicom's reason, which names the encoding, says more.
        return None
    return image


@cache
def _plugin(syntax: UID) -> str:
    preferred = PREFERRED_DECODER.get(syntax, "")
    if preferred and preferred in get_decoder(syntax).available_plugins:
        return preferred
    return ""


def _instance(path: Path, header: pydicom.Dataset) -> Instance:
    if "Rows" not in header or "Columns" not in header:
        raise UnreadableInstance("no image in it (Rows or Columns is absent)")
    frames = _integer(header, "NumberOfFrames") or 1
    if frames > 1:
        raise UnreadableInstance(f"holds {frames} frames; convert it to one frame per file")
    palette = header.get("PhotometricInterpretation") == "PALETTE COLOR"
    if palette or int(header.get("SamplesPerPixel") or 1) != 1:
        raise UnreadableInstance("a colour image, not an MR slice")
    spacing = _numbers(header, "PixelSpacing", 2)
    if spacing is not None and min(spacing) <= 0:
        spacing = None
    syntax = getattr(header.file_meta, "TransferSyntaxUID", None)
    return Instance(
        path=path,
        rows=int(header.Rows),
        columns=int(header.Columns),
        transfer_syntax=str(syntax) if syntax else "",
        instance_number=_integer(header, "InstanceNumber"),
        position=_numbers(header, "ImagePositionPatient", 3),
        orientation=_orientation(header),
        spacing=None if spacing is None else (spacing[0], spacing[1]),
        slice_thickness_mm=_number(header, "SliceThickness"),
        study_uid=_text(header, "StudyInstanceUID"),
        series_uid=_text(header, "SeriesInstanceUID"),
        sop_uid=_text(header, "SOPInstanceUID"),
        series_number=_integer(header, "SeriesNumber"),
        echo_number=_integer(header, "EchoNumbers"),
        temporal_position=_integer(header, "TemporalPositionIdentifier"),
        image_type=tuple(part.upper() for part in _texts(header, "ImageType")),
        modality=_text(header, "Modality"),
        body_part=_text(header, "BodyPartExamined"),
        contrast_agent=_text(header, "ContrastBolusAgent"),
        description=_text(header, "SeriesDescription"),
        protocol=_text(header, "ProtocolName"),
        sequence=" ".join(_texts(header, "ScanningSequence")),
        echo_time_ms=_number(header, "EchoTime"),
        repetition_time_ms=_number(header, "RepetitionTime"),
        inversion_time_ms=_number(header, "InversionTime"),
        flip_angle_degrees=_number(header, "FlipAngle"),
        b_value=_number(header, "DiffusionBValue"),
    )


def _read(path: Path, *, pixels: bool) -> pydicom.Dataset:
    try:
        try:
            return pydicom.dcmread(path, stop_before_pixels=not pixels)
        except InvalidDicomError:
            # Files without the 128-byte preamble occur; anything else fails on its missing Rows tag.
            dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, force=True)
            if "Rows" not in dataset:
                raise UnreadableInstance("not a DICOM file") from None
            return dataset
    except UnreadableInstance:
        raise
    except OSError as error:
        raise UnreadableInstance(f"cannot be read ({error.strerror or error})") from error
    except Exception as error:
        # A damaged header can fail anywhere in the parser; the reason is kept.
        raise UnreadableInstance(f"header is damaged ({type(error).__name__}: {error})") from error


def _number(header: pydicom.Dataset, keyword: str) -> float | None:
    try:
        value = header.get(keyword)
        number = None if value in (None, "") else float(value)
    except (TypeError, ValueError):
        return None
    return number if number is not None and math.isfinite(number) else None


def _integer(header: pydicom.Dataset, keyword: str) -> int | None:
    number = _number(header, keyword)
    return None if number is None else int(number)


def _text(header: pydicom.Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value)


def _numbers(header: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    try:
        values = tuple(float(value) for value in header.get(keyword) or ())
    except (TypeError, ValueError):
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def _orientation(header: pydicom.Dataset) -> tuple[float, ...] | None:
    """Return the direction cosines, or None where they span no plane (all zero, for example)."""
    cosines = _numbers(header, "ImageOrientationPatient", 6)
    if cosines is None:
        return None
    area = float(np.linalg.norm(np.cross(cosines[:3], cosines[3:])))
    return cosines if abs(area - 1) < 0.1 else None


def _texts(header: pydicom.Dataset, keyword: str) -> list[str]:
    value = header.get(keyword)
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(part) for part in value]
