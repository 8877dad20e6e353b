"""The official score on arrays ``[studies, 25, 3]``, its spread over studies, and the best constant.

The competition's metric (Kaggle metric "RSNA Lumbar Metric"): three weighted log losses, one per
condition and pooled over levels and sides, and a fourth, binary one, for "any severe canal stenosis
in this study"; the score is their plain mean. Sample weights are 1, 2 and 4 for normal/mild,
moderate and severe. Rows without a label are not in the solution file, so they count nowhere.

Probabilities are clipped to [eps, 1 - eps] as scikit-learn does, eps of float64, and rows that do not
sum to 1 are rescaled, as the scikit-learn of the competition's time did; the any-severe term
reads the raw value of `severe`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score

from lumbar_kaggle.core.targets import LEVELS, SCORE_GROUPS, SEVERITIES, SEVERITY_WEIGHTS, TARGET_NAMES, TARGETS

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

PARTS = (*SCORE_GROUPS, "any_severe_spinal")
"""The four terms whose mean is the score."""

NAMES = (*PARTS, "total")
"""Lines of a table of scores."""

CANAL = SCORE_GROUPS.index("spinal")
"""The score group that the any-severe term is read off as well."""

_GROUP = np.array([SCORE_GROUPS.index(target.score_group) for target in TARGETS])
_LEVEL = np.array([LEVELS.index(target.level) for target in TARGETS])

TARGETS_OF: tuple[Integers, ...] = tuple(np.flatnonzero(group == _GROUP) for group in range(len(SCORE_GROUPS)))
"""Per score group: places of its targets among the 25."""

TARGET_PLACE = {name: place for place, name in enumerate(TARGET_NAMES)}
"""Target → place among the 25."""

WEIGHTS = np.asarray(SEVERITY_WEIGHTS)
"""Sample weights ``[3]``."""

EPSILON = float(np.finfo(np.float64).eps)
"""Where probabilities are clipped."""

PRIOR_SMOOTHING = 0.5
"""Rows added per severity to a prior for other studies, which may show one that is not in these."""

RESAMPLES = 1000
"""Bootstrap resamples of the studies."""


def weighted_losses(probabilities: Floats, severity: Integers) -> Floats:
    """Return ``[..., 2]``: the weighted log loss of each row and its sample weight; both 0 without a label.

    Args:
        probabilities: ``[..., 3]``, each row non-negative with a positive sum.
        severity: ``[...]`` labels 0, 1, 2; -1 where there is none.
    """
    clipped = np.clip(probabilities, EPSILON, 1 - EPSILON)
    grade = np.maximum(severity, 0)
    picked = np.take_along_axis(clipped, grade[..., None], axis=-1)[..., 0]
    # Added one by one: numpy's sums along so short an axis take most of the time of a fit.
    picked = picked / (clipped[..., 0] + clipped[..., 1] + clipped[..., 2])
    weight = np.where(severity >= 0, WEIGHTS[grade], 0.0)
    return np.stack([-weight * np.log(picked), weight], axis=-1)


def weighted_log_loss(probabilities: ArrayLike, severity: ArrayLike) -> float:
    """Return the log loss with sample weights 1/2/4.

    Args:
        probabilities: ``[rows, 3]``, each row non-negative with a positive sum.
        severity: ``[rows]`` integers 0, 1, 2.
    """
    values, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(severity, dtype=np.int64)
    loss, weight = weighted_losses(values, labels).sum(axis=0)
    return float(loss / weight)


def study_sums(probabilities: Floats, severity: Integers) -> Floats:
    """Return ``[studies, 4 parts, 2]``: what each study adds to every part's weighted loss and weight.

    A part's loss over any studies is the sum of the first over that of the second, see `part_scores`. For
    "any severe canal stenosis" label, prediction and weight are each the greatest of the study's canal rows.

    Args:
        probabilities: ``[studies, 25, 3]``, NaN where there is no prediction.
        severity: ``[studies, 25]`` labels, -1 where there is none.
    """
    scored = (severity >= 0) & np.isfinite(probabilities[..., 0])
    grade = np.where(scored, severity, -1)
    rows = weighted_losses(np.where(scored[..., None], probabilities, 1.0), grade)
    canal = TARGETS_OF[CANAL]
    worst = grade[:, canal].max(axis=1)
    severe = np.where(scored[:, canal], probabilities[:, canal, 2], 0.0).max(axis=1)
    severe = np.clip(severe, EPSILON, 1 - EPSILON)
    weight = np.where(worst >= 0, WEIGHTS[worst], 0.0)
    any_severe = [-weight * np.log(np.where(worst == 2, severe, 1 - severe)), weight]
    return np.stack([*(rows[:, at].sum(axis=1) for at in TARGETS_OF), np.stack(any_severe, axis=1)], axis=1)


def part_scores(sums: Floats) -> Floats:
    """Return ``[..., 4]`` losses of `PARTS` from ``[..., 4, 2]`` sums of losses and weights.

    NaN where a part has no weight, that is, no row.
    """
    loss, weight = sums[..., 0], sums[..., 1]
    return np.asarray(np.divide(loss, weight, out=np.full_like(loss, np.nan), where=weight > 0))


def with_total(parts: Floats) -> Floats:
    """Add the mean of the four parts ``[..., 4]`` as a fifth, NaN where one is."""
    return np.concatenate([parts, parts.mean(axis=-1, keepdims=True)], axis=-1)


def resampled_scores(sums: Floats) -> Floats:
    """Return ``[files, RESAMPLES, 4]`` losses of the same bootstrap resamples of the studies for all files.

    Args:
        sums: ``[files, studies, 4, 2]`` as from `study_sums`.
    """
    studies = sums.shape[1]
    drawn = np.random.default_rng(0).multinomial(studies, np.full(studies, 1 / studies), size=RESAMPLES)
    return part_scores(np.einsum("rs,fspk->frpk", drawn.astype(np.float64), sums, optimize=True))


@dataclass(frozen=True)
class Estimate:
    """Scores, or differences or ratios of scores, and how sure they are; NaN without rows.

    Attributes:
        value: ``[5]``, of `NAMES`.
        interval: ``[2, 5]`` ends of the 95 % bootstrap intervals.
    """

    value: Floats
    interval: Floats

    @classmethod
    def of(cls, value: Floats, draws: Floats) -> "Estimate":
        """Return values ``[5]`` with the intervals of their resamples ``[RESAMPLES, 5]``.

        A resample without a part's rows does not count for it.
        """
        ends = np.full((2, len(value)), np.nan)
        for k in np.flatnonzero(np.isfinite(value)):
            ends[:, k] = np.quantile(draws[np.isfinite(draws[:, k]), k], [0.025, 0.975])
        return cls(value, ends)


@dataclass(frozen=True)
class Score:
    """Result of scoring one table of predictions.

    Attributes:
        parts: loss of each of `PARTS` that could be computed.
        total: mean of the four, or None when one of them is missing.
        scored: rows with a label and a prediction.
        dropped: predicted rows without a label, or of studies that the truth does not know.
        missed: labelled rows without a prediction.
        rescaled: scored rows that did not sum to 1 within 1e-6.
    """

    parts: dict[str, float]
    total: float | None
    scored: int
    dropped: int
    missed: int
    rescaled: int


def score(predictions: pd.DataFrame, truth: pd.DataFrame) -> Score:
    """Score predictions as the platform does, also when they cover only some conditions or rows.

    Args:
        predictions: columns ``row_id, normal_mild, moderate, severe``; other columns are ignored.
            Row identifiers are unique; a row with NaN is none.
        truth: columns ``row_id, study_id, target, severity`` with severity 0, 1, 2, labelled rows
            only (`reading.label_rows`).

    Returns:
        The four parts and their mean; with partial predictions only the parts that have rows, and
        the any-severe term over the canal rows that were predicted.
    """
    given = predictions[["row_id", *SEVERITIES]].dropna()
    _, probabilities, severity = to_arrays(given, truth)
    parts = part_scores(study_sums(probabilities, severity).sum(axis=0))
    summed = probabilities.sum(axis=2)
    scored = int(np.isfinite(summed).sum())
    return Score(
        parts={name: float(value) for name, value in zip(PARTS, parts, strict=True) if np.isfinite(value)},
        total=float(parts.mean()) if np.isfinite(parts).all() else None,
        scored=scored,
        dropped=len(given) - scored,
        missed=len(truth) - scored,
        rescaled=int((np.abs(summed - 1) > 1e-6).sum()),
    )


def to_arrays(predictions: pd.DataFrame, truth: pd.DataFrame) -> tuple[tuple[str, ...], Floats, Integers]:
    """Return the labelled rows that are predicted as arrays.

    Args:
        predictions, truth: as in `score`.

    Returns:
        Their studies, sorted; probabilities ``[studies, 25, 3]`` as given, NaN where there is no such row;
        labels ``[studies, 25]``, -1 there.
    """
    rows = truth.merge(predictions[["row_id", *SEVERITIES]], on="row_id", how="inner", validate="1:1")
    study, studies = pd.factorize(rows["study_id"], sort=True)
    target = rows["target"].map(TARGET_PLACE).to_numpy()
    probabilities = np.full((len(studies), len(TARGETS), 3), np.nan)
    severity = np.full((len(studies), len(TARGETS)), -1, dtype=np.int64)
    probabilities[study, target] = rows[list(SEVERITIES)].to_numpy(dtype=np.float64)
    severity[study, target] = rows["severity"].to_numpy()
    return tuple(studies), probabilities, severity


def weighted_prior(
    truth: pd.DataFrame, *, smoothing: float = 0.0, weights: Sequence[float] = SEVERITY_WEIGHTS
) -> pd.DataFrame:
    """Return, per target, the constant probabilities that score best on `truth`.

    A constant prediction minimises the weighted log loss at p_k ∝ n_k · w_k. Left and right of a
    condition are pooled, so that a rare grade seen on one side only is not impossible on the other.

    Args:
        truth: as in `score`.
        smoothing: rows added to each of the three counts; above 0 no probability is 0, which a
            prior that is applied to other studies needs: `PRIOR_SMOOTHING`.
        weights: sample weights of the three severities; (1, 1, 1): plain frequencies.

    Returns:
        25 rows indexed by target name, columns `SEVERITIES`; rows sum to 1. A target without any
        label takes the prior of its score group, and without that 1/3 each.
    """
    counts = np.zeros((len(SCORE_GROUPS), len(LEVELS), len(SEVERITIES)))
    target = truth["target"].map(TARGET_PLACE).to_numpy(dtype=np.int64)
    np.add.at(counts, (_GROUP[target], _LEVEL[target], truth["severity"].to_numpy(dtype=np.int64)), 1)
    pooled = counts.sum(axis=1, keepdims=True)
    counts = np.where(counts.sum(axis=2, keepdims=True) > 0, counts, pooled)
    weighted = np.where(pooled.sum(axis=2, keepdims=True) > 0, (counts + smoothing) * np.asarray(weights), 1.0)
    shares = weighted / weighted.sum(axis=2, keepdims=True)
    index = pd.Index(TARGET_NAMES, name="target")
    return pd.DataFrame(shares[_GROUP, _LEVEL], index=index, columns=list(SEVERITIES))


def confusion(probabilities: ArrayLike, severity: ArrayLike) -> NDArray[np.int64]:
    """Return the confusion matrix ``[3 true, 3 most probable]`` of counts.

    Probabilities are ``[rows, 3]``, severities ``[rows]`` integers 0, 1, 2.
    """
    predicted = np.argmax(np.asarray(probabilities), axis=1)
    return np.asarray(confusion_matrix(severity, predicted, labels=[0, 1, 2]))


def class_auc(probabilities: ArrayLike, severity: ArrayLike) -> Floats:
    """Return the area under the ROC curve of each severity against the other two, ``[3]``.

    NaN where a severity has no row, or all rows: it has no ROC curve then.
    """
    scores, labels = np.asarray(probabilities), np.asarray(severity)
    areas = np.full(3, np.nan)
    for index in range(3):
        positive = labels == index
        if 0 < positive.sum() < len(labels):
            areas[index] = roc_auc_score(positive, scores[:, index])
    return areas


def evaluate(probabilities: ArrayLike, severity: ArrayLike) -> dict[str, float]:
    """Return the figures of one target as a flat dictionary.

    Keys: ``rows``, ``accuracy``, ``always_normal`` (accuracy of answering normal/mild each time),
    ``precision``, ``recall`` (means over the severities that occur), ``weighted_log_loss``, and per
    severity ``precision_*``, ``recall_*``, ``auc_*``. Precision of a severity never predicted is 0.
    Arguments are those of `confusion`.
    """
    scores, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(severity, dtype=np.int64)
    predicted = scores.argmax(axis=1)
    precision, recall, _, support = precision_recall_fscore_support(
        labels, predicted, labels=[0, 1, 2], zero_division=0.0
    )
    present = support > 0
    figures = {
        "rows": float(len(labels)),
        "accuracy": float((predicted == labels).mean()),
        "always_normal": float((labels == 0).mean()),
        "precision": float(precision[present].mean()),
        "recall": float(recall[present].mean()),
        "weighted_log_loss": weighted_log_loss(scores, labels),
    }
    areas = class_auc(scores, labels)
    for index, name in enumerate(SEVERITIES):
        figures[f"precision_{name}"] = float(precision[index])
        figures[f"recall_{name}"] = float(recall[index])
        figures[f"auc_{name}"] = float(areas[index])
    return figures


def evaluate_targets(predictions: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Evaluate each target that has both predictions and labels.

    Args:
        predictions: columns ``row_id`` and `SEVERITIES`.
        truth: columns ``row_id, target, severity``.

    Returns:
        One row per target, ``target`` first, then the keys of `evaluate`.
    """
    rows = truth.merge(predictions[["row_id", *SEVERITIES]], on="row_id", validate="1:1")
    figures = [
        {"target": name, **evaluate(group[list(SEVERITIES)].to_numpy(), group["severity"].to_numpy())}
        for name, group in rows.groupby("target", sort=False)
    ]
    return pd.DataFrame(figures)
