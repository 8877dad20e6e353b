"""Patient coordinates: round trips, planes, reading direction, order of the spacings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumbar_kaggle.dicom.geometry import plane, reading_direction, slice_normal, to_patient, to_slice
from tests.support.dicom_files import AXIAL, CORONAL, SAGITTAL

millimetres = st.floats(-300, 300)
points = st.tuples(millimetres, millimetres, millimetres)
spacings = st.tuples(st.floats(0.2, 2), st.floats(0.2, 2))
pixels = st.floats(-50, 1100)


@st.composite
def orientations(draw: st.DrawFn) -> np.ndarray:
    """Random pairs of perpendicular unit vectors, from a random unit quaternion."""
    parts = st.floats(-1, 1)
    quaternion = draw(st.tuples(parts, parts, parts, parts).filter(lambda values: np.linalg.norm(values) > 0.1))
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    row = [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)]
    column = [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)]
    return np.array(row + column)


def turned(orientation: tuple[float, ...], degrees: float, axis: int) -> np.ndarray:
    """Rotate an orientation about one of the patient's axes."""
    first, second = [index for index in range(3) if index != axis]
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotation = np.eye(3)
    rotation[first, first] = rotation[second, second] = cosine
    rotation[first, second], rotation[second, first] = -sine, sine
    return (np.reshape(orientation, (2, 3)) @ rotation.T).ravel()


@given(orientations(), points, spacings, pixels, pixels)
def test_a_pixel_comes_back_from_patient_coordinates(
    orientation: np.ndarray, position: tuple[float, ...], spacing: tuple[float, float], row: float, column: float
) -> None:
    """Any pixel of any oblique slice returns to itself and lies in the plane."""
    point = to_patient(row, column, position, orientation, spacing)
    back_row, back_column, distance = to_slice(point, position, orientation, spacing)
    assert (back_row, back_column) == (pytest.approx(row, abs=1e-6), pytest.approx(column, abs=1e-6))
    assert distance == pytest.approx(0, abs=1e-6)


@given(orientations(), points, spacings, points)
def test_a_point_comes_back_from_its_projection(
    orientation: np.ndarray, position: tuple[float, ...], spacing: tuple[float, float], point: tuple[float, ...]
) -> None:
    """The projected pixel plus the distance along the normal is the point again."""
    row, column, distance = to_slice(point, position, orientation, spacing)
    rebuilt = to_patient(row, column, position, orientation, spacing) + distance * slice_normal(orientation)
    np.testing.assert_allclose(rebuilt, point, atol=1e-6)


@given(orientations())
def test_the_normal_is_a_unit_vector_perpendicular_to_both_directions(orientation: np.ndarray) -> None:
    """It forms a right-handed frame with row and column direction."""
    normal = slice_normal(orientation)
    frame = np.stack([orientation[:3], orientation[3:], normal])
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(frame) == pytest.approx(1)


def test_spacing_between_rows_comes_first() -> None:
    """Ten columns right and one row down of a sagittal slice of 2 mm × 0.5 mm pixels."""
    point = to_patient(1, 10, (7.0, -30.0, 60.0), SAGITTAL, (2.0, 0.5))
    np.testing.assert_allclose(point, [7.0, -30.0 + 10 * 0.5, 60.0 - 1 * 2.0])
    row, column, distance = to_slice([9.0, -25.0, 58.0], (7.0, -30.0, 60.0), SAGITTAL, (2.0, 0.5))
    assert (row, column) == (pytest.approx(1), pytest.approx(10))
    # The normal of this orientation points to the patient's right, so a point 2 mm to the left is behind it.
    assert distance == pytest.approx(-2)


def test_the_first_pixels_centre_is_the_position() -> None:
    """Pixel (0, 0) has no half-pixel shift."""
    np.testing.assert_array_equal(to_patient(0, 0, (1.0, 2.0, 3.0), AXIAL, (0.5, 0.7)), [1, 2, 3])


def test_arrays_of_pixels_keep_their_shape() -> None:
    """Many pixels at once give what one at a time gives."""
    rows, columns = np.meshgrid(np.arange(4.0), np.arange(3.0), indexing="ij")
    points_mm = to_patient(rows, columns, (5.0, 6.0, 7.0), AXIAL, (0.5, 0.7))
    assert points_mm.shape == (4, 3, 3)
    np.testing.assert_allclose(points_mm[2, 1], to_patient(2, 1, (5.0, 6.0, 7.0), AXIAL, (0.5, 0.7)))
    back_rows, back_columns, distances = to_slice(points_mm, (5.0, 6.0, 7.0), AXIAL, (0.5, 0.7))
    np.testing.assert_allclose(back_rows, rows, atol=1e-12)
    np.testing.assert_allclose(back_columns, columns, atol=1e-12)
    assert distances.shape == (4, 3)


@pytest.mark.parametrize(("orientation", "name"), [(SAGITTAL, "sagittal"), (CORONAL, "coronal"), (AXIAL, "axial")])
@pytest.mark.parametrize("degrees", [-40, -15, 0, 15, 40])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_tilted_slice_keeps_its_plane(orientation: tuple[float, ...], name: str, degrees: float, axis: int) -> None:
    """A tilt of up to 40° about any axis keeps the name of the plane, and so does looking from behind."""
    tilted = turned(orientation, degrees, axis)
    assert plane(tilted) == name
    assert plane(np.concatenate([tilted[3:], tilted[:3]])) == name
    assert plane(np.concatenate([-tilted[:3], tilted[3:]])) == name


@given(orientations())
def test_the_reading_direction_is_independent_of_which_way_the_slice_looks(orientation: np.ndarray) -> None:
    """Turning a slice over keeps the direction; it is along the normal and has the plane's sign."""
    direction = reading_direction(orientation)
    mirrored = reading_direction(np.concatenate([-orientation[:3], orientation[3:]]))
    np.testing.assert_allclose(mirrored, direction, atol=1e-12)
    assert abs(direction @ slice_normal(orientation)) == pytest.approx(1)
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane(orientation)]
    assert np.sign(direction[axis]) == (-1 if axis == 2 else 1)


@pytest.mark.parametrize(
    ("orientation", "direction"), [(SAGITTAL, (1, 0, 0)), (CORONAL, (0, 1, 0)), (AXIAL, (0, 0, -1))]
)
def test_sagittal_reads_to_the_left_and_axial_to_the_feet(
    orientation: tuple[float, ...], direction: tuple[float, ...]
) -> None:
    """Sagittal slices go with rising x, coronal with rising y, axial with falling z."""
    np.testing.assert_allclose(reading_direction(orientation), direction, atol=1e-12)
