"""Copies of the two public sets of real slices become folders in the competition's layout; here drawn in their form."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom.studies import check
from lumbar_kaggle.tables.competition import read_competition
from tests.real.folders import read_mendeley, read_spider, write_folder

DISCS = [(100 - 6 * k, 60 + 40 * k) for k in range(6)]
"""Column and row of six discs; the canal runs 30 px behind them."""


@pytest.fixture
def mendeley(tmp_path: Path) -> Path:
    """Two patients, T1 and T2 each; of the second one a level was not marked."""
    folder = tmp_path / "mendeley"
    (folder / "images").mkdir(parents=True)
    rows = []
    for patient in (7, 9):
        for kind in ("sagittal_t1", "sagittal_t2"):
            image = f"{patient:04}-{kind[-2:]}.jpg"
            cv2.imwrite(str(folder / "images" / image), np.full((300, 200), 90, np.uint8))
            marked = zip(LEVELS, DISCS, strict=False)
            narrow = "l3_l4" if kind.endswith("t2") else ""
            rows += [
                (patient, image, kind, level, *disc, "", int(level == narrow), "Serious" if level == "l4_l5" else "")
                for level, disc in marked
                if (patient, level) != (9, "l1_l2")
            ]
    names = ["patient", "image", "kind", "level", "column", "row", "disc", "stenosis", "reported"]
    pd.DataFrame(rows, columns=names).to_csv(folder / "levels.csv", index=False)
    return folder


def test_marks_of_another_patient_are_not_taken(mendeley: Path) -> None:
    """T1 bears T2's marks where its own are others; alone, with another patient's marks, it is left out."""
    table = pd.read_csv(mendeley / "levels.csv")
    slipped, whole = table["image"] == "0007-t1.jpg", table["image"] == "0007-t2.jpg"
    alone = table[whole].assign(patient=8, image="0008-t1.jpg", kind="sagittal_t1")
    table.loc[slipped, "column"] += 40
    table.loc[slipped, "stenosis"] += 1
    pd.concat([table, alone]).to_csv(mendeley / "levels.csv", index=False)
    slices, _, narrowed = read_mendeley(mendeley)
    assert [one.patient for one in slices] == [7, 7]
    assert slices[0].points == slices[1].points
    assert set(narrowed["patient"]) == {7, 9}
    assert narrowed.loc[narrowed["patient"] == 7, "stenosis"].sum() == 1, "of T2, not of the slipped T1"


def test_a_picture_with_a_disc_left_out_is_left_out(mendeley: Path) -> None:
    """All five levels are marked there, but one disc between them is not."""
    table = pd.read_csv(mendeley / "levels.csv")
    upper = (table["patient"] == 7) & table["level"].isin(["l1_l2", "l2_l3"])
    table.loc[upper, "row"] -= 40
    table.to_csv(mendeley / "levels.csv", index=False)
    assert read_mendeley(mendeley)[0] == []


@pytest.fixture
def spider(tmp_path: Path) -> Path:
    """One slice with six discs and the canal, and one beside the canal."""
    folder = tmp_path / "spider"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in (50, 70):
        mask = np.zeros((300, 200), np.uint8)
        for column, row in DISCS:
            cv2.ellipse(mask, (column, row), (16, 6), 0, 0, 360, 1, -1)
        if number == 50:
            ends = np.array([(column + 30, row) for column, row in (DISCS[0], DISCS[-1])], np.int32)
            cv2.polylines(mask, [ends], isClosed=False, color=3, thickness=9)
        cv2.imwrite(str(folder / "masks" / f"012-{number:03}.png"), mask)
        cv2.imwrite(str(folder / "images" / f"012-{number:03}.jpg"), np.full(mask.shape, 90, np.uint8))
    return folder


def test_marks_of_discs_become_points_of_the_canal_behind_them(mendeley: Path, tmp_path: Path) -> None:
    """Grades come from the report; a picture without all five levels is left out."""
    slices, grades, narrowed = read_mendeley(mendeley)
    write_folder(tmp_path / "folder", slices, grades, narrowed)
    assert check(tmp_path / "folder") == []
    competition = read_competition(tmp_path / "folder", "train")
    assert sorted(competition.series["kind"]) == ["sagittal_t1", "sagittal_t2"]
    assert list(pd.read_csv(tmp_path / "folder" / "patients.csv")["patient"]) == [7, 7]
    labels = pd.read_csv(tmp_path / "folder" / "train.csv").set_index("study_id")
    assert (labels.pop("spinal_canal_stenosis_l4_l5") == "Severe").all()
    assert labels.isna().all(axis=None)
    stenosis = pd.read_csv(tmp_path / "folder" / "stenosis.csv")
    assert list(stenosis.loc[stenosis["stenosis"] == 1, "level"]) == ["l3_l4"] * 2
    for one in slices:
        for level, disc in zip(LEVELS, DISCS, strict=False):
            offset = np.subtract(one.points[level], disc)
            assert 24 < offset[0] < 32, "behind the disc by seven tenths of a disc distance"
            assert abs(offset[1]) < 7


def test_masks_of_discs_and_canal_become_points(spider: Path, tmp_path: Path) -> None:
    """The five lowest discs count, and slices that show the canal."""
    (one,) = read_spider(spider)
    assert one.patient == 12
    for level, (column, row) in zip(LEVELS, DISCS[1:], strict=True):
        assert np.hypot(*np.subtract(one.points[level], (column + 30, row))) < 5
    write_folder(tmp_path / "folder", [one])
    assert check(tmp_path / "folder") == []
