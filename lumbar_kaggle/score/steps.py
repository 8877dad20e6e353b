"""The steps of a blend: each fits one setting of one score group and changes its probabilities by it.

Order: weights of the files, stacking, temperature, the canal's worst level. A step whose setting is at its
default changes nothing, so that a blend without settings is the plain mean.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize, minimize_scalar

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.settings import check_settings, option
from lumbar_kaggle.score.cells import TARGETS_OF, Booleans, Floats, Integers, normalised
from lumbar_kaggle.score.losses import CANAL, WEIGHTS, group_loss
from lumbar_kaggle.score.stacking import LEAST, PENALTY, Stack, apply_stack, fit_stack

SHARES = (0.5, 0.25, 0.75, 1.0)
"""Shares of the stack that are tried, the rest being the base; the first is the default."""

BOUND = 3.0
"""Temperature and scale are searched from 1/BOUND to BOUND."""

_FAINT = 1e-6
"""Least weight of a file: nothing beside others, everything in a row that it alone has."""


@dataclass(frozen=True)
class GroupBlend:
    """Settings of one score group.

    Attributes:
        weights: ``[files]`` of their log-probabilities, sum 1; none: plain mean of the probabilities.
        stack: the correction by the other cells of the level, if any.
        share: of the corrected probabilities; the rest is the base.
        temperature: probabilities are raised to 1/temperature: below 1 is more confident.
        worst_scale: factor of the severe probability at the canal's worst level; 1 for other groups.
    """

    weights: tuple[float, ...] | None = None
    stack: Stack | None = None
    share: float = option(SHARES[0], "of the stack", least=0, most=1)
    temperature: float = option(1.0, "divides the logarithms", least=0.01, most=100)
    worst_scale: float = option(1.0, "of the canal's worst level", least=0.01, most=100)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.weights is not None and (min(self.weights) < 0 or sum(self.weights) <= 0):
            raise InputError(f"weights is {self.weights}; each must be 0 or more, and their sum more than 0")


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: as printed.
        groups: places in `targets.SCORE_GROUPS` that it is for.
        fit: from settings so far, files ``[files, studies, 25, 3]``, probabilities ``[studies, 25, 3]``
            before the step, labels ``[studies, 25]`` and group: the variants to choose from, best guess
            first; there is at least one labelled cell.
        apply: from settings, files, probabilities before the step and group: the group's
            probabilities after it, ``[studies, cells, 3]``.
    """

    name: str
    groups: tuple[int, ...]
    fit: Callable[[GroupBlend, Floats, Floats, Integers, int], list[GroupBlend]]
    apply: Callable[[GroupBlend, Floats, Floats, int], Floats]


def plain_mean(files: Floats) -> Floats:
    """Return the mean ``[studies, 25, 3]`` of the files that have a cell, NaN where none has.

    Args:
        files: ``[files, studies, 25, 3]``, NaN where a file lacks the cell.
    """
    present = np.isfinite(files)
    count = present.sum(axis=0)
    total = np.where(present, files, 0.0).sum(axis=0)
    mean: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean


def weighted_mean(weights: Floats, files: Floats) -> Floats:
    """Return the normalised weighted mean of log-probabilities over the files that have a cell.

    Args:
        weights: ``[files]``, 0 or more.
        files: ``[files, ..., 3]``, NaN where a file lacks the cell.
    """
    logs, share = _logs_and_shares(weights, files)
    mean = normalised((share[..., None] * logs).sum(axis=0))
    return np.where((share.sum(axis=0) > 0)[..., None], mean, np.nan)


def fit_weights(files: Floats, labels: Integers) -> Floats:
    """Return the files' weights ``[files]``, 0 or more with sum 1, by the official weighted log loss.

    They are drawn a little towards equal weights, as coefficients of the stack are towards 0.

    Args:
        files: ``[files, rows, 3]``, NaN where a file lacks the row; each row is in one file at least.
        labels: ``[rows]`` 0, 1, 2.
    """
    equal = np.full(len(files), 1 / len(files))
    rows, truth, weight = np.arange(len(labels)), np.eye(3)[labels], WEIGHTS[labels]

    def loss(weights: Floats) -> tuple[float, Floats]:
        logs, share = _logs_and_shares(weights, files)
        mean = (share[..., None] * logs).sum(axis=0)
        fitted = normalised(mean)
        value = -(weight * np.log(fitted[rows, labels])).sum() + PENALTY / 2 * ((weights - equal) ** 2).sum()
        error = weight[:, None] * (fitted - truth)
        # By the quotient rule: a weight moves the mean from where it is towards its own file.
        slope = np.einsum("frk,rk->fr", logs - mean, error) * share / np.maximum(weights, _FAINT)[:, None]
        slope_sum = slope.sum(axis=1) + PENALTY * (weights - equal)
        return float(value / weight.sum()), slope_sum / weight.sum()

    found = minimize(loss, equal, jac=True, method="L-BFGS-B", bounds=[(_FAINT, None)] * len(files))
    weights: Floats = found.x / found.x.sum()
    return weights


