"""Crops: what lies at a point of the patient lies in the middle of its view, whatever the stack is like."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.load import DataLoader
from numpy.typing import NDArray

from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS
from lumbar_kaggle.dicom.volume import SPACING, Volume
from lumbar_kaggle.two_stage.config import PRESETS, GradeConfig, preset
from lumbar_kaggle.two_stage.grade import data
from lumbar_kaggle.two_stage.grade.data import Samples, cache_crops
from lumbar_kaggle.two_stage.grade.views import VIEWS, Crop, bytes_of_study, crop_study, window
from lumbar_kaggle.two_stage.study import CachedStudies, annotated_places, fill, to_points
from tests.dicom.test_preprocess import folder_bytes
from tests.support.clock import Clock
from tests.support.two_stage_studies import AXIAL, SAGITTAL, ball, make_stack, place_points, rotated, write_competition

Floats = NDArray[np.float64]
Scene = Callable[[Floats], Floats]

CONFIG = GradeConfig(sagittal_px=32, axial_px=32, align=False)
KIND_OF_PLANE = {"sagittal": ("sagittal_t1", "sagittal_t2"), "axial": ("axial_t2",)}


def fine_stack(scene: Scene, plane: str, **more: object) -> Volume:
    """A stack of millimetre pixels through the whole spine."""
    orientation = more.pop("orientation", SAGITTAL if plane == "sagittal" else AXIAL)
    shape = (220, 80) if plane == "sagittal" else (100, 100)
    kind = "sagittal_t2" if plane == "sagittal" else "axial_t2"
    step, slices = (4.5, 15) if plane == "sagittal" else (4.0, 45)
    options = {"slices": slices, "step": step, "shape": shape, "series_id": "7", "kind": kind, **more}
    return make_stack(scene, np.asarray(orientation), spacing=(0.9, 0.95), **options)  # type: ignore[arg-type]


def crop_of(crops: list[Crop], name: str, level: int, side: int = 0) -> Crop:
    """The crop of a view, level and side."""
    return next(crop for crop in crops if (crop.view.name, crop.level, crop.side) == (name, level, side))


def middle_of(crops: list[Crop], name: str, level: int) -> NDArray[np.uint8]:
    """The middle slice of a crop, the left or the only one."""
    image = crop_of(crops, name, level).image
    return image[len(image) // 2]


@pytest.mark.parametrize(("view", "side"), [(v.name, s) for v in VIEWS for s in range(v.sides)])
def test_a_ball_at_the_point_is_in_the_middle_of_its_view(view: str, side: int) -> None:
    """Of every view and side, to a pixel; in the middle slice, and fainter towards the window's ends."""
    level = 3
    points = place_points()
    place = {"canal": 0, "foramen": 1 + side, "axial side": 3 + side}.get(view)
    point = points[3:5, level].mean(axis=0) if place is None else points[place, level]
    scene = ball(point + np.array([0.7, 0.4, -0.6]))
    stacks = [
        fine_stack(scene, "sagittal"),
        fine_stack(scene, "sagittal", kind="sagittal_t1"),
        fine_stack(scene, "axial"),
    ]
    crop = crop_of(crop_study(stacks, points, CONFIG), view, level, side).image
    brightest = np.array(np.unravel_index(int(crop.argmax()), crop.shape))
    centre = (np.array(crop.shape) - 1) / 2
    assert crop.max() > 150
    assert (np.abs(brightest - centre) <= [0, 1.5, 1.5]).all()
    assert crop[0].max() < crop.max() / 3


def test_the_ball_moves_by_its_millimetres() -> None:
    """10 mm to the back are 10 mm to the right in the sagittal crop, 10 mm to the foot 10 mm down."""
    points = place_points()
    size = window(VIEWS[0], CONFIG)
    scene = ball(points[0, 2] + np.array([0.0, 10.0, -6.0]))
    image = middle_of(crop_study([fine_stack(scene, "sagittal")], points, CONFIG), "canal", 2)
    row, column = np.unravel_index(int(image.argmax()), image.shape)
    centre = (size.cached_px - 1) / 2
    assert (column - centre) * size.pixel_mm == pytest.approx(10.0, abs=size.pixel_mm)
    assert (row - centre) * size.pixel_mm == pytest.approx(6.0, abs=size.pixel_mm)


