"""Windowing to 8 bit: exact percentiles, order kept, degenerate images."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lumbar_kaggle.dicom.volume import percentiles, to_8bit, windowed

shapes = array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=12)


def integers(name: str, low: int, high: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(name, shapes, elements=st.integers(low, high))


def eighths(name: str) -> st.SearchStrategy[np.ndarray]:
    """Floats that float32 holds exactly, as rescaled intensities nearly are."""
    return arrays(name, shapes, elements=st.integers(-(2**20), 2**20).map(lambda value: value / 8))


images = st.one_of(
    integers("uint8", 0, 255),
    integers("uint16", 0, 65535),
    integers("uint16", 0, 40),
    integers("int16", -32768, 32767),
    eighths("float32"),
    eighths("float64"),
)
wide_images = st.one_of(
    images,
    integers("int32", -(2**31), 2**31 - 1),
    integers("uint32", 0, 2**32 - 1),
    arrays("float64", shapes, elements=st.floats(-1e6, 1e6)),
)


@given(image=wide_images)
@example(image=np.array([0, -32768], dtype=np.int16))
@example(image=np.array([2**31 - 1, -(2**31)], dtype=np.int32))
@settings(max_examples=150, deadline=None)
def test_percentiles_are_numpys(image: np.ndarray) -> None:
    """For every integer and float type the two values are np.percentile's to the last bit, of one array or of parts;
    those of signed integers, whose differences overflow in it, of the same numbers as floats."""
    exact = image.astype(np.float64) if image.dtype.kind == "i" else image
    assert percentiles(image) == tuple(np.percentile(exact, [1, 99]))
    half = len(image) // 2
    assert percentiles(image[:half], image[half:]) == percentiles(image)


@given(image=images)
@settings(max_examples=80, deadline=None)
def test_brighter_pixels_stay_brighter(image: np.ndarray) -> None:
    """The mapping is monotone and has the image's shape in uint8."""
    mapped = windowed(image)
    assert mapped.dtype == np.uint8
    assert mapped.shape == image.shape
    order = np.argsort(image, axis=None)
    assert np.all(np.diff(mapped.ravel()[order].astype(int)) >= 0)


@given(image=images)
@example(image=np.array([0, -32768], dtype=np.int16))
@settings(max_examples=50, deadline=None)
def test_a_window_uses_black_and_white(image: np.ndarray) -> None:
    """Unless both percentiles are equal, the least pixel becomes 0 and the greatest 255."""
    low, high = percentiles(image)
    mapped = windowed(image)
    if high > low:
        assert (mapped.min(), mapped.max()) == (0, 255)
    else:
        assert not mapped.any()


FEW_BRIGHT = np.where(np.arange(400).reshape(20, 20) == 64, 4000, 0).astype(np.uint16)
CONSTANT = [
    np.full((6, 5), value, dtype=dtype)
    for value in (0, 7, 120)
    for dtype in ("uint8", "uint16", "int16", "float32", "float64")
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("image", [*CONSTANT, FEW_BRIGHT, *(np.full((3, 4), one) for one in (np.nan, np.inf, -np.inf))])
def test_an_image_without_contrast_becomes_black(image: np.ndarray) -> None:
    """Constant, bright in fewer than one percent of its pixels, or without a finite one: zeros and no warning."""
    mapped = windowed(image)
    assert mapped.dtype == np.uint8
    assert not mapped.any()
    assert np.isfinite(image).all() or percentiles(image) == (0.0, 0.0)


def test_the_ends_are_clipped_and_the_middle_is_linear() -> None:
    """Worked out by hand for a window from 100 to 355, one grey level per unit."""
    image = np.array([[0, 100, 101, 200], [354, 355, 356, 65535]], dtype=np.uint16)
    assert to_8bit(image, 100, 355).tolist() == [[0, 0, 1, 100], [254, 255, 255, 255]]
    assert to_8bit(np.array([-50, -25, 0], dtype=np.int16), -50, 0).tolist() == [0, 128, 255]


@pytest.mark.filterwarnings("error")
def test_pixels_that_are_not_finite_do_not_count() -> None:
    """NaN becomes 0, infinities are clipped, and the percentiles are those of the other pixels."""
    image = np.linspace(0, 1, 1000).reshape(20, 50)
    expected = tuple(np.percentile(image.ravel()[3:], [1, 99]))
    image.ravel()[:3] = np.nan, np.inf, -np.inf
    assert percentiles(image) == pytest.approx(expected)
    assert windowed(image).ravel()[:3].tolist() == [0, 255, 0]
    assert windowed(image).ravel()[-1] == 255


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "int32"])
@pytest.mark.parametrize("value", [0, 7, 100])
def test_padding_takes_no_part_in_a_window(dtype: str, value: int) -> None:
    """Whatever padded pixels hold, the others are mapped as if they were alone, and padding is black."""
    picture = np.random.default_rng(0).integers(20, 90, (40, 30)).astype(dtype)
    padded = np.pad(picture, ((0, 0), (0, 50)), constant_values=value)
    padding = np.zeros(padded.shape, dtype=bool)
    padding[:, 30:] = True
    assert percentiles(padded[~padding]) == percentiles(picture)
    mapped = windowed(padded, padding)
    np.testing.assert_array_equal(mapped[:, :30], windowed(picture))
    assert not mapped[:, 30:].any()


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_an_image_that_is_padding_throughout_becomes_black(dtype: str) -> None:
    """Nothing to measure gives zeros, as does an image without pixels."""
    image = np.full((3, 4), 9, dtype=dtype)
    everything = np.ones(image.shape, dtype=bool)
    assert percentiles(image[:0]) == (0.0, 0.0)
    assert not windowed(image, everything).any()
