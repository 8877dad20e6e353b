"""The locator: points in the patient, chains of levels, learning from coordinates alone."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom.instances import read_instances
from lumbar_kaggle.dicom.preprocess import windowed_stacks
from lumbar_kaggle.dicom.series import read_series
from lumbar_kaggle.dicom.volume import ASSUMED_FIELD_MM, ASSUMED_STEP_MM, Volume
from lumbar_kaggle.inference.bundle import models_in_the_box
from lumbar_kaggle.inference.recipes import recipe
from lumbar_kaggle.tables.competition import read_marked
from lumbar_kaggle.two_stage.config import LocateConfig
from lumbar_kaggle.two_stage.locate.chain import best_chain, refine
from lumbar_kaggle.two_stage.locate.find import COLUMNS as POINT_COLUMNS
from lumbar_kaggle.two_stage.locate.find import Locator, Picture, locate_sagittal
from lumbar_kaggle.two_stage.locate.fit import LocatorRun
from lumbar_kaggle.two_stage.locate.training import PRESENT, augment, compressed, heat_maps
from tests.support.dicom_files import AXIAL, SAGITTAL, rewrite, write_slice

SMALL = LocateConfig(
    folds=2,
    epochs=14,
    batch_size=4,
    lr=1e-2,
    pixel_mm=4.0,
    picture=(64, 48),
    slices=3,
    channels=(8, 12, 16, 16, 16),
    mixed_precision=False,
)

ROWS, COLUMNS, SPACING = 120, 90, 2.0
"""Of the sagittal slices of the test patients: 240 × 180 mm."""


def maps_with(peaks: list[dict[tuple[int, int], float]]) -> np.ndarray:
    """Five maps of 60 × 20 cells with the given probabilities."""
    maps = np.full((5, 60, 20), 1e-9)
    for level, found in enumerate(peaks):
        for (row, column), value in found.items():
            maps[level, row, column] = value
    return maps


def test_a_chain_of_clear_peaks_is_found() -> None:
    """One peak a level, 36 mm apart at 3 mm a cell."""
    places = [(5 + 12 * level, 10) for level in range(5)]
    chain = best_chain(maps_with([{place: 0.9} for place in places]), 3.0)
    assert chain is not None
    np.testing.assert_array_equal(chain, places)


def test_one_wrong_peak_does_not_shift_the_others() -> None:
    """Level three is seen, more strongly, at level four's place; the chain keeps its order and spacing."""
    places = [(5 + 12 * level, 10) for level in range(5)]
    peaks = [{place: 0.9} for place in places]
    peaks[2] = {places[2]: 0.25, places[3]: 0.7}
    peaks[4] = {places[4]: 0.4, (58, 3): 0.5}
    chain = best_chain(maps_with(peaks), 3.0)
    assert chain is not None
    np.testing.assert_array_equal(chain, places)


def test_a_level_that_is_not_seen_takes_a_place_between_its_neighbours() -> None:
    """Its own map is empty, but other levels' faint peaks are candidates too."""
    places = [(5 + 12 * level, 10) for level in range(5)]
    peaks = [{place: 0.9} for place in places]
    peaks[1] = {}
    peaks[0][places[1]] = 0.05
    chain = best_chain(maps_with(peaks), 3.0)
    assert chain is not None
    np.testing.assert_array_equal(chain, places)


