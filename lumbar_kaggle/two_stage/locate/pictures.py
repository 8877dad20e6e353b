"""Slices in the networks' frame: upright in the patient, one size, one scale, a given pixel in the middle.

Whichever way slices are stored, sagittal pictures have the back to the right and the foot downwards, axial
ones the patient's left to the right and the back downwards, see `geometry.upright_axes`.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.dicom import geometry
from lumbar_kaggle.two_stage.stacks import Stack

Floats = NDArray[np.float64]


def affine(
    stack: Stack, shape: tuple[int, int], pixel_mm: float, middle: tuple[float, float] | None = None
) -> Floats:
    """Return ``[2, 3]``, which takes (column, row, 1) of a slice to column and row of the picture.

    Args:
        stack: sagittal or axial slices.
        shape: rows and columns of the picture.
        pixel_mm: mm per pixel of it.
        middle: row and column (px of the slice) that lie in its middle; None: the slice's own middle.
    """
    rows, columns = stack.pixels.shape[1:]
    row, column = middle if middle is not None else ((rows - 1) / 2, (columns - 1) / 2)
    stored = stack.orientation.reshape(2, 3)  # where columns grow, where rows grow
    scale = stack.spacing[::-1] / pixel_mm
    linear = np.array(geometry.upright_axes(stack.orientation)) @ stored.T * scale
    centre = (np.array(shape[::-1]) - 1) / 2
    return np.column_stack([linear, centre - linear @ np.array([column, row])])


def picture(
    stack: Stack,
    index: int,
    shape: tuple[int, int],
    pixel_mm: float,
    middle: tuple[float, float] | None = None,
) -> NDArray[np.uint8]:
    """Return one slice ``[rows, columns]`` uint8 in the network's frame, see `affine`; 0 outside of it."""
    image = np.ascontiguousarray(stack.pixels[index])
    scale = stack.spacing / pixel_mm
    if scale.min() < 0.7:  # warpAffine does not average what it leaves out
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / scale[1], sigmaY=0.4 / scale[0])
    matrix = affine(stack, shape, pixel_mm, middle)
    return cv2.warpAffine(image, matrix, shape[::-1], flags=cv2.INTER_LINEAR).astype(np.uint8)


def to_picture(
    stack: Stack,
    row: Floats,
    column: Floats,
    shape: tuple[int, int],
    pixel_mm: float,
    middle: tuple[float, float] | None = None,
) -> Floats:
    """Return ``[..., 2]`` column and row in the picture of pixels of a slice."""
    matrix = affine(stack, shape, pixel_mm, middle)
    return np.asarray(np.stack([column, row], axis=-1) @ matrix[:, :2].T + matrix[:, 2], dtype=np.float64)


def from_picture(
    stack: Stack,
    places: Floats,
    shape: tuple[int, int],
    pixel_mm: float,
    middle: tuple[float, float] | None = None,
) -> Floats:
    """Return ``[..., 2]`` row and column in a slice of places (column, row) in the picture."""
    matrix = affine(stack, shape, pixel_mm, middle)
    pixels = (places - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    return np.asarray(pixels[..., ::-1], dtype=np.float64)
