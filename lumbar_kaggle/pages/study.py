"""The page of one study: the slice, the 25 probabilities, and where the models looked."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.bundle import Manifest, read_manifest
from lumbar_kaggle.files import write_text
from lumbar_kaggle.pages.pictures import slice_picture
from lumbar_kaggle.pages.render import render
from lumbar_kaggle.pages.report import heat_map_content
from lumbar_kaggle.targets import CONDITIONS, LEVELS, SEVERITIES, TARGET_NAMES, Target

if TYPE_CHECKING:
    from lumbar_kaggle.explain.baseline import Explanation

SLICE_WIDTH = 420
"""Of the study's own slice in px."""


def write_study_page(folder: Path, study_id: str, bundle: Path, out: Path) -> Path:
    """Grade one study and write its page; the same inputs give the same bytes.

    A study without a readable sagittal T1 series gets a page all the same, with the prior and the
    reason.

    Args:
        folder: competition folder (its test split) or folder of studies.
        study_id: the study.
        bundle: exported models.
        out: the page, written atomically.

    Returns:
        `out`.

    Raises:
        InputError: no such study, or no usable bundle.
    """
    # Here and not above: they bring torch along.
    from lumbar_kaggle.explain.baseline import explain_study
    from lumbar_kaggle.inference import study_rows
    from lumbar_kaggle.recipes.baseline.predictor import BaselinePredictor
    from lumbar_kaggle.studies import find_studies
    from lumbar_kaggle.volume import UnreadableSeries

    manifest = read_manifest(bundle)
    study = study_rows(find_studies(folder), study_id)
    content: dict[str, Any] = {"slice": None, "facts": {}, "maps": [], "reason": ""}
    probabilities = np.full((len(TARGET_NAMES), len(SEVERITIES)), np.nan)
    try:
        explanation = explain_study(study, BaselinePredictor(bundle, manifest))
    except UnreadableSeries as error:
        content["reason"] = str(error).replace(f"{folder}/", "")
    else:
        probabilities = explanation.probabilities
        content |= _pictures(explanation)
    page = render(
        "study.html",
        study_id=study_id,
        conditions=CONDITIONS,
        severities=SEVERITIES,
        grid=_grid(probabilities, manifest),
        fingerprint=manifest.fingerprint,
        modelled=len(manifest.targets),
        **content,
    )
    write_text(out, page)
    return out


def _pictures(explanation: "Explanation") -> dict[str, Any]:
    facts = explanation.facts
    return {
        "slice": slice_picture(explanation.image, facts, SLICE_WIDTH),
        "facts": facts,
        "maps": heat_map_content(explanation),
    }


def _grid(probabilities: NDArray[np.float64], manifest: Manifest) -> list[dict[str, Any]]:
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
        shares = [float(value) for value in values]
        return {"graded": graded, "shares": shares, "likeliest": SEVERITIES[int(np.argmax(values))]}

    return [
        {"level": level, "cells": [cell(Target(condition, level)) for condition in CONDITIONS]}
        for level in LEVELS
    ]
