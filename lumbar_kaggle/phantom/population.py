"""The patients' 25 grades: drawn jointly, so that the labels hang together as the real ones do.

A study has 25 latent grades, standard normal and correlated. Each becomes a continuous severity ``g >= 0``
that shapes the anatomy: below 1 is what a reader without noise calls Normal/Mild, 1 to 2 Moderate, above 2
Severe. The latent correlations are found such that the labels, after all that the standard reader of
`phantom.reader` does to them, have the correlations of the competition's ``train.csv``.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.phantom.reader import STANDARD, frequencies, label_correlation, read_grades, thresholds
from lumbar_kaggle.phantom.settings import Reader
from lumbar_kaggle.targets import CONDITIONS, LEVELS

Floats = NDArray[np.float64]

# Pearson correlations of the real labels (0, 1, 2), computed from public copies of the competition's tables.
NEXT_LEVEL = {
    "spinal_canal_stenosis": (0.365, 0.460, 0.387, 0.186),
    "left_neural_foraminal_narrowing": (0.314, 0.438, 0.455, 0.379),
    "right_neural_foraminal_narrowing": (0.321, 0.389, 0.448, 0.327),
    "left_subarticular_stenosis": (0.445, 0.547, 0.468, 0.330),
    "right_subarticular_stenosis": (0.391, 0.475, 0.472, 0.362),
}
"""A level and the next one below, within a condition."""

SIDES = {(1, 2): (0.194, 0.284, 0.316, 0.382, 0.413), (3, 4): (0.395, 0.515, 0.608, 0.570, 0.374)}
"""Left and right at each level, by the indices of the two conditions."""

POOLED = {(0, 1): 0.278, (0, 2): 0.284, (0, 3): 0.570, (0, 4): 0.559, (1, 3): 0.396, (2, 4): 0.433}
"""Two conditions at the same level, all five levels taken together."""

OPPOSITE = {(1, 4): 0.36, (2, 3): 0.36}
"""The same for foramen and recess of opposite sides: no figure is known; a little less than on one side."""

FAR = np.array([1.5, 0.2, 0.2, 0.2, 0.2])
"""How much touch two levels lose with each further step between them, per condition; 1 is as much as with the
first. No figure is known; these bring the shares of studies without any finding, and with a severe canal,
near the real ones (12.9 and 18.5 %)."""

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

    The correlations within a level and from a level to the next are moved by what the labels lack of the
    real figures, until nothing changes; the others follow from them.
    """
    within, step = np.full((5, 5, 5), 0.5), np.full((5, 4), 0.6)
    within[:, np.arange(5), np.arange(5)] = 1.0
    for _ in range(60):
        factor = _factor(_assembled(within, step))
        missing_within, missing_step = _missing(label_correlation(factor @ factor.T, STANDARD))
        within = np.clip(within + missing_within, 0.02, 1.0)
        step = np.clip(step + missing_step, 0.02, 1.0)
    return factor


def pooled_correlation(correlation: Floats, first: int, second: int) -> float:
    """Return the correlation of two conditions' labels at the same level, over all levels together.

    Args:
        correlation: ``[25, 25]`` of the labels.
        first, second: indices in `targets.CONDITIONS`.
    """
    mean = (frequencies() @ np.arange(3)).reshape(5, 5)
    square = (frequencies() @ np.arange(3) ** 2).reshape(5, 5)
    sd = np.sqrt(square - mean**2)
    at_level = correlation.reshape(5, 5, 5, 5)[first, range(5), second, range(5)]
    product = (at_level * sd[first] * sd[second] + mean[first] * mean[second]).mean()
    pooled_mean = mean.mean(axis=1)
    pooled_sd = np.sqrt(square.mean(axis=1) - pooled_mean**2)
    covariance = product - pooled_mean[first] * pooled_mean[second]
    return float(covariance / (pooled_sd[first] * pooled_sd[second]))


def _missing(found: Floats) -> tuple[Floats, Floats]:
    """Return wanted minus found label correlations: ``[5 levels, 5, 5]`` within, ``[5, 4]`` to the next."""
    cells = found.reshape(5, 5, 5, 5)  # condition, level, condition, level
    within = np.zeros((5, 5, 5))
    for (a, b), wanted in SIDES.items():
        within[:, a, b] = wanted - cells[a, range(5), b, range(5)]
    for (a, b), pooled in (POOLED | OPPOSITE).items():
        within[:, a, b] = pooled - pooled_correlation(found, a, b)
    following = np.array([cells[c, range(4), c, range(1, 5)] for c in range(5)])
    return within + within.transpose(0, 2, 1), np.array([NEXT_LEVEL[name] for name in CONDITIONS]) - following


def _assembled(within: Floats, step: Floats) -> Floats:
    """Return ``[25, 25]``, about a correlation matrix, from those within a level and from one to the next."""
    matrix = np.zeros((5, 5, 5, 5))  # condition, level, condition, level
    for i in range(len(LEVELS)):
        for j in range(len(LEVELS)):
            steps = abs(i - j)
            reach = (1.0 + FAR * (steps - 1)) / steps if steps else 1.0
            path = np.prod(step[:, min(i, j) : max(i, j)], axis=1) ** reach
            matrix[:, i, :, j] = np.sqrt(within[i] * within[j] * np.outer(path, path))
    return matrix.reshape(25, 25)


def _factor(matrix: Floats) -> Floats:
    """Return a root of the correlation matrix nearest to `matrix`: no eigenvalue below 0, diagonal 1."""
    values, vectors = np.linalg.eigh(matrix)
    root = vectors * np.sqrt(np.maximum(values, 1e-3))
    factor: Floats = root / np.linalg.norm(root, axis=1, keepdims=True)
    return factor
