"""The official score on arrays `[studies, 25, 3]`, its spread over studies, and the best constant.

The competition's metric (Kaggle metric "RSNA Lumbar Metric"): three weighted log losses, one per condition and pooled
over levels and sides, and a fourth, binary one, for "any severe canal stenosis in this study"; the score is their plain
mean. Sample weights are 1, 2 and 4 for normal/mild, moderate and severe. Rows without a label count nowhere.
Probabilities are clipped to [eps, 1 - eps] as scikit-learn does, eps of float64, and rows that do not sum to 1 are
rescaled, as the scikit-learn of the competition's time did; the any-severe term reads the raw value of `severe`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lumbar_kaggle.core.files import AnyPath
from lumbar_kaggle.core.targets import LEVELS, SCORE_GROUPS, SEVERITIES, SEVERITY_WEIGHTS, TARGET_NAMES, TARGETS, row_id
from lumbar_kaggle.tables.reading import label_rows, read_labels
from lumbar_kaggle.tables.submission import read_predictions

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

PARTS = (*SCORE_GROUPS, "any_severe_spinal")  # the four terms whose mean is the score
NAMES = (*PARTS, "total")  # lines of a table of scores
CANAL = SCORE_GROUPS.index("spinal")  # the score group that the any-severe term is read off as well
PARTS_OF = ((0, 3), (1,), (2,))  # score group → places in `PARTS` of the terms that its predictions have a share in
WEIGHTS = np.asarray(SEVERITY_WEIGHTS)
EPSILON = float(np.finfo(np.float64).eps)  # where probabilities are clipped
RESAMPLES = 1000  # bootstrap resamples of the studies

PRIOR_SMOOTHING = 0.5  # rows added per severity to a prior for other studies, which may show one that these do not

_GROUP = np.array([SCORE_GROUPS.index(target.score_group) for target in TARGETS])
_LEVEL = np.array([LEVELS.index(target.level) for target in TARGETS])
_PLACE = {name: place for place, name in enumerate(TARGET_NAMES)}
# Per score group: places of its targets among the 25.
TARGETS_OF: tuple[Integers, ...] = tuple(np.flatnonzero(group == _GROUP) for group in range(len(SCORE_GROUPS)))


def weighted_losses(probabilities: Floats, severity: Integers) -> Floats:
    """Return `[..., 2]`: the weighted log loss of each row and its sample weight; both 0 without a label. Probabilities
    `[..., 3]` are non-negative with a positive sum; severity `[...]` is 0, 1, 2, or -1 without a label."""
    clipped = np.clip(probabilities, EPSILON, 1 - EPSILON)
    grade = np.maximum(severity, 0)
    picked = np.take_along_axis(clipped, grade[..., None], axis=-1)[..., 0]
    # Added one by one: numpy's sums along so short an axis take most of the time of a fit.
    picked = picked / (clipped[..., 0] + clipped[..., 1] + clipped[..., 2])
    weight = np.where(severity >= 0, WEIGHTS[grade], 0.0)
    return np.stack([-weight * np.log(picked), weight], axis=-1)


def weighted_log_loss(probabilities: ArrayLike, severity: ArrayLike) -> float:
    """Return the log loss with sample weights 1/2/4 of `[rows, 3]`, see `weighted_losses`; each has a label."""
    values, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(severity, dtype=np.int64)
    loss, weight = weighted_losses(values, labels).sum(axis=0)
    return float(loss / weight)


def study_sums(probabilities: Floats, severity: Integers) -> Floats:
    """Return `[studies, 4 parts, 2]`: what each study adds to every part's weighted loss and weight. A part's loss over
    any studies is the sum of the first over that of the second, see `part_scores`. For "any severe canal stenosis"
    label, prediction and weight are each the greatest of the study's canal rows. Probabilities `[studies, 25, 3]` are
    NaN where there is no prediction, severities `[studies, 25]` -1 where there is no label."""
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
    """Return losses `[..., 4]` of `PARTS` from sums of losses and weights `[..., 4, 2]`, NaN without rows."""
    loss, weight = sums[..., 0], sums[..., 1]
    return np.asarray(np.divide(loss, weight, out=np.full_like(loss, np.nan), where=weight > 0))


def group_loss(probabilities: Floats, severity: Integers, group: int) -> float:
    """Return a score group's loss; for the canal the sum of its own and the any-severe one."""
    return float(part_scores(study_sums(probabilities, severity).sum(axis=0))[list(PARTS_OF[group])].sum())


