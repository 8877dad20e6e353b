"""The steps of a blend: each fits one setting of one score group and changes its probabilities by it.

Order: weights of the files, stacking, temperature, the canal's worst level. A step whose setting is at its default
changes nothing, so a blend without settings is the plain mean. All are fitted by the official weighted log loss."""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, replace
from typing import Any

import numpy as np

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.settings import Validated, option
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, SEVERITIES
from lumbar_kaggle.scoring.metric import CANAL, TARGETS_OF, Floats, Integers, group_loss, weighted_losses

# Step → places in `targets.SCORE_GROUPS` that it is for, in the order in which they are applied.
STEPS = {"weights": (0, 1, 2), "stacking": (0, 1, 2), "temperature": (0, 1, 2), "any severe": (CANAL,)}
SHARES = (0.5, 0.25, 0.75, 1.0)  # of the stack that are tried, the rest being the base; the first is the default
INPUTS = 19  # of the stack's regression, see `stack_inputs`

# Of squared coefficients, beside the summed losses: each is expected within ± 0.2 per standard deviation of its input.
PENALTY = 30.0
# Least probability whose logarithm is taken; and a file's least weight: nothing beside others, all in a row of its own.
LEAST = 1e-6

_PAIR = {1: (1, 2), 2: (3, 4)}  # score group → places of its left and its right condition in `CONDITIONS`


def _minimise(*arguments: Any, **options: Any) -> Any:
    from scipy.optimize import minimize  # to fit a blend alone, not to apply one

    return minimize(*arguments, method="L-BFGS-B", options={"ftol": 1e-9, "gtol": 1e-6}, **options)


