"""The patients' 25 grades: drawn jointly, shaped like the real label table, read with noise.

A study has 25 latent grades, standard normal, with the correlations of the real labels. Each becomes a
continuous severity ``g >= 0`` that shapes the anatomy: below 1 is what a reader calls Normal/Mild, 1 to 2
Moderate, above 2 Severe. The label is a noisy reading of the latent grade, with thresholds that give the
real class frequencies. Frequencies and correlations are those of the competition's ``train.csv``.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from lumbar_kaggle.phantom.settings import Reader
from lumbar_kaggle.targets import CONDITIONS, LEVELS

Floats = NDArray[np.float64]

# Normal/Mild, Moderate, Severe of the 1,975 real studies, per level.
COUNTS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "spinal_canal_stenosis": (
        (1886, 67, 21), (1770, 151, 53), (1622, 230, 122), (1482, 237, 255), (1904, 51, 19),
    ),
    "left_neural_foraminal_narrowing": (
        (1908, 63, 2), (1791, 171, 11), (1522, 411, 40), (1204, 629, 140), (1247, 520, 206),
    ),
    "right_neural_foraminal_narrowing": (
        (1891, 63, 13), (1793, 168, 6), (1512, 414, 41), (1208, 629, 130), (1281, 496, 190),
    ),
    "left_subarticular_stenosis": (
        (1690, 93, 28), (1555, 255, 83), (1324, 454, 194), (887, 624, 461), (1408, 409, 147),
    ),
    "right_subarticular_stenosis": (
        (1680, 110, 24), (1577, 243, 73), (1322, 454, 197), (891, 622, 460), (1399, 396, 173),
    ),
}  # fmt: skip

# Pearson correlations of the labels (0, 1, 2): a level and the next one below, within a condition.
NEXT_LEVEL = {
    "spinal_canal_stenosis": (0.365, 0.460, 0.387, 0.186),
    "left_neural_foraminal_narrowing": (0.314, 0.438, 0.455, 0.379),
    "right_neural_foraminal_narrowing": (0.321, 0.389, 0.448, 0.327),
    "left_subarticular_stenosis": (0.445, 0.547, 0.468, 0.330),
    "right_subarticular_stenosis": (0.391, 0.475, 0.472, 0.362),
}
# Left and right of one level.
FORAMINAL_SIDES = (0.194, 0.284, 0.316, 0.382, 0.413)
SUBARTICULAR_SIDES = (0.395, 0.515, 0.608, 0.570, 0.374)
# Different conditions at one level. The real figures (0.565, 0.281, 0.415) pool all levels and so hold the
# differences between levels too; these are the values within a level that bring the pooled ones about.
CANAL_SUBARTICULAR = 0.58
CANAL_FORAMINAL = 0.30
SAME_SIDE = 0.37
OTHER_SIDE = 0.28


@dataclass(frozen=True)
class Grades:
    """One patient's severities.

    Attributes:
        severity: ``[5 conditions, 5 levels]`` continuous g, 0 (none) to 3.4, in the order of
            `targets.CONDITIONS` and `targets.LEVELS`.
        labels: ``[5, 5]`` the reader's 0, 1 or 2.
        latent: ``[5, 5]`` the latent grades, standard normal.
    """

    severity: Floats
    labels: NDArray[np.int64]
    latent: Floats


def frequencies() -> Floats:
    """Return ``[25, 3]`` shares of the severities among the labelled cells, in `targets.TARGETS` order."""
    counts = np.array([row for condition in CONDITIONS for row in COUNTS[condition]], dtype=np.float64)
    shares: Floats = counts / counts.sum(axis=1, keepdims=True)
    return shares


def thresholds() -> Floats:
    """Return ``[25, 2]`` standard normal quantiles where Moderate and Severe begin."""
    cuts: Floats = ndtri(np.cumsum(frequencies(), axis=1)[:, :2])
    return cuts


def draw_grades(rng: np.random.Generator, reader: Reader) -> Grades:
    """Draw one patient's grades and the reading of them."""
    latent = _latent_factor(reader.noise) @ rng.standard_normal(25)
    spread = np.sqrt(1.0 + reader.noise**2)
    reading = (latent + reader.noise * rng.standard_normal(25)) / spread
    labels = (reading[:, None] > thresholds()).sum(axis=1)
    severity = _severity(latent, thresholds() * spread)
    return Grades(severity.reshape(5, 5), labels.reshape(5, 5), latent.reshape(5, 5))