def soften(probabilities: Floats, temperature: float) -> Floats:
    """Return ``[..., 3]`` probabilities raised to 1/temperature, normalised; NaN stays NaN."""
    return normalised(np.log(np.maximum(probabilities, LEAST)) / temperature)


def scale_worst(canal: Floats, scale: float) -> Floats:
    """Return canal probabilities with the greatest severe one of each study multiplied, its row normalised.

    Args:
        canal: ``[studies, 5, 3]``, NaN where there is no prediction.
        scale: the factor, above 0.
    """
    severe = np.where(np.isnan(canal[..., 2]), -1.0, canal[..., 2])
    worst = np.arange(canal.shape[1]) == severe.argmax(axis=1)[:, None]
    factor = np.where(worst[..., None] & (np.arange(3) == 2), scale, 1.0)
    scaled: Floats = canal * factor
    scaled /= scaled.sum(axis=-1, keepdims=True)
    return scaled


def _logs_and_shares(weights: Floats, files: Floats) -> tuple[Floats, Floats]:
    """Return logs ``[files, ..., 3]``, 0 where missing, and shares ``[files, ...]`` of each cell."""
    present = _present(files)
    logs = np.log(np.maximum(np.where(present[..., None], files, 1.0), LEAST))
    given = np.maximum(weights, _FAINT).reshape(-1, *[1] * (files.ndim - 2)) * present
    return logs, given / np.maximum(given.sum(axis=0), _FAINT)


def _present(files: Floats) -> Booleans:
    """Return ``[files, ...]`` which cells a file has."""
    return np.isfinite(files[..., 0])


def _fit_weights(
    blend: GroupBlend, files: Floats, before: Floats, severity: Integers, group: int
) -> list[GroupBlend]:
    if len(files) == 1:
        return []
    targets = TARGETS_OF[group]
    known = (severity[:, targets] >= 0) & np.isfinite(before[:, targets, 0])
    weights = fit_weights(files[:, :, targets][:, known], severity[:, targets][known])
    return [replace(blend, weights=tuple(weights.tolist()))]


def _apply_weights(blend: GroupBlend, files: Floats, before: Floats, group: int) -> Floats:
    if blend.weights is None:
        return before[:, TARGETS_OF[group]]
    return weighted_mean(np.asarray(blend.weights), files[:, :, TARGETS_OF[group]])


def _fit_stacking(
    blend: GroupBlend, files: Floats, before: Floats, severity: Integers, group: int
) -> list[GroupBlend]:
    stack = fit_stack(before, severity, group)
    return [replace(blend, stack=stack, share=share) for share in SHARES]


def _apply_stacking(blend: GroupBlend, files: Floats, before: Floats, group: int) -> Floats:
    base = before[:, TARGETS_OF[group]]
    if blend.stack is None:
        return base
    mixed: Floats = (1 - blend.share) * base + blend.share * apply_stack(blend.stack, before, group)
    return mixed


def _fit_temperature(
    blend: GroupBlend, files: Floats, before: Floats, severity: Integers, group: int
) -> list[GroupBlend]:
    found = _search(lambda value: soften(before[:, TARGETS_OF[group]], value), before, severity, group)
    return [replace(blend, temperature=found)]


def _apply_temperature(blend: GroupBlend, files: Floats, before: Floats, group: int) -> Floats:
    base = before[:, TARGETS_OF[group]]
    return base if blend.temperature == 1 else soften(base, blend.temperature)


def _fit_worst(
    blend: GroupBlend, files: Floats, before: Floats, severity: Integers, group: int
) -> list[GroupBlend]:
    found = _search(lambda value: scale_worst(before[:, TARGETS_OF[group]], value), before, severity, group)
    return [replace(blend, worst_scale=found)]


def _apply_worst(blend: GroupBlend, files: Floats, before: Floats, group: int) -> Floats:
    base = before[:, TARGETS_OF[group]]
    return base if blend.worst_scale == 1 else scale_worst(base, blend.worst_scale)


def _search(changed: Callable[[float], Floats], before: Floats, severity: Integers, group: int) -> float:
    """Return the number that makes the group's official loss least; for the canal with the any-severe one."""
    trial = before.copy()

    def loss(logarithm: float) -> float:
        trial[:, TARGETS_OF[group]] = changed(float(np.exp(logarithm)))
        return group_loss(trial, severity, group)

    reach = float(np.log(BOUND))
    found = minimize_scalar(loss, bounds=(-reach, reach), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


STEPS = (
    Step("weights", (0, 1, 2), _fit_weights, _apply_weights),
    Step("stacking", (0, 1, 2), _fit_stacking, _apply_stacking),
    Step("temperature", (0, 1, 2), _fit_temperature, _apply_temperature),
    Step("any severe", (CANAL,), _fit_worst, _apply_worst),
)
"""In the order in which they are applied."""
