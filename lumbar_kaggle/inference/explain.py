"""Studies of a folder, graded by a bundle of any recipe, and where its models looked."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.inference.bundle import read_manifest
from lumbar_kaggle.inference.explanation import Explanation
from lumbar_kaggle.inference.predict import study_rows
from lumbar_kaggle.inference.recipes import load_predictor


def explain_studies(
    folder: Path, study_ids: Sequence[str], bundle: Path, targets: Sequence[str] | None = None
) -> list[Explanation]:
    """Grade some studies and show where the models looked; of one that cannot be read, say why.

    Args:
        folder: competition folder (its test split) or folder of studies.
        study_ids: the studies.
        bundle: exported models, of any recipe.
        targets: see `Predictor.explain`.

    Returns:
        One per study, in the given order; notes name files relative to `folder`.

    Raises:
        InputError: no such study, or no usable bundle.
    """
    competition = find_studies(folder)
    studies = [study_rows(competition, study_id) for study_id in study_ids]
    predictor = load_predictor(bundle, read_manifest(bundle))
    explained = [predictor.explain(study, targets) for study in studies]
    return [
        replace(one, notes=tuple(note.replace(f"{folder}/", "") for note in one.notes)) for one in explained
    ]
