"""Where `grades.LATENT_FACTOR` comes from: latent correlations that give the labels the real ones."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.phantom.grades import (
    FREQUENCIES,
    GROUP_OF_TARGET,
    STANDARD,
    confusions,
    grade_frequencies,
    mixing,
    per_target,
    total_noise,
)
from lumbar_kaggle.phantom.inspection import NEXT_LEVEL, POOLED, SIDES
from lumbar_kaggle.phantom.settings import Reader

Floats = NDArray[np.float64]

OPPOSITE = {(1, 4): 0.36, (2, 3): 0.36}
"""The same for foramen and recess of opposite sides: no figure is known; a little less than on one side."""

FAR = np.array([1.5, 0.2, 0.2, 0.2, 0.2])
"""How much touch two levels lose with each further step between them, per condition; 1 is as much as with the
first. No figure is known; these bring the shares of studies without any finding, and with a severe canal,
near the real ones (12.9 and 18.5 %)."""


def fit_latent_factor() -> Floats:
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
    mean = (FREQUENCIES @ np.arange(3)).reshape(5, 5)
    square = (FREQUENCIES @ np.arange(3) ** 2).reshape(5, 5)
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
    return within + within.transpose(0, 2, 1), np.array(NEXT_LEVEL) - following


def _assembled(within: Floats, step: Floats) -> Floats:
    """Return ``[25, 25]``, nearly a correlation matrix, from those within a level and to the next."""
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


def label_correlation(latent_correlation: Floats, reader: Reader) -> Floats:
    """Return the Pearson correlation ``[25, 25]`` of the labels (0, 1, 2) of readings.

    Args:
        latent_correlation: ``[25, 25]`` of the latent grades.
        reader: who reads, with thresholds that give the real frequencies.
    """
    same = GROUP_OF_TARGET[:, None] == GROUP_OF_TARGET
    shared = reader.strictness**2 + np.where(same, per_target(reader.group_strictness) ** 2, 0.0)
    spread = np.sqrt(1.0 + total_noise(reader) ** 2)
    seen = (latent_correlation + shared) / np.outer(spread, spread)
    mean = grade_frequencies() @ np.arange(3)
    product = _class_covariance(seen, ndtri(np.cumsum(grade_frequencies(), axis=1)[:, :2])) + np.outer(mean, mean)
    # The cells of one score group are confused together, those of two groups by chance.
    apart = mixing(reader) @ product @ mixing(reader).T
    together = np.sum([way.share * way.source @ product @ way.source.T for way in confusions(reader)], axis=0)
    label_mean = FREQUENCIES @ np.arange(3)
    covariance = np.where(same, together, apart) - np.outer(label_mean, label_mean)
    kept = 1.0 - per_target(reader.gross)
    sd = np.sqrt(FREQUENCIES @ np.arange(3) ** 2 - label_mean**2)
    correlation: Floats = np.outer(kept, kept) * covariance / np.outer(sd, sd)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def _class_covariance(correlation: Floats, quantiles: Floats) -> Floats:
    """Return the covariance ``[n, n]`` of normals cut twice each into 0, 1, 2; the diagonal is meaningless.

    It is the integral, over the correlation from 0 to r = sin(t), of the bivariate normal density at each
    pair of cuts (Plackett 1954), by a Gauss rule over t.
    """
    nodes, weights = np.polynomial.legendre.leggauss(20)
    end = np.arcsin(np.clip(correlation, -0.995, 0.995))
    covariance = np.zeros_like(correlation)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        sine, cosine = np.sin(node * end), np.cos(node * end)
        for a in quantiles.T:
            for b in quantiles.T:
                first, second = a[:, None], b[None, :]
                exponent = (first**2 - 2 * sine * first * second + second**2) / (2 * cosine**2)
                covariance += weight * end * np.exp(-exponent) / (2 * np.pi)
    return covariance
