"""The contact sheet: who is on it, what is drawn, where it goes."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.phantom.inspection import COLOURS, PANELS, choose_studies, contact_sheet, write_preview


@pytest.fixture(scope="module")
def sheet() -> np.ndarray:
    return contact_sheet(seed=3)


def test_the_three_patients_are_of_rising_degeneration() -> None:
    sums = [study.grades.severity.sum() for study in choose_studies(5, candidates=20)]
    assert sums[0] < sums[1] < sums[2]
    assert sums[2] > 2 * sums[0]


def test_every_panel_has_a_picture_and_the_points_their_colours(sheet: np.ndarray) -> None:
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3
    assert 1400 <= sheet.shape[1] <= 1700
    # The middle of each third are pictures: every column of panels is bright somewhere in each of them.
    for strip in np.array_split(sheet, 3):
        for part in np.array_split(strip[len(strip) // 4 : -len(strip) // 4], len(PANELS), axis=1):
            assert part.std() > 30
    for colour in COLOURS:
        wanted = np.array(to_rgb(colour)) * 255
        assert np.abs(sheet - wanted).max(axis=2).min() <= 10


def test_the_same_seed_gives_the_same_sheet(sheet: np.ndarray) -> None:
    np.testing.assert_array_equal(contact_sheet(seed=3), sheet)


def test_varied_patients_are_the_same_ones_drawn_otherwise(sheet: np.ndarray) -> None:
    """Same identifiers, sums and labels, so that the two sheets can be laid beside each other."""
    plain, varied = choose_studies(3, candidates=20), choose_studies(3, candidates=20, varied=True)
    for one, other in zip(plain, varied, strict=True):
        assert one.study_id == other.study_id
        np.testing.assert_array_equal(one.grades.labels, other.grades.labels)
    changed = (contact_sheet(seed=3, varied=True) != sheet).any(axis=2)
    assert changed[len(sheet) // 8 : len(sheet) // 4].mean() > 0.1


def test_the_file_is_a_small_picture(tmp_path: Path) -> None:
    path = write_preview(tmp_path / "sheet.png", seed=3)
    assert path.stat().st_size < 400_000
    image = cv2.imread(str(path))
    assert image is not None
    assert 1400 <= image.shape[1] <= 1700


@pytest.mark.parametrize("name", ["sheet.jpg", "sheet"])
def test_another_kind_of_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"ends in \.png"):
        write_preview(tmp_path / name)


def test_the_command_writes_the_sheet_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["phantom", "--preview"]) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["phantom.png"]
    assert "phantom.png" in capsys.readouterr().out
