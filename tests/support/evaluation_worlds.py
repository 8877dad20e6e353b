"""Predictions with known faults, and studies whose slices show where a level is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lumbar_kaggle.core.targets import SEVERITIES, SEVERITY_WORDS, TARGET_NAMES, condition_words, level_words, target
from lumbar_kaggle.scoring import metric
from lumbar_kaggle.tables.competition import submission_rows
from tests.support.dicom_files import AXIAL, SAGITTAL, write_slice

FIRST = 1000
"""Identifier of the first study."""


def few_resamples(count: int) -> Any:
    """A fixture of a file of tests: intervals are rougher, and quicker."""

    @pytest.fixture(scope="module", autouse=True)
    def patched() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(metric, "RESAMPLES", count)
            yield

    return patched


def make_tables(studies: int, seed: int, noise: float = 1.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A label table, the same for every noise, and predictions of it; severe is rare at the upper levels."""
    rng = np.random.default_rng(seed)
    level = np.tile(np.arange(5), 5)
    hidden = 0.7 * rng.normal(size=(studies, 1)) + 0.7 * rng.normal(size=(studies, 25)) + 0.25 * (level - 3)
    severity = np.digitize(hidden, [0.5, 1.3])
    seen = hidden + noise * np.random.default_rng(seed + 1).normal(size=hidden.shape)
    logits = np.stack([np.zeros_like(seen), 1.5 * seen - 0.9, 3 * seen - 3.5], axis=2)
    values = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    names = [str(FIRST + k) for k in range(studies)]
    truth = pd.DataFrame(np.array(SEVERITY_WORDS)[severity], columns=list(TARGET_NAMES))
    truth.insert(0, "study_id", names)
    rows = submission_rows(names)
    places = [TARGET_NAMES.index(name) for name in rows["target"][:25]]
    predictions = rows[["row_id"]].join(pd.DataFrame(values[:, places].reshape(-1, 3), columns=list(SEVERITIES)))
    return truth, predictions


def write_marked_study(root: Path, study: str, truth: pd.DataFrame, *, marked: str) -> None:
    """Write a competition folder of one training study with a sagittal T1 and an axial T2 series of five slices.

    One target, `marked`, has an annotated point: column 44 and row 20 of instance 4 of the sagittal series, which is
    bright there and, beyond 40 mm from it, along the edge. In the axial one the middle slice is bright, the others are
    dark.
    """
    folder = root / "train_images" / study
    for k in range(5):
        pixels = np.full((64, 96), 100, dtype=np.uint16)
        pixels[:, 90:] = 4000
        pixels[19:22, 43:46] = 4000 if k == 3 else 100
        place = {"position": (-8.0 + 4 * k, 0.0, 0.0), "orientation": SAGITTAL, "spacing": (2.0, 1.0), "number": k + 1}
        write_slice(folder / "11" / f"{k + 1}.dcm", pixels, **place, Manufacturer="SIEMENS", PatientSex="F")
        pixels = np.full((64, 64), 4000 if k == 2 else 50, dtype=np.uint16)
        place = {"position": (0.0, 0.0, -4.0 * k), "orientation": AXIAL, "number": k + 1}
        write_slice(folder / "12" / f"{k + 1}.dcm", pixels, **place, MagneticFieldStrength="2.89362", PatientAge="067Y")
    truth[truth["study_id"] == study].to_csv(root / "train.csv", index=False)
    described = [(study, "11", "Sagittal T1"), (study, "12", "Axial T2")]
    columns = ["study_id", "series_id", "series_description"]
    pd.DataFrame(described, columns=columns).to_csv(root / "train_series_descriptions.csv", index=False)
    of = target(marked)
    mark = (study, "11", 4, condition_words(of.condition), level_words(of.level), 44.0, 20.0)
    columns = ["study_id", "series_id", "instance_number", "condition", "level", "x", "y"]
    pd.DataFrame([mark], columns=columns).to_csv(root / "train_label_coordinates.csv", index=False)
