"""The page of one study: slices, the 25 probabilities, and where the models looked."""

from pathlib import Path
from typing import Any

import numpy as np

from lumbar_kaggle.core.files import write_text
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, SEVERITIES, TARGET_NAMES, Target, level_words
from lumbar_kaggle.inference.base import ExplainedCrop, Explanation, Floats, LocatedSlice, MissingCrop
from lumbar_kaggle.inference.bundle import Manifest, read_manifest
from lumbar_kaggle.inference.predict import explain_studies
from lumbar_kaggle.pages.pictures import FAR_MM, explained_slice, looked_slice, marked_slice
from lumbar_kaggle.pages.render import render

SLICE_WIDTH, SAGITTAL_WIDTH, AXIAL_WIDTH, CROP_WIDTH = 420, 400, 260, 220
"""Of the pictures in px: the whole page stays below 1.5 MB."""

TITLES = {"canal": "Canal", "left foramen": "Left foramina", "right foramen": "Right foramina"}


def write_study_page(folder: Path, study_id: str, bundle: Path, out: Path) -> Path:
    """Grade one study and write its page; the same inputs give the same bytes.

    A study that the models cannot see gets a page all the same, with the prior and the reason.

    Args:
        folder: competition folder (its test split) or folder of studies.
        study_id: the study.
        bundle: exported models, of any recipe.
        out: the page, written atomically.

    Returns:
        `out`.

    Raises:
        InputError: no such study, or no usable bundle.
    """
    manifest = read_manifest(bundle)
    (explanation,) = explain_studies(folder, [study_id], bundle)
    content: dict[str, Any] = {"slice": None, "maps": []}
    if explanation.slice is not None:
        content = explained_slice(explanation, explanation.slice, SLICE_WIDTH)
    content |= _points_and_views(explanation)
    page = render(
        "study.html",
        study_id=study_id,
        notes=explanation.notes,
        conditions=CONDITIONS,
        grid=_grid(explanation.probabilities, manifest),
        graded=int(np.isfinite(explanation.probabilities).all(axis=1).sum()),
        fingerprint=manifest.fingerprint,
        modelled=len(manifest.targets),
        **content,
    )
    write_text(out, page)
    return out


def _grid(probabilities: Floats, manifest: Manifest) -> list[dict[str, Any]]:
    """Return one row per level, each with a cell per condition.

    Args:
        probabilities: ``[25, 3]``, NaN where there is no model's answer: those cells show the prior.
        manifest: of the bundle.
    """
    prior = manifest.prior_table()

    def cell(place: Target) -> dict[str, Any]:
        values = probabilities[TARGET_NAMES.index(place.name)]
        graded = bool(np.isfinite(values).all())
        if not graded:
            values = prior.loc[place.name].to_numpy(dtype=np.float64)
        return {"graded": graded, "shares": values.tolist(), "likeliest": SEVERITIES[int(np.argmax(values))]}

    return [{"level": level, "cells": [cell(Target(condition, level)) for condition in CONDITIONS]} for level in LEVELS]


def _points_and_views(explanation: Explanation) -> dict[str, Any]:
    whole = [one for one in explanation.located if one.view != "axial side"]
    across = [one for one in explanation.located if one.view == "axial side"]
    cards = [(one.level, _view(one, explanation.probabilities)) for one in explanation.crops]
    return {
        "sagittal": [
            _located(one, TITLES.get(one.marks[0].place, one.marks[0].place.capitalize()), SAGITTAL_WIDTH)
            for one in whole
        ],
        "axial": [_located(one, level_words(one.marks[0].level), AXIAL_WIDTH) for one in across],
        "levels": {level: [card for of, card in cards if of == level] for level in LEVELS if cards},
        "models": explanation.models,
        "networks": explanation.networks,
        "far_mm": FAR_MM,
    }


def _located(located: LocatedSlice, title: str, width: int) -> dict[str, Any]:
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


def _view(one: ExplainedCrop | MissingCrop, probabilities: Floats) -> dict[str, Any]:
    title = one.place.capitalize() + (" (canal)" if one.place == "axial middle" else "")
    if isinstance(one, MissingCrop):
        return {"title": title, "reason": one.reason}
    return {
        "title": title,
        "reason": "",
        "severity": SEVERITIES[one.severity],
        "probability": float(probabilities[TARGET_NAMES.index(one.target), one.severity]),
        "silent": not one.heat.any(),
        "facts": one.slice.facts,
        "picture": looked_slice(one, CROP_WIDTH),
        "attention": list(zip(one.instances, one.attention, strict=True)),
        "pictured": one.pictured,
        "words": f"Slice attention of {one.place} {level_words(one.level)}",
    }