def test_without_a_pixel_size_the_spine_is_the_measure() -> None:
    """Whatever is assumed of the pixels, a crop shows the same; where their size is known, it is kept."""
    points = place_points()
    known = fine_stack(ball(points[0, 2] + np.array([0.0, 10.0, -6.0])), "sagittal", slices=1)

    def seen(factor: float, assumed: frozenset[str]) -> NDArray[np.uint8]:
        larger = {"positions": known.positions * factor, "spacing": known.spacing * factor}
        volume = replace(known, assumed=assumed, **larger)
        return middle_of(crop_study([volume], points * factor, CONFIG), "canal", 2)

    expected = seen(1.0, frozenset({SPACING}))
    assert expected.max() > 150
    for factor in (0.7, 1.5):
        np.testing.assert_allclose(seen(factor, frozenset({SPACING})), expected, atol=2)
        assert np.abs(seen(factor, frozenset()).astype(int) - expected).max() > 50


def lopsided(point: Floats) -> Scene:
    """Something without any symmetry of its own, the same on both sides of the patient."""
    offset = np.array([[1.0, 4.0, -3.0], [-2.0, -7.0, 6.0], [3.0, -2.0, 8.0]])

    def scene(places: Floats) -> Floats:
        folded = places.copy()
        folded[..., 0] = np.abs(folded[..., 0])
        lights = [ball(point + shift, 4.0 + k)(folded) / (1 + k) for k, shift in enumerate(offset)]
        return 20 + np.sum(lights, axis=0)

    return scene


@pytest.mark.parametrize(("view", "plane", "place"), [("foramen", "sagittal", 1), ("axial side", "axial", 3)])
def test_the_right_side_is_the_mirror_image_of_the_left(view: str, plane: str, place: int) -> None:
    """A symmetric patient looks the same on both sides, slice by slice; a plain copy would differ."""
    points, level = place_points(), 1
    kind = "sagittal_t1" if plane == "sagittal" else "axial_t2"
    stack = fine_stack(lopsided(points[place, level]), plane, kind=kind)
    crops = crop_study([stack], points, CONFIG)
    left, right = (crop_of(crops, view, level, side).image.astype(int) for side in range(2))
    assert np.abs(left - right).max() <= 2
    unmirrored = right[::-1] if plane == "sagittal" else right[..., ::-1]
    assert np.abs(left - unmirrored).max() > 30


@pytest.mark.parametrize("plane", ["sagittal", "axial"])
def test_a_reversed_stack_gives_the_same_crops(plane: str) -> None:
    """The order of the slices in the file does not matter, to the last bit."""
    points = place_points()
    scene = lopsided(points[0, 2])
    plain, backwards = (
        crop_study([fine_stack(scene, plane, backwards=turned)], points, CONFIG) for turned in (False, True)
    )
    for one, other in zip(plain, backwards, strict=True):
        assert np.array_equal(one.image, other.image)
    assert any(crop.image.any() for crop in plain)


@pytest.mark.parametrize(
    ("plane", "axis", "degrees"),
    [
        ("sagittal", (1, 0, 0), 14.0),
        ("axial", (0, 0, 1), -12.0),
        ("sagittal", (1, 0, 0), 180.0),
        ("axial", (0, 0, 1), 180.0),
    ],
)
def test_a_stack_turned_in_its_plane_gives_the_same_crop(
    plane: str, axis: tuple[float, float, float], degrees: float
) -> None:
    """Turned images are turned back: what counts is the patient."""
    points, level = place_points(), 2
    view, place = ("canal", 0) if plane == "sagittal" else ("axial side", 3)
    orientation = SAGITTAL if plane == "sagittal" else AXIAL
    scene = lopsided(points[place, level])
    images = [
        middle_of(crop_study([fine_stack(scene, plane, orientation=turned)], points, CONFIG), view, level)
        for turned in (orientation, rotated(orientation, axis, degrees))
    ]
    difference = np.abs(images[0].astype(int) - images[1])
    assert difference.max() <= 15  # two interpolations of structures of 4 mm
    assert images[0].max() - images[0].min() > 80


