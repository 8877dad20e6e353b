"""Slices as JPEG pictures inside the page, under heat maps, and with what is drawn over them."""

import base64
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES, level_words
from lumbar_kaggle.inference.base import ExplainedCrop, Explanation, LocatedSlice, Mark, Slice
from lumbar_kaggle.pages.render import in_words, instance_words, percent

WIDTH = 220
"""Of a picture in px: 25 of them stay well below 1 MB."""

QUALITY = 82
STRENGTH = 0.6
"""Share of the colour where the heat is greatest; the slice must stay readable below it."""

FAR_MM = 6.0
"""Points further than this from the slice's plane are drawn dashed: they do not lie in the picture."""


def slice_picture(
    image: NDArray[np.uint8], facts: dict[str, Any], width: int = WIDTH, heat: NDArray[np.float32] | None = None
) -> str:
    """Return a slice as a data URI, `width` px wide and as high as its millimetres ask.

    The colours of a heat map run from black over purple to yellow in rising lightness, so that they are
    ordered also without colour vision; where there is no heat the slice is left as it is.

    Args:
        image: ``[rows, columns]``.
        facts: ``row_mm`` and ``column_mm``, the distances between rows and between columns;
            None where not known.
        width: in px.
        heat: to lay over it, of the same shape, 0 … 1.
    """
    picture = _fit(image, facts, width)
    if heat is not None:
        warmth = np.clip(_fit(heat, facts, width), 0, 1)
        colours = cv2.applyColorMap(np.rint(warmth * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
        share = STRENGTH * warmth[..., None]
        picture = np.rint(picture[..., None] * (1 - share) + colours * share).astype(np.uint8)
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise RuntimeError("OpenCV cannot write JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def explained_slice(explanation: Explanation, shown: Slice, width: int = WIDTH) -> dict[str, Any]:
    """Return ``slice``, its ``facts``, and ``maps``: each ``target, severity, probability, picture``.

    The probability is the calibrated one of the severity that the map explains; `width` is that of the
    slice itself, in px.
    """
    image, facts, probabilities = shown.image, shown.facts, explanation.probabilities
    maps = [
        {
            "target": entry.target,
            "severity": entry.severity,
            "probability": probabilities[TARGET_NAMES.index(entry.target), SEVERITIES.index(entry.severity)],
            "picture": slice_picture(image, facts, heat=entry.heat),
        }
        for entry in explanation.heat_maps
    ]
    return {"slice": slice_picture(image, facts, width), "facts": facts, "maps": maps}


def marked_slice(located: LocatedSlice, width: int) -> dict[str, Any]:
    """Return what the macro ``drawn`` shows of a slice with its located points, each ringed and named.

    Args:
        located: the slice; points beyond its edges are not drawn.
        width: in px.
    """
    shape = located.slice.image.shape
    drawn = _drawn(located.slice, width, _words(located.slice))
    axial = located.view == "axial side"
    rings = [_ring(mark, drawn, shape, axial) for mark in located.marks if mark.inside(shape)]
    return drawn | {"rings": rings}


def _ring(mark: Mark, drawn: dict[str, Any], shape: tuple[int, ...], axial: bool) -> dict[str, Any]:
    x, y = _pixel(mark.column, mark.row, drawn, shape)
    words = f"{mark.place} {level_words(mark.level)}: confidence {percent(mark.confidence)}"
    return {
        "x": x,
        "y": y,
        "far": mark.distance_mm > FAR_MM,
        "words": f"{words}, {mark.distance_mm:.1f} mm from this slice",
        "name": mark.place.split()[0] if axial else level_words(mark.level),
        # Outwards, so that two names never meet in the middle; never above or below the picture.
        "outwards": axial and x < drawn["width"] / 2,
        "baseline": min(max(y + 4, 11), drawn["height"] - 4),
    }


def looked_slice(looked: ExplainedCrop, width: int) -> dict[str, Any]:
    """Return what the macro ``drawn`` shows of a slice around a crop: its heat map, the crop's outline."""
    words = f"Grad-CAM of {looked.place} {level_words(looked.level)}, {_words(looked.slice)}"
    drawn, shape = _drawn(looked.slice, width, words, looked.heat), looked.slice.image.shape
    return drawn | {"frame": [_pixel(column, row, drawn, shape) for column, row in looked.frame.tolist()]}


def _drawn(shown: Slice, width: int, words: str, heat: NDArray[np.float32] | None = None) -> dict[str, Any]:
    _, height = _size(shown.image.shape, shown.facts, width)
    source = slice_picture(shown.image, shown.facts, width, heat)
    drawn = {"source": source, "width": width, "height": height, "words": words}
    return drawn | {"sides": shown.facts["sides"], "rings": [], "frame": []}


def _pixel(column: float, row: float, drawn: dict[str, Any], shape: tuple[int, ...]) -> tuple[float, float]:
    """Return where the centre of a slice's pixel lies in its picture: x, y in px."""
    across, down = drawn["width"] / shape[1], drawn["height"] / shape[0]
    return round((column + 0.5) * across, 1), round((row + 0.5) * down, 1)


def _words(shown: Slice) -> str:
    facts: dict[str, Any] = shown.facts
    return f"{in_words(facts['kind'])}, {instance_words(facts['instance_number'])}"


def _size(shape: tuple[int, ...], facts: dict[str, Any], width: int) -> tuple[int, int]:
    # Without a known spacing, pixels are taken as square.
    ratio = float(facts["row_mm"]) / float(facts["column_mm"]) if facts["row_mm"] else 1.0
    aspect = shape[0] / shape[1] * ratio
    # A header with an absurd spacing must not make an absurd picture.
    return width, round(width * min(max(aspect, 0.25), 4.0))


def _fit(image: NDArray[Any], facts: dict[str, Any], width: int) -> NDArray[Any]:
    shrinking = image.shape[1] >= width
    interpolation = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return cv2.resize(image, _size(image.shape, facts, width), interpolation=interpolation)
