"""The page of one study: slices, the 25 probabilities, and where the models looked.

Slices are JPEG pictures inside the page, with a heat map or with what is drawn over them."""

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.core.files import write_text
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, SEVERITIES, TARGET_NAMES, level_words
from lumbar_kaggle.inference.base import ExplainedCrop, Explanation, Floats, LocatedSlice, Mark, MissingCrop, Slice
from lumbar_kaggle.inference.bundle import Bundle, Manifest, explain_studies
from lumbar_kaggle.pages.render import in_words, instance_words, percent, render

# Of the pictures in px: the whole page stays below 1.5 MB.
SLICE_WIDTH, SAGITTAL_WIDTH, AXIAL_WIDTH, HEAT_WIDTH = 420, 400, 260, 220
HEAT_SHARE = 0.6  # of the colour where the heat is greatest; the slice must stay readable below it
FAR_MM = 6.0  # points further than this from the slice's plane are drawn dashed: they do not lie in the picture
TITLES = {"canal": "Canal", "left foramen": "Left foramina", "right foramen": "Right foramina"}


def write_study_page(folder: Path, study_id: str, bundle: Path, out: Path) -> Path:
    """Grade one study, write its page and return `out`; the same inputs give the same bytes. A study that the models
    cannot see gets a page all the same, with the prior and the reason. The folder is a competition's (then of its test
    split) or one of studies; the bundle is of any recipe. Raises `InputError` where there is no such study, or no
    usable bundle."""
    graders = Bundle(bundle)
    (explanation,) = explain_studies(folder, [study_id], graders)
    cards = [(one.level, _view(one, explanation.probabilities)) for one in explanation.crops]
    located = [(one.view == "axial side", one) for one in explanation.located]
    page = render(
        "study.html",
        explanation=explanation,
        manifest=graders.manifest,
        conditions=CONDITIONS,
        grid=_grid(explanation.probabilities, graders.manifest),
        graded=int(np.isfinite(explanation.probabilities).all(axis=1).sum()),
        sagittal=[_located(one, SAGITTAL_WIDTH, axial=False) for axial, one in located if not axial],
        axial=[_located(one, AXIAL_WIDTH, axial=True) for axial, one in located if axial],
        levels={level: [card for of, card in cards if of == level] for level in LEVELS if cards},
        far_mm=FAR_MM,
        **explained_slice(explanation, SLICE_WIDTH),
    )
    write_text(out, page)
    return out


def _grid(probabilities: Floats, manifest: Manifest) -> list[dict[str, Any]]:
    """Return one row per level, each with a cell per condition; where there is no model's answer, of the prior."""
    known = np.asarray(np.isfinite(probabilities).all(axis=1))
    shares = np.where(known[:, None], probabilities, manifest.prior_table().to_numpy(dtype=np.float64))
    cells = [
        {"graded": bool(graded), "shares": values.tolist(), "likeliest": SEVERITIES[int(values.argmax())]}
        for graded, values in zip(known, shares, strict=True)
    ]
    # In the order of `targets.TARGETS`: the levels of one condition, then those of the next.
    return [{"level": level, "cells": cells[k :: len(LEVELS)]} for k, level in enumerate(LEVELS)]


def explained_slice(explanation: Explanation, width: int = HEAT_WIDTH) -> dict[str, Any]:
    """Return ``slice``, `width` px wide, its ``facts``, and ``maps``: each ``target, severity, probability, picture``.
    The probability is the calibrated one of the severity that the map explains. Without a slice it is None."""
    shown, probabilities = explanation.slice, explanation.probabilities
    if shown is None:
        return {"slice": None, "maps": []}
    maps = [
        {
            "target": entry.target,
            "severity": entry.severity,
            "probability": probabilities[TARGET_NAMES.index(entry.target), SEVERITIES.index(entry.severity)],
            "picture": _picture(shown, HEAT_WIDTH, entry.heat),
        }
        for entry in explanation.heat_maps
    ]
    return {"slice": _picture(shown, width), "facts": shown.facts, "maps": maps}


