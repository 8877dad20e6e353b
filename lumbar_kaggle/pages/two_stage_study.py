"""What the page of one study shows of a two-stage bundle: located points, attended slices, heat maps."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.pages.overlays import FAR_MM, looked_slice, marked_slice
from lumbar_kaggle.pages.plots import attention_bars
from lumbar_kaggle.recipes.two_stage.grading.views import PLACE_OF_CONDITION, PLACES
from lumbar_kaggle.targets import LEVELS, SEVERITIES, TARGET_NAMES, Target, level_words

if TYPE_CHECKING:
    from lumbar_kaggle.explain.points import LocatedSlice
    from lumbar_kaggle.explain.shown import Looked, TwoStageExplanation, Unseen

SAGITTAL_WIDTH, AXIAL_WIDTH, CROP_WIDTH = 400, 260, 220
"""Of the pictures in px: the whole page stays below 1.5 MB."""

TITLES = {"canal": "Canal", "left foramen": "Left foramina", "right foramen": "Right foramina"}

CONDITION_OF_PLACE = {place: condition for condition, place in PLACE_OF_CONDITION.items()}


def two_stage_content(explanation: "TwoStageExplanation") -> dict[str, Any]:
    """Return what ``two_stage_study.html`` shows beside the grades."""
    whole = [one for one in explanation.located if one.view != "axial side"]
    across = [one for one in explanation.located if one.view == "axial side"]
    return {
        "sagittal": [_located(one, TITLES[one.marks[0].place], SAGITTAL_WIDTH) for one in whole],
        "axial": [_located(one, level_words(one.marks[0].level), AXIAL_WIDTH) for one in across],
        "levels": [
            {
                "level": level,
                "cards": [
                    _card(one, explanation.probabilities) for one in explanation.looked if one.level == level
                ],
            }
            for level in LEVELS
        ],
        "models": explanation.models,
        "networks": explanation.networks,
        "far_mm": FAR_MM,
    }


def _located(located: "LocatedSlice", title: str, width: int) -> dict[str, Any]:
    along = len({mark.place for mark in located.marks}) == 1
    return {
        "title": title,
        "facts": located.slice.facts,
        "picture": marked_slice(located, width),
        "marks": [
            {
                "name": level_words(mark.level) if along else mark.place.split()[0],
                "confidence": mark.confidence,
                "outside": not mark.inside(located.slice.image.shape),
            }
            for mark in located.marks
        ],
    }


def _card(one: "Looked | Unseen", probabilities: NDArray[np.float64]) -> dict[str, Any]:
    title = one.place.capitalize() + ("" if one.place in PLACES else f" ({PLACES[one.output]})")
    # Not by its class: that would bring torch along.
    if hasattr(one, "reason"):
        return {"title": title, "reason": one.reason}
    of = Target(CONDITION_OF_PLACE[PLACES[one.output]], one.level)
    words = f"Slice attention of {one.place} {level_words(one.level)}"
    return {
        "title": title,
        "reason": "",
        "severity": SEVERITIES[one.severity],
        "probability": float(probabilities[TARGET_NAMES.index(of.name), one.severity]),
        "silent": not one.heat.any(),
        "facts": one.slice.facts,
        "picture": looked_slice(one, CROP_WIDTH),
        "bars": attention_bars(one.instances, one.attention, one.pictured, words),
    }
