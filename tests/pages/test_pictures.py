"""Pictures inside a page, and what is said at a series."""

import base64

import cv2
import numpy as np
import pytest

from lumbar_kaggle.dicom.geometry import letters
from lumbar_kaggle.pages.pictures import encode_slices, picture
from lumbar_kaggle.pages.series import ShownSeries, to_json, with_notes
from tests.support.two_stage_studies import AXIAL, SAGITTAL, ball, make_stack, rotated


def decode(jpeg: str) -> np.ndarray:
    """Return a picture in base64 as it is seen."""
    return cv2.imdecode(np.frombuffer(base64.b64decode(jpeg), np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("limit", [10_000_000, 400_000, 100_000])
def test_slices_are_as_large_as_the_page_allows(limit: int) -> None:
    """Noise, which no picture is worse than, of slices of two sizes: below the limit, and no smaller than need be."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, shape, dtype=np.uint8) for shape in [(600, 400)] * 4 + [(120, 160)] * 4]
    encoded = encode_slices(images, limit)
    assert 0.2 * limit < sum(map(len, encoded)) <= limit or limit == 10_000_000
    shapes = [decode(jpeg).shape for jpeg in encoded]
    assert shapes[0] == (600, 400) if limit == 10_000_000 else shapes[0][0] < 600
    assert shapes[0][0] / shapes[0][1] == pytest.approx(1.5, abs=0.02)


def test_cells_of_heat_are_seen_as_they_are() -> None:
    """Each evenly coloured up to its edge; none where there is no heat; the more, the lighter."""
    seen = decode(picture(np.full((90, 90), 60, np.uint8), 1.0, 200, np.array([[0, 0.3], [0.6, 1]], np.float32))[23:])
    parts = [seen[y + 8 : y + 92, x + 8 : x + 92] for y in (0, 100) for x in (0, 100)]
    assert max(part.std(axis=(0, 1)).max() for part in parts) < 2
    np.testing.assert_allclose(parts[0].mean(axis=(0, 1)), 60, atol=2)
    light = [cv2.cvtColor(part, cv2.COLOR_BGR2GRAY).mean() for part in parts]
    assert light[1] < light[2] < light[3]


def test_notes_come_to_their_series() -> None:
    found = [
        ShownSeries("1", "sagittal_t2", ("1 file is no usable slice",)),
        ShownSeries("11", "axial_t2", ()),
        ShownSeries("", "sagittal_t1", ("no readable sagittal_t1 series",)),
    ]
    notes = (
        *("series 11: no position in the headers, assumed", "series 1: 1 file is no usable slice"),
        *("no readable sagittal_t1 series", "sagittal_t1: 10 crops of the foramen are cut from sagittal_t2 instead"),
        *("the side of the foramina is not known", "9: a further series axial T2; 11 is taken, since it comes first"),
    )
    placed, rest = with_notes(found, notes)
    assert placed[0].notes == ("1 file is no usable slice",)
    assert placed[1].notes == ("no position in the headers, assumed", notes[-1])
    assert placed[2].notes == (
        *("no readable sagittal_t1 series", "sagittal_t1: 10 crops of the foramen are cut from sagittal_t2 instead"),
    )
    assert rest == ["the side of the foramina is not known"]


def test_a_series_of_several_stacks_is_scrolled_as_one() -> None:
    """Blocks that are tilted per disc: each has its own letters and places; slices count on."""
    tilted = rotated(AXIAL, (1, 0, 0), 25)
    stacks = tuple(
        make_stack(ball((0, 0, 0)), way, centre=(0, 0, z), slices=3) for way, z in ((AXIAL, 30), (tilted, -30))
    )
    series = ShownSeries("5", "axial_t2", (), stacks, (0, 255))
    told = to_json(series)
    assert [one["stack"] for one in told["slices"]] == [0, 0, 0, 1, 1, 1]
    assert [stack["letters"] for stack in told["stacks"]] == [["R", "L", "A", "P"], ["R", "L", "AF", "PH"]]
    for number, (stack, index) in enumerate(series.slices):
        np.testing.assert_allclose(told["slices"][number]["position"], stack.positions[index], atol=1e-4)
        assert series.nearest(stack.positions[index] + 0.5) == number
        np.testing.assert_array_equal(series.image(number, 255), stack.images[index])
        assert np.abs(series.image(number) - stack.images[index] / 1.5).max() <= 0.5


def test_letters_name_the_sides_that_a_direction_runs_to() -> None:
    assert [letters(part) for part in SAGITTAL.reshape(2, 3)] == ["P", "F"]
    assert letters(-SAGITTAL[:3]) == "A"
    assert letters((0.3, 0, 0.95)) == "H"
