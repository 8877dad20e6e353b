"""The phantom as a competition folder: layout, bytes, headers, resuming, refusing."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import LEVELS, SAMPLE_ORDER, SERIES_DESCRIPTIONS, SEVERITY_WORDS, TARGET_NAMES
from lumbar_kaggle.dicom.geometry import to_patient
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.generate import MANIFEST, Request, make_study
from lumbar_kaggle.phantom.settings import STANDARD_SETS, PhantomSet

STUDIES, TEST_STUDIES, SEED = 2, 1, 7
PATIENTS = PhantomSet("", SEED, STUDIES, TEST_STUDIES)
QUICK = PhantomSet("", SEED, 3, TEST_STUDIES, STANDARD_SETS["tiny"].scanners)
"""Other patients on a scanner of small pictures, written in seconds."""


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file of a competition folder and of its truth folder."""
    return {
        f"{place.name.endswith('-truth')}/{file.relative_to(place)}": hashlib.sha256(file.read_bytes()).hexdigest()
        for number, place in enumerate((folder, folder.with_name(f"{folder.name}-truth")))
        for file in sorted(place.rglob("*"))
        if file.is_file()
    }


def written(folder: Path) -> dict[Path, tuple[int, int]]:
    """Which file it is and when it was written, for every file of a competition folder and of its truth folder."""
    places = folder, folder.with_name(f"{folder.name}-truth")
    status = {file: file.stat() for place in places for file in place.rglob("*") if file.is_file()}
    return {file: (one.st_ino, one.st_mtime_ns) for file, one in status.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("phantom") / "competition"
    write_set(place, PATIENTS, workers=1)
    return place


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("quick") / "competition"
    write_set(place, QUICK, workers=1)
    return place


def test_the_layout_is_the_competitions(folder: Path) -> None:
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "sample_submission.csv",
        "test_images",
        "test_series_descriptions.csv",
        "train.csv",
        "train_images",
        "train_label_coordinates.csv",
        "train_series_descriptions.csv",
    ]
    truth = folder.with_name("competition-truth")
    assert sorted(entry.name for entry in truth.iterdir()) == [
        "oracle.csv",
        MANIFEST,
        "test.csv",
        "test_label_coordinates.csv",
    ]
    for split in ("train", "test"):
        series = pd.read_csv(folder / f"{split}_series_descriptions.csv")
        assert list(series) == ["study_id", "series_id", "series_description"]
        assert set(series.series_description) <= set(SERIES_DESCRIPTIONS)
        written = {tuple(map(int, place.parts[-2:])) for place in (folder / f"{split}_images").glob("*/*")}
        assert written == set(zip(series.study_id, series.series_id, strict=True))


def test_the_tables_have_the_real_spellings(folder: Path) -> None:
    train = pd.read_csv(folder / "train.csv")
    assert list(train) == ["study_id", *TARGET_NAMES]
    assert len(train) == STUDIES
    assert train.study_id.is_monotonic_increasing
    assert set(train[list(TARGET_NAMES)].stack().dropna()) <= set(SEVERITY_WORDS)
    points = pd.read_csv(folder / "train_label_coordinates.csv")
    assert list(points) == ["study_id", "series_id", "instance_number", "condition", "level", "x", "y"]
    assert set(points.level) == {level.replace("_", "/").upper() for level in LEVELS}
    assert "Left Neural Foraminal Narrowing" in set(points.condition)
    sample = pd.read_csv(folder / "sample_submission.csv")
    assert list(sample) == ["row_id", "normal_mild", "moderate", "severe"]
    study = next((folder / "test_images").iterdir()).name
    assert list(sample.row_id) == [f"{study}_{name}" for name in SAMPLE_ORDER]
    assert (sample.iloc[:, 1:] == 0.333333).all(axis=None)


def test_every_file_is_readable_and_in_place(folder: Path) -> None:
    for file in folder.glob("*_images/*/*/*.dcm"):
        dataset = pydicom.dcmread(file)
        assert int(dataset.InstanceNumber) == int(file.stem)
        pixels = dataset.pixel_array
        assert pixels.shape == (dataset.Rows, dataset.Columns)
        assert 0 <= pixels.min() < pixels.max() <= 4095
        assert pixels.std() > 20
        np.testing.assert_allclose(np.linalg.norm(np.reshape(dataset.ImageOrientationPatient, (2, 3)), axis=1), 1)


def test_competition_headers_have_their_peculiarities(folder: Path) -> None:
    datasets = [pydicom.dcmread(file) for file in folder.glob("*_images/*/*/1.dcm")]
    peculiar = [dataset for dataset in datasets if "Modality" not in dataset]
    assert peculiar
    for dataset in peculiar:
        study = dataset.PatientID
        assert dataset.StudyInstanceUID == study
        assert study.isdigit()
        assert dataset.SeriesInstanceUID.startswith(f"{study}.")
        assert dataset.SOPInstanceUID == f"{study}.1.1"
        assert dataset.file_meta.MediaStorageSOPClassUID.name == "Enhanced MR Image Storage"
        assert dataset.SeriesDescription in ("T1", "T2")
        assert "RescaleSlope" not in dataset


