"""Writing one slice as a DICOM file, in the competition's manner or in a scanner's."""

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from lumbar_kaggle.phantom.acquisition import Plane, Weighting
from lumbar_kaggle.phantom.settings import FORMAT
from lumbar_kaggle.phantom.study import Part, SeriesPlan, StudyPlan

SYNTAXES = {
    "explicit": "1.2.840.10008.1.2.1",
    "rle": "1.2.840.10008.1.2.5",
    "jpeg_lossless": "1.2.840.10008.1.2.4.70",
    "jpeg_ls": "1.2.840.10008.1.2.4.80",
    "jpeg_2000": "1.2.840.10008.1.2.4.90",
}
"""Transfer syntax UIDs; all are lossless."""

MR_IMAGE, ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
ROOT = "1.2.826.0.1.3680043.8.498."  # prefix of generated UIDs
# Share of the studies with a scanner's header that have the rescale attributes; they change nothing.
RESCALED = 0.4
_TIMES = {Weighting.T1: (600.0, 10.0), Weighting.T2: (3600.0, 105.0), Weighting.STIR: (4200.0, 60.0)}  # ms


def write_instance(
    path: Path | BinaryIO, pixels: NDArray[np.uint16], *, study: StudyPlan, series: int, instance: int
) -> None:
    """Write one slice, ``[rows, columns]`` of at most 12 bits (11 when the series is signed).

    `series` is a number within the study, from 0; `instance` is one of its `SeriesPlan.numbers`.
    """
    acquisition = study.series[series]
    plane = acquisition.planes[acquisition.numbers.index(instance)]
    header = _standard_header if study.standard else _competition_header
    dataset = Dataset()
    fields = header(study, series, instance) | _geometry(acquisition, plane, instance)
    for name, value in fields.items():
        setattr(dataset, name, value)
    _pixels(dataset, pixels, acquisition)
    for name in acquisition.absent:
        delattr(dataset, name)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = UID(MR_IMAGE if study.standard else ENHANCED_MR_IMAGE)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = UID(SYNTAXES[acquisition.syntax])
    dataset.file_meta.ImplementationClassUID = UID(ROOT + "1")
    dataset.file_meta.ImplementationVersionName = FORMAT.upper().replace("-", "_")
    dcmwrite(path, dataset, enforce_file_format=True)


def _competition_header(study: StudyPlan, series: int, instance: int) -> dict[str, Any]:
    """Return identifiers and description as in the competition: no Modality, and UIDs that are none."""
    identifier = str(study.study_id)
    return {
        "SOPInstanceUID": f"{identifier}.1.{instance}",
        "SeriesDescription": "T1" if study.series[series].weighting is Weighting.T1 else "T2",
        "PatientID": identifier,
        "StudyInstanceUID": identifier,
        "SeriesInstanceUID": f"{identifier}.{study.series_ids[series]}",
        "FrameOfReferenceUID": _uid(study, "frame", series),
    }


def _standard_header(study: StudyPlan, series: int, instance: int) -> dict[str, Any]:
    """Return identifiers, sequence and scanner as a hospital's archive has them."""
    acquisition = study.series[series]
    vendor, inverted = acquisition.machine.vendor, acquisition.weighting is Weighting.STIR
    mean = np.array(_TIMES[acquisition.weighting])
    repetition, echo = mean * study.rng(Part.HEADER, 1, series).normal(1.0, 0.08, 2)
    plane = "AX" if acquisition.kind == "axial_t2" else "SAG"
    weighted = acquisition.weighting.value + ("" if inverted else f" {vendor.spin_echo}")
    rescaled = study.rng(Part.HEADER, 2).random() < RESCALED
    return {
        "SOPClassUID": MR_IMAGE,
        "SOPInstanceUID": _uid(study, "instance", series, instance),
        "Modality": "MR",
        "Manufacturer": vendor.name,
        "SeriesDescription": f"{plane} {weighted}",
        "PatientName": "PHANTOM",
        "PatientID": f"P{study.study_id}",
        "BodyPartExamined": "LSPINE",
        "ScanningSequence": ["SE", "IR"] if inverted else "SE",
        "MRAcquisitionType": "2D",
        "RepetitionTime": round(float(repetition)),
        "EchoTime": round(float(echo), 1),
        **({"InversionTime": 160.0} if inverted else {}),
        "MagneticFieldStrength": acquisition.machine.tesla,
        "StudyInstanceUID": _uid(study, "study"),
        "SeriesInstanceUID": _uid(study, "series", series),
        "SeriesNumber": series + 1,
        **({"RescaleIntercept": 0.0, "RescaleSlope": 1.0, "RescaleType": "US"} if rescaled else {}),
        "FrameOfReferenceUID": _uid(study, "frame"),
    }


