"""A competition folder whose studies are quick to write: one sagittal T1 series of three slices each.

The canal grades are visible as bright discs that shrink; the other grades are not visible at all.
"""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from lumbar_kaggle.core.targets import SEVERITIES, SEVERITY_WORDS, TARGETS
from lumbar_kaggle.tables.competition import submission_rows
from tests.support.dicom_files import write_slice

SIDE = 64


def write_small_competition(root: Path, studies: int, test_studies: int, seed: int = 0, *, alike: bool = False) -> Path:
    """Write the folder, and beside it ``truth.csv`` with the test studies' labels.

    With `alike` the canal has the same grade at all five levels, which is easier to see.
    """
    generator = np.random.default_rng(seed)
    for split, count, first in (("train", studies, 4_003_253), ("test", test_studies, 4_290_000_000)):
        labels, series = [], []
        for index in range(count):
            study = first + 17 * index
            grades = generator.choice(3, 25, p=[0.5, 0.3, 0.2])
            if alike:
                grades[:5] = grades[2]
            _write_study(root / f"{split}_images" / str(study) / f"1{study % 1000}", grades, generator)
            words = [SEVERITY_WORDS[grade] for grade in grades]
            labels.append({"study_id": study, **{t.name: w for t, w in zip(TARGETS, words, strict=True)}})
            series.append((study, f"1{study % 1000}", "Sagittal T1"))
        table = pd.DataFrame(labels)
        table.to_csv(root / "train.csv" if split == "train" else root.parent / "truth.csv", index=False)
        columns = ["study_id", "series_id", "series_description"]
        pd.DataFrame(series, columns=columns).to_csv(root / f"{split}_series_descriptions.csv", index=False)
    sample = submission_rows(str(row[0]) for row in series)[["row_id"]].assign(**dict.fromkeys(SEVERITIES, 1 / 3))
    sample.to_csv(root / "sample_submission.csv", index=False)
    return root


def _write_study(folder: Path, grades: np.ndarray, generator: np.random.Generator) -> None:
    picture = generator.normal(300, 30, (SIDE, SIDE))
    for level in range(5):
        cv2.circle(picture, (32, 8 + 12 * level), int(5 - 2 * grades[level]), 1000.0, -1)
    for index in range(3):
        pixels = np.clip(picture + generator.normal(0, 20, picture.shape), 0, 4095).astype(np.uint16)
        write_slice(folder / f"{index + 1}.dcm", pixels, position=(-4 + 4.0 * index, 0, 0), number=index + 1)