def located(folder: Path) -> pd.DataFrame:
    """Label coordinates with their patient coordinates, by way of the headers."""
    points = pd.read_csv(folder / "train_label_coordinates.csv")
    places = []
    for row in points.itertuples():
        file = folder / "train_images" / str(row.study_id) / str(row.series_id) / f"{row.instance_number}.dcm"
        dataset = pydicom.dcmread(file, stop_before_pixels=True)
        assert 0 <= row.x < dataset.Columns
        assert 0 <= row.y < dataset.Rows
        geometry = dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing
        places.append(to_patient(row.y, row.x, *geometry))
    return points.join(pd.DataFrame(places, columns=["left", "back", "up"]))


def test_left_is_left_and_the_series_agree(folder: Path) -> None:
    points = located(folder)
    points["side"] = points.condition.str.split().str[0]
    points["group"] = points.condition.str.split().str[1:].str.join(" ")
    table = points.set_index(["study_id", "level", "group", "side"]).sort_index()
    for key, pair in table.groupby(level=[0, 1, 2]):
        if len(pair) == 2:
            assert pair.loc[(*key, "Left"), "left"] > pair.loc[(*key, "Right"), "left"] + 5
            if "Subarticular" in key[2]:
                assert pair.loc[(*key, "Left"), "x"] > pair.loc[(*key, "Right"), "x"]
    for _, level in points.groupby(["study_id", "level"]):
        # Foramina lie a little above the disc; the rest is reader's jitter and slices between.
        middle = level.groupby("group")[["back", "up"]].mean()
        assert (middle.max() - middle.min()).max() < 16
        canal, recess = (level[level.group.str.contains(name)] for name in ("Canal", "Subarticular"))
        if len(canal) and len(recess) == 2:
            assert np.abs(canal.left.mean() - recess.left.mean()) < 5
            assert np.abs(canal.up.mean() - recess.up.mean()) < 8


def test_bytes_do_not_depend_on_workers_nor_on_the_size(quick: Path, tmp_path: Path) -> None:
    again = tmp_path / "competition"
    write_set(again, replace(QUICK, studies=1), workers=2)
    write_set(again, QUICK, workers=2)
    assert contents(again) == contents(quick)


def test_a_killed_run_continues_to_the_same_bytes(quick: Path, tmp_path: Path) -> None:
    again = tmp_path / "competition"
    script = (
        "import sys; from pathlib import Path; from lumbar_kaggle.phantom import write_set\n"
        "from tests.phantom.test_phantom import QUICK\n"
        "write_set(Path(sys.argv[1]), QUICK, workers=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(again)], stderr=subprocess.DEVNULL)
    partial = tmp_path / "competition-truth" / ".partial"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        done = len(list(again.glob("train_images/*")))
        if done in (1, 2) and len(list(partial.glob("*/*"))) > 1:  # in the middle of the second study, or the third
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    write_set(again, QUICK, workers=1)
    assert contents(again) == contents(quick)


def test_a_complete_folder_is_left_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    before = written(folder)
    truth = write_set(folder, PATIENTS)
    assert written(folder) == before
    assert truth == folder.with_name("competition-truth")
    assert "already complete" in caplog.text


def test_a_deleted_study_is_written_again(quick: Path, tmp_path: Path) -> None:
    copy = tmp_path / "competition"
    shutil.copytree(quick, copy)
    shutil.copytree(quick.with_name("competition-truth"), tmp_path / "competition-truth")
    shutil.rmtree(next((copy / "test_images").iterdir()))
    write_set(copy, QUICK, workers=1)
    assert contents(copy) == contents(quick)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"seed": 8}, "whose seed is", id="seed"),
        pytest.param({"clean": True}, "whose clean is False, not True", id="clean"),
        pytest.param({"studies": 1}, "larger phantom", id="smaller"),
        pytest.param({"studies": 0}, "studies is 0; it must be 1 or more", id="no study"),
        pytest.param({"seed": -1}, "seed is -1; it must be 0 or more", id="negative seed"),
    ],
)
def test_another_phantom_is_refused(folder: Path, changes: dict[str, Any], words: str) -> None:
    before = contents(folder)
    with pytest.raises(InputError, match=words):
        write_set(folder, replace(PATIENTS, **changes))
    assert contents(folder) == before


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("")
    with pytest.raises(InputError, match=r"not this phantom's; choose another folder or delete it"):
        write_set(tmp_path, PhantomSet("", 0, 1, 0))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["holiday.jpg"]


def test_a_study_that_is_there_is_not_written_again(folder: Path) -> None:
    request = Request(folder, PATIENTS)
    before = written(folder)
    rows = make_study(request, "train", 0)
    assert written(folder) == before
    assert len(rows.labels) == 26