class Seeing(Locator):
    """A network that sees what it is told: per slice maps ``[10, rows, columns]``."""

    def __init__(self, maps: np.ndarray) -> None:
        super().__init__((4, 4, 4, 4, 4), 10)
        self.found = torch.from_numpy(maps).float()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return them as log-probabilities, whatever the pictures."""
        flat = self.found[: len(pictures)].flatten(2)
        return torch.cat([flat, 1 - flat.sum(dim=2, keepdim=True)], dim=2).clamp(min=1e-9).log()


def test_foramina_are_of_the_level_that_the_canal_says() -> None:
    """On either side their maps are surer of the next level's foramen; the canal's chain is sure of its own."""
    config = LocateConfig(pixel_mm=2.0, picture=(128, 64))
    maps = np.full((3, 10, 64, 32), 1e-7)
    for level in range(5):
        row = 8 + 9 * level
        maps[1, level, row, 16] = 0.9
        for outer in (0, 2):
            maps[outer, 5 + level, row - 2, 15] = 0.2
            maps[outer, 5 + level, row + 7, 15] = 0.7
    volume = stack_of(np.zeros((3, 120, 100), np.uint8)).completed()
    rows = list(locate_sagittal("1", volume, [Seeing(maps)], config))
    height = {(row[3], row[4]): row[POINT_COLUMNS.index("z_mm")] for row in rows}
    for level in LEVELS:
        for side in ("left foramen", "right foramen"):
            assert 4 < height[side, level] - height["canal", level] < 12


def test_without_five_candidates_there_is_no_chain() -> None:
    """Nothing is made up."""
    assert best_chain(maps_with([{(5, 10): 0.9}] * 5), 3.0) is None


def test_refining_finds_the_centroid_and_its_mass() -> None:
    """Between two cells, by their weights."""
    maps = maps_with([{(20, 10): 0.3, (20, 11): 0.1}] * 5)
    place, mass = refine(maps[0], np.array([20, 10]))
    np.testing.assert_allclose(place, [20, 10.25], atol=1e-4)
    assert mass == pytest.approx(0.4, abs=1e-4)


def stack_of(images: np.ndarray) -> Volume:
    """Sagittal slices 4 mm apart from x = -4."""
    count = len(images)
    positions = np.array([[-4.0 + 4 * k, -30.0, 60.0] for k in range(count)])
    tables = np.tile(SAGITTAL, (count, 1)), np.tile([1.5, 1.2], (count, 1))
    return Volume(images, positions, *tables, tuple(range(1, count + 1)))


def test_a_bright_spot_keeps_its_place_through_the_picture() -> None:
    """Slice to picture and back, with anisotropic pixels."""
    image = np.zeros((1, 100, 110), np.uint8)
    image[0, 58:63, 28:33] = 255
    stack = stack_of(image)
    picture = Picture(stack, 0, (96, 80), 2.0)
    expected = picture.from_slice(60.0, 30.0)
    rows, columns = np.nonzero(picture.image() > 100)
    np.testing.assert_allclose([columns.mean(), rows.mean()], expected, atol=0.5)
    np.testing.assert_allclose(picture.to_slice(expected), [60, 30])


def test_points_go_to_the_patient_and_back_with_and_without_geometry(tmp_path: Path) -> None:
    """Without positions and spacing the frame is an assumed one, and still one to one."""
    for number in range(1, 4):
        pixels = np.arange(400, dtype=np.uint16).reshape(20, 20) + number
        write_slice(tmp_path / f"{number}.dcm", pixels, position=None, orientation=None, number=number)
    bare = windowed_stacks(read_series(tmp_path))[0]
    assert not bare.placed
    assert not bare.measured
    assert np.ptp(bare.positions[:, 0]) == pytest.approx(2 * ASSUMED_STEP_MM)
    for stack in (stack_of(np.zeros((3, 20, 20), np.uint8)), bare):
        row, column, distance = stack.to_slice(1, stack.to_patient(1, 7.5, 3.25))
        assert (float(row), float(column)) == pytest.approx((7.5, 3.25))
        assert float(distance) == pytest.approx(0.0, abs=1e-9)


def under_its_point(pictures: Tensor, points: Tensor) -> NDArray[np.float64]:
    """Return how far the brightest spot of each picture is from the points ``[n, channels, 2]`` of it, in pixels."""
    missed = []
    for image, found in zip(pictures.numpy(), points.numpy(), strict=True):
        bright = cv2.GaussianBlur(image, (0, 0), 2.0)
        row, column = np.unravel_index(int(bright.argmax()), bright.shape)
        missed.append(np.linalg.norm(found - (column, row), axis=1))
    return np.array(missed)


def test_augmentation_moves_image_and_points_together() -> None:
    """A bright spot stays under its point, mirrored or not; mirrored channels change places."""
    torch.manual_seed(3)
    images = torch.zeros(60, 64, 96, dtype=torch.uint8)
    images[:, 18:23, 48:53] = 255
    places = torch.tensor([[50.0, 20.0], [20.0, 50.0]]).expand(60, 2, 2)
    pictures, points, _ = augment((images, places, torch.full((60, 2), PRESENT)))
    missed = under_its_point(pictures, points)
    assert missed.min(axis=1).max() < 3
    assert 15 < (missed.argmin(axis=1) == 1).sum() < 45
    _, points, _ = augment((images, places.repeat(1, 5, 1), torch.full((60, 10), PRESENT)))
    assert (points[:, 0, 0] > points[:, 1, 0]).all()


def test_augmentation_bends_sagittal_pictures() -> None:
    """Points on a straight line do not stay on one, a spot stays under its point, and one not known stays so."""
    torch.manual_seed(3)
    images = torch.zeros(60, 64, 96, dtype=torch.uint8)
    images[:, 27:32, 46:51] = 255
    line = torch.stack([torch.full((10,), 48.0), torch.linspace(4, 60, 10)], dim=1)
    line[9] = torch.nan
    pictures, points, _ = augment((images, line.expand(60, 10, 2), torch.full((60, 10), PRESENT)))
    assert points[:, 9].isnan().all()
    ends = (points[:, 0] + points[:, 8]) / 2
    assert ((points[:, 4] - ends).norm(dim=1) > 2).float().mean() > 0.5
    # In a few of them what lies outside of the old picture is the brightest.
    assert (under_its_point(pictures, points[:, 4:5]) < 1.5).mean() > 0.9


def test_compression_loses_detail_as_jpeg_does() -> None:
    """Of a picture with fine structure about as much as the real one, block by block, and less at higher quality."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.uniform(0, 255, (64, 64)).astype(np.float32), (0, 0), 1.5)
    image = np.clip((image - 127) * 4 + 127, 0, 255).astype(np.uint8)
    qualities, lost = (30, 60, 90), []
    ours = compressed(torch.from_numpy(image).float().expand(3, 1, 64, 64), torch.tensor(qualities).view(3, 1, 1, 1))
    for quality, mine in zip(qualities, ours[:, 0].numpy(), strict=True):
        packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        theirs = cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE).astype(np.float32)
        errors = [float(np.sqrt(np.mean((one - image) ** 2))) for one in (mine, theirs)]
        assert errors[0] == pytest.approx(errors[1], rel=0.5)
        lost.append(errors[0])
    assert lost[0] > lost[1] > lost[2] > 0


