"""Writing a phantom: a slice as a DICOM file, a study, a whole competition folder.

A folder is written in parallel and resumable, and it has the same bytes every time."""

import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from pydicom import dcmwrite, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from tqdm import tqdm

from lumbar_kaggle.core.budget import end_with_parent, usable_cores
from lumbar_kaggle.core.cluster import on_cluster, open_pool
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import locked, read_json, write_csv, write_json
from lumbar_kaggle.phantom.acquisition import SeriesPlan, Weighting
from lumbar_kaggle.phantom.imaging import Scan
from lumbar_kaggle.phantom.settings import FORMAT, SPLITS, PhantomSet, Stored
from lumbar_kaggle.phantom.study import Part, Rows, StudyPlan, make_table, plan_study, read_study, study_id

log = logging.getLogger(__name__)

# Name → whether a table is part of the truth, the splits that it is of, and which of `study.COLUMNS` it is.
TABLES = {
    "train.csv": (False, ("train",), "labels"),
    "train_label_coordinates.csv": (False, ("train",), "coordinates"),
    "train_series_descriptions.csv": (False, ("train",), "series"),
    "test_series_descriptions.csv": (False, ("test",), "series"),
    "sample_submission.csv": (False, ("test",), "sample"),
    "test.csv": (True, ("test",), "labels"),
    "test_label_coordinates.csv": (True, ("test",), "coordinates"),
    "oracle.csv": (True, SPLITS, "oracle"),
}
MANIFEST = "phantom.json"
SYNTAXES = {  # all are lossless
    "explicit": uid.ExplicitVRLittleEndian, "rle": uid.RLELossless, "jpeg_lossless": uid.JPEGLosslessSV1,
    "jpeg_ls": uid.JPEGLSLossless, "jpeg_2000": uid.JPEG2000Lossless,
}  # fmt: skip
_TIMES = {Weighting.T1: (600.0, 10.0), Weighting.T2: (3600.0, 105.0), Weighting.STIR: (4200.0, 60.0)}  # ms


class Request:
    """What is to be written, and where."""

    def __init__(self, folder: Path, patients: PhantomSet) -> None:
        self.folder, self.patients = folder, patients
        self.truth = folder.with_name(f"{folder.name}-truth")  # of what Kaggle would not show
        self.partial = self.truth / ".partial"  # where everything is written before it is moved into place
        self.numbers = {"train": range(patients.studies), "test": range(patients.test_studies)}  # of the studies

    def manifest(self, *, complete: bool) -> dict[str, Any]:
        """Return what is written to `MANIFEST`."""
        of = self.patients
        numbers = {"studies": of.studies, "test_studies": of.test_studies, "complete": complete}
        varied = {"varied": True} if of.varied else {}
        return {"format": FORMAT, "set": of.name, "seed": of.seed, "clean": of.clean, **varied, **numbers}


def write_set(folder: Path, patients: PhantomSet, *, workers: int | None = None) -> Path:
    """Write synthetic patients as a competition folder; continue where an interrupted run stopped. `folder` gets
    ``train_images/``, ``test_images/`` and the five tables, nothing else; with fewer studies of the same seed in it, it
    grows. One that holds something else is an `InputError`. What a study depends on: see `plan_study`. `workers` are
    processes: None for one per usable core, 1 for none but this. Returned is the folder ``{folder.name}-truth`` beside
    it, with ``test.csv``, ``test_label_coordinates.csv``, ``oracle.csv`` (of both splits) and the manifest."""
    request = Request(Path(folder).resolve(), patients)
    number = f"{patients.studies} + {patients.test_studies}"

    def put(path: Path, write: Callable[[Path, Any], None], content: object) -> None:
        """Write a file among the half-written ones and move it into place, so that a kill leaves none there."""
        write(request.partial / path.name, content)
        os.replace(request.partial / path.name, path)

    with locked(request.folder, file=True):  # beside the folder, which holds nothing but the competition's
        complete = _is_complete(request)
        shutil.rmtree(request.partial, ignore_errors=True)
        if complete:
            log.info(f"{request.folder}: already complete ({number} studies, seed {patients.seed})")
            return request.truth
        log.info(f"Writing {number} phantom studies to {request.folder}")
        put(request.truth / MANIFEST, write_json, request.manifest(complete=False))
        for split in SPLITS:
            (request.folder / f"{split}_images").mkdir(parents=True, exist_ok=True)
        rows = _write_studies(request, usable_cores() if workers is None else workers)
        for name, (of_truth, splits, part) in TABLES.items():
            chosen = [one for split in splits for of, one in rows if of == split]
            put((request.truth if of_truth else request.folder) / name, write_csv, make_table(chosen, part))
        put(request.truth / MANIFEST, write_json, request.manifest(complete=True))
        shutil.rmtree(request.partial)
    return request.truth


