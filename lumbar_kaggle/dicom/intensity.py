"""MR intensities, which have no unit, to 8 bit by percentiles."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

LOW, HIGH = 1.0, 99.0
"""Percentiles that become black and white: the project report's, and those of the 2nd place."""


Mask = NDArray[np.bool_] | None


def percentiles(
    image: NDArray[Any], low: float = LOW, high: float = HIGH, padding: Mask = None
) -> tuple[float, float]:
    """Return two percentiles; pixels that are not finite do not count.

    Args:
        image: any shape.
        low, high: 0 to 100.
        padding: the shape of `image`, True where a pixel does not count (`instances.Slice.padding`).

    Returns:
        The two intensities, both 0 where no pixel counts.
    """
    if padding is not None:
        image = image[~padding]
    if not np.issubdtype(image.dtype, np.integer):
        image = image[np.isfinite(image)]
    if not image.size:
        return 0.0, 0.0
    first, second = np.percentile(image, [low, high])
    return float(first), float(second)


def to_8bit(image: NDArray[Any], low: float, high: float, padding: Mask = None) -> NDArray[np.uint8]:
    """Map intensities linearly, `low` to 0 and `high` to 255, values beyond them clipped.

    Args:
        image: any shape.
        low, high: intensities; where they are equal the image is constant and becomes 0 throughout.
        padding: the shape of `image`, True where there is no picture.

    Returns:
        uint8, the shape of `image`; padding and NaN become 0, infinite values are clipped like others.
    """
    if not high > low:
        return np.zeros(image.shape, dtype=np.uint8)
    scaled = (image.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    rounded = np.rint(np.clip(np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0), 0, 255))
    image8: NDArray[np.uint8] = rounded.astype(np.uint8)
    if padding is not None:
        image8[padding] = 0
    return image8


def window(image: NDArray[Any], padding: Mask = None) -> NDArray[np.uint8]:
    """Map one image to 8 bit between its own 1st and 99th percentile; padding is left out, and 0."""
    return to_8bit(image, *percentiles(image, padding=padding), padding)
