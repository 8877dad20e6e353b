"""Studies of a folder, graded by a bundle of either recipe, and where its models looked."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lumbar_kaggle.baseline import explain as baseline
from lumbar_kaggle.baseline.predictor import BaselinePredictor
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES
from lumbar_kaggle.dicom.series import UnreadableSeries
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.inference.base import Predictor, Study
from lumbar_kaggle.inference.bundle import read_manifest
from lumbar_kaggle.inference.predict import study_rows
from lumbar_kaggle.inference.recipes import load_predictor
from lumbar_kaggle.inference.shown import Explanation
from lumbar_kaggle.two_stage import explain as two_stage
from lumbar_kaggle.two_stage.predictor import TwoStagePredictor


def explain_studies(
    folder: Path, study_ids: Sequence[str], bundle: Path, targets: Sequence[str] | None = None
) -> list[Explanation]:
    """Grade some studies and show where the models looked; of one that cannot be read, say why.

    Args:
        folder: competition folder (its test split) or folder of studies.
        study_ids: the studies.
        bundle: exported models, of either recipe.
        targets: which targets a baseline bundle explains; by default all that it has models of.

    Returns:
        One per study, in the given order; notes name files relative to `folder`.

    Raises:
        InputError: no such study, or no usable bundle.
    """
    competition = find_studies(folder)
    studies = [study_rows(competition, study_id) for study_id in study_ids]
    predictor = load_predictor(bundle, read_manifest(bundle))
    explained = [_explain(study, predictor, targets) for study in studies]
    return [
        replace(one, notes=tuple(note.replace(f"{folder}/", "") for note in one.notes)) for one in explained
    ]


def _explain(study: Study, predictor: Predictor, targets: Sequence[str] | None) -> Explanation:
    if isinstance(predictor, TwoStagePredictor):
        return two_stage.explain_study(study, predictor)
    assert isinstance(predictor, BaselinePredictor)
    try:
        return baseline.explain_study(study, predictor, targets)
    except UnreadableSeries as error:
        nothing = np.full((len(TARGET_NAMES), len(SEVERITIES)), np.nan)
        return Explanation(study.study_id, nothing, (str(error),))