def _is_complete(request: Request) -> bool:
    """Return whether nothing is left to do; what this phantom may not touch in the folders is an `InputError`."""
    folder, truth, advice = request.folder, request.truth, "choose another folder or delete it"
    found, wanted = None, request.manifest(complete=True)
    needed: dict[Path, set[str]] = {folder: set(), truth: set()}
    if (truth / MANIFEST).exists():
        found = read_json(truth / MANIFEST)
        plain = {"varied": False}  # what a manifest does not say
        for key in ("format", "set", "seed", "clean", "varied"):
            value, asked = (plain | found).get(key) if isinstance(found, dict) else None, (plain | wanted)[key]
            if value != asked:
                raise InputError(f"{folder}: holds a phantom whose {key} is {value!r}, not {asked!r}; {advice}")
        if found["studies"] > wanted["studies"] or found["test_studies"] > wanted["test_studies"]:
            size = f"{found['studies']} + {found['test_studies']} studies"
            raise InputError(f"{folder}: holds a larger phantom ({size}); {advice}")
        needed = {folder: {f"{split}_images" for split in SPLITS}, truth: {MANIFEST}}
        for name, (of_truth, *_) in TABLES.items():
            needed[truth if of_truth else folder].add(name)
        for split, numbers in request.numbers.items():
            needed[folder / f"{split}_images"] = {str(study_id(wanted["seed"], split, index)) for index in numbers}
    there = {place: {entry.name for entry in place.iterdir()} if place.exists() else set() for place in needed}
    for place, names in needed.items():
        if foreign := sorted(there[place] - names - {request.partial.name}):
            raise InputError(f"{place}: holds {foreign[0]}, which is not this phantom's; {advice}")
    return bool(found == wanted) and all(names <= there[place] for place, names in needed.items())


def _write_studies(request: Request, workers: int) -> list[tuple[str, Rows]]:
    """Write the studies that are not there yet; return split and table rows of each study, by study id."""
    splits, indices = zip(*((split, k) for split, numbers in request.numbers.items() for k in numbers), strict=True)
    make = partial(make_study, request)
    bar = partial(tqdm, total=len(splits), unit="study", desc="phantom", file=sys.stderr)
    if workers == 1 and not on_cluster():
        rows = list(bar(map(make, splits, indices)))
    else:
        with open_pool(workers, _start_worker) as pool:
            rows = list(bar(pool.map(make, splits, indices)))
    return sorted(zip(splits, rows, strict=True), key=lambda pair: pair[1].study_id)


def _start_worker() -> None:
    cv2.setNumThreads(1)
    end_with_parent()


def make_study(request: Request, split: str, index: int) -> Rows:
    """Write one study unless it is there, and return its part of the tables."""
    study = plan_study(request.patients, split, index)
    place = request.folder / f"{split}_images" / str(study.study_id)
    if not place.exists():
        half = request.partial / f"{study.study_id}.{os.getpid()}"
        shutil.rmtree(half, ignore_errors=True)
        write_images(half, study)
        os.replace(half, place)
    return read_study(study)


def write_images(folder: Path, study: StudyPlan) -> None:
    """Write a study's series as ``folder/{series}/{instance}.dcm``."""
    scan = Scan(study)
    for number, (series, identifier) in enumerate(zip(study.series, study.series_ids, strict=True)):
        place = folder / str(identifier)
        place.mkdir(parents=True)
        for k, instance in enumerate(series.numbers):
            file, pixels = place / f"{instance}.dcm", scan.slice(number, k)
            write_instance(file, pixels, study=study, series=number, instance=instance)


def write_instance(path: Path | BinaryIO, pixels: Stored, *, study: StudyPlan, series: int, instance: int) -> None:
    """Write a slice, at most 12 bits (11 if signed), of series number `series`; `instance` is one of its `numbers`."""
    plan, header = study.series[series], _scanner_header if study.standard else _competition_header
    dataset = Dataset()
    for name, value in (header(study, series, instance) | _image_header(plan, pixels, instance)).items():
        if name not in plan.absent:
            setattr(dataset, name, value)
    if plan.syntax == "explicit":
        dataset.add_new("PixelData", "OW", pixels.astype("<u2").tobytes())
    else:
        dataset.add_new("PixelData", "OB", encapsulate([_encoded(pixels, plan)]))
        dataset["PixelData"].is_undefined_length = True
    dataset.file_meta = meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.MRImageStorage if study.standard else uid.EnhancedMRImageStorage
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = dataset.SOPInstanceUID, SYNTAXES[plan.syntax]
    meta.ImplementationClassUID = uid.UID(f"{uid.PYDICOM_ROOT_UID}1")
    meta.ImplementationVersionName = FORMAT.upper().replace("-", "_")
    dcmwrite(path, dataset, enforce_file_format=True)


