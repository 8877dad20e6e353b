"""What a recipe explains of a study, laid onto the slices that its page shows."""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES, level_words
from lumbar_kaggle.dicom.volume import windowed
from lumbar_kaggle.inference.base import ExplainedCrop, Explanation, Floats, MissingCrop
from lumbar_kaggle.pages.pictures import HEAT_WIDTH, picture
from lumbar_kaggle.pages.render import in_words, instance_words, percent
from lumbar_kaggle.pages.series import ShownSeries

SURROUNDINGS = 1.5  # side of the pictured part of a slice, in sides of the crop


def points(explanation: Explanation) -> list[dict[str, Any]]:
    """Return the located points: name, level, confidence, LPS mm, and the frame that these are of."""
    return [
        {
            "place": mark.place,
            "level": mark.level,
            "name": level_words(mark.level),
            "words": f"{mark.place} {level_words(mark.level)}: confidence {percent(mark.confidence)}",
            "confidence": mark.confidence,
            "point": np.round(mark.point, 3).tolist(),
            "frame": "" if one.slice.facts["placed"] else one.slice.facts["series_id"],
        }
        for one in explanation.located
        for mark in one.marks
    ]


def looks(explanation: Explanation, found: Sequence[ShownSeries]) -> list[dict[str, Any]]:
    """Return what was looked at for each grade: the number of its target, a series of those `found` and some of its
    slices with the attention paid to each, the corners of the crop (LPS mm), its middle where that is a place that the
    grade is of, and the heat of its cells on each slice, 0 to 255."""
    number = {one.series_id: k for k, one in enumerate(found)}
    parts = []
    for crop in explanation.crops:
        if isinstance(crop, ExplainedCrop):
            series = number[crop.series_id]
            slices, middle = [found[series].nearest(place) for place in crop.positions], crop.corners.mean(axis=0)
            shown = crop.target, crop.place, series, slices, crop.attention, crop.corners, middle.round(3).tolist()
            parts.append((*shown, crop.heat))
    for series, slice_number, corners in _whole_slice(explanation, found):
        for one in explanation.heat_maps:
            parts.append((one.target, "all of it", series, [slice_number], (1.0,), corners, None, one.heat[None]))
    return [
        {
            "target": TARGET_NAMES.index(target),
            "place": place,
            "series": series,
            "slices": slices,
            "attention": [round(share, 4) for share in attention],
            "corners": corners.round(3).tolist(),
            "middle": middle,
            "heat": np.rint(heat * 255).astype(int).tolist(),
        }
        for target, place, series, slices, attention, corners, middle, heat in parts
    ]


def _whole_slice(explanation: Explanation, found: Sequence[ShownSeries]) -> Iterator[tuple[int, int, Floats]]:
    """Yield series, number and corners of the slice that all is read from, if there is one and it is shown."""
    if explanation.slice is None:
        return
    image, facts = explanation.slice.image, explanation.slice.facts
    for series, one in enumerate(found):
        for number, (stack, index) in enumerate(one.slices if one.series_id == facts["series_id"] else ()):
            mask = stack.padding[index] if stack.padding else None
            # Instance numbers may be absent, or there twice; the picture itself is known.
            if np.array_equal(windowed(stack.images[index], mask), image):
                right, bottom = stack.shape[1] - 0.5, stack.shape[0] - 0.5
                corners = stack.to_patient(index, [-0.5, -0.5, bottom, bottom], [-0.5, right, right, -0.5])
                yield series, number, corners
                return


def card(one: ExplainedCrop | MissingCrop, found: Sequence[ShownSeries], probabilities: Floats) -> dict[str, Any]:
    """Return a crop and, unless it is missing, the part around it of the slice with the greatest attention, its heat in
    cells, the crop's outline, and the attention of each slice."""
    if isinstance(one, MissingCrop):
        return {"crop": one}
    series = next(shown for shown in found if shown.series_id == one.series_id)
    pictured = int(np.argmax(one.attention))
    numbers = [series.nearest(place) for place in one.positions]
    stack, index = series.slices[numbers[pictured]]
    row, column, _ = stack.to_slice(index, one.corners)
    corners = np.column_stack([column, row])
    side_mm = np.linalg.norm(one.corners[1] - one.corners[0])
    half = np.rint(SURROUNDINGS / 2 * side_mm / stack.spacing[index, ::-1]).astype(int)
    first = np.rint(corners.mean(axis=0)).astype(int) - half
    # Whole pixels: nothing is resampled; black where the slice ends.
    size, moved = (2 * half + 1).tolist(), np.column_stack([np.eye(2), -first])
    part = cv2.warpAffine(series.image(numbers[pictured], series.window[1]), moved, size, flags=cv2.INTER_NEAREST)
    rows, columns = one.heat.shape[1:]
    cells = np.array([[0, 0], [columns, 0], [columns, rows]]) - 0.5
    laid = cv2.getAffineTransform(cells.astype(np.float32), (corners[:3] - first).astype(np.float32))
    heat = cv2.warpAffine(one.heat[pictured], laid, size, flags=cv2.INTER_NEAREST)
    aspect = size[1] * stack.spacing[index, 0] / (size[0] * stack.spacing[index, 1])
    across, down = HEAT_WIDTH / size[0], HEAT_WIDTH * aspect / size[1]
    number = instance_words(stack.instance_numbers[index])
    return {
        "crop": one,
        "source": picture(np.asarray(part, dtype=np.uint8), aspect, HEAT_WIDTH, np.asarray(heat, dtype=np.float32)),
        "width": HEAT_WIDTH,
        "height": round(HEAT_WIDTH * aspect),
        "words": f"Heat map of {one.place} {level_words(one.level)}, {in_words(series.kind)}, {number}",
        "caption": f"{in_words(series.kind)}, {number}",
        "frame": ((corners - first + 0.5) * [across, down]).round(1).tolist(),
        "instances": [series.slices[k][0].instance_numbers[series.slices[k][1]] for k in numbers],
        "pictured": pictured,
        "probability": float(probabilities[TARGET_NAMES.index(one.target), one.severity]),
        "severity": SEVERITIES[one.severity],
    }
