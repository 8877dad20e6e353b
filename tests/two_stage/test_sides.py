"""Sides and places are the patient's: the same points in mm and the same crops, however slices are stored."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom import geometry
from lumbar_kaggle.dicom.preprocess import read_volumes, windowed_stacks, write_volumes
from lumbar_kaggle.dicom.series import read_series
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.two_stage.config import GradeConfig, LocateConfig
from lumbar_kaggle.two_stage.grade.views import crop_study
from lumbar_kaggle.two_stage.locate.find import STRIDE, Picture, locate_studies
from lumbar_kaggle.two_stage.locate.training import axial_samples
from lumbar_kaggle.two_stage.study import StudyVolumes, unsided
from tests.support.dicom_files import write_slice
from tests.support.two_stage_studies import AXIAL, SAGITTAL, make_stack, rotated

Floats = NDArray[np.float64]

CONFIG = LocateConfig(pixel_mm=1.0, picture=(256, 192))
NAN = float("nan")
PLACES = ("canal", "left foramen", "right foramen", "left recess", "right recess")
CANAL_Y, FORAMEN_Y = 30.0, -30.0
"""Far apart, so that a network that only knows front from back can tell them."""


def spine(lean: Sequence[float] = (0.0,) * 5) -> Floats:
    """Points ``[5 places, 5 levels, 3]`` of a spine whose levels lie so many mm to the patient's left."""
    points = np.zeros((5, 5, 3))
    points[..., 2] = 70.0 - 35.0 * np.arange(5)
    points[..., 1] = np.array([CANAL_Y, FORAMEN_Y, FORAMEN_Y, CANAL_Y, CANAL_Y])[:, None]
    points[..., 0] = np.array([0.0, 18.0, -18.0, 18.0, -18.0])[:, None] + np.asarray(lean)
    return points


def balls(points: Floats) -> Callable[[Floats], Floats]:
    """A scene with a soft ball at each point."""

    def scene(places: Floats) -> Floats:
        apart = ((places[..., None, :] - points.reshape(-1, 3)) ** 2).sum(axis=-1)
        return np.asarray(240 * np.exp(-apart / 5.0**2).sum(axis=-1))

    return scene


