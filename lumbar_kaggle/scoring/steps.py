"""The steps of a blend: each fits one setting of one score group and changes its probabilities by it.

Order: weights of the files, stacking, temperature, the canal's worst level. A step whose setting is at its
default changes nothing, so that a blend without settings is the plain mean. All are fitted by the official
weighted log loss.

Stacking is what the other conditions and the other side of a level say of a cell: a multinomial logistic
regression per score group corrects the log-probabilities of the base,

    log p = log base + inputs · coefficients + constant

penalised towards no correction, so that few studies leave the base as it is. Left and right share one set of
coefficients: inputs are the own side and the other side; the canal sees the worse and the better one.
"""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.settings import check_settings, option
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, SCORE_GROUPS, SEVERITIES
from lumbar_kaggle.scoring.metric import (
    CANAL,
    PARTS,
    TARGETS_OF,
    Floats,
    Integers,
    part_scores,
    study_sums,
    weighted_losses,
)

STEPS = {"weights": (0, 1, 2), "stacking": (0, 1, 2), "temperature": (0, 1, 2), "any severe": (CANAL,)}
"""Step → places in `targets.SCORE_GROUPS` that it is for, in the order in which they are applied."""

SHARES = (0.5, 0.25, 0.75, 1.0)
"""Shares of the stack that are tried, the rest being the base; the first is the default."""

BOUND = 3.0
"""Temperature and scale are searched from 1/BOUND to BOUND."""

PENALTY = 30.0
"""Of squared coefficients, beside the sum of the weighted losses: each is expected within about ± 0.2 per
standard deviation of its input, whatever the number of studies."""

LEAST = 1e-6
"""Probabilities below this count as this before their logarithm is taken; a file's least weight: nothing
beside others, everything in a row that it alone has."""

INPUTS = 19
"""Of the stack's regression; see `stack_inputs`."""

_PAIR = {group: [k for k, name in enumerate(CONDITIONS) if SCORE_GROUPS[group] in name] for group in (1, 2)}
"""Score group → places of its left and its right condition."""


@dataclass(frozen=True)
class Stack:
    """The correction of one score group.

    Attributes:
        fill: ``[inputs]`` what stands in for an input that is missing: its mean.
        scale: ``[inputs]`` standard deviations that inputs are divided by.
        coefficients: ``[inputs][3]``.
    """

    fill: tuple[float, ...] = option(MISSING, "means", count=INPUTS)
    scale: tuple[float, ...] = option(MISSING, "standard deviations", count=INPUTS, above=0)
    coefficients: tuple[tuple[float, ...], ...] = option(MISSING, "of the regression", count=INPUTS)

    def __post_init__(self) -> None:
        check_settings(self)
        if any(len(line) != len(SEVERITIES) for line in self.coefficients):
            raise InputError("coefficients has a line that is not of three numbers")


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


def fit_step(
    step: str, settings: GroupBlend, files: Floats, before: Floats, severity: Integers, group: int
) -> list[GroupBlend]:
    """Return the variants of a score group's settings to choose from, best guess first.

    Args:
        step, settings: one of `STEPS`, and the settings of those before.
        files: ``[files, studies, 25, 3]``, NaN where a file lacks the cell.
        before: ``[studies, 25, 3]`` probabilities before the step.
        severity: ``[studies, 25]`` labels, -1 where there is none; one of the group's cells has both.
        group: place in `targets.SCORE_GROUPS`.
    """
    targets = TARGETS_OF[group]
    if step == "weights":
        if len(files) == 1:
            return []
        known = (severity[:, targets] >= 0) & np.isfinite(before[:, targets, 0])
        weights = fit_weights(files[:, :, targets][:, known], severity[:, targets][known])
        return [replace(settings, weights=tuple(weights.tolist()))]
    if step == "stacking":
        stack = fit_stack(before, severity, group)
        return [replace(settings, stack=stack, share=share) for share in SHARES]
    if step == "temperature":
        return [replace(settings, temperature=_fit_number(soften, before, severity, group))]
    return [replace(settings, worst_scale=_fit_number(scale_worst, before, severity, group))]


def apply_step(step: str, settings: GroupBlend, files: Floats, before: Floats, group: int) -> Floats:
    """Return the group's probabilities after a step, ``[studies, cells, 3]``; see `fit_step`."""
    base = before[:, TARGETS_OF[group]]
    if step == "weights" and settings.weights is not None:
        return weighted_mean(np.asarray(settings.weights), files[:, :, TARGETS_OF[group]])
    if step == "stacking" and settings.stack is not None:
        mixed: Floats = (1 - settings.share) * base
        return mixed + settings.share * apply_stack(settings.stack, before, group)
    if step == "temperature" and settings.temperature != 1:
        return soften(base, settings.temperature)
    if step == "any severe" and settings.worst_scale != 1:
        return scale_worst(base, settings.worst_scale)
    return base


