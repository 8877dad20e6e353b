"""The closed form of the score that a submission can expect, given the patients' true grades."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from lumbar_kaggle.phantom.grades import FREQUENCIES, GROUP_OF_TARGET, confusions, reader_probabilities, thresholds
from lumbar_kaggle.phantom.settings import Reader
from lumbar_kaggle.scoring.metric import EPSILON, PARTS, WEIGHTS

Floats = NDArray[np.float64]


def worst_canal_probabilities(latent: Floats, reader: Reader) -> Floats:
    """Return the probabilities ``[n, 3]`` of a study's worst canal label given latent grades ``[n, 5, 5]``.

    The five labels share the reader's bias and the shift; given both they are independent. The bias is integrated by
    a Gauss-Hermite rule.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    bias = np.hypot(reader.strictness, reader.group_strictness[0])
    none, not_severe = np.zeros((2, len(latent)))
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        below = ndtr((thresholds()[:5] - latent[:, 0, :, None] - bias * node) / reader.noise[0])
        grades = np.diff(below, axis=-1, prepend=0.0, append=1.0)
        for way in confusions(reader):
            labels = way.source[:5, :5] @ grades
            labels[..., 0] = 1.0 - labels[..., 1:].sum(axis=2)
            labels = (1.0 - reader.gross[0]) * labels + reader.gross[0] * FREQUENCIES[:5]
            none += weight * way.share * labels[..., 0].prod(axis=1)
            not_severe += weight * way.share * labels[..., :2].sum(axis=2).prod(axis=1)
    return np.stack([none, not_severe - none, 1.0 - not_severe], axis=1)


def expected_score(latent: Floats, submitted: Floats, reader: Reader) -> dict[str, float]:
    """Return what a submission scores in expectation: each part of `metric.PARTS`, and the ``total``.

    Of each part it is the expected sum of weight times loss over the expected sum of weights, all rows being
    labelled; over many studies that is the expectation of the score.

    Args:
        latent: ``[n, 5 conditions, 5 levels]`` latent grades.
        submitted: ``[n, 25, 3]`` probabilities in the order of `targets.TARGETS`, rows sum to 1.
        reader: who reads.
    """
    weighted = reader_probabilities(latent, reader) * WEIGHTS
    losses = (weighted * -np.log(np.clip(submitted, EPSILON, 1.0 - EPSILON))).sum(axis=2)
    groups = [group == GROUP_OF_TARGET for group in range(3)]
    parts = [losses[:, group].sum() / weighted[:, group].sum() for group in groups]
    worst = worst_canal_probabilities(latent, reader) * WEIGHTS
    severe = np.clip(submitted[:, groups[0], 2].max(axis=1), EPSILON, 1.0 - EPSILON)
    loss = worst[:, 2] * -np.log(severe) + worst[:, :2].sum(axis=1) * -np.log1p(-severe)
    parts.append(loss.sum() / worst.sum())
    return dict(zip(PARTS, map(float, parts), strict=True)) | {"total": float(np.mean(parts))}