def _located(located: LocatedSlice, width: int, *, axial: bool) -> dict[str, Any]:
    """Return a slice with its located points, each ringed and named; those beyond its edges are not drawn."""
    shown, first = located.slice, located.marks[0]
    picture = _drawn(shown, width, _words(shown))
    marks = [_mark(mark, picture, shown.image.shape, axial=axial) for mark in located.marks]
    return {
        "title": level_words(first.level) if axial else TITLES.get(first.place, first.place.capitalize()),
        "facts": shown.facts,
        "picture": picture | {"rings": [mark for mark in marks if not mark["outside"]]},
        "marks": marks,
    }


def _mark(mark: Mark, drawn: dict[str, Any], shape: tuple[int, ...], *, axial: bool) -> dict[str, Any]:
    x, y = _pixel(mark.column, mark.row, drawn, shape)
    words = f"{mark.place} {level_words(mark.level)}: confidence {percent(mark.confidence)}"
    return {
        "name": mark.place.split()[0] if axial else level_words(mark.level),
        "confidence": mark.confidence,
        "outside": not mark.inside(shape),
        "x": x,
        "y": y,
        "far": mark.distance_mm > FAR_MM,
        "words": f"{words}, {mark.distance_mm:.1f} mm from this slice",
        # Outwards, so that two names never meet in the middle; never above or below the picture.
        "outwards": axial and x < drawn["width"] / 2,
        "baseline": min(max(y + 4, 11), drawn["height"] - 4),
    }


def _view(one: ExplainedCrop | MissingCrop, probabilities: Floats) -> dict[str, Any]:
    """Return a crop and, unless it is missing, the slice around it with its heat map and the crop's outline."""
    if isinstance(one, MissingCrop):
        return {"crop": one}
    words = f"Grad-CAM of {one.place} {level_words(one.level)}, {_words(one.slice)}"
    picture = _drawn(one.slice, HEAT_WIDTH, words, one.heat)
    corners = [_pixel(column, row, picture, one.slice.image.shape) for column, row in one.frame.tolist()]
    probability = float(probabilities[TARGET_NAMES.index(one.target), one.severity])
    return {"crop": one, "picture": picture | {"frame": corners}, "probability": probability}


def _drawn(shown: Slice, width: int, words: str, heat: NDArray[np.float32] | None = None) -> dict[str, Any]:
    """Return what the macro ``drawn`` shows of a slice, with nothing drawn over it yet."""
    size = {"width": width, "height": _height(shown, width)}
    source, sides = _picture(shown, width, heat), shown.facts["sides"]
    return {"source": source, **size, "words": words, "sides": sides, "rings": [], "frame": []}


def _words(shown: Slice) -> str:
    return f"{in_words(shown.facts['kind'])}, {instance_words(shown.facts['instance_number'])}"


def _pixel(column: float, row: float, drawn: dict[str, Any], shape: tuple[int, ...]) -> tuple[float, float]:
    """Return where the centre of a slice's pixel lies in its picture: x, y in px."""
    across, down = drawn["width"] / shape[1], drawn["height"] / shape[0]
    return round((column + 0.5) * across, 1), round((row + 0.5) * down, 1)


def _picture(shown: Slice, width: int, heat: NDArray[np.float32] | None = None) -> str:
    """Return a slice as a data URI, `width` px wide and as high as its millimetres ask. The colours of a heat map (of
    the slice's shape, 0 … 1) run from black over purple to yellow in rising lightness, so that they are ordered also
    without colour vision; without heat the slice is left as it is."""
    size = width, _height(shown, width)
    interpolation = cv2.INTER_AREA if shown.image.shape[1] >= width else cv2.INTER_LINEAR
    picture = cv2.resize(shown.image, size, interpolation=interpolation)
    if heat is not None:
        warmth = np.clip(cv2.resize(heat, size, interpolation=interpolation), 0, 1)
        colours = cv2.applyColorMap(np.rint(warmth * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
        share = HEAT_SHARE * warmth[..., None]
        picture = np.rint(picture[..., None] * (1 - share) + colours * share).astype(np.uint8)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 82])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _height(shown: Slice, width: int) -> int:
    row_mm, column_mm = shown.facts["row_mm"], shown.facts["column_mm"]
    ratio = float(row_mm) / float(column_mm) if row_mm else 1.0  # without a known spacing, pixels are taken as square
    aspect = shown.image.shape[0] / shown.image.shape[1] * ratio
    return round(width * float(np.clip(aspect, 0.25, 4.0)))  # an absurd spacing must not make an absurd picture
