"""Slices in the network's frame: one size, one scale, the slice's middle in the middle."""

import cv2
import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.recipes.two_stage.stacks import Stack

Floats = NDArray[np.float64]


def affine(stack: Stack, shape: tuple[int, int], pixel_mm: float) -> Floats:
    """Return ``[2, 3]``, which takes (column, row, 1) of a slice to column and row of the picture."""
    rows, columns = stack.pixels.shape[1:]
    scale = stack.spacing / pixel_mm
    return np.array(
        [
            [scale[1], 0.0, (shape[1] - 1) / 2 - scale[1] * (columns - 1) / 2],
            [0.0, scale[0], (shape[0] - 1) / 2 - scale[0] * (rows - 1) / 2],
        ]
    )


def picture(stack: Stack, index: int, shape: tuple[int, int], pixel_mm: float) -> NDArray[np.uint8]:
    """Return one slice ``[rows, columns]`` uint8 in the network's frame; nothing outside of it."""
    image = np.ascontiguousarray(stack.pixels[index])
    scale = stack.spacing / pixel_mm
    if scale.min() < 0.7:  # warpAffine does not average what it leaves out
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / scale[1], sigmaY=0.4 / scale[0])
    matrix = affine(stack, shape, pixel_mm)
    return cv2.warpAffine(image, matrix, shape[::-1], flags=cv2.INTER_LINEAR).astype(np.uint8)


def to_picture(stack: Stack, row: Floats, column: Floats, shape: tuple[int, int], pixel_mm: float) -> Floats:
    """Return ``[..., 2]`` column and row in the picture of pixels of a slice."""
    matrix = affine(stack, shape, pixel_mm)
    return np.stack([matrix[0, 0] * column + matrix[0, 2], matrix[1, 1] * row + matrix[1, 2]], axis=-1)


def from_picture(stack: Stack, places: Floats, shape: tuple[int, int], pixel_mm: float) -> Floats:
    """Return ``[..., 2]`` row and column in a slice of places (column, row) in the picture."""
    matrix = affine(stack, shape, pixel_mm)
    column = (places[..., 0] - matrix[0, 2]) / matrix[0, 0]
    row = (places[..., 1] - matrix[1, 2]) / matrix[1, 1]
    return np.stack([row, column], axis=-1)
