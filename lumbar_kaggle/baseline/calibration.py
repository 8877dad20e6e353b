"""From a classifier trained on balanced severities to probabilities that the official score rewards.

Upsampling teaches the network that all severities are equally frequent. By Bayes' rule its answer q
becomes the one for the real, weighted frequencies π (the weighted prior) as q·π, normalised. A small
or over-confident classifier deserves less trust than that; two numbers per score group say how much:

    p = (1 - mix) · normalise(q^strength · π) + mix · π

Both are fitted on out-of-fold predictions. Strength 0 is the prior itself, so a classifier that knows
nothing cannot do harm. A severity that the training part did not contain keeps its prior probability.
"""

from dataclasses import dataclass

import numpy as np

from lumbar_kaggle.core.settings import check_settings, option
from lumbar_kaggle.scoring.metric import Booleans, Floats, Integers, weighted_log_loss

STRENGTHS = tuple(round(0.1 * step, 1) for step in range(16))
MIXES = (0.02, 0.05, 0.1, 0.2, 0.4)
"""The grid that is searched. No mix of 0: one confident error costs more than a little doubt."""


@dataclass(frozen=True)
class Calibration:
    """How far a score group's classifiers are trusted; see the module's formula."""

    strength: float = option(0.0, "exponent of the classifier's answer", least=0, most=10)
    mix: float = option(MIXES[0], "share of the prior", least=0, most=1)

    def __post_init__(self) -> None:
        check_settings(self)


DISTRUST = Calibration(0.0, MIXES[0])
"""The prior, whatever the classifier says."""


def calibrate(raw: Floats, prior: Floats, seen: Booleans, calibration: Calibration) -> Floats:
    """Return calibrated probabilities.

    Args:
        raw: ``[rows, 3]`` the classifier's softmax.
        prior: ``[rows, 3]`` weighted prior of each row's target.
        seen: ``[rows, 3]`` whether the classifier's training part held that severity.
        calibration: strength and mix.

    Returns:
        ``[rows, 3]``, rows sum to 1.
    """
    evidence = np.clip(raw, 1e-12, 1.0) ** calibration.strength * prior * seen
    known = (prior * seen).sum(axis=1, keepdims=True)
    total = evidence.sum(axis=1, keepdims=True)
    posterior = np.where(seen, evidence / np.where(total > 0, total, 1.0) * known, prior)
    mixed = (1 - calibration.mix) * posterior + calibration.mix * prior
    return np.asarray(mixed / mixed.sum(axis=1, keepdims=True))


def fit_calibration(raw: Floats, prior: Floats, seen: Booleans, severity: Integers) -> Calibration:
    """Return the grid's best calibration by the official weighted log loss.

    Args:
        raw, prior, seen: as in `calibrate`, out-of-fold rows of one score group.
        severity: ``[rows]`` integers 0, 1, 2.
    """
    candidates = [Calibration(strength, mix) for strength in STRENGTHS for mix in MIXES]
    losses = [weighted_log_loss(calibrate(raw, prior, seen, choice), severity) for choice in candidates]
    return candidates[int(np.argmin(losses))]


def cross_calibrate(
    raw: Floats, prior: Floats, seen: Booleans, severity: Integers, fold: Integers
) -> tuple[Floats, Calibration]:
    """Return the cross-fitted probabilities ``[rows, 3]`` of a score group, and its calibration for export.

    Each fold is calibrated by the others. Classifiers that do not beat the prior on rows that neither they
    nor the calibration have seen are not trusted at all.

    Args:
        raw, prior, seen, severity: as in `fit_calibration`.
        fold: ``[rows]`` the fold that held each row out.
    """
    calibrated = np.zeros_like(raw)
    for held_out in np.unique(fold):
        inside, rest = fold == held_out, fold != held_out
        choice = fit_calibration(raw[rest], prior[rest], seen[rest], severity[rest])
        calibrated[inside] = calibrate(raw[inside], prior[inside], seen[inside], choice)
    if weighted_log_loss(calibrated, severity) < weighted_log_loss(prior, severity):
        return calibrated, fit_calibration(raw, prior, seen, severity)
    return calibrate(raw, prior, seen, DISTRUST), DISTRUST