def test_heat_maps_are_probabilities() -> None:
    """Every known channel sums to 1, its peak at the point; a point off the picture is 'not on this slice'."""
    places = torch.tensor([[[10.5, 20.5], [200.0, 10.0], [torch.nan, torch.nan]]])
    maps, weights = heat_maps((torch.zeros(1, 32, 48), places, torch.tensor([[1, 1, -1]])))
    torch.testing.assert_close(maps[0].sum(dim=1), torch.ones(3))
    assert divmod(int(maps[0, 0].argmax()), 24) == (10, 5)
    assert maps[0, 0, -1] == 0
    assert maps[0, 1, -1] == 1
    assert weights.tolist() == [[1, 1, 0]]


def write_patient(root: Path, study: int, rng: np.random.Generator, *, slices: int, axial: bool) -> list[tuple]:
    """Write a study whose five discs are blocks of growing size; return its rows of coordinates."""
    shift = rng.integers(-8, 9, 2)
    places = [(14 + 20 * level + shift[0], 40 + shift[1] + int(rng.integers(-2, 3))) for level in range(5)]
    rows = []
    for k in range(slices):
        pixels = rng.normal(300, 20, (ROWS, COLUMNS))
        for level, (row, column) in enumerate(places):
            pixels[row - 2 : row + 3, column - 10 - 3 * level : column + 1] += 400
            pixels[row - 6 : row + 7, column + 2 : column + 6] += 900 - 120 * level
        # The middle slice lies at x = 0; column and row grow to the back and to the foot from (-90, 120).
        x = 2.5 * (k - slices // 2)
        write_slice(
            root / "train_images" / str(study) / f"{study}1" / f"{k + 1}.dcm",
            np.clip(pixels, 0, 4000).astype(np.uint16),
            position=(x, -90.0, 120.0),
            spacing=(SPACING, SPACING),
            number=k + 1,
        )
    for level, (row, column) in enumerate(places):
        name = f"L{level + 1}/{'S1' if level == 4 else f'L{level + 2}'}"
        rows.append((study, f"{study}1", slices // 2 + 1, "Spinal Canal Stenosis", name, column + 3.0, float(row)))
        if axial:
            y, z = -90.0 + SPACING * (column + 3), 120.0 - SPACING * row
            rows += write_level(root, study, level, (y, z), rng, name)
    return rows


def write_level(
    root: Path, study: int, level: int, place: tuple[float, float], rng: np.random.Generator, name: str
) -> list[tuple]:
    """Write the axial slice of one level, with two recesses of different brightness; return their rows."""
    pixels = rng.normal(300, 20, (80, 80))
    pixels[38:43, 22:29] += 500  # image left: the patient's right
    pixels[38:43, 52:59] += 900
    position = (-80.0, place[0] - 80.0, place[1])
    file = root / "train_images" / str(study) / f"{study}2" / f"{level + 1}.dcm"
    write_slice(
        file,
        np.clip(pixels, 0, 4000).astype(np.uint16),
        position=position,
        orientation=AXIAL,
        spacing=(SPACING, SPACING),
        number=level + 1,
    )
    return [
        (study, f"{study}2", level + 1, f"{side} Subarticular Stenosis", name, x, 40.0)
        for side, x in (("Right", 25.0), ("Left", 55.0))
    ]


def write_folder(root: Path, *, slices: int = 3, axial: bool = True, count: int = 10) -> Path:
    """A folder in the competition's layout with coordinates, and no grades."""
    rng = np.random.default_rng(5)
    marks, series = [], []
    for study in range(101, 101 + count):
        marks += write_patient(root, study, rng, slices=slices, axial=axial)
        series.append((study, f"{study}1", "Sagittal T2/STIR"))
        if axial:
            series.append((study, f"{study}2", "Axial T2"))
    columns = ["study_id", "series_id", "instance_number", "condition", "level", "x", "y"]
    pd.DataFrame(marks, columns=columns).to_csv(root / "train_label_coordinates.csv", index=False)
    names = ["study_id", "series_id", "series_description"]
    pd.DataFrame(series, columns=names).to_csv(root / "train_series_descriptions.csv", index=False)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = write_folder(tmp_path_factory.mktemp("locate") / "folder")
    recipe("two-stage").preprocess(place, place.parent / "cache")
    return place


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    out = folder.parent / "run"
    assert LocatorRun(read_marked(folder), folder.parent / "cache", out, SMALL, Budget()).train().finished
    return out


def test_it_learns_from_coordinates_alone(run: Path) -> None:
    """Out of fold, without any grade and after seconds: the canal within a cell, both recesses too."""
    figures = pd.read_csv(run / "figures.csv").set_index("place")
    assert figures.loc["canal", "points"] == 50
    assert figures.loc["canal", "median_mm"] < 6
    assert figures.loc["canal", "off_by_level"] <= 0.2
    assert figures.loc["canal", "median_relative"] < 0.15
    for side in ("left recess", "right recess"):
        assert figures.loc[side, "points"] == 50
        assert figures.loc[side, "median_mm"] < 8
        assert figures.loc[side, "within_10_mm"] >= 0.75


def test_no_study_is_judged_by_a_network_that_saw_it(run: Path) -> None:
    """Every study is in one fold, and every fold has its own weights."""
    folds = pd.read_csv(run / "folds.csv")
    assert folds["study_id"].is_unique
    assert set(folds["fold"]) == {0, 1}
    first, second = ((run / f"sagittal-{fold}.safetensors").read_bytes() for fold in (0, 1))
    assert first != second


def test_a_run_that_was_cut_ends_with_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Stopped by its budget again and again, it goes on where it was."""
    config = replace(SMALL, epochs=3)
    marked, cache = read_marked(folder), folder.parent / "cache"
    assert LocatorRun(marked, cache, tmp_path / "whole", config, Budget()).train().finished
    ticks = iter(range(10**9))
    cut = 0
    for _ in range(200):
        budget = Budget(16 / 3600, clock=lambda: float(next(ticks)))
        if LocatorRun(marked, cache, tmp_path / "run", config, budget).train().finished:
            break
        cut += 1
    assert cut > 1
    for file in sorted((tmp_path / "whole").glob("*.safetensors")):
        assert (tmp_path / "run" / file.name).read_bytes() == file.read_bytes()
    assert (tmp_path / "run" / "points.csv").read_bytes() == (tmp_path / "whole" / "points.csv").read_bytes()


def test_a_trained_locator_is_used_without_training(run: Path, folder: Path, tmp_path: Path) -> None:
    """With no epochs the networks of another run are taken as they are."""
    config = replace(SMALL, epochs=0)
    cache = folder.parent / "cache"
    LocatorRun(read_marked(folder), cache, tmp_path / "used", config, Budget(), run).train()
    assert pd.read_csv(tmp_path / "used" / "figures.csv")["median_mm"].iloc[-1] < 6
    assert not list((tmp_path / "used").glob("*.safetensors"))
    with pytest.raises(InputError, match="a trained locator is needed: --weights"):
        LocatorRun(read_marked(folder), cache, tmp_path / "none", config, Budget()).train()


def strip(file: Path, margin: int = 0) -> None:
    """Take from a file what tells its place and scale, and lay a margin of so many pixels around it."""
    pixels = np.pad(pydicom.dcmread(file).pixel_array, margin)
    lost = ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
    rewrite(file, remove=lost, Rows=pixels.shape[0], Columns=pixels.shape[1], PixelData=pixels.tobytes())


def test_single_slices_without_spacing_are_enough(run: Path, tmp_path: Path) -> None:
    """One slice a series, no position, no spacing: judged beside the distance of neighbouring discs."""
    place = write_folder(tmp_path / "bare", slices=1, axial=False, count=6)
    for file in place.rglob("*.dcm"):
        strip(file)
    recipe("two-stage").preprocess(place, tmp_path / "cache")
    config = replace(SMALL, epochs=0)
    LocatorRun(read_marked(place), tmp_path / "cache", tmp_path / "out", config, Budget(), run).train()
    figures = pd.read_csv(tmp_path / "out" / "figures.csv").iloc[-1]
    assert figures["points"] == 30
    assert figures["median_relative"] < 0.3
    assert figures["off_by_level"] < 0.1
    assert ASSUMED_FIELD_MM / ROWS != SPACING  # so the mm are not the true ones, and the share is what counts


@pytest.mark.parametrize("margin", [0, 60])
def test_a_spine_of_another_size_is_found(margin: int, tiny_set: Path, tmp_path: Path) -> None:
    """Six slices of 128 px, alone and without spacing; with a margin the spine is half as large as in most pictures."""
    marks = pd.read_csv(tiny_set / "train_label_coordinates.csv", dtype={"study_id": str, "series_id": str})
    marks = marks[marks["condition"] == "Spinal Canal Stenosis"]
    slices = marks.groupby(["study_id", "series_id"])["instance_number"].agg(["nunique", "first", "size"])
    chosen = slices[(slices["nunique"] == 1) & (slices["size"] == len(LEVELS))].head(6)
    marks = marks.set_index(["study_id", "series_id"]).loc[chosen.index].reset_index()
    for (study, series), instance in chosen["first"].items():
        place = Path("train_images", study, series)
        (slice_,) = read_instances(tiny_set / place / f"{instance}.dcm", pixels=True)
        pixels = (slice_.image - slice_.image.min()).astype(np.uint16)
        strip(write_slice(tmp_path / "set" / place / "1.dcm", pixels), margin)
    marks.assign(x=marks["x"] + margin, y=marks["y"] + margin, instance_number=1).to_csv(
        tmp_path / "set" / "train_label_coordinates.csv", index=False
    )
    described = pd.DataFrame(list(chosen.index), columns=["study_id", "series_id"])
    described = described.assign(series_description="Sagittal T2/STIR")
    described.to_csv(tmp_path / "set" / "train_series_descriptions.csv", index=False)
    recipe("two-stage").preprocess(tmp_path / "set", tmp_path / "cache")
    config, box = LocateConfig(epochs=0), models_in_the_box()
    LocatorRun(read_marked(tmp_path / "set"), tmp_path / "cache", tmp_path / "out", config, Budget(), box).train()
    figures = pd.read_csv(tmp_path / "out" / "figures.csv").iloc[-1]
    assert figures["points"] == 30
    assert figures["median_relative"] < 0.2
    assert figures["off_by_level"] <= 0.2


def test_the_command_prints_the_table(run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """``lumbar locate`` with a trained run."""
    cache, out = folder.parent / "cache", tmp_path / "out"
    arguments = ["locate", str(folder), "--cache", str(cache), "--out", str(out), "--weights", str(run)]
    assert main([*arguments, "--epochs", "0"]) == 0
    printed = capsys.readouterr().out
    assert "median_mm" in printed
    assert "off_by_level" in printed
    assert (out / "errors.csv").is_file()


def test_a_missing_table_of_coordinates_is_named(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture) -> None:
    """One sentence, exit code 2."""
    (tmp_path / "empty").mkdir()
    arguments = ["locate", str(tmp_path / "empty"), "--cache", str(folder.parent / "cache")]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "train_series_descriptions.csv: no such file" in capsys.readouterr().err
