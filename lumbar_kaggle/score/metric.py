"""The official score, and the prior that every score stands beside.

The competition's metric (Kaggle metric "RSNA Lumbar Metric"): three weighted log losses, one per
condition and pooled over levels and sides, and a fourth, binary one, for "any severe canal stenosis
in this study"; the score is their plain mean. Sample weights are 1, 2 and 4 for normal/mild,
moderate and severe. Rows without a label are not in the solution file, so they count nowhere.

Probabilities are clipped to [eps, 1 - eps] as scikit-learn does, eps of float64, and rows that do not
sum to 1 are rescaled, as the scikit-learn of the competition's time did; the any-severe term
reads the raw value of `severe`.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lumbar_kaggle.core.targets import SCORE_GROUPS, SEVERITIES, SEVERITY_WEIGHTS, TARGET_NAMES, target

Floats = NDArray[np.float64]

PARTS = (*SCORE_GROUPS, "any_severe_spinal")
"""The four terms whose mean is the score."""

_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Score:
    """Result of scoring one file of predictions.

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


def weighted_log_loss(probabilities: ArrayLike, severity: ArrayLike) -> float:
    """Return the log loss with sample weights 1/2/4.

    Args:
        probabilities: ``[rows, 3]``, each row non-negative with a positive sum.
        severity: ``[rows]`` integers 0, 1, 2.
    """
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), _EPSILON, 1 - _EPSILON)
    labels = np.asarray(severity, dtype=np.int64)
    picked = clipped[np.arange(len(labels)), labels] / clipped.sum(axis=1)
    weights = np.asarray(SEVERITY_WEIGHTS)[labels]
    return float(-(weights * np.log(picked)).sum() / weights.sum())


def any_severe_loss(severe: ArrayLike, severity: ArrayLike, study: ArrayLike) -> float:
    """Return the weighted binary log loss of "any severe canal stenosis".

    Per study: the label is whether any canal row is severe, the prediction is the greatest submitted
    `severe` probability of its canal rows, and the weight is the greatest sample weight among them.

    Args:
        severe: ``[rows]`` submitted probabilities of `severe`, canal rows only.
        severity: ``[rows]`` integers 0, 1, 2.
        study: ``[rows]`` study identifiers.
    """
    rows = pd.DataFrame(
        {
            "study": np.asarray(study),
            "predicted": np.asarray(severe, dtype=np.float64),
            "severity": np.asarray(severity, dtype=np.int64),
        }
    )
    worst = rows.groupby("study", sort=False).max()
    predicted = np.clip(worst["predicted"].to_numpy(), _EPSILON, 1 - _EPSILON)
    grade = worst["severity"].to_numpy()
    weights = np.asarray(SEVERITY_WEIGHTS)[grade]
    losses = -np.log(np.where(grade == 2, predicted, 1 - predicted))
    return float((weights * losses).sum() / weights.sum())


def score(predictions: pd.DataFrame, truth: pd.DataFrame) -> Score:
    """Score predictions as the platform does, also when they cover only some conditions or rows.

    Args:
        predictions: columns ``row_id, normal_mild, moderate, severe``; other columns are ignored.
            Row identifiers are unique.
        truth: columns ``row_id, study_id, target, severity`` with severity 0, 1, 2, labelled rows
            only (`competition.label_rows`).

    Returns:
        The four parts and their mean; with partial predictions only the parts that have rows, and
        the any-severe term over the canal rows that were predicted.
    """
    rows = truth.merge(predictions[["row_id", *SEVERITIES]], on="row_id", how="inner", validate="1:1")
    probabilities = rows[list(SEVERITIES)].to_numpy(dtype=np.float64)
    severity = rows["severity"].to_numpy()
    group = np.array([target(name).score_group for name in rows["target"]], dtype=object)
    parts = {
        name: weighted_log_loss(probabilities[group == name], severity[group == name])
        for name in SCORE_GROUPS
        if (group == name).any()
    }
    canal = group == "spinal"
    if canal.any():
        parts["any_severe_spinal"] = any_severe_loss(
            probabilities[canal, 2], severity[canal], rows["study_id"].to_numpy()[canal]
        )
    total = float(np.mean([parts[name] for name in PARTS])) if len(parts) == len(PARTS) else None
    return Score(
        parts=parts,
        total=total,
        scored=len(rows),
        dropped=len(predictions) - len(rows),
        missed=len(truth) - len(rows),
        rescaled=int((np.abs(probabilities.sum(axis=1) - 1) > 1e-6).sum()),
    )


