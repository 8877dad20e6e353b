"""The patients' 25 grades: drawn jointly, so that the labels hang together as the real ones do.

A study has 25 latent grades, standard normal and correlated. Each becomes a continuous severity ``g >= 0``
that shapes the anatomy: below 1 is what a reader without noise calls Normal/Mild, 1 to 2 Moderate, above 2
Severe. The latent correlations are such that the labels, after all that the standard reader of
`phantom.reader` does to them, have the correlations of the competition's ``train.csv``.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.phantom.arrays import Floats
from lumbar_kaggle.phantom.reader import read_grades, thresholds
from lumbar_kaggle.phantom.settings import Reader

CAP = 3.4
"""Greatest g: what lies beyond looks the same."""


@dataclass(frozen=True)
class Grades:
    """One patient's grades.

    Attributes:
        severity: ``[5 conditions, 5 levels]`` continuous g, 0 (none) to `CAP`, in the order of
            `targets.CONDITIONS` and `targets.LEVELS`.
        labels: ``[5, 5]`` the reader's 0, 1 or 2.
        latent: ``[5, 5]`` the latent grades, standard normal.
        shifts: ``[3 score groups]`` how many levels too far down the discs lie that were read.
    """

    severity: Floats
    labels: NDArray[np.int64]
    latent: Floats
    shifts: tuple[int, ...] = (0, 0, 0)


def draw_grades(rng: np.random.Generator, reader: Reader) -> Grades:
    """Draw one patient's grades and the reading of them."""
    latent = (latent_factor() @ rng.standard_normal(25)).reshape(5, 5)
    reading = read_grades(rng, latent, reader)
    return Grades(severity_of(latent), reading.labels, latent, reading.shifts)


def severity_of(latent: Floats) -> Floats:
    """Return g of latent grades ``[..., 5, 5]``: 1 and 2 at the thresholds, strictly rising to `CAP`.

    It is straight between and above the thresholds; below the first it fades towards 0.
    """
    first, second = np.moveaxis(thresholds().reshape(5, 5, 2), -1, 0)
    position = (latent - first) / (second - first)
    grown: Floats = np.where(position < 0, np.exp(np.minimum(position, 0.0)), 1.0 + position)
    return np.minimum(grown, CAP)


@lru_cache(maxsize=1)
def latent_factor() -> Floats:
    """Return ``[25, 25]``, which turns independent normals into correlated latent grades.

    It is a table, since a fit's last digits depend on the processor; see ``tests/support/phantom_fit.py``.
    """
    table = files("lumbar_kaggle.phantom").joinpath("latent_factor.csv")
    return np.loadtxt(table.read_text(encoding="utf-8").splitlines(), delimiter=",")
