"""The best that can be known of a label before it is written: its probabilities given the true grades."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from lumbar_kaggle.phantom.population import Grades, thresholds
from lumbar_kaggle.phantom.settings import Reader
from lumbar_kaggle.targets import SEVERITIES, SEVERITY_WEIGHTS

Floats = NDArray[np.float64]

ORACLE_COLUMNS = ("row_id", *SEVERITIES, *(f"reader_{name}" for name in SEVERITIES))


def reader_probabilities(grades: Grades, reader: Reader) -> Floats:
    """Return ``[25, 3]`` probabilities of the labels given a patient's grades, in `targets.TARGETS` order."""
    cuts = thresholds() * np.sqrt(1.0 + reader.noise**2)
    below = ndtr((cuts - grades.latent.reshape(25, 1)) / reader.noise)
    probabilities: Floats = np.diff(below, axis=1, prepend=0.0, append=1.0)
    return probabilities


def best_submission(probabilities: Floats) -> Floats:
    """Return what scores best in expectation when labels have the given probabilities.

    A label of severity k costs its sample weight times -log q of it, so the expected loss of a row is least
    at q proportional to probability times weight.

    Args:
        probabilities: ``[..., 3]``, rows sum to 1.
    """
    weighted = probabilities * np.asarray(SEVERITY_WEIGHTS)
    submitted: Floats = weighted / weighted.sum(axis=-1, keepdims=True)
    return submitted
