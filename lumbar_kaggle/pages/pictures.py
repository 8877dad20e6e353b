"""Slices as JPEG pictures inside a page, bare or with a heat map, and how large they may be."""

import base64
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES
from lumbar_kaggle.inference.base import Explanation

Bytes = NDArray[np.uint8]

HEAT_WIDTH = 220  # of pictures with a heat map, px
HEAT_SHARE = 0.6  # of the colour where the heat is greatest; the slice must stay readable below it
QUALITY = 82  # of JPEG
# Longest side in px and quality of all slices of a study: the first that keep them below the limit, which leaves
# a tenth of the 8 MB of a page to everything else on it.
SIZES = ((1024, 90), (768, 88), (640, 86), (512, 84), (448, 78), (384, 72), (320, 62), (256, 50), (192, 40))
LIMIT = 7_000_000  # characters of base64
SAMPLED = 4  # one slice in so many tells whether all are worth trying


def encode(image: Bytes, quality: int = QUALITY) -> str:
    """Return a picture ``[rows, columns]`` or ``[rows, columns, 3]`` (BGR) as JPEG in base64."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return base64.b64encode(data.tobytes()).decode()


def data_uri(jpeg: str) -> str:
    """Return what an image's source is, of `encode`."""
    return f"data:image/jpeg;base64,{jpeg}"


def encode_slices(images: Sequence[Bytes], limit: int = LIMIT) -> list[str]:
    """Return all slices ``[rows, columns]`` of a study as `encode` does, as large as `limit` characters in all allow.
    Shrunk ones keep their proportions in px."""

    def encoded(side: int, quality: int, step: int = 1) -> list[str]:
        return [encode(_within(image, side), quality) for image in images[::step]]

    for size in SIZES[:-1]:
        sample = encoded(*size, SAMPLED)
        if sum(map(len, sample)) * len(images) <= limit * len(sample):
            found = encoded(*size)
            if sum(map(len, found)) <= limit:
                return found
    return encoded(*SIZES[-1])


def _within(image: Bytes, side: int) -> Bytes:
    share = side / max(image.shape)
    size = [max(1, round(length * share)) for length in image.shape[::-1]]
    return image if share >= 1 else np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def picture(image: Bytes, aspect: float, width: int, heat: NDArray[np.float32] | None = None) -> str:
    """Return a slice ``[rows, columns]`` as a data URI, `width` px wide and `aspect` times as high. Each cell of a heat
    map that covers it, of any shape, 0 … 1, is seen as it is. Its colours run from black over purple to yellow in
    rising lightness, so that they are ordered also without colour vision; where it is 0 the slice is left as it is."""
    size = width, round(width * aspect)
    interpolation = cv2.INTER_AREA if image.shape[1] >= width else cv2.INTER_LINEAR
    shown = cv2.resize(image, size, interpolation=interpolation)
    if heat is not None:
        warmth = np.clip(cv2.resize(heat, size, interpolation=cv2.INTER_NEAREST), 0, 1)
        colours = cv2.applyColorMap(np.rint(warmth * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
        share = HEAT_SHARE * warmth[..., None]
        shown = np.rint(shown[..., None] * (1 - share) + colours * share)
    return data_uri(encode(shown.astype(np.uint8)))


def aspect_of(shape: Sequence[int], row_mm: float | None, column_mm: float | None) -> float:
    """Return height / width of a slice of rows and columns in mm; without a spacing, pixels are taken as square."""
    ratio = float(row_mm) / float(column_mm) if row_mm and column_mm else 1.0
    return float(np.clip(shape[0] / shape[1] * ratio, 0.25, 4.0))  # an absurd spacing must not make an absurd picture


def explained_slice(explanation: Explanation, width: int = HEAT_WIDTH) -> dict[str, Any]:
    """Return ``slice``, `width` px wide, its ``facts``, and ``maps``: each ``target, severity, probability, picture``.
    The probability is the calibrated one of the severity that the map explains. Without a slice it is None."""
    shown, probabilities = explanation.slice, explanation.probabilities
    if shown is None:
        return {"slice": None, "maps": []}
    aspect = aspect_of(shown.image.shape, shown.facts["row_mm"], shown.facts["column_mm"])
    maps = [
        {
            "target": entry.target,
            "severity": entry.severity,
            "probability": probabilities[TARGET_NAMES.index(entry.target), SEVERITIES.index(entry.severity)],
            "picture": picture(shown.image, aspect, HEAT_WIDTH, entry.heat),
        }
        for entry in explanation.heat_maps
    ]
    return {"slice": picture(shown.image, aspect, width), "facts": shown.facts, "maps": maps}
