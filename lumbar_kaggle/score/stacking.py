"""Stacking: what the other conditions and the other side of a level say of a cell.

A multinomial logistic regression per score group corrects the log-probabilities of the base:

    log p = log base + inputs · coefficients + constant

It is penalised towards no correction, so that few studies leave the base as it is. Left and right share one
set of coefficients: inputs are the own side and the other side; the canal sees the worse and the better one.
"""

from dataclasses import MISSING, dataclass

import numpy as np
from scipy.optimize import minimize

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.settings import check_settings, option
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, SCORE_GROUPS, SEVERITIES
from lumbar_kaggle.score.cells import TARGETS_OF, Floats, Integers, normalised
from lumbar_kaggle.score.losses import CANAL, WEIGHTS

PENALTY = 30.0
"""Of squared coefficients, beside the sum of the weighted losses: each is expected within about ± 0.2 per
standard deviation of its input, whatever the number of studies."""

LEAST = 1e-6
"""Probabilities below this count as this before their logarithm is taken."""

INPUTS = 19
"""Of the regression; see `stack_inputs`."""

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


def stack_inputs(probabilities: Floats, group: int) -> Floats:
    """Return the inputs of a score group's cells, ``[studies, cells, 19]``, NaN where one is missing.

    They are the log-odds of moderate and of severe against normal/mild, of the cell itself and of four
    others at its level (10), whether each of the four is missing (4), and which level it is (5; together the
    constant).

    Args:
        probabilities: ``[studies, 25, 3]``, NaN where there is no prediction.
        group: place in `targets.SCORE_GROUPS`.
    """
    logs = np.log(np.maximum(probabilities, LEAST)).reshape(-1, len(CONDITIONS), len(LEVELS), 3)
    odds = logs[..., 1:] - logs[..., :1]
    level = np.broadcast_to(np.eye(len(LEVELS)), (len(odds), len(LEVELS), len(LEVELS)))
    blocks = []
    for condition in [CANAL] if group == CANAL else _PAIR[group]:
        others = _others(odds, condition, group)
        missing = np.stack([np.isnan(other[..., 0]) for other in others], axis=-1).astype(np.float64)
        blocks.append(np.concatenate([odds[:, condition], *others, missing, level], axis=-1))
    inputs: Floats = np.concatenate(blocks, axis=1)
    return inputs


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
    """Fit the correction of one score group by the official weighted log loss.

    Args:
        probabilities: ``[studies, 25, 3]`` base, NaN where there is no prediction.
        severity: ``[studies, 25]`` labels, -1 where there is none; at least one cell has both.
        group: place in `targets.SCORE_GROUPS`.
    """
    targets = TARGETS_OF[group]
    base, labels = probabilities[:, targets], severity[:, targets]
    known = (labels >= 0) & np.isfinite(base[..., 0])
    inputs = stack_inputs(probabilities, group)[known]
    there = np.isfinite(inputs)
    fill = np.where(there, inputs, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    inputs = np.where(there, inputs, fill)
    spread = inputs.std(axis=0)
    scale = np.where(spread > 1e-6, spread, 1.0)  # one that never changes has nothing to be scaled by
    coefficients = _regression(inputs / scale, np.log(np.maximum(base[known], LEAST)), labels[known])
    return Stack(
        tuple(fill.tolist()), tuple(scale.tolist()), tuple(tuple(line) for line in coefficients.tolist())
    )


def apply_stack(stack: Stack, probabilities: Floats, group: int) -> Floats:
    """Return the corrected probabilities of a score group's cells, ``[studies, cells, 3]``.

    Args:
        stack: as from `fit_stack`.
        probabilities: ``[studies, 25, 3]`` base; a cell that is NaN stays so.
        group: place in `targets.SCORE_GROUPS`.
    """
    inputs = stack_inputs(probabilities, group)
    inputs = np.where(np.isfinite(inputs), inputs, np.asarray(stack.fill)) / np.asarray(stack.scale)
    logs = np.log(np.maximum(probabilities[:, TARGETS_OF[group]], LEAST))
    return normalised(logs + inputs @ np.asarray(stack.coefficients))


def _regression(inputs: Floats, offset: Floats, labels: Integers) -> Floats:
    """Return coefficients ``[inputs, 3]`` of a multinomial regression with an offset ``[rows, 3]``."""
    weight = WEIGHTS[labels]
    rows, truth = np.arange(len(labels)), np.eye(3)[labels]
    shape = (inputs.shape[1], 3)

    def loss(flat: Floats) -> tuple[float, Floats]:
        coefficients = flat.reshape(shape)
        fitted = normalised(offset + inputs @ coefficients)
        value = (
            -(weight * np.log(np.maximum(fitted[rows, labels], 1e-300))).sum() + PENALTY / 2 * (flat**2).sum()
        )
        slope = inputs.T @ (weight[:, None] * (fitted - truth)) + PENALTY * coefficients
        # Divided, so that the tolerance of the search means the same for any number of rows.
        return float(value / weight.sum()), slope.ravel() / weight.sum()

    found = minimize(
        loss, np.zeros(shape[0] * 3), jac=True, method="L-BFGS-B", options={"ftol": 1e-9, "gtol": 1e-6}
    )
    coefficients: Floats = found.x.reshape(shape)
    return coefficients
