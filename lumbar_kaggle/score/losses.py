"""The official score on arrays, fast enough to be minimised, and how sure a difference of it is.

The formulas are those of `metric`; that both agree is tested.
"""

import numpy as np

from lumbar_kaggle.core.targets import SCORE_GROUPS, SEVERITY_WEIGHTS
from lumbar_kaggle.score.cells import TARGETS_OF, Booleans, Floats, Integers
from lumbar_kaggle.score.metric import PARTS, part_scores

CANAL = SCORE_GROUPS.index("spinal")
"""The score group that the any-severe term is read off as well."""

WEIGHTS = np.asarray(SEVERITY_WEIGHTS)
"""Sample weights ``[3]``."""

_EPSILON = float(np.finfo(np.float64).eps)  # where the official metric clips


def parts_of(group: int) -> tuple[int, ...]:
    """Return the places in `metric.PARTS` that a score group's predictions have a share in."""
    return (group, PARTS.index("any_severe_spinal")) if group == CANAL else (group,)


def study_losses(probabilities: Floats, severity: Integers) -> Floats:
    """Return ``[studies, 4 parts, 2]``: what each study adds to every part's weighted loss and weight.

    Args:
        probabilities: ``[studies, 25, 3]``, NaN where there is no prediction.
        severity: ``[studies, 25]`` labels, -1 where there is none.
    """
    scored = (severity >= 0) & np.isfinite(probabilities[..., 0])
    grade = np.where(scored, severity, 0)
    clipped = np.clip(np.where(scored[..., None], probabilities, 1.0), _EPSILON, 1 - _EPSILON)
    picked = np.take_along_axis(clipped, grade[..., None], axis=2)[..., 0]
    picked /= clipped[..., 0] + clipped[..., 1] + clipped[..., 2]
    weight = np.where(scored, WEIGHTS[grade], 0.0)
    cells = np.stack([-weight * np.log(picked), weight], axis=2)
    sums = [cells[:, targets].sum(axis=1) for targets in TARGETS_OF]
    canal = TARGETS_OF[CANAL]
    sums.append(_any_severe(probabilities[:, canal, 2], grade[:, canal], scored[:, canal]))
    joined: Floats = np.stack(sums, axis=1)
    return joined


def _any_severe(severe: Floats, grade: Integers, scored: Booleans) -> Floats:
    """Return ``[studies, 2]`` loss and weight of "any severe canal stenosis" from ``[studies, 5]``."""
    worst = grade.max(axis=1)  # cells that are not scored hold 0 and change no maximum
    predicted = np.clip(np.where(scored, severe, 0.0).max(axis=1), _EPSILON, 1 - _EPSILON)
    weight = np.where(scored.any(axis=1), WEIGHTS[worst], 0.0)
    loss = -weight * np.log(np.where(worst == 2, predicted, 1 - predicted))
    return np.stack([loss, weight], axis=1)


def group_loss(probabilities: Floats, severity: Integers, group: int) -> float:
    """Return a score group's loss; for the canal the sum of its own and the any-severe one."""
    return float(part_scores(study_losses(probabilities, severity).sum(axis=0))[list(parts_of(group))].sum())


def change(new: Floats, old: Floats, parts: tuple[int, ...]) -> tuple[float, float]:
    """Return by how much the sum of some parts changes, and the standard error of that over studies.

    A part is a ratio of two sums over studies; the error is that of its linearisation (delta method).

    Args:
        new, old: ``[studies, 4, 2]`` as from `study_losses`, of the same rows.
        parts: places in `metric.PARTS`; those without a row count as unchanged.
    """
    difference, weight = (new - old)[..., 0], old[..., 1]
    total = np.maximum(weight.sum(axis=0), _EPSILON)
    ratio = difference.sum(axis=0) / total
    influence = (difference - weight * ratio) / total
    chosen = list(parts)
    return float(ratio[chosen].sum()), float(np.sqrt((influence[:, chosen].sum(axis=1) ** 2).sum()))