class Eye(torch.nn.Module):
    """Sees balls: in a sagittal picture those of a level's height, canal behind, foramina in front; in an
    axial one those on the right for the patient's left."""

    def __init__(self, *, axial: bool) -> None:
        super().__init__()
        self.axial, self.place = axial, torch.nn.Parameter(torch.zeros(1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        light = torch.nn.functional.avg_pool2d(pictures / 2 + 0.3, STRIDE)[:, 0]
        row = (torch.arange(light.shape[1])[:, None] + 0.5) * STRIDE - 0.5 - (pictures.shape[2] - 1) / 2
        column = (torch.arange(light.shape[2])[None] + 0.5) * STRIDE - 0.5 - (pictures.shape[3] - 1) / 2
        if self.axial:
            windows = [column + 0 * row > 0, column + 0 * row < 0]
        else:
            near = [(row - 35.0 * (level - 2)).abs() < 16 for level in range(5)]
            windows = [there & side for side in (column > 0, column < 0) for there in near]
        logits = torch.stack([torch.where(there, 60 * light, -60.0) for there in windows], dim=1).flatten(2)
        return torch.cat([logits, torch.full_like(logits[..., :1], 25.0)], dim=2).log_softmax(dim=2)


def of_kind(volume: Volume, kind: str) -> Volume:
    """The volume as one of a series of a kind, which is also the series' name."""
    return replace(volume, series_id=kind, kind=kind)


def stored(stack: Volume, way: tuple[bool, bool, bool, bool], folder: Path) -> list[Volume]:
    """Write a stack as DICOM with columns, rows or slices reversed or rows and columns exchanged; read it."""
    mirrored, upside_down, exchanged, last_first = way
    rows, columns = stack.shape
    across, down = stack.orientation[0].reshape(2, 3)
    first = (rows - 1) * upside_down, (columns - 1) * mirrored
    across, down = across * (-1 if mirrored else 1), down * (-1 if upside_down else 1)
    spacing = stack.spacing[0].tolist()
    for k in range(len(stack)):
        pixels = stack.images[k][:: -1 if upside_down else 1, :: -1 if mirrored else 1]
        number = len(stack) - k if last_first else k + 1
        write_slice(
            folder / f"{number}.dcm",
            np.ascontiguousarray(pixels.T if exchanged else pixels).astype(np.uint16),
            position=tuple(stack.to_patient(k, *first)),
            orientation=(*down, *across) if exchanged else (*across, *down),
            spacing=tuple(spacing[::-1] if exchanged else spacing),
            number=number,
        )
    return windowed_stacks(read_series(folder))


def find(sagittal: list[Volume], axial: list[Volume]) -> dict[tuple[str, str], Floats]:
    """Locate all points of a study, by place and level, LPS mm."""
    volumes = [of_kind(one, "sagittal_t1") for one in sagittal] + [of_kind(one, "axial_t2") for one in axial]
    networks = [Eye(axial=False)], [Eye(axial=True)] if axial else []
    table = locate_studies([StudyVolumes("1", tuple(volumes))], *networks, CONFIG)  # type: ignore[arg-type]
    return {(row.place, row.level): np.array([row.x_mm, row.y_mm, row.z_mm]) for row in table.itertuples()}


def assert_near(found: dict[tuple[str, str], Floats], points: Floats, mm: float = 5.0) -> None:
    """Every point that is asked for is found where it is."""
    for place, at in zip(PLACES, points, strict=False):
        for level, point in zip(LEVELS, at, strict=True):
            assert np.linalg.norm(found[place, level] - point) < mm, (place, level, found[place, level])


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Volume, Volume]:
    """A sagittal and an axial stack as they are mostly stored, of pixels of two lengths."""
    sagittal, axial = balls(spine()[:3]), balls(spine()[3:])
    made = (
        make_stack(sagittal, SAGITTAL, slices=15, step=4.5, shape=(160, 130), spacing=(1.5, 1.4)),
        make_stack(axial, AXIAL, slices=45, step=4.0, shape=(100, 120), spacing=(1.3, 1.2)),
    )
    first, second = (stored(one, (False,) * 4, tmp_path_factory.mktemp("standard"))[0] for one in made)
    return first, second


@pytest.mark.parametrize("way", list(product([False, True], repeat=4)))
def test_storage_changes_neither_points_nor_crops(
    standard: tuple[Volume, Volume], way: tuple[bool, bool, bool, bool], tmp_path: Path
) -> None:
    """All eight orientations in the plane and both orders of slices, of both planes."""
    read = [stored(stack, way, tmp_path / str(k)) for k, stack in enumerate(standard)]
    assert_near(find(*read), spine())
    config = GradeConfig(sagittal_px=32, axial_px=32)
    crops = [
        crop_study(
            [of_kind(one, "sagittal_t1") for one in sagittal] + [of_kind(one, "axial_t2") for one in axial],
            spine(),
            config,
        )
        for sagittal, axial in (read, [[stack] for stack in standard])
    ]
    for mine, usual in zip(*crops, strict=True):
        assert np.abs(mine.image.astype(int) - usual.image).mean() < 3


@pytest.mark.parametrize("degrees", [-35.0, 35.0, 160.0])
def test_a_turned_field_changes_no_point(degrees: float) -> None:
    """Fields turned about the patient's own axes, as for scoliosis or a patient who lies askew."""
    turned = rotated(SAGITTAL, (1, 0, 0), degrees), rotated(AXIAL, (0, 0, 1), degrees)
    sagittal = make_stack(balls(spine()[:3]), turned[0], slices=15, step=4.5, shape=(170, 170), spacing=(1.5, 1.5))
    axial = make_stack(balls(spine()[3:]), turned[1], slices=45, shape=(110, 110), spacing=(1.3, 1.3), step=4.0)
    assert_near(find([sagittal], [axial]), spine())


def test_usual_storage_gives_the_stored_pixels(standard: tuple[Volume, Volume]) -> None:
    """Back to the right, head up: the picture is the slice, scaled and cut only."""
    stack = standard[0]
    same = make_stack(balls(spine()), SAGITTAL, slices=3, shape=(64, 48), spacing=(1.0, 1.0))
    np.testing.assert_array_equal(Picture(same, 1, (64, 48), 1.0).image(), same.images[1])
    right, down = geometry.upright_axes(stack.orientation[0])
    np.testing.assert_array_equal([right, down], stack.orientation[0].reshape(2, 3))


@pytest.mark.parametrize("reversed_rows", [False, True])
def test_the_locator_learns_recesses_of_one_side_in_one_half(
    standard: tuple[Volume, Volume], reversed_rows: bool, tmp_path: Path
) -> None:
    """The patient's left recess is on the right of every training picture, whatever the storage."""
    axial = stored(standard[1], (reversed_rows, False, False, False), tmp_path)
    points = spine()
    points[:3] = NAN
    study = StudyVolumes("1", tuple(of_kind(one, "axial_t2") for one in axial), marks=(points,))
    samples = axial_samples(study, CONFIG)
    shown = [sample for sample in samples if (sample.state == 1).all()]
    assert len(shown) >= len(LEVELS)
    for sample in shown:
        (left, row), (right, _) = sample.places
        assert right < (sample.image.shape[1] - 1) / 2 < left
        assert sample.image[round(row), round(left)] > 200


def test_a_bent_spine_has_another_midline_at_each_level() -> None:
    """In scoliosis L1's left foramen lies right of the middle of L5; both are found on their own side."""
    points = spine(lean=(-22.0, -11.0, 0.0, 11.0, 22.0))
    assert points[1, 0, 0] < points[0, 2, 0]
    stack = make_stack(balls(points[:3]), SAGITTAL, slices=25, step=4.0, shape=(160, 130), spacing=(1.5, 1.4))
    assert_near(find([stack], []), points[:3])


def test_coronal_slices_in_a_sagittal_series_are_left_alone(standard: tuple[Volume, Volume]) -> None:
    """A localiser of more slices takes neither the place of the sagittal stack nor that of the axial one."""
    coronal = make_stack(balls(spine()), np.array([1.0, 0, 0, 0, 0, -1]), slices=40, step=2.0)
    first, second = of_kind(standard[0], "sagittal_t1"), of_kind(standard[1], "axial_t2")
    others = of_kind(coronal, "sagittal_t1"), of_kind(coronal, "axial_t2")
    study = StudyVolumes("1", (*others, first, second))
    assert study.sagittal() == [first]
    assert study.axial() == [second]
    assert StudyVolumes("1", others).sagittal() == []


def test_studies_whose_sides_nobody_knows() -> None:
    """Without positions, or with one slice for both sides; a placed series beside an unplaced one counts."""

    def rows(study: str, left: float, right: float, *, placed: bool) -> list[tuple[object, ...]]:
        sides = (("left foramen", left), ("right foramen", right))
        return [(study, place, "l4_l5", x, 0.0, 0.0, 0.9, placed) for place, x in sides]

    table = pd.DataFrame(
        [
            *rows("known", 18, -18, placed=True),
            *rows("no position", 18, -18, placed=False),
            *rows("one slice", 3, 3, placed=True),
            *rows("both", 18, -18, placed=True),
            *rows("both", 17, -17, placed=False),
        ],
        columns=["study_id", "place", "level", "x_mm", "y_mm", "z_mm", "confidence", "placed"],
    )
    assert unsided(table) == {"no position", "one slice"}
    assert unsided(table.drop(columns="placed")) == {"one slice"}


def test_levels_are_spread_over_the_millimetres_that_slices_cover() -> None:
    """Without a sagittal series; a second, denser stack over the head end shifts nothing to there."""
    scene = balls(spine()[3:])
    whole = make_stack(scene, AXIAL, slices=37, step=4.0, shape=(60, 60), spacing=(3, 3))
    dense = make_stack(scene, AXIAL, centre=(0, 0, 60), slices=41, step=0.5, shape=(60, 60), spacing=(3, 3))
    study = StudyVolumes("1", (of_kind(whole, "axial_t2"), of_kind(dense, "axial_t2")))
    found = locate_studies([study], [], [Eye(axial=True)], CONFIG)  # type: ignore[list-item]
    heights = found.drop_duplicates("level")["z_mm"].to_numpy(dtype=float)
    assert np.ptp(heights) > 100
    assert (np.diff(heights) < -15).all()


def cached(folder: Path, count: int, plane: Floats, **changes: object) -> Volume:
    """A stack out of the cache, some of its slice tables changed."""
    tables = {
        "positions": [[4.0 * k, -30.0, 60.0] for k in range(count)],
        "orientation": [plane.tolist()] * count,
        "spacing": [[2.0, 2.5]] * count,
        **changes,
    }
    arrays = {name: np.array(rows, dtype=np.float64) for name, rows in tables.items()}
    images = np.full((count, 64, 60), 100, dtype=np.uint8)
    volume = Volume(images, instance_numbers=(None,) * count, window=(0, 255), **arrays)
    write_volumes(folder, "1", [volume])
    return read_volumes(folder, "1.json")[0]


@pytest.mark.parametrize(
    ("count", "changes", "spacing", "placed", "measured"),
    [
        (1, {}, (2.0, 2.5), True, True),
        (3, {"spacing": [[1.0, 1.0]] * 3}, (1.0, 1.0), True, True),
        (3, {"spacing": [[NAN, NAN], [2.0, 2.5], [NAN, NAN]]}, (2.0, 2.5), True, True),
        (3, {"spacing": [[NAN, NAN]] * 3}, (280 / 64, 280 / 64), True, False),
        (3, {"spacing": [[2.0, 0.0]] * 3}, (280 / 64, 280 / 64), True, False),
        (3, {"spacing": [[2.0, 30.0]] * 3}, (280 / 64, 280 / 64), True, False),
        (3, {"orientation": [[0.0] * 6] * 3}, (2.0, 2.5), False, True),
        (3, {"orientation": [[0.0, 1, 0, 0, 1, 0]] * 3}, (2.0, 2.5), False, True),
        (3, {"positions": [[0.0, -30, 60]] * 3}, (2.0, 2.5), True, True),
    ],
)
def test_odd_geometry_gives_a_usable_stack(
    tmp_path: Path, count: int, changes: dict[str, object], spacing: tuple[float, float], placed: bool, measured: bool
) -> None:
    """What cannot be is assumed and marked so; crops and points stay finite with one slice or no steps."""
    stack = cached(tmp_path, count, SAGITTAL, **changes)
    np.testing.assert_allclose(stack.spacing, [spacing] * count)
    assert (stack.placed, stack.measured) == (placed, measured)
    centre = stack.to_patient(0, 31.5, 29.5)
    assert np.isfinite(centre).all()
    crops = crop_study(
        [of_kind(stack, "sagittal_t2")], np.broadcast_to(centre, (5, 5, 3)), GradeConfig(sagittal_px=16, axial_px=16)
    )
    for crop in crops[:5]:
        assert (crop.image[len(crop.image) // 2, 8:-8, 8:-8] == 100).all()
    assert all(np.isfinite(point).all() for point in find([stack], []).values())


def test_the_assumed_height_is_that_of_the_plane(tmp_path: Path) -> None:
    """An axial picture shows a third less of the patient than a sagittal one."""
    assert cached(tmp_path, 2, AXIAL, spacing=[[NAN, NAN]] * 2).spacing.tolist() == [[190 / 64] * 2] * 2