def _geometry(acquisition: SeriesPlan, plane: Plane, instance: int) -> dict[str, Any]:
    return {
        "SliceThickness": acquisition.thickness,
        "SpacingBetweenSlices": acquisition.step,
        "PatientPosition": "HFS",
        "InstanceNumber": instance,
        "ImagePositionPatient": [_decimal(value) for value in plane.position],
        "ImageOrientationPatient": [_decimal(value) for value in plane.orientation],
        "SliceLocation": _decimal(float(plane.position @ plane.normal)),
        "PixelSpacing": [_decimal(value) for value in plane.spacing],
    }


def _pixels(dataset: Dataset, pixels: NDArray[np.uint16], acquisition: SeriesPlan) -> None:
    low, high = np.percentile(pixels[::4, ::4], acquisition.machine.vendor.window_percentiles)
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = int(acquisition.signed)
    dataset.WindowCenter = str(round((low + high) / 2))
    dataset.WindowWidth = str(max(1, round(high - low)))
    raw = np.ascontiguousarray(pixels, dtype="<u2").tobytes()
    if acquisition.syntax == "explicit":
        dataset.PixelData = raw
    else:
        dataset.PixelData = encapsulate([_encode(raw, pixels.shape, acquisition)])
        dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OW" if acquisition.syntax == "explicit" else "OB"


def _encode(raw: bytes, shape: tuple[int, ...], acquisition: SeriesPlan) -> bytes:
    """Return one frame compressed without loss; GDCM does all four syntaxes, in a few milliseconds."""
    import gdcm

    writer = gdcm.ImageWriter()  # owns the image, so it must outlive it
    image = writer.GetImage()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((shape[1], shape[0], 1))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, int(acquisition.signed)))
    monochrome = gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2)
    image.SetPhotometricInterpretation(monochrome)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.ExplicitVRLittleEndian))
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetByteStringValue(raw)
    image.SetDataElement(element)
    change = gdcm.ImageChangeTransferSyntax()
    kind = gdcm.TransferSyntax.GetTSType(SYNTAXES[acquisition.syntax])
    change.SetTransferSyntax(gdcm.TransferSyntax(kind))
    change.SetInput(image)
    if not change.Change():
        raise RuntimeError(f"GDCM cannot encode {acquisition.syntax}")
    fragments = change.GetOutput().GetDataElement().GetSequenceOfFragments()
    parts = (fragments.GetFragment(k).GetByteValue().GetBuffer() for k in range(fragments.GetNumberOfFragments()))
    return b"".join(part.encode("utf-8", "surrogateescape") for part in parts)


def _decimal(value: float) -> str:
    """Return a number as decimal text of at most 16 characters."""
    text = f"{value:.8f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text[:16]


def _uid(study: StudyPlan, *what: str | int) -> str:
    """Return a valid UID that depends on the study and on what it names."""
    text = repr((study.seed, study.split, study.index, *what))
    return ROOT + str(int(hashlib.sha256(text.encode()).hexdigest(), 16))[:36].lstrip("0")
