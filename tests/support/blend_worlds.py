"""Simulated out-of-fold predictions: models of the phantom's patients, and cells without any relation."""

import numpy as np
import pandas as pd
from scipy.special import ndtr

from lumbar_kaggle.core.targets import SEVERITY_WORDS, TARGET_NAMES
from lumbar_kaggle.phantom.grades import LATENT_FACTOR, STANDARD, best_submission, read_grades, thresholds, total_noise
from lumbar_kaggle.scoring.blend import Cells


def make_cells(files: np.ndarray, severity: np.ndarray, folds: int = 3, first: int = 1000) -> Cells:
    count = len(severity)
    studies = tuple(str(first + k) for k in range(count))
    names = tuple(f"{letter}.csv" for letter, _ in zip("abcdef", files, strict=False))
    return Cells(names, studies, np.asarray(files), severity.astype(np.int64), np.arange(count) % folds)


def make_world(studies: int, seed: int, first: int = 1000) -> Cells:
    """Patients of the phantom, read by its reader, graded by two models of which the second sees worse.

    Each model sees the true grade of every cell through noise, a part of which both share, and says
    what follows from this cell alone: what the other cells tell is left to the blend.
    """
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((studies, 25)) @ LATENT_FACTOR.T
    severity = np.array([read_grades(rng, one.reshape(5, 5), STANDARD).labels.ravel() for one in latent])
    common = 0.35 * rng.standard_normal(latent.shape)
    files = []
    for own in (0.5, 0.7):
        spread = 0.35**2 + own**2
        seen = (latent + common + own * rng.standard_normal(latent.shape)) / (1 + spread)
        sd = np.sqrt(spread / (1 + spread) + total_noise(STANDARD) ** 2)[:, None]
        below = ndtr((thresholds() - seen[..., None]) / sd)
        files.append(best_submission(np.diff(below, axis=-1, prepend=0.0, append=1.0) + 1e-9))
    return make_cells(np.array(files), severity, first=first)


def make_independent(studies: int, seed: int, alpha: tuple[float, float, float] = (4.0, 0.8, 0.8)) -> Cells:
    """Cells that tell nothing of each other, and one file that says the best that can be said of them."""
    rng = np.random.default_rng(seed)
    return _drawn(rng, rng.dirichlet(alpha, (studies, 25)))


def make_finished(studies: int, seed: int) -> Cells:
    """The same where nothing is to be gained by any means, and a second file like the first.

    One level of the canal alone is ever ill, so that the greatest of five probabilities is right as well.
    """
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet((4.0, 0.8, 0.8), (studies, 25))
    chances[:, :4] = [1.0, 0.0, 0.0]
    cells = _drawn(rng, chances)
    return make_cells(np.repeat(cells.files, 2, axis=0), cells.severity)


def _drawn(rng: np.random.Generator, chances: np.ndarray) -> Cells:
    chances = (chances + 1e-4) / (chances + 1e-4).sum(axis=2, keepdims=True)
    severity = (rng.random((*chances.shape[:2], 1)) > np.cumsum(chances, axis=2)[..., :2]).sum(axis=2)
    return make_cells(best_submission(chances)[None], severity)


def labels_of(cells: Cells) -> pd.DataFrame:
    """The label table as ``train.csv`` has it."""
    words = np.array([*SEVERITY_WORDS, ""])[cells.severity]  # -1 is the last one
    return pd.DataFrame(words, columns=list(TARGET_NAMES)).assign(study_id=list(cells.studies))