def test_a_tilted_axial_stack_still_has_the_point_in_the_middle() -> None:
    """Slices along a steep disc, cut around the point's place in the tilted plane."""
    points, level = place_points(), 4
    stack = fine_stack(ball(points[3, level]), "axial", orientation=rotated(AXIAL, (1, 0, 0), 25), centre=(0, 0, -60))
    image = middle_of(crop_study([stack], points, CONFIG), "axial side", level)
    brightest = np.array(np.unravel_index(int(image.argmax()), image.shape))
    assert np.abs(brightest - (np.array(image.shape) - 1) / 2).max() <= 1.5


def test_the_nearest_of_several_stacks_is_taken() -> None:
    """Over all series of the kind: each level from the stack whose slice is nearest."""
    points = place_points()
    scene = lopsided(points[3, 0])
    upper = fine_stack(scene, "axial", slices=9, centre=(0, 0, 69.0))
    lower = replace(fine_stack(scene, "axial", slices=9, centre=(0, 0, -71.0)), series_id="8")
    crops = crop_study([upper, lower], points, CONFIG)
    assert crop_of(crops, "axial side", 0).volume is upper
    assert crop_of(crops, "axial side", 4).volume is lower
    assert crop_of(crops, "axial side", 2).reason == "no axial_t2 slice within 6 mm of the point"


