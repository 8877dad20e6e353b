"""Patient coordinates: where a pixel lies in the body, and where a point of the body lies in a slice.

Patient frame: LPS in mm, +x to the patient's left, +y to the back, +z to the head (DICOM PS3.3 §C.7.6.2.1.1). A slice
is given by three attributes of its header: ``position [3]`` is ImagePositionPatient, the *centre* of the first pixel
(row 0, column 0), mm; ``orientation [6]`` is ImageOrientationPatient, unit vectors in the direction of growing column
index (along a row) and of growing row index (down a column); ``spacing [2]`` is PixelSpacing, mm between rows and mm
between columns, in that order."""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
# Directions in the patient, LPS.
LEFT, BACK, FOOT = np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), np.array([0, 0, -1.0])
AXES = ("sagittal", "coronal", "axial")  # plane whose slice normal lies mostly along x, y and z


def slice_normal(orientation: ArrayLike) -> Floats:
    """Return unit normals ``[..., 3]`` of direction cosines ``[..., 6]``: row × column direction."""
    cosines = np.asarray(orientation, dtype=np.float64)
    return _one_normal(cosines.tobytes()) if cosines.ndim == 1 else _normals(cosines)


@lru_cache(maxsize=256)
def _one_normal(cosines: bytes) -> Floats:
    """A study's slices share an orientation or two, and ask for its normal a thousand times; read-only."""
    normal = _normals(np.frombuffer(cosines))
    normal.setflags(write=False)
    return normal


def _normals(cosines: Floats) -> Floats:
    normal = _cross(cosines[..., :3], cosines[..., 3:])
    return normal / np.linalg.norm(normal, axis=-1, keepdims=True)


def plane(orientation: ArrayLike) -> str:
    """Return ``"sagittal"``, ``"coronal"`` or ``"axial"``, whichever is nearest to direction cosines ``[6]``.

    >>> plane([0, 1, 0, 0, 0, -1])
    'sagittal'
    """
    return AXES[int(np.argmax(np.abs(slice_normal(orientation))))]


def to_patient(
    row: ArrayLike, column: ArrayLike, position: ArrayLike, orientation: ArrayLike, spacing: ArrayLike
) -> Floats:
    """Return LPS mm ``[..., 3]`` of pixels of one slice (DICOM PS3.3 equation C.7.6.2.1-1). `row` and `column` are
    indices ``[...]``; fractions are allowed, (0, 0) is the first pixel's centre."""
    cosines = np.asarray(orientation, dtype=np.float64)
    row_mm, column_mm = np.asarray(spacing, dtype=np.float64)
    across = np.asarray(column, dtype=np.float64)[..., None] * column_mm * cosines[:3]
    down = np.asarray(row, dtype=np.float64)[..., None] * row_mm * cosines[3:]
    return np.asarray(position, dtype=np.float64) + across + down


def to_slice(
    points: ArrayLike, position: ArrayLike, orientation: ArrayLike, spacing: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    """Project LPS points ``[..., 3]`` (mm) on one slice. Returns ``row [...]`` and ``column [...]`` in px, and
    ``distance [...]`` in mm from the plane, positive on the side of the normal."""
    cosines = np.asarray(orientation, dtype=np.float64)
    row_mm, column_mm = np.asarray(spacing, dtype=np.float64)
    offset = np.asarray(points, dtype=np.float64) - np.asarray(position, dtype=np.float64)
    return offset @ cosines[3:] / row_mm, offset @ cosines[:3] / column_mm, offset @ slice_normal(cosines)


def reading_direction(orientation: ArrayLike) -> Floats:
    """Return the slice normal ``[3]`` of direction cosines ``[6]``, turned as slices are ordered. Sagittal ones run
    from right to left (rising x), coronal from front to back (y), axial from head to foot (-z)."""
    normal = slice_normal(orientation)
    axis = int(np.argmax(np.abs(normal)))
    return normal * ((-1.0 if axis == 2 else 1.0) * np.sign(normal[axis]))


def upright_axes(orientation: ArrayLike, down: ArrayLike = FOOT) -> tuple[Floats, Floats]:
    """Return the directions in the patient, unit vectors ``[3]``, of an upright picture's right and downwards.
    Sagittal: the back to the right, the foot, or `down [3]`, downwards. Axial: the patient's left to the right, the
    back downwards. Both lie in the plane of the slices of direction cosines ``[6]``, whichever way those are stored."""
    normal = slice_normal(orientation)
    if plane(orientation) == "axial":
        right = _in_plane(LEFT, normal)
        below = _cross(normal, right)
        return right, below * np.sign(below @ BACK)
    below = _in_plane(np.asarray(down, dtype=np.float64), normal)
    right = _cross(below, normal)
    return right * np.sign(right @ BACK), below


def letters(direction: ArrayLike) -> str:
    """Return to which sides of the patient a direction ``[3]`` runs, the main one first: of L, R, P, A, H (head) and F
    (foot). What it leans to by less than 20° is left out.

    >>> letters([0, 1, 0]), letters([0, -0.6, -0.8])
    ('P', 'FA')
    """
    parts = np.asarray(direction, dtype=np.float64)
    leaning = [axis for axis in np.argsort(-np.abs(parts), kind="stable") if abs(parts[axis]) > np.sin(np.radians(20))]
    return "".join(("LPH" if parts[axis] > 0 else "RAF")[axis] for axis in leaning)


def _cross(first: Floats, second: Floats) -> Floats:
    """Return `np.cross`, which takes far longer for one pair and is asked thousands of times per study."""
    after, before = [1, 2, 0], [2, 0, 1]
    return first[..., after] * second[..., before] - first[..., before] * second[..., after]


def _in_plane(direction: Floats, normal: Floats) -> Floats:
    """Return the unit vector of a direction's part within a plane."""
    within = direction - (direction @ normal) * normal
    return within / np.linalg.norm(within)
