"""Middle sagittal T1 slices of many patients, without files: what an encoder is pretrained on.

A slice takes a fiftieth of a study's time, so thousands of patients are drawn in minutes.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lumbar_kaggle.core.budget import start_method, usable_cores
from lumbar_kaggle.dicom import intensity
from lumbar_kaggle.phantom.imaging import Scan
from lumbar_kaggle.phantom.study import plan_study

Drawn = tuple[NDArray[np.uint8], NDArray[np.int64]]


def draw_middle_slices(seed: int, patients: int, side: int, workers: int | None = None) -> Drawn:
    """Draw the middle sagittal T1 slices of some patients.

    Args:
        seed: of the patients; they are those of the training split that `write_competition` writes for
            this seed, so a benchmark must have another one.
        patients: how many; those whose study lacks the series are left out.
        side: height and width in px.
        workers: processes; None for one per usable core.

    Returns:
        Images ``[patients, side, side]`` uint8, windowed as the baseline does it, and the reader's
        severities ``[patients, 25]`` int64 in the order of `targets.TARGETS`.
    """
    draw = partial(draw_middle_slice, seed, side=side)
    with ProcessPoolExecutor(workers or usable_cores(), get_context(start_method())) as pool:
        drawn = pool.map(draw, range(patients), chunksize=16)
        found = [item for item in tqdm(drawn, total=patients, unit="patient", desc="draw slices") if item]
    return np.stack([image for image, _ in found]), np.stack([severities for _, severities in found])


def draw_middle_slice(seed: int, index: int, *, side: int) -> Drawn | None:
    """Draw one patient's slice; None where the study has no sagittal T1 series."""
    cv2.setNumThreads(1)
    study = plan_study(seed, "train", index)
    for number, series in enumerate(study.series):
        if series.kind == "sagittal_t1":
            pixels = Scan(study).slice(number, len(series.planes) // 2)
            square = cv2.resize(intensity.window(pixels), (side, side), interpolation=cv2.INTER_AREA)
            return square.astype(np.uint8), study.grades.labels.ravel()
    return None