def resampled_scores(probabilities: Sequence[Floats], severity: Integers, drawn: Floats | None = None) -> Floats:
    """Return scores `[files, 1 + RESAMPLES, 5]` of `NAMES`: of all studies first, then of bootstrap resamples of them.
    Arguments are those of `study_sums` for each file; all have the same resamples, by default `draw_studies`. NaN
    without rows."""
    sums = np.stack([study_sums(one, severity) for one in probabilities])
    drawn = draw_studies(len(severity)) if drawn is None else drawn
    resampled = np.einsum("rs,fspk->frpk", drawn, sums, optimize=True)
    parts = part_scores(np.concatenate([sums.sum(axis=1, keepdims=True), resampled], axis=1))
    return np.concatenate([parts, parts.mean(axis=-1, keepdims=True)], axis=-1)


def draw_studies(studies: int) -> Floats:
    """Return `[RESAMPLES, studies]`: how often each study is in each bootstrap resample; always the same draws."""
    drawn = np.random.default_rng(0).multinomial(studies, np.full(studies, 1 / studies), size=RESAMPLES)
    return drawn.astype(np.float64)


def intervals(scores: Floats) -> Floats:
    """Return the ends `[2, 5]` of 95 % intervals of `resampled_scores` of one file, or of what was made of several. NaN
    where the score of all studies is; a resample without a part's rows does not count for it."""
    ends = np.full((2, scores.shape[1]), np.nan)
    for k in np.flatnonzero(np.isfinite(scores[0])):
        draws = scores[1:, k]
        ends[:, k] = np.quantile(draws[np.isfinite(draws)], [0.025, 0.975])
    return ends


@dataclass(frozen=True)
class Score:
    """Result of scoring one table of predictions."""

    parts: dict[str, float]  # loss of each of `PARTS` that has rows
    total: float | None  # mean of the four, None when one of them is missing
    scored: int  # rows with a label and a prediction
    dropped: int  # predicted rows without a label, or of studies that the truth does not know
    missed: int  # labelled rows without a prediction
    rescaled: int  # scored rows that did not sum to 1 within 1e-6


def score(predictions: pd.DataFrame | AnyPath, truth: pd.DataFrame | AnyPath) -> Score:
    """Return the official score, also of predictions that cover only some conditions or rows.

    Only parts that have rows are scored, the any-severe term over the canal rows that were predicted. Predictions have
    columns ``row_id, normal_mild, moderate, severe``, or are a CSV of them; row identifiers are unique, a row with NaN
    is none. The truth is a table like ``train.csv``, or its path; or labelled rows only, with the columns ``row_id,
    study_id, target, severity`` and severity 0, 1, 2, as `Competition.labels` has them. Raises `InputError` where a
    file is missing or faulty."""
    if not isinstance(predictions, pd.DataFrame):
        predictions = read_predictions(predictions)
    if not isinstance(truth, pd.DataFrame):
        truth = read_labels(Path(truth))
    elif "row_id" not in truth.columns:
        truth = label_rows(truth.fillna("").astype({"study_id": str}))
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
    """Return the labelled rows that are predicted, both tables as in `score`: their studies, sorted; probabilities
    `[studies, 25, 3]` as given, NaN where there is no such row; labels `[studies, 25]`, -1 there."""
    rows = truth.merge(predictions[["row_id", *SEVERITIES]], on="row_id", how="inner", validate="1:1")
    studies = tuple(sorted(rows["study_id"].unique()))
    severity = np.nan_to_num(on_grid(rows, studies, ("severity",))[..., 0], nan=-1)
    return studies, on_grid(rows, studies), severity.astype(np.int64)


def on_grid(rows: pd.DataFrame, studies: Sequence[str], columns: Sequence[str] = SEVERITIES) -> Floats:
    """Return `[studies, 25, columns]` of rows with ``study_id`` and ``target``; NaN where there is no row."""
    grid = np.full((len(studies), len(TARGETS), len(columns)), np.nan)
    study = pd.Index(studies).get_indexer(pd.Index(rows["study_id"]))
    target = rows["target"].map(_PLACE).to_numpy(dtype=np.int64)
    grid[study, target] = rows[list(columns)].to_numpy(dtype=np.float64)
    return grid