def _competition_header(study: StudyPlan, series: int, instance: int) -> dict[str, Any]:
    """Return identifiers and description as in the competition: no Modality, and UIDs that are none."""
    identifier = str(study.study_id)
    return {
        "PatientID": identifier, "StudyInstanceUID": identifier, "SOPInstanceUID": f"{identifier}.1.{instance}",
        "SeriesInstanceUID": f"{identifier}.{study.series_ids[series]}",
        "FrameOfReferenceUID": _uid(study, "frame", series),
        "SeriesDescription": "T1" if study.series[series].weighting is Weighting.T1 else "T2",
    }  # fmt: skip


def _scanner_header(study: StudyPlan, series: int, instance: int) -> dict[str, Any]:
    """Return identifiers, sequence and scanner as a hospital's archive has them."""
    plan = study.series[series]
    inverted, vendor = plan.weighting is Weighting.STIR, plan.vendor
    repetition, echo = _TIMES[plan.weighting] * study.rng(Part.HEADER, 1, series).normal(1.0, 0.08, 2)
    weighted = plan.weighting.value + ("" if inverted else f" {vendor.spin_echo}")
    rescaled = study.rng(Part.HEADER, 2).random() < 0.4  # the attributes change nothing
    return {
        "SOPClassUID": uid.MRImageStorage, "SOPInstanceUID": _uid(study, "instance", series, instance),
        "StudyInstanceUID": _uid(study, "study"), "SeriesInstanceUID": _uid(study, "series", series),
        "FrameOfReferenceUID": _uid(study, "frame"), "SeriesNumber": series + 1,
        "PatientName": "PHANTOM", "PatientID": f"P{study.study_id}", "BodyPartExamined": "LSPINE",
        "Modality": "MR", "Manufacturer": vendor.name, "MagneticFieldStrength": plan.tesla,
        "SeriesDescription": f"{'AX' if plan.kind == 'axial_t2' else 'SAG'} {weighted}",
        "ScanningSequence": ["SE", "IR"] if inverted else "SE", "MRAcquisitionType": "2D",
        "RepetitionTime": round(float(repetition)), "EchoTime": round(float(echo), 1),
        **({"InversionTime": 160.0} if inverted else {}),
        **({"RescaleIntercept": 0.0, "RescaleSlope": 1.0, "RescaleType": "US"} if rescaled else {}),
    }  # fmt: skip


def _image_header(plan: SeriesPlan, pixels: Stored, instance: int) -> dict[str, Any]:
    """Return where the slice lies, and how its pixels are stored and shown."""
    plane = plan.planes[plan.numbers.index(instance)]
    low, high = np.percentile(pixels[::4, ::4], plan.vendor.window_percentiles)
    rows, columns = pixels.shape
    return {
        "InstanceNumber": instance, "PatientPosition": "HFS",
        "SliceThickness": plan.thickness, "SpacingBetweenSlices": plan.step,
        "ImagePositionPatient": [_decimal(value) for value in plane.position],
        "ImageOrientationPatient": [_decimal(value) for value in plane.orientation],
        "SliceLocation": _decimal(float(plane.position @ plane.normal)),
        "PixelSpacing": [_decimal(value) for value in plane.spacing],
        "Rows": rows, "Columns": columns, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": int(plan.signed),
        "WindowCenter": str(round((low + high) / 2)), "WindowWidth": str(max(1, round(high - low))),
    }  # fmt: skip


def _encoded(pixels: Stored, plan: SeriesPlan) -> bytes:
    """Return one frame compressed without loss; GDCM does all four syntaxes, in a few milliseconds."""
    import gdcm

    writer = gdcm.ImageWriter()  # owns the image, so it must outlive it
    image = writer.GetImage()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((*pixels.shape[::-1], 1))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, int(plan.signed)))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.ExplicitVRLittleEndian))
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetByteStringValue(pixels.astype("<u2").tobytes())
    image.SetDataElement(element)
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(SYNTAXES[plan.syntax])))
    change.SetInput(image)
    if not change.Change():
        raise RuntimeError(f"GDCM cannot encode {plan.syntax}")
    fragments = change.GetOutput().GetDataElement().GetSequenceOfFragments()
    parts = (fragments.GetFragment(k).GetByteValue().GetBuffer() for k in range(fragments.GetNumberOfFragments()))
    return b"".join(part.encode("utf-8", "surrogateescape") for part in parts)


def _decimal(value: float) -> str:
    """Return a number as decimal text of at most 16 characters."""
    text = f"{value:.8f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text[:16]


def _uid(study: StudyPlan, *what: str | int) -> str:
    """Return a valid UID that depends on the study and on what it names."""
    text = repr((study.patients.seed, study.split, study.index, *what))
    return uid.PYDICOM_ROOT_UID + str(int(hashlib.sha256(text.encode()).hexdigest(), 16))[:36].lstrip("0")
