"""The best that can be known of a label before it is written: its probabilities given the true grades.

The reader of `phantom.grades` is a known mixture of normal noise, shifts, swaps and gross errors, so that
everything here is in closed form. Nobody who sees the images alone can predict better than the oracle, in
expectation: the images show the grades, and the reader adds chance that no image shows.
"""

import numpy as np
from scipy.special import ndtr

from lumbar_kaggle.core.targets import SCORE_GROUPS, SEVERITIES, SEVERITY_WEIGHTS, TARGETS
from lumbar_kaggle.phantom.grades import confusions, frequencies, mixing, per_target, thresholds, total_noise
from lumbar_kaggle.phantom.settings import Floats, Reader
from lumbar_kaggle.score.metric import PARTS

ORACLE_COLUMNS = ("row_id", *SEVERITIES, *(f"reader_{name}" for name in SEVERITIES))
"""Of ``oracle.csv``: what to submit, see `best_submission`; then the plain probabilities."""

ALL = slice(25)  # the targets, all of them
_WEIGHTS = np.asarray(SEVERITY_WEIGHTS)
_LEAST = float(np.finfo(np.float64).eps)  # the metric clips there


def reader_probabilities(latent: Floats, reader: Reader) -> Floats:
    """Return probabilities ``[..., 25, 3]`` of the labels given latent grades ``[..., 5, 5]``; rows sum to 1.

    Severities g say the same as latent grades, up to their cap.
    """
    grades = _grade_probabilities(latent.reshape(*latent.shape[:-2], 25), total_noise(reader))
    return _with_gross_errors(mixing(reader) @ grades, reader)


def best_submission(probabilities: Floats) -> Floats:
    """Return what scores best in expectation when labels have the given probabilities ``[..., 3]``.

    A label of severity k costs its sample weight times -log q of it, so the expected loss of a row is least
    at q proportional to probability times weight. For the any-severe term, which is read off the same rows
    by a maximum, that is a reference and not a strict bound.
    """
    weighted = probabilities * _WEIGHTS
    return weighted / weighted.sum(axis=-1, keepdims=True)


def worst_canal_probabilities(latent: Floats, reader: Reader) -> Floats:
    """Return the probabilities ``[n, 3]`` of a study's worst canal label given latent grades ``[n, 5, 5]``.

    The five labels share the reader's bias and the shift; given both they are independent. The
    bias is integrated by a Gauss-Hermite rule.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    bias = np.hypot(reader.strictness, reader.group_strictness[0])
    canal = latent[:, 0]
    none, not_severe = np.zeros(len(canal)), np.zeros(len(canal))
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        grades = _grade_probabilities(canal + bias * node, per_target(reader.noise), slice(5))
        for way in confusions(reader):
            labels = _with_gross_errors(way.source[:5, :5] @ grades, reader, slice(5))
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
    weighted = reader_probabilities(latent, reader) * _WEIGHTS
    losses = (weighted * -np.log(np.clip(submitted, _LEAST, 1.0 - _LEAST))).sum(axis=2)
    group = np.array([SCORE_GROUPS.index(target.score_group) for target in TARGETS])
    parts = {
        name: float(losses[:, group == number].sum() / weighted[:, group == number].sum())
        for number, name in enumerate(SCORE_GROUPS)
    }
    worst = worst_canal_probabilities(latent, reader) * _WEIGHTS
    severe = np.clip(submitted[:, group == 0, 2].max(axis=1), _LEAST, 1.0 - _LEAST)
    loss = worst[:, 2] * -np.log(severe) + worst[:, :2].sum(axis=1) * -np.log1p(-severe)
    parts["any_severe_spinal"] = float(loss.sum() / worst.sum())
    return parts | {"total": float(np.mean([parts[name] for name in PARTS]))}


def _grade_probabilities(cells: Floats, noise: Floats, targets: slice = ALL) -> Floats:
    """Return ``[..., n, 3]`` probabilities of what is read in the right cells, from latent ``[..., n]``.

    `noise` is ``[25]``; `targets` says which n of the 25 are given.
    """
    # A reader without noise is the limit of one with hardly any.
    sd = np.maximum(noise, 1e-12)[targets, None]
    below = ndtr((thresholds()[targets] - cells[..., None]) / sd)
    return np.diff(below, axis=-1, prepend=0.0, append=1.0)


def _with_gross_errors(mixed: Floats, reader: Reader, targets: slice = ALL) -> Floats:
    """Return the labels' probabilities ``[..., n, 3]`` from those of the grades that were read for them.

    What a row lacks of 1 is the share of discs beyond the five, which are healthy.
    """
    mixed = np.concatenate([1.0 - mixed[..., 1:].sum(axis=-1, keepdims=True), mixed[..., 1:]], axis=-1)
    gross = per_target(reader.gross)[targets, None]
    return (1.0 - gross) * mixed + gross * frequencies()[targets]
