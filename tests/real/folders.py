"""Two public sets of sagittal slices → folders in the competition's layout, which every verb reads.

Both give pictures of 8 bits without spacing or position, and so do the files that are written: each picture is a
study of one series of one slice. Levels are counted upwards from the lowest disc, as the sets themselves do it.
Folds have to be split by patients: see `patients.csv` beside the tables.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from lumbar_kaggle.core.targets import CONDITIONS, LEVELS
from tests.real.marks import read_marks

CANAL = CONDITIONS[0]
KINDS = {"sagittal_t1": "Sagittal T1", "sagittal_t2": "Sagittal T2/STIR"}
SEVERITY = {"No": "Normal/Mild", "Mild": "Moderate", "Serious": "Severe"}
"""The Mendeley set's words for the significance of a narrowed canal, in the order of the competition's grades."""

BEHIND = 0.7
"""From a disc's centre to the middle of the canal, in distances of discs. On the masks of the SPIDER set the median is
0.72 to 0.78 from L1/L2 to L4/L5 and 0.90 at L5/S1."""

GAP = 1.3
"""A longer step between two discs, in median steps of the picture, has a disc in it that was not marked: 1.37 in one
patient of the Mendeley set, 1.21 at most in the others."""

SMALLEST_DISC = 0.0004
"""Smaller parts of a mask, as shares of the picture, are crumbs of a disc at the edge of a slice."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One picture: its patient, kind, pixels `[rows, columns]` uint8, and column and row of canal points by level."""

    patient: int
    kind: str
    pixels: NDArray[np.uint8]
    points: dict[str, tuple[float, float]]


def write_folder(
    folder: Path, slices: list[Slice], grades: pd.DataFrame | None = None, narrowed: pd.DataFrame | None = None
) -> None:
    """Write a training folder; `grades`: columns ``patient, level, severity`` of the canal, where they are known.
    Columns ``patient, level, stenosis`` of `narrowed`, whether a picture of the patient was marked as narrowed there,
    go by study into ``stenosis.csv``, which the competition does not have."""
    series_rows, point_rows, patients = [], [], {}
    for number, one in enumerate(slices, start=1):
        study = one.patient * 1000 + number
        patients[study] = one.patient
        series_rows.append((study, study, KINDS[one.kind]))
        for level, (column, row) in one.points.items():
            point_rows.append((study, study, 1, CANAL, level.replace("_", "/").upper(), column, row))
        path = folder / "train_images" / str(study) / str(study) / "1.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        _dataset(one, study).save_as(path, enforce_file_format=True)
    table = pd.Series(patients, name="patient").rename_axis("study_id").reset_index()
    table.to_csv(folder / "patients.csv", index=False)
    columns = [f"{condition}_{level}" for condition in CONDITIONS for level in LEVELS]
    labels = pd.DataFrame("", index=pd.Index(list(patients), name="study_id"), columns=columns)
    if grades is not None:
        known = table.merge(grades, on="patient")
        known = known.pivot(index="study_id", columns="level", values="severity").add_prefix(f"{CANAL}_")
        labels.update(known)
    if narrowed is not None:
        table.merge(narrowed, on="patient").drop(columns="patient").to_csv(folder / "stenosis.csv", index=False)
    labels.to_csv(folder / "train.csv")
    names = ["study_id", "series_id", "series_description"]
    pd.DataFrame(series_rows, columns=names).to_csv(folder / "train_series_descriptions.csv", index=False)
    names = ["study_id", "series_id", "instance_number", "condition", "level", "x", "y"]
    points = pd.DataFrame(point_rows, columns=names)
    points["condition"] = points["condition"].str.replace("_", " ").str.title()
    points.to_csv(folder / "train_label_coordinates.csv", index=False)


def write_real(data: Path, out: Path) -> list[Path]:
    """Write the folders of both sets into `out`, where they are not there yet; return them."""
    mendeley, spider = out / "mendeley", out / "spider"
    if not (mendeley / "train_label_coordinates.csv").is_file():
        write_folder(mendeley, *read_mendeley(data / "mendeley"))
    if not (spider / "train_label_coordinates.csv").is_file():
        write_folder(spider, read_spider(data / "spider"))
    return [mendeley, spider]


