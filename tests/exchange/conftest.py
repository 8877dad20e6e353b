"""A folder of studies with what occurs in headers, and their reports."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from pydicom.dataset import Dataset

from lumbar_kaggle.cli import main
from tests.conftest import once

ROOT = "1.2.826.0.1.3680043.8.498."
WHOLE, BAD, UNPLACED, UNNAMED = "101", "102", "103", "104"


def edit(study: Path, change: Callable[[Dataset], None]) -> None:
    """Change the header of every file of a study."""
    for path in study.rglob("*.dcm"):
        dataset = pydicom.dcmread(path, force=True)
        change(dataset)
        dataset.save_as(path)


def name_well(dataset: Dataset) -> None:
    """Give a file of the phantom identifiers under a root that exists, and a patient."""
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        setattr(dataset, keyword, ROOT + dataset[keyword].value)
    dataset.SOPInstanceUID = f"{dataset.SeriesInstanceUID}.{dataset.InstanceNumber}"
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName, dataset.PatientBirthDate, dataset.PatientSex = "Müller^Eva", "19610203", "F"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20240507", "101500", "7"


def unname(dataset: Dataset) -> None:
    """Take away what other systems call a study by."""
    del dataset.StudyInstanceUID


def unplace(dataset: Dataset) -> None:
    """Take away where a sagittal slice lies, and the frame of an axial one; write a sex that is no code, and count the
    instances of each series anew, as the competition does."""
    name_well(dataset)
    dataset.SOPInstanceUID = f"{dataset.StudyInstanceUID}.{dataset.InstanceNumber}"
    dataset["PatientSex"]._value = "female"
    if abs(dataset.ImageOrientationPatient[0]) < 0.5:
        del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    elif "FrameOfReferenceUID" in dataset:
        del dataset.FrameOfReferenceUID


@pytest.fixture(scope="session")
def reports(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a competition folder ``studies`` and what was made of it: ``submission.csv``, ``json``, ``sr``."""

    def build(root: Path) -> None:
        images, table = root / "studies" / "test_images", "test_series_descriptions.csv"
        known = pd.read_csv(tiny_set / table, dtype=str)
        source = known["study_id"].iloc[0]
        rows = [known[known["study_id"] == source].assign(study_id=name) for name in (WHOLE, UNPLACED, UNNAMED, BAD)]
        for name, change in ((WHOLE, name_well), (UNPLACED, unplace), (UNNAMED, unname)):
            shutil.copytree(tiny_set / "test_images" / source, images / name)
            edit(images / name, change)
        (bad,) = rows[-1]["series_id"].iloc[:1]
        (images / BAD / bad).mkdir(parents=True)
        (images / BAD / bad / "1.dcm").write_bytes(bytes(500))
        rows[2:] = [part.iloc[:1] for part in rows[2:]]
        pd.concat(rows).to_csv(root / "studies" / table, index=False)
        assert main([*map(str, command(root))]) == 0

    return once(tmp_path_factory, "reports", build)


def command(root: Path) -> list[object]:
    """The words that make the reports in a folder, by the models in the box."""
    folders = ["--json", root / "json", "--dicom-sr", root / "sr"]
    return ["predict", root / "studies", "--out", root / "submission.csv", *folders]


def images(root: Path, study: str = WHOLE) -> Path:
    """The folder of a study."""
    return root / "studies" / "test_images" / study