def as_table(studies: Sequence[str], probabilities: Floats) -> pd.DataFrame:
    """Return `[studies, 25, 3]` as columns ``row_id, normal_mild, moderate, severe``; NaN has no row."""
    there = np.isfinite(probabilities).all(axis=2)
    identifiers = [row_id(studies[study], TARGET_NAMES[place]) for study, place in np.argwhere(there).tolist()]
    table = pd.DataFrame(probabilities[there], columns=list(SEVERITIES))
    table.insert(0, "row_id", identifiers)
    return table


def weighted_prior(
    truth: pd.DataFrame, *, smoothing: float = 0.0, weights: Sequence[float] = SEVERITY_WEIGHTS
) -> pd.DataFrame:
    """Return, per target, the constant probabilities that score best on `truth`: p_k ∝ n_k · w_k. Left and right of a
    condition are pooled, so that a rare grade seen on one side only is not impossible on the other. A target without
    any label takes the prior of its score group, and without that 1/3 each. There are 25 rows indexed by target name,
    columns `SEVERITIES`; rows sum to 1. The truth is labelled rows as in `score`; `smoothing` is rows added to each of
    the three counts, above 0 no probability is 0; `weights` are sample weights of the severities."""
    counts = np.zeros((len(SCORE_GROUPS), len(LEVELS), 3))
    target = truth["target"].map(_PLACE).to_numpy(dtype=np.int64)
    np.add.at(counts, (_GROUP[target], _LEVEL[target], truth["severity"].to_numpy(dtype=np.int64)), 1)
    pooled = counts.sum(axis=1, keepdims=True)
    counts = np.where(counts.sum(axis=2, keepdims=True) > 0, counts, pooled)
    weighted = np.where(pooled.sum(axis=2, keepdims=True) > 0, (counts + smoothing) * np.asarray(weights), 1.0)
    shares = weighted / weighted.sum(axis=2, keepdims=True)
    index = pd.Index(TARGET_NAMES, name="target")
    return pd.DataFrame(shares[_GROUP, _LEVEL], index=index, columns=list(SEVERITIES))


def confusion(probabilities: ArrayLike, severity: ArrayLike) -> NDArray[np.int64]:
    """Return counts `[3 true, 3 most probable]` of probabilities `[rows, 3]` and severities `[rows]` 0, 1, 2."""
    from sklearn.metrics import confusion_matrix  # seconds, which to grade need not take

    predicted = np.argmax(np.asarray(probabilities), axis=1)
    return np.asarray(confusion_matrix(severity, predicted, labels=[0, 1, 2]))


def evaluate(probabilities: ArrayLike, severity: ArrayLike) -> dict[str, float]:
    """Return the figures of one target as a flat dictionary; arguments as `confusion`. Keys: ``rows``, ``accuracy``,
    ``always_normal`` (accuracy of answering normal/mild each time), ``precision``, ``recall`` (means over the
    severities that occur), ``weighted_log_loss``, and per severity ``precision_*``, ``recall_*``, ``auc_*``. Precision
    of a severity never predicted is 0; the area under the ROC curve, against the other two, is NaN without both."""
    from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

    scores, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(severity, dtype=np.int64)
    predicted = scores.argmax(axis=1)
    by_severity = precision_recall_fscore_support(labels, predicted, labels=[0, 1, 2], zero_division=0.0)
    precision, recall, _, support = by_severity
    figures = {
        "rows": len(labels),
        "accuracy": (predicted == labels).mean(),
        "always_normal": (labels == 0).mean(),
        "precision": precision[support > 0].mean(),
        "recall": recall[support > 0].mean(),
        "weighted_log_loss": weighted_log_loss(scores, labels),
    }
    for index, name in enumerate(SEVERITIES):
        figures |= {f"precision_{name}": precision[index], f"recall_{name}": recall[index]}
        both = 0 < support[index] < len(labels)
        figures[f"auc_{name}"] = roc_auc_score(labels == index, scores[:, index]) if both else np.nan
    return {name: float(value) for name, value in figures.items()}


def evaluate_targets(predictions: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Return one row per target that has both predictions and labels: ``target``, then the keys of `evaluate`."""
    rows = truth.merge(predictions[["row_id", *SEVERITIES]], on="row_id", validate="1:1")
    figures = [
        {"target": name, **evaluate(group[list(SEVERITIES)].to_numpy(), group["severity"].to_numpy())}
        for name, group in rows.groupby("target", sort=False)
    ]
    return pd.DataFrame(figures)