def _severity(latent: Floats, cuts: Floats) -> Floats:
    """Return g: 1 and 2 at the two cuts, straight between and above, fading to 0 below."""
    position = (latent - cuts[:, 0]) / (cuts[:, 1] - cuts[:, 0])
    grown: Floats = np.where(position < 0, np.exp(np.minimum(position, 0.0)), 1.0 + position)
    return np.minimum(grown, 3.4)


@lru_cache(maxsize=4)
def _latent_factor(reader_noise: float) -> Floats:
    """Return ``[25, 25]``, which turns independent normals into correlated latent grades."""
    # Reading noise is independent between cells and so weakens the correlations of the labels.
    wanted = _label_correlation() * (1.0 + reader_noise**2)
    np.fill_diagonal(wanted, 1.0)
    values, vectors = np.linalg.eigh(wanted)
    root = vectors * np.sqrt(np.maximum(values, 1e-3))
    factor: Floats = root / np.linalg.norm(root, axis=1, keepdims=True)
    return factor


def _label_correlation() -> Floats:
    """Return ``[25, 25]`` correlation of the readings before they are cut into classes."""
    cuts = thresholds().reshape(5, 5, 2)
    within = np.stack([_within_level(level, cuts[:, level]) for level in range(5)])
    step = np.array(
        [
            [_latent(NEXT_LEVEL[name][k], cuts[c, k], cuts[c, k + 1]) for k in range(4)]
            for c, name in enumerate(CONDITIONS)
        ]
    )
    matrix = np.zeros((5, 5, 5, 5))  # condition, level, condition, level
    for i in range(len(LEVELS)):
        for j in range(len(LEVELS)):
            path = np.prod(step[:, min(i, j) : max(i, j)], axis=1)
            matrix[:, i, :, j] = np.sqrt(within[i] * within[j] * np.outer(path, path))
    return matrix.reshape(25, 25)


def _within_level(level: int, cuts: Floats) -> Floats:
    """Return ``[5, 5]`` correlation of the conditions' readings at one level."""
    labels = np.full((5, 5), OTHER_SIDE)
    labels[0, 1:3] = CANAL_FORAMINAL
    labels[0, 3:] = CANAL_SUBARTICULAR
    labels[1, 2] = FORAMINAL_SIDES[level]
    labels[3, 4] = SUBARTICULAR_SIDES[level]
    labels[1, 3] = labels[2, 4] = SAME_SIDE
    matrix = np.eye(5)
    for a in range(5):
        for b in range(a + 1, 5):
            matrix[a, b] = matrix[b, a] = _latent(float(labels[a, b]), cuts[a], cuts[b])
    return matrix


def _latent(label_correlation: float, first: Floats, second: Floats) -> float:
    """Return the correlation of two normals whose classes 0, 1, 2 have the given Pearson correlation.

    The covariance of the classes is the integral, over the correlation r, of the bivariate normal
    density at each pair of cuts; it is tabulated over r and inverted.
    """
    r = np.linspace(0.0, 0.97, 195)
    a, b = np.meshgrid(first, second)
    a, b = a.ravel()[:, None], b.ravel()[:, None]
    exponent = -(a * a - 2 * r * a * b + b * b) / (2 * (1 - r * r))
    density = (np.exp(exponent) / (2 * np.pi * np.sqrt(1 - r * r))).sum(axis=0)
    covariance = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(r))])
    return float(np.interp(label_correlation * _class_sd(first) * _class_sd(second), covariance, r))


def _class_sd(cuts: Floats) -> float:
    """Return the standard deviation of the class 0, 1, 2 of a standard normal cut twice."""
    above = 1.0 - ndtr(cuts)
    mean, square = above.sum(), above[0] + 3.0 * above[1]
    return float(np.sqrt(square - mean**2))
