"""The contact sheet: who is on it, what is drawn, where it goes."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from lumbar_kaggle.cli import main
from lumbar_kaggle.errors import InputError
from lumbar_kaggle.phantom.preview import (
    COLOURS,
    PANEL_PX,
    PANELS,
    choose_studies,
    contact_sheet,
    cut_patch,
    write_preview,
)
from lumbar_kaggle.phantom.rendering import Plane


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
    # Where the rows of pictures lie: every column of panels is bright somewhere in each of them.
    step = (sheet.shape[0] - 44) // 3
    for row in range(3):
        strip = sheet[44 + row * step : 44 + row * step + PANEL_PX]
        for part in np.array_split(strip, len(PANELS), axis=1):
            assert part.std() > 30
    # Older OpenCV draws no pixel of a smoothed circle or letter in quite its full colour.
    for colour in COLOURS:
        assert np.abs(sheet.astype(int) - colour).max(axis=2).min() <= 10


def test_the_same_seed_gives_the_same_sheet(sheet: np.ndarray) -> None:
    np.testing.assert_array_equal(contact_sheet(seed=3), sheet)


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


def test_a_patch_lies_around_its_point() -> None:
    image = np.zeros((50, 60), np.uint16)
    image[20, 30] = 1000
    plane = Plane(np.array([5.0, 7.0, 9.0]), np.array([0.0, 1, 0, 0, 0, -1]), (0.5, 0.5), (50, 60))
    point = np.array([5.0, 7.0 + 15.0, 9.0 - 10.0])
    patch = cut_patch(image, plane, point, (5.0, 10.0), (11, 21))
    assert patch.shape == (11, 21)
    assert np.unravel_index(patch.argmax(), patch.shape) == (5, 10)
    corner = cut_patch(image, plane, plane.position, (5.0, 10.0), (11, 21))
    assert (corner[:5] == 0).all()