def study_sums(predictions: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Return what each study adds to the score, so that a resample of studies is scored by a sum.

    Args:
        predictions: as in `score`.
        truth: as in `score`.

    Returns:
        Index: the studies that have a row in both. Columns: ``(part, "loss")`` and ``(part, "weight")``
        for each of `PARTS`, where the part's loss over any studies is the sum of the first over that of the
        second; 0 and 0 where a study has no such row.
    """
    rows = truth.merge(predictions[["row_id", *SEVERITIES]], on="row_id", how="inner", validate="1:1")
    probabilities = rows[list(SEVERITIES)].to_numpy(dtype=np.float64)
    severity = rows["severity"].to_numpy(dtype=np.int64)
    clipped = np.clip(probabilities, _EPSILON, 1 - _EPSILON)
    weight = np.asarray(SEVERITY_WEIGHTS)[severity]
    loss = -weight * np.log(clipped[np.arange(len(rows)), severity] / clipped.sum(axis=1))
    table = pd.DataFrame({"study": rows["study_id"], "loss": loss, "weight": weight})
    group = np.array([target(name).score_group for name in rows["target"]], dtype=object)
    sums = {name: table[group == name].groupby("study").sum() for name in SCORE_GROUPS}
    canal = rows.assign(grade=severity)[group == "spinal"]
    worst = canal.groupby("study_id").agg(severe=("severe", "max"), grade=("grade", "max"))
    severe = np.clip(worst["severe"].to_numpy(dtype=np.float64), _EPSILON, 1 - _EPSILON)
    grade = worst["grade"].to_numpy()
    weight = np.asarray(SEVERITY_WEIGHTS)[grade]
    loss = -weight * np.log(np.where(grade == 2, severe, 1 - severe))
    sums["any_severe_spinal"] = pd.DataFrame({"loss": loss, "weight": weight}, index=worst.index)
    joined: pd.DataFrame = pd.concat(sums, axis=1).fillna(0.0).sort_index()
    return joined


RESAMPLES = 1000
"""Bootstrap resamples of the studies."""


def part_scores(sums: Floats) -> Floats:
    """Return ``[..., 4]`` losses of `PARTS` from ``[..., 4, 2]`` sums of losses and weights.

    NaN where a part has no weight, that is, no row.
    """
    loss, weight = sums[..., 0], sums[..., 1]
    parts: Floats = np.divide(loss, weight, out=np.full_like(loss, np.nan), where=weight > 0)
    return parts


def with_total(parts: Floats) -> Floats:
    """Add the mean of the four parts ``[..., 4]`` as a fifth, NaN where one is."""
    return np.concatenate([parts, parts.mean(axis=-1, keepdims=True)], axis=-1)


def resampled_scores(sums: Floats) -> Floats:
    """Return ``[files, RESAMPLES, 4]`` losses of the same bootstrap resamples of the studies for all files.

    Args:
        sums: ``[files, studies, 4, 2]`` what each study adds to losses and weights.
    """
    studies = sums.shape[1]
    drawn = np.random.default_rng(0).multinomial(studies, np.full(studies, 1 / studies), size=RESAMPLES)
    return part_scores(np.einsum("rs,fspk->frpk", drawn.astype(np.float64), sums, optimize=True))


def confidence_interval(value: Floats, draws: Floats) -> Floats:
    """Return the ends ``[2, n]`` of the 95 % intervals, NaN where the value is.

    Args:
        value: ``[n]``.
        draws: ``[RESAMPLES, n]``; a resample without a part's rows does not count for it.
    """
    ends = np.full((2, len(value)), np.nan)
    for k in np.flatnonzero(np.isfinite(value)):
        ends[:, k] = np.quantile(draws[np.isfinite(draws[:, k]), k], [0.025, 0.975])
    return ends


def weighted_prior(truth: pd.DataFrame, *, smoothing: float = 0.0) -> pd.DataFrame:
    """Return, per target, the constant probabilities that score best on `truth`.

    A constant prediction minimises the weighted log loss at p_k ∝ n_k · w_k. Left and right of a
    condition are pooled, so that a rare grade seen on one side only is not impossible on the other.

    Args:
        truth: as in `score`.
        smoothing: rows added to each of the three counts; above 0 no probability is 0, which a
            prior that is applied to other studies needs.

    Returns:
        25 rows indexed by target name, columns `SEVERITIES`; rows sum to 1. A target without any
        label takes the prior of its score group, and without that 1/3 each.
    """
    rows = truth.assign(
        group=[target(name).score_group for name in truth["target"]],
        level=[target(name).level for name in truth["target"]],
    )
    by_level = _weighted_counts(rows, ["group", "level"], smoothing)
    by_group = _weighted_counts(rows, ["group"], smoothing)
    prior = []
    for name in TARGET_NAMES:
        group, level = target(name).score_group, target(name).level
        uniform = np.full(3, 1 / 3)
        prior.append(by_level.get((group, level), by_group.get((group,), uniform)))
    return pd.DataFrame(prior, index=pd.Index(TARGET_NAMES, name="target"), columns=list(SEVERITIES))


def _weighted_counts(rows: pd.DataFrame, keys: list[str], smoothing: float) -> dict[tuple[str, ...], Floats]:
    counts = rows.groupby([*keys, "severity"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=range(3), fill_value=0)
    weighted = (counts.to_numpy(dtype=np.float64) + smoothing) * np.asarray(SEVERITY_WEIGHTS)
    shares = weighted / weighted.sum(axis=1, keepdims=True)
    index = [key if isinstance(key, tuple) else (key,) for key in counts.index]
    return dict(zip(index, shares, strict=True))