def _dataset(one: Slice, study: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, generate_uid(entropy_srcs=[str(study)])
    dataset.Modality, dataset.InstanceNumber, dataset.SeriesDescription = "MR", 1, KINDS[one.kind]
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study", str(study)])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series", str(study)])
    dataset.Rows, dataset.Columns = one.pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = one.pixels.tobytes() + b"\0" * (one.pixels.size % 2)
    return dataset


def read_mendeley(data: Path) -> tuple[list[Slice], pd.DataFrame, pd.DataFrame]:
    """Return the slices, the canal's grades, columns ``patient, level, severity`` (L3/L4 to L5/S1), and ``patient,
    level, stenosis``: 1 where it was marked as narrowed on any of the patient's pictures."""
    table = read_marks(data)
    slices = []
    for (patient, image, kind), rows in table.groupby(["patient", "image", "kind"]):
        pixels = _read(data / "images" / str(image))
        # Pictures that several annotators marked, and those with a missing level, are off by one somewhere.
        marks = rows.groupby("level")[["column", "row"]].median().reindex(list(LEVELS))
        if len(rows) != len(LEVELS) or marks.isna().to_numpy().any():
            continue
        discs = marks.to_numpy(dtype=np.float64)
        steps = np.linalg.norm(np.diff(discs, axis=0), axis=1)
        if steps.max() < GAP * np.median(steps):
            slices.append(Slice(int(patient), str(kind), pixels, _behind(discs)))
    grades = table[table["reported"].isin(SEVERITY)].drop_duplicates(["patient", "level"])
    severity = grades["reported"].map(SEVERITY)
    narrowed = table.groupby(["patient", "level"], as_index=False)["stenosis"].max()
    return slices, grades[["patient", "level"]].assign(severity=severity), narrowed


def _behind(discs: NDArray[np.float64]) -> dict[str, tuple[float, float]]:
    """Return the canal's point of each level from the discs' centres `[5, 2]` (column, row), head first.

    It lies behind the centre, see `BEHIND`, at right angles to the spine; the back is on the right.
    """
    along = np.gradient(discs, axis=0)
    backwards = np.stack([along[:, 1], -along[:, 0]], axis=1)
    points = discs + BEHIND * backwards
    return {level: (float(column), float(row)) for level, (column, row) in zip(LEVELS, points, strict=True)}


def read_spider(data: Path) -> list[Slice]:
    """Return the slices on which the five lowest discs and the canal behind at least three of them are masked."""
    slices = []
    for path in sorted((data / "images").glob("*.jpg")):
        mask = cv2.imread(str(data / "masks" / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE)
        count, _, stats, centres = cv2.connectedComponentsWithStats((mask == 1).astype(np.uint8))
        large = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] > SMALLEST_DISC * mask.size]
        discs = centres[sorted(large, key=lambda k: centres[k, 1])][-len(LEVELS) :]
        if len(discs) < len(LEVELS):
            continue
        points = _in_canal(discs, mask == 3)
        if len(points) >= 3:
            slices.append(Slice(int(path.stem.split("-")[0]), "sagittal_t2", _read(path), points))
    return slices


def _in_canal(discs: NDArray[np.float64], canal: NDArray[np.bool_]) -> dict[str, tuple[float, float]]:
    """Return the middle of the masked canal on the line from each disc backwards, where that line meets it."""
    points = {}
    guesses = _behind(discs)
    for level, disc in zip(LEVELS, discs, strict=True):
        steps = np.linspace(0, 2.5, 200)[:, None]
        line = disc + steps * (np.array(guesses[level]) - disc)
        column, row = np.clip(np.rint(line).astype(int), 0, np.array(canal.shape[::-1]) - 1).T
        inside = canal[row, column]
        if inside.any():
            middle = line[inside].mean(axis=0)
            points[level] = (float(middle[0]), float(middle[1]))
    return points


def _read(path: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), dtype=np.uint8)