@pytest.mark.parametrize("last_digits", [-1e-5, 0.0, 1e-5])
def test_midway_between_two_slices_no_last_digit_chooses(last_digits: float) -> None:
    """The slice nearer to the head is the middle one of the window."""
    stack, points = fine_stack(ball(np.zeros(3)), "axial"), place_points()
    between = stack.positions[20:22, 2].mean()
    points[3:5, 2, 2] = between + last_digits
    crop = crop_of(crop_study([stack], points, CONFIG), "axial middle", 2)
    assert crop.indices[len(crop.indices) // 2] == 20


def test_missing_series_are_replaced_or_flagged() -> None:
    """Without T2 the canal is cut from T1; without axial series those views are empty and say so."""
    points = place_points()
    stack = fine_stack(ball(points[0, 0]), "sagittal", kind="sagittal_t1")
    crops = crop_study([stack], points, CONFIG)
    for crop in crops:
        if crop.view.plane == "axial":
            assert crop.reason
            assert (crop.indices == -1).all()
            assert not crop.image.any()
        else:
            assert crop.volume is stack
    unknown = points.copy()
    unknown[0, 0] = np.nan
    first = crop_study([fine_stack(ball(points[0, 0]), "sagittal")], unknown, CONFIG)[0]
    assert (first.reason, first.volume) == ("the point was not found", None)


def test_slices_beyond_the_stack_are_absent() -> None:
    """At the end of a stack the window is shorter; what is there lies where it should."""
    points = place_points()
    stack = fine_stack(ball(points[3, 0]), "axial", slices=40, centre=(0, 0, -10.0))
    crop = crop_of(crop_study([stack], points, CONFIG), "axial side", 0)
    assert (crop.indices >= 0).tolist() == [False, False, True, True, True]
    assert not crop.image[:2].any()
    assert crop.image[2].max() > 150


def test_dense_stacks_are_thinned_to_the_wanted_step() -> None:
    """Slices every millimetre: the window still spans its millimetres."""
    points = place_points()
    scene = ball(points[0, 2], radius=4.0)
    dense = fine_stack(scene, "sagittal", slices=61, step=1.0)
    crop = crop_of(crop_study([dense], points, CONFIG), "canal", 2).image
    assert crop[3].max() > 200
    assert crop[2].max() == pytest.approx(240 * np.exp(-1), abs=12)


def test_the_spine_runs_upright_where_crops_are_aligned() -> None:
    """With a bent spine, the next level's ball comes to lie straight below when crops are aligned."""
    points = place_points()
    points[..., 1] += (70.0 - points[..., 2]) * 0.45
    below = points[0, 2] + 0.45 * (points[0, 3] - points[0, 2])
    columns = []
    for align in (True, False):
        config = replace(CONFIG, align=align)
        image = middle_of(crop_study([fine_stack(ball(below), "sagittal")], points, config), "canal", 2)
        columns.append(int(np.unravel_index(int(image.argmax()), image.shape)[1]))
    centre = (window(VIEWS[0], CONFIG).cached_px - 1) / 2
    assert abs(columns[0] - centre) <= 1
    assert abs(columns[1] - centre) > 3


def test_the_slice_target_is_the_annotated_slice() -> None:
    """A point located two slices off: the target says which slice of the window was annotated."""
    points = place_points()
    located = points.copy()
    located[0, :, 0] += 4.5
    located[1:3, :, 0] += 4.5
    stacks = [fine_stack(ball(points[0, 0]), "sagittal", kind="sagittal_t1")]
    crops = crop_study(stacks, located, CONFIG, points)
    targets = {(crop.view.name, crop.side): crop.target for crop in crops if crop.level == 2}
    # Windows of seven slices; the right foramen's runs from the left to the right.
    assert targets[("canal", 0)] == 2
    assert targets[("foramen", 0)] == 2
    assert targets[("foramen", 1)] == 4
    assert targets[("axial side", 0)] == -1


def test_gaps_are_filled_by_what_other_studies_show() -> None:
    """From the level's other points, and where there are none from the next level."""
    points = np.stack([place_points() + shift for shift in (0.0, 5.0, -3.0)])
    gappy = points.copy()
    gappy[0, 3, 1] = np.nan
    gappy[1, :, 4] = np.nan
    np.testing.assert_allclose(fill(gappy), points, atol=1e-9)
    assert np.isnan(fill(np.full((2, 5, 5, 3), np.nan))).all()


def test_annotated_places_are_the_marks_in_the_patient(tmp_path: Path) -> None:
    """Pixels of the table become the points that they were made from, as near as the slices are."""
    competition = write_competition(tmp_path, 3)
    lost = competition.coordinates["condition"].eq("left_subarticular_stenosis")
    lost &= competition.coordinates["study_id"].eq(competition.studies[0])
    places = annotated_places(replace(competition, coordinates=competition.coordinates[~lost]), tmp_path)
    points = to_points(places)
    assert set(points) == set(competition.studies)
    for found in points.values():
        assert np.abs(found - place_points()).max() <= 3.0 + 1e-6


def test_the_surest_of_several_points_counts() -> None:
    """Two series' rows of one place: the greater confidence wins; unknown names are refused."""
    rows = [("1", "canal", "l1_l2", 1.0, 0.9), ("1", "canal", "l1_l2", 2.0, 0.4)]
    table = pd.DataFrame(rows, columns=["study_id", "place", "level", "x_mm", "confidence"])
    table = table.assign(y_mm=0.0, z_mm=0.0)
    points = to_points(table)["1"]
    assert points[0, 0, 0] == 1.0
    assert np.isnan(points[0, 1]).all()
    with pytest.raises(InputError, match="place 'disc' is none of canal, left foramen"):
        to_points(table.assign(place="disc"))


def test_an_interrupted_cache_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after a batch, then finished: the same bytes as at one go."""
    monkeypatch.setattr(data, "BATCH", 2)
    competition = write_competition(tmp_path, 5)
    volumes = CachedStudies(tmp_path)
    points = dict.fromkeys(competition.studies, place_points())
    config = replace(CONFIG, sagittal_px=16, axial_px=16)
    whole = cache_crops(volumes, points, points, tmp_path / "whole", config, Budget())
    with pytest.raises(OutOfTime):
        cache_crops(volumes, points, points, tmp_path / "cut", config, Budget(1.5 / 3600, clock=Clock()))
    assert len(list((tmp_path / "cut" / "crops" / "batches").iterdir())) == 1
    cut = cache_crops(volumes, points, points, tmp_path / "cut", config, Budget())
    assert folder_bytes(tmp_path / "cut") == folder_bytes(tmp_path / "whole")
    study = competition.studies[-1]
    one, other = (torch.load(files[study]) for files in (whole, cut))
    assert all(map(torch.equal, one["images"], other["images"]))
    assert one["present"][0].tolist() == [[[True] * 7]] * 5


def test_levels_come_with_their_labels(tmp_path: Path) -> None:
    """Each label and its weight at the place of its target; a target without one is unknown. Soft labels take the
    place of labels, with their weights, and serve where there is none."""
    competition = write_competition(tmp_path, 2)
    points = dict.fromkeys(competition.studies, place_points())
    config = replace(CONFIG, sagittal_px=16, axial_px=16)
    files = cache_crops(CachedStudies(tmp_path), points, points, tmp_path / "crops", config, Budget())
    lost, lighter = "right_neural_foraminal_narrowing_l2_l3", "left_subarticular_stenosis_l5_s1"
    rows = competition.labels[competition.labels["target"] != lost]
    study = competition.studies[1]
    weights = pd.DataFrame({"row_id": [f"{study}_{lighter}"], "weight": [0.3]})
    samples = Samples([study], files, rows, weights)
    labels = rows[rows["study_id"] == study].set_index("target")["severity"]
    assert len(samples) == len(LEVELS)
    for index, level in enumerate(LEVELS):
        (found,) = samples[index]
        wanted = [labels.get(f"{condition}_{level}", -1) for condition in CONDITIONS]
        assert found["severity"].tolist() == wanted
        assert found["level"] == index
        assert found["wanted"].argmax(dim=1)[found["severity"] >= 0].tolist() == [one for one in wanted if one >= 0]
    assert samples[1][0]["severity"][2] == -1
    torch.testing.assert_close(samples[4][0]["wanted"].sum(dim=1), torch.tensor([1.0, 1.0, 1.0, 0.3, 1.0]))
    names = (lost, lighter, "spinal_canal_stenosis_l1_l2")
    table = pd.DataFrame({"row_id": [f"{study}_{name}" for name in names], "study_id": study, "target": names})
    soft = table.assign(normal_mild=0.5, moderate=0.3, severe=0.2)
    softened = Samples([study], files, rows, weights, soft)
    for index, place, weight in ((1, 2, 1.0), (4, 3, 0.3), (0, 0, 1.0)):
        wants = [softened[index][0]["wanted"], samples[index][0]["wanted"]]
        torch.testing.assert_close(wants[0][place], weight * torch.tensor([0.5, 0.3, 0.2]))
        others = torch.arange(5) != place
        assert torch.equal(wants[0][others], wants[1][others])
        assert torch.equal(softened[index][0]["severity"], samples[index][0]["severity"])


def test_crops_lie_on_a_device_that_has_room_for_them(tmp_path: Path) -> None:
    """Then the loader gives numbers, and the batches are the same; with less than twice their size they stay."""
    competition = write_competition(tmp_path, 3)
    points = dict.fromkeys(competition.studies, place_points())
    config = replace(CONFIG, sagittal_px=16, axial_px=16)
    files = cache_crops(CachedStudies(tmp_path), points, points, tmp_path / "crops", config, Budget())
    cached, moved = (Samples(competition.studies, files, competition.labels, None) for _ in range(2))
    needed = 2 * len(competition.studies) * bytes_of_study(config)
    moved.bring(torch.device("cpu"), needed - 1)
    assert moved.whole is None
    moved.bring(torch.device("cpu"), needed)
    assert moved[7] == (7,)
    batches = []
    for samples in (cached, moved):
        (items,) = next(iter(DataLoader(samples, bs=4)))
        batches.append(samples.batch(items))
    assert isinstance(items, torch.Tensor)
    for name in ("images", "present", "slices"):
        assert all(map(torch.equal, batches[0][name], batches[1][name]))
    for name in ("level", "severity", "wanted"):
        assert torch.equal(batches[0][name], batches[1][name])


def test_the_room_that_crops_take_is_the_documents() -> None:
    """GB for the competition's 1,975 studies, as docs/two_stage.md has them."""
    found = {name: [round(1975 * bytes_of_study(one) / 1e9, 1) for one in preset(name).grade] for name in PRESETS}
    assert found == {"cpu": [2.4], "cpu-scratch": [2.4], "t4x2-single": [15.4], "t4x2-gold": [15.4, 15.4, 8.6]}
    text = Path("docs/two_stage.md").read_text()
    assert all(f"{', '.join(map(str, sizes))} GB" in text for sizes in found.values())