def parts_of(group: int) -> list[int]:
    """Return the places in `metric.PARTS` that a score group's predictions have a share in."""
    return [group, PARTS.index("any_severe_spinal")] if group == CANAL else [group]


def group_loss(probabilities: Floats, severity: Integers, group: int) -> float:
    """Return a score group's loss; for the canal the sum of its own and the any-severe one."""
    return float(part_scores(study_sums(probabilities, severity).sum(axis=0))[parts_of(group)].sum())


def normalised(logs: Floats) -> Floats:
    """Return probabilities ``[..., 3]`` in proportion to the exponentials of `logs`; NaN stays NaN.

    The three are added one by one: numpy's sums along so short an axis take most of the time of a fit.
    """
    top = np.maximum(np.maximum(logs[..., 0], logs[..., 1]), logs[..., 2])
    raised = np.exp(logs - top[..., None])
    return np.asarray(raised / (raised[..., 0] + raised[..., 1] + raised[..., 2])[..., None])


def plain_mean(files: Floats) -> Floats:
    """Return the mean ``[studies, 25, 3]`` of the ``[files, …]`` that have a cell, NaN where none has."""
    present = np.isfinite(files)
    count = present.sum(axis=0)
    total = np.where(present, files, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def weighted_mean(weights: Floats, files: Floats) -> Floats:
    """Return the normalised weighted mean of log-probabilities over the files that have a cell.

    Args:
        weights: ``[files]``, 0 or more.
        files: ``[files, ..., 3]``, NaN where a file lacks the cell.
    """
    present = ~np.isnan(files[..., 0])
    logs = np.log(np.maximum(np.where(present[..., None], files, 1.0), LEAST))
    share = np.maximum(weights, LEAST).reshape(-1, *[1] * (files.ndim - 2)) * present
    share = share / np.maximum(share.sum(axis=0), LEAST)
    mean = normalised((share[..., None] * logs).sum(axis=0))
    return np.where((share.sum(axis=0) > 0)[..., None], mean, np.nan)


def fit_weights(files: Floats, labels: Integers) -> Floats:
    """Return the files' weights ``[files]``, 0 or more with sum 1.

    They are drawn a little towards equal weights, as coefficients of the stack are towards 0.

    Args:
        files: ``[files, rows, 3]``, NaN where a file lacks the row; each row is in one file at least.
        labels: ``[rows]`` 0, 1, 2.
    """
    equal = np.full(len(files), 1 / len(files))

    def loss(weights: Floats) -> float:
        value, total = weighted_losses(weighted_mean(weights, files), labels).sum(axis=0)
        return float((value + PENALTY / 2 * ((weights - equal) ** 2).sum()) / total)

    weights = _least(loss, equal, [(LEAST, None)] * len(files))
    weights /= weights.sum()
    return weights


def soften(probabilities: Floats, temperature: float) -> Floats:
    """Return ``[..., 3]`` probabilities raised to 1/temperature, normalised; NaN stays NaN."""
    return normalised(np.log(np.maximum(probabilities, LEAST)) / temperature)


def scale_worst(canal: Floats, scale: float) -> Floats:
    """Return canal probabilities ``[studies, 5, 3]`` with each study's greatest severe one multiplied.

    Its row is normalised; NaN, where there is no prediction, stays NaN.
    """
    severe = np.where(np.isnan(canal[..., 2]), -1.0, canal[..., 2])
    worst = np.arange(canal.shape[1]) == severe.argmax(axis=1)[:, None]
    scaled = canal * np.where(worst[..., None] & (np.arange(3) == 2), scale, 1.0)
    return np.asarray(scaled / scaled.sum(axis=-1, keepdims=True))


def _fit_number(changed: Callable[[Floats, float], Floats], before: Floats, severity: Integers, group: int) -> float:
    """Return the number by which `changed` makes the group's loss least, or 1 where none is better."""
    targets, trial = TARGETS_OF[group], before.copy()

    def loss(logarithm: Floats) -> float:
        trial[:, targets] = changed(before[:, targets], float(np.exp(logarithm[0])))
        return group_loss(trial, severity, group)

    start, reach = np.zeros(1), float(np.log(BOUND))
    found = _least(loss, start, [(-reach, reach)])
    return float(np.exp(found[0])) if loss(found) < loss(start) else 1.0


def _least(
    loss: Callable[[Floats], Any],
    start: Floats,
    bounds: Sequence[tuple[float | None, float | None]] | None = None,
    *,
    slope: bool = False,
) -> Floats:
    """Return where `loss`, which with `slope` gives its gradient as well, is least."""
    options = {"ftol": 1e-9, "gtol": 1e-6}
    return np.asarray(minimize(loss, start, jac=slope, method="L-BFGS-B", bounds=bounds, options=options).x)


def stack_inputs(probabilities: Floats, group: int) -> Floats:
    """Return the inputs of a score group's cells, ``[studies, cells, 19]``, NaN where one is missing.

    They are the log-odds of moderate and of severe against normal/mild, of the cell itself and of four
    others at its level (10), whether each of the four is missing (4), and which level it is (5; together the
    constant). Probabilities are ``[studies, 25, 3]``, NaN where there is no prediction.
    """
    logs = np.log(np.maximum(probabilities, LEAST)).reshape(-1, len(CONDITIONS), len(LEVELS), 3)
    odds = logs[..., 1:] - logs[..., :1]
    level = np.broadcast_to(np.eye(len(LEVELS)), (len(odds), len(LEVELS), len(LEVELS)))
    blocks = []
    for condition in [CANAL] if group == CANAL else _PAIR[group]:
        others = _others(odds, condition, group)
        missing = np.stack([np.isnan(other[..., 0]) for other in others], axis=-1).astype(np.float64)
        blocks.append(np.concatenate([odds[:, condition], *others, missing, level], axis=-1))
    return np.asarray(np.concatenate(blocks, axis=1))


def _others(odds: Floats, condition: int, group: int) -> list[Floats]:
    """Return the log-odds ``[studies, 5 levels, 2]`` of the level's four other cells, by relation."""
    if group == CANAL:
        sides = [(odds[:, left], odds[:, right]) for left, right in _PAIR.values()]
        # Of a side that is missing, the other one stands for both.
        return [worst(*pair) for pair in sides for worst in (np.fmax, np.fmin)]
    side = _PAIR[group].index(condition)
    neighbour = _PAIR[3 - group]
    places = [_PAIR[group][1 - side], CANAL, neighbour[side], neighbour[1 - side]]
    return [odds[:, place] for place in places]


def fit_stack(probabilities: Floats, severity: Integers, group: int) -> Stack:
    """Fit the correction of one score group to the base ``[studies, 25, 3]`` and labels ``[studies, 25]``.

    NaN and -1 are what is missing; at least one cell of the group has both.
    """
    base, labels = probabilities[:, TARGETS_OF[group]], severity[:, TARGETS_OF[group]]
    known = (labels >= 0) & np.isfinite(base[..., 0])
    inputs = stack_inputs(probabilities, group)[known]
    there = np.isfinite(inputs)
    fill = np.where(there, inputs, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    inputs = np.where(there, inputs, fill)
    spread = inputs.std(axis=0)
    scale = np.where(spread > 1e-6, spread, 1.0)  # one that never changes has nothing to be scaled by
    coefficients = _regression(inputs / scale, np.log(np.maximum(base[known], LEAST)), labels[known])
    return Stack(tuple(fill.tolist()), tuple(scale.tolist()), tuple(tuple(line) for line in coefficients.tolist()))


def apply_stack(stack: Stack, probabilities: Floats, group: int) -> Floats:
    """Return the corrected probabilities of a score group's cells, ``[studies, cells, 3]``.

    The base is ``[studies, 25, 3]``; a cell that is NaN stays so.
    """
    inputs = stack_inputs(probabilities, group)
    inputs = np.where(np.isfinite(inputs), inputs, np.asarray(stack.fill)) / np.asarray(stack.scale)
    logs = np.log(np.maximum(probabilities[:, TARGETS_OF[group]], LEAST))
    return normalised(logs + inputs @ np.asarray(stack.coefficients))


def _regression(inputs: Floats, offset: Floats, labels: Integers) -> Floats:
    """Return coefficients ``[inputs, 3]`` of a multinomial regression with an offset ``[rows, 3]``."""
    truth, shape = np.eye(3)[labels], (inputs.shape[1], 3)

    def loss(flat: Floats) -> tuple[float, Floats]:
        coefficients = flat.reshape(shape)
        fitted = normalised(offset + inputs @ coefficients)
        losses, weight = weighted_losses(fitted, labels).T
        value = losses.sum() + PENALTY / 2 * (flat**2).sum()
        slope = inputs.T @ (weight[:, None] * (fitted - truth)) + PENALTY * coefficients
        # Divided, so that the tolerance of the search means the same for any number of rows.
        return float(value / weight.sum()), slope.ravel() / weight.sum()

    return _least(loss, np.zeros(shape[0] * 3), slope=True).reshape(shape)
