"""The page of one study: slices, the 25 probabilities, and where the models looked."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.bundle import Manifest, read_manifest
from lumbar_kaggle.files import write_text
from lumbar_kaggle.pages.pictures import slice_picture
from lumbar_kaggle.pages.render import render
from lumbar_kaggle.pages.report import heat_map_content
from lumbar_kaggle.pages.two_stage_study import two_stage_content
from lumbar_kaggle.targets import CONDITIONS, LEVELS, SEVERITIES, TARGET_NAMES, Target

if TYPE_CHECKING:
    from lumbar_kaggle.recipes.base import Study
    from lumbar_kaggle.recipes.baseline.predictor import BaselinePredictor
    from lumbar_kaggle.recipes.two_stage.predictor import TwoStagePredictor

Floats = NDArray[np.float64]

SLICE_WIDTH = 420
"""Of the study's own slice in px, on the page of a baseline bundle."""


def write_study_page(folder: Path, study_id: str, bundle: Path, out: Path) -> Path:
    """Grade one study and write its page; the same inputs give the same bytes.

    A study that the models cannot see gets a page all the same, with the prior and the reason.

    Args:
        folder: competition folder (its test split) or folder of studies.
        study_id: the study.
        bundle: exported models, of either recipe.
        out: the page, written atomically.

    Returns:
        `out`.

    Raises:
        InputError: no such study, or no usable bundle.
    """
    # Here and not above: they bring torch along.
    from lumbar_kaggle.inference import load_predictor, study_rows
    from lumbar_kaggle.recipes.baseline.predictor import BaselinePredictor
    from lumbar_kaggle.recipes.two_stage.predictor import TwoStagePredictor
    from lumbar_kaggle.studies import find_studies

    manifest = read_manifest(bundle)
    study = study_rows(find_studies(folder), study_id)
    predictor = load_predictor(bundle, manifest)
    if isinstance(predictor, TwoStagePredictor):
        template, (probabilities, content) = "two_stage_study.html", _two_stage(study, predictor)
    else:
        assert isinstance(predictor, BaselinePredictor)
        template, (probabilities, content) = "study.html", _baseline(study, predictor)
    content["reasons"] = [reason.replace(f"{folder}/", "") for reason in content["reasons"]]
    page = render(
        template,
        study_id=study_id,
        conditions=CONDITIONS,
        severities=SEVERITIES,
        grid=_grid(probabilities, manifest),
        graded=int(np.isfinite(probabilities).all(axis=1).sum()),
        fingerprint=manifest.fingerprint,
        modelled=len(manifest.targets),
        **content,
    )
    write_text(out, page)
    return out


def _two_stage(study: "Study", predictor: "TwoStagePredictor") -> tuple[Floats, dict[str, Any]]:
    from lumbar_kaggle.explain.two_stage import explain_study

    explanation = explain_study(study, predictor)
    content = two_stage_content(explanation) | {"reasons": list(explanation.notes)}
    return explanation.probabilities, content


def _baseline(study: "Study", predictor: "BaselinePredictor") -> tuple[Floats, dict[str, Any]]:
    from lumbar_kaggle.explain.baseline import explain_study
    from lumbar_kaggle.volume import UnreadableSeries

    try:
        explanation = explain_study(study, predictor)
    except UnreadableSeries as error:
        nothing = np.full((len(TARGET_NAMES), len(SEVERITIES)), np.nan)
        return nothing, {"slice": None, "facts": {}, "maps": [], "reasons": [str(error)]}
    return explanation.probabilities, {
        "slice": slice_picture(explanation.image, explanation.facts, SLICE_WIDTH),
        "facts": explanation.facts,
        "maps": heat_map_content(explanation),
        "reasons": [],
    }


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
        shares = [float(value) for value in values]
        return {"graded": graded, "shares": shares, "likeliest": SEVERITIES[int(np.argmax(values))]}

    return [
        {"level": level, "cells": [cell(Target(condition, level)) for condition in CONDITIONS]}
        for level in LEVELS
    ]
