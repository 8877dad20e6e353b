"""What `import lumbar_kaggle as lk` offers: studies, series, bundles and competitions, by their paths."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import AnyPath
from lumbar_kaggle.core.targets import SEVERITIES, TARGETS, row_id
from lumbar_kaggle.dicom.series import UnreadableSeries
from lumbar_kaggle.dicom.series import read_series as read_volume
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.inference.base import Explanation, Study
from lumbar_kaggle.inference.bundle import read_manifest
from lumbar_kaggle.inference.predict import study_rows
from lumbar_kaggle.inference.recipes import load_predictor
from lumbar_kaggle.tables.competition import Competition, read_competition, read_split


def open_competition(path: AnyPath, split: str = "train") -> Competition:
    """Read the tables of a competition folder.

    Args:
        path: the folder that holds ``train.csv``, ``train_images`` and so on.
        split: ``"train"`` or ``"test"``.

    Raises:
        InputError: a table is missing or faulty.
    """
    return read_competition(Path(path), split)


def read_study(path: AnyPath, study_id: str = "") -> Study:
    """Read which series a study has; their pixels are read when they are needed.

    Args:
        path: the study's folder, in a competition folder or anywhere; or, with `study_id`, a competition
            folder (its test split) or a folder of studies.
        study_id: of the one wanted; not needed where there is only one.

    Raises:
        InputError: no study is there, or several are and `study_id` does not name one of them.
    """
    path = Path(path)
    split, root = path.parent.name.removesuffix("_images"), path.parent.parent
    if not study_id and (root / f"{split}_series_descriptions.csv").is_file():
        # Of a competition folder: its tables say what the series are.
        return study_rows(read_split(root, split), path.name)
    found = find_studies(path)
    if not study_id and len(found.studies) > 1:
        count, first = len(found.studies), found.studies[0]
        raise InputError(f"{path}: holds {count} studies; name one as study_id, for example {first!r}")
    return study_rows(found, study_id or found.studies[0])


def read_series(path: AnyPath, kind: str = "") -> Volume:
    """Read the slices of one series with their geometry; see `dicom.volume.Volume`.

    Args:
        path: the folder of its DICOM files.
        kind: one of `targets.SERIES_KINDS`, where the files are of several series and it tells which.

    Raises:
        InputError: no file is a usable slice.
    """
    try:
        return read_volume(Path(path), kind=kind)
    except UnreadableSeries as error:
        raise InputError(str(error)) from error


class Bundle:
    """Exported models, loaded and checked.

    Args:
        path: the folder that ``lumbar export`` wrote.

    Raises:
        InputError: no bundle, or a damaged one.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        self._predictor = load_predictor(self.path, self.manifest)

    def __repr__(self) -> str:
        made = self.manifest
        return (
            f"Bundle {made.fingerprint}: recipe {made.recipe}, {len(made.networks)} networks, "
            f"{len(made.targets)} of {len(TARGETS)} targets"
        )

    def predict(self, studies: Study | Sequence[Study]) -> pd.DataFrame:
        """Grade a study, or several.

        Returns:
            25 rows per study in the order of `targets.TARGETS`, columns ``row_id, study_id, condition,
            level``, the probabilities ``normal_mild, moderate, severe`` (sum 1), ``graded`` (False where
            they are the prior's, since no model could tell) and ``reason`` (what of the study was missing).
            With ``row_id`` and the probabilities alone it is a submission.
        """
        every = [studies] if isinstance(studies, Study) else list(studies)
        prior = self.manifest.prior_table().to_numpy(dtype=np.float64)
        parts = []
        for study, prediction in zip(every, self._predictor.predict(every), strict=True):
            graded = np.asarray(np.isfinite(prediction.probabilities).all(axis=1))
            values = np.where(graded[:, None], prediction.probabilities, prior)
            part = pd.DataFrame(
                {
                    "row_id": [row_id(study.study_id, of.name) for of in TARGETS],
                    "study_id": study.study_id,
                    "condition": [of.condition for of in TARGETS],
                    "level": [of.level for of in TARGETS],
                }
            )
            parts.append(
                part.assign(**dict(zip(SEVERITIES, values.T, strict=True)), graded=graded, reason=prediction.reason)
            )
        return pd.concat(parts, ignore_index=True)

    def explain(self, study: Study) -> Explanation:
        """Grade one study and show where the models looked."""
        return self._predictor.explain(study)


def load_bundle(path: AnyPath) -> Bundle:
    """Load exported models; see `Bundle`.

    Raises:
        InputError: no bundle, or a damaged one.
    """
    return Bundle(path)
