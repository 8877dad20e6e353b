"""Slices and heat maps as JPEG pictures inside the page."""

import base64
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.explain.shown import BaselineExplanation
from lumbar_kaggle.targets import SEVERITIES, TARGET_NAMES

WIDTH = 220
"""Of a picture in px: 25 of them stay well below 1 MB."""

QUALITY = 82
STRENGTH = 0.6
"""Share of the colour where the heat is greatest; the slice must stay readable below it."""


def slice_picture(image: NDArray[np.uint8], facts: dict[str, Any], width: int = WIDTH) -> str:
    """Return a slice as a data URI, `width` px wide and as high as its millimetres ask.

    Args:
        image: ``[rows, columns]``.
        facts: ``row_mm`` and ``column_mm``, the distances between rows and between columns;
            None where not known.
        width: in px.
    """
    return _encode(_fit(image, facts, width))


def overlay_picture(
    image: NDArray[np.uint8], heat: NDArray[np.float32], facts: dict[str, Any], width: int = WIDTH
) -> str:
    """Return the slice under its heat map as a data URI.

    The colours run from black over purple to yellow in rising lightness, so that they are ordered
    also without colour vision; where there is no heat the slice is left as it is.

    Args:
        image: ``[rows, columns]``.
        heat: the same shape, 0 … 1.
        facts, width: as in `slice_picture`.
    """
    gray, warmth = _fit(image, facts, width), np.clip(_fit(heat, facts, width), 0, 1)
    colours = cv2.applyColorMap(np.rint(warmth * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    share = STRENGTH * warmth[..., None]
    blended = gray[..., None] * (1 - share) + colours * share
    return _encode(np.rint(blended).astype(np.uint8))


def explained_slice(explanation: BaselineExplanation, width: int = WIDTH) -> dict[str, Any]:
    """Return ``slice``, its ``facts``, and ``maps``: each ``target, severity, probability, picture``.

    The probability is the calibrated one of the severity that the map explains; `width` is that of the
    slice itself, in px.
    """
    maps = [
        {
            "target": entry.target,
            "severity": entry.severity,
            "probability": float(
                explanation.probabilities[TARGET_NAMES.index(entry.target), SEVERITIES.index(entry.severity)]
            ),
            "picture": overlay_picture(explanation.image, entry.heat, explanation.facts),
        }
        for entry in explanation.heat_maps
    ]
    shown = slice_picture(explanation.image, explanation.facts, width)
    return {"slice": shown, "facts": explanation.facts, "maps": maps}


def picture_size(shape: tuple[int, ...], facts: dict[str, Any], width: int) -> tuple[int, int]:
    """Return width and height in px of the picture of a slice of so many rows and columns.

    Args:
        shape: rows and columns.
        facts, width: as in `slice_picture`.
    """
    # Without a known spacing, pixels are taken as square.
    ratio = float(facts["row_mm"]) / float(facts["column_mm"]) if facts["row_mm"] else 1.0
    aspect = shape[0] / shape[1] * ratio
    # A header with an absurd spacing must not make an absurd picture.
    return width, round(width * min(max(aspect, 0.25), 4.0))


def _fit(image: NDArray[Any], facts: dict[str, Any], width: int) -> NDArray[Any]:
    size = picture_size(image.shape, facts, width)
    shrinking = image.shape[1] >= width
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)


def _encode(image: NDArray[np.uint8]) -> str:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise RuntimeError("OpenCV cannot write JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