@dataclass(frozen=True)
class Stack(Validated):
    """What the other conditions and the other side of a level say of a cell of one score group. A multinomial logistic
    regression, log p = log base + inputs · coefficients (those of the level are the constant), penalised towards no
    correction, so that few studies leave the base as it is. Left and right share coefficients: inputs are the own side
    and the other side; the canal sees the worse and the better one."""

    fill: tuple[float, ...] = option(MISSING, "means, which stand in for missing inputs", count=INPUTS)
    scale: tuple[float, ...] = option(MISSING, "standard deviations that divide the inputs", count=INPUTS, above=0)
    coefficients: tuple[tuple[float, ...], ...] = option(MISSING, "[inputs][3]", count=INPUTS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(len(line) != len(SEVERITIES) for line in self.coefficients):
            raise InputError("coefficients has a line that is not of three numbers")


@dataclass(frozen=True)
class GroupBlend(Validated):
    """Settings of one score group."""

    weights: tuple[float, ...] | None = None  # of the files' log-probabilities; none: plain mean of the probabilities
    stack: Stack | None = None
    share: float = option(SHARES[0], "of the stack; the rest is the base", least=0, most=1)
    temperature: float = option(1.0, "divides the logarithms: below 1 is more confident", least=0.01, most=100)
    worst_scale: float = option(1.0, "of severe at the canal's worst level", least=0.01, most=100)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None and (min(self.weights) < 0 or sum(self.weights) <= 0):
            raise InputError(f"weights is {self.weights}; each must be 0 or more, and their sum more than 0")


def fit_step(
    step: str, settings: GroupBlend, files: Floats, before: Floats, severity: Integers, group: int
) -> list[GroupBlend]:
    """Return the variants of a score group's settings to choose from, best guess first. `files` are `[files, studies,
    25, 3]`, `before` `[studies, 25, 3]` the probabilities that the steps before have led to, NaN for a missing cell;
    severity is `[studies, 25]`, -1 without a label. Some cell of the group, a place in `SCORE_GROUPS`, has both."""
    if step == "weights":
        if len(files) == 1:
            return []
        targets = TARGETS_OF[group]
        known = (severity[:, targets] >= 0) & np.isfinite(before[:, targets, 0])
        weights = fit_weights(files[:, :, targets][:, known], severity[:, targets][known])
        return [replace(settings, weights=tuple(weights.tolist()))]
    if step == "stacking":
        stack = fit_stack(before, severity, group)
        return [replace(settings, stack=stack, share=share) for share in SHARES]
    name, changed = NUMBERS[step]
    found: dict[str, Any] = {name: _fit_number(changed, before, severity, group)}
    return [replace(settings, **found)]


def apply_step(step: str, settings: GroupBlend, files: Floats, before: Floats, group: int) -> Floats:
    """Return the group's probabilities after a step, `[studies, cells, 3]`; see `fit_step`."""
    base = before[:, TARGETS_OF[group]]
    if step == "weights":
        weights = settings.weights
        return base if weights is None else weighted_mean(np.asarray(weights), files[:, :, TARGETS_OF[group]])
    if step == "stacking":
        stack, share = settings.stack, settings.share
        if stack is None:
            return base
        inputs = stack_inputs(before, group)
        inputs = np.where(np.isfinite(inputs), inputs, np.asarray(stack.fill)) / np.asarray(stack.scale)
        stacked = normalised(np.log(np.maximum(base, LEAST)) + inputs @ np.asarray(stack.coefficients))
        return (1 - share) * base + share * stacked
    name, changed = NUMBERS[step]
    value = getattr(settings, name)
    return base if value == 1 else changed(base, value)


def normalised(logs: Floats) -> Floats:
    """Return probabilities `[..., 3]` in proportion to exp(`logs`), NaN as it is; summed as in `weighted_losses`."""
    top = np.maximum(np.maximum(logs[..., 0], logs[..., 1]), logs[..., 2])
    raised = np.exp(logs - top[..., None])
    return np.asarray(raised / (raised[..., 0] + raised[..., 1] + raised[..., 2])[..., None])


def plain_mean(files: Floats) -> Floats:
    """Return the mean `[studies, 25, 3]` of the `[files, …]` that have a cell, NaN where none has."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(files, axis=0) / np.isfinite(files).sum(axis=0))


def weighted_mean(weights: Floats, files: Floats) -> Floats:
    """Return the normalised mean of log-probabilities, by weights `[files]`, over the `[files, ..., 3]` without NaN."""
    present = ~np.isnan(files[..., 0])
    logs = np.log(np.maximum(np.where(present[..., None], files, 1.0), LEAST))
    share = np.maximum(weights, LEAST).reshape(-1, *[1] * (files.ndim - 2)) * present
    share = share / np.maximum(share.sum(axis=0), LEAST)
    mean = normalised((share[..., None] * logs).sum(axis=0))
    return np.where((share.sum(axis=0) > 0)[..., None], mean, np.nan)


def fit_weights(files: Floats, labels: Integers) -> Floats:
    """Return the files' weights `[files]`, 0 or more with sum 1, drawn a little towards equal ones. Files are `[files,
    rows, 3]`, NaN where one lacks the row; each row is in one at least. Labels `[rows]` are 0, 1, 2."""
    equal = np.full(len(files), 1 / len(files))

    def loss(weights: Floats) -> float:
        value, total = weighted_losses(weighted_mean(weights, files), labels).sum(axis=0)
        return float((value + PENALTY / 2 * ((weights - equal) ** 2).sum()) / total)

    weights = np.asarray(_minimise(loss, equal, bounds=[(LEAST, None)] * len(files)).x)
    return np.asarray(weights / weights.sum())


def soften(probabilities: Floats, temperature: float) -> Floats:
    """Return `[..., 3]` probabilities raised to 1/temperature, normalised; NaN stays NaN."""
    return normalised(np.log(np.maximum(probabilities, LEAST)) / temperature)


def scale_worst(canal: Floats, scale: float) -> Floats:
    """Return canal probabilities `[studies, 5, 3]` with each study's greatest severe one multiplied, normalised."""
    severe = np.where(np.isnan(canal[..., 2]), -1.0, canal[..., 2])
    worst = np.arange(canal.shape[1]) == severe.argmax(axis=1)[:, None]
    scaled = canal * np.where(worst[..., None] & (np.arange(3) == 2), scale, 1.0)
    return np.asarray(scaled / scaled.sum(axis=-1, keepdims=True))


# Steps that are one number: its name in `GroupBlend`, and what it does to a group's probabilities; 1: nothing.
NUMBERS = {"temperature": ("temperature", soften), "any severe": ("worst_scale", scale_worst)}


def _fit_number(changed: Callable[[Floats, float], Floats], before: Floats, severity: Integers, group: int) -> float:
    """Return the number from 1/3 to 3 by which `changed` makes the group's loss least, or 1 where none is better."""
    targets, trial = TARGETS_OF[group], before.copy()

    def loss(logarithm: Floats) -> float:
        trial[:, targets] = changed(before[:, targets], float(np.exp(logarithm[0])))
        return group_loss(trial, severity, group)

    start, reach = np.zeros(1), np.log(3.0)
    found = _minimise(loss, start, bounds=[(-reach, reach)]).x
    return float(np.exp(found[0])) if loss(found) < loss(start) else 1.0


def stack_inputs(probabilities: Floats, group: int) -> Floats:
    """Return the inputs `[studies, cells, 19]` of a score group's cells from `[studies, 25, 3]`; NaN: missing. They are
    the log-odds of moderate and of severe against normal/mild, of the cell itself and of four others at its level (10),
    whether each of the four is missing (4), and which level it is (5; together the constant)."""
    logs = np.log(np.maximum(probabilities, LEAST)).reshape(-1, len(CONDITIONS), len(LEVELS), 3)
    odds = logs[..., 1:] - logs[..., :1]
    level = np.broadcast_to(np.eye(len(LEVELS)), (len(odds), len(LEVELS), len(LEVELS)))
    blocks = []
    for place, condition in enumerate([CANAL] if group == CANAL else _PAIR[group]):
        if group == CANAL:
            # The worse and the better side; of one that is missing, the other stands for both.
            sides = [(odds[:, left], odds[:, right]) for left, right in _PAIR.values()]
            others = [worst(*pair) for pair in sides for worst in (np.fmax, np.fmin)]
        else:
            neighbour = _PAIR[3 - group]
            places = (_PAIR[group][1 - place], CANAL, neighbour[place], neighbour[1 - place])
            others = [odds[:, other] for other in places]
        missing = np.stack([np.isnan(other[..., 0]) for other in others], axis=-1).astype(np.float64)
        blocks.append(np.concatenate([odds[:, condition], *others, missing, level], axis=-1))
    return np.asarray(np.concatenate(blocks, axis=1))


def fit_stack(probabilities: Floats, severity: Integers, group: int) -> Stack:
    """Fit the correction of one score group to the base `[studies, 25, 3]` and labels, see `fit_step`."""
    base, labels = probabilities[:, TARGETS_OF[group]], severity[:, TARGETS_OF[group]]
    known = (labels >= 0) & np.isfinite(base[..., 0])
    inputs = stack_inputs(probabilities, group)[known]
    there = np.isfinite(inputs)
    fill = np.where(there, inputs, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    inputs = np.where(there, inputs, fill)
    spread = inputs.std(axis=0)
    scale = np.where(spread > 1e-6, spread, 1.0)  # one that never changes has nothing to be scaled by
    inputs, offset = inputs / scale, np.log(np.maximum(base[known], LEAST))
    labels, truth = labels[known], np.eye(3)[labels[known]]

    def loss(flat: Floats) -> tuple[float, Floats]:
        coefficients = flat.reshape(INPUTS, 3)
        fitted = normalised(offset + inputs @ coefficients)
        losses, weight = weighted_losses(fitted, labels).T
        value = losses.sum() + PENALTY / 2 * (flat**2).sum()
        slope = inputs.T @ (weight[:, None] * (fitted - truth)) + PENALTY * coefficients
        # Divided, so that the tolerance of the search means the same for any number of rows.
        return float(value / weight.sum()), slope.ravel() / weight.sum()

    coefficients = np.asarray(_minimise(loss, np.zeros(INPUTS * 3), jac=True).x).reshape(INPUTS, 3)
    return Stack(tuple(fill.tolist()), tuple(scale.tolist()), tuple(map(tuple, coefficients.tolist())))
