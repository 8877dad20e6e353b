"""Discrimination, agreement and calibration of predictions: figures of all rows, and the same of bootstrap resamples.

The figures of all rows are scikit-learn's. Those of a thousand resamples come from what each study adds to a sum, and
from one sorting of the rows: a resample is no more than how often each study counts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binned_statistic
from sklearn.metrics import cohen_kappa_score, precision_recall_fscore_support, roc_auc_score, roc_curve

from lumbar_kaggle.core.targets import SEVERITIES
from lumbar_kaggle.scoring.metric import Booleans, Floats, Integers, confusion, weighted_losses
from lumbar_kaggle.tables.submission import without_weights

OUTCOMES = {"moderate_or_worse": 1, "severe": 2}  # finding → the least severity that has it
CALIBRATIONS = ("as_given", "weights_removed")  # see `Rows.chance`
BINS = 10  # of equal width, of the calibration
EDGES = np.linspace(0, 1, BINS + 1)
SENSITIVITY = 0.9  # of the second operating point
PLAIN = (
    *("loss", "accuracy", "precision_macro", "precision_weighted", "recall_macro"),
    *("kappa_quadratic", "kappa_linear"),
)
# Shares of the confusion matrix: label → what its rows are called.
SHARES = {label: [f"{label}_called_{predicted}" for predicted in SEVERITIES] for label in SEVERITIES}
CURVE = ("auroc", "youden_sensitivity", "youden_specificity", "sensitive_sensitivity", "sensitive_specificity")
AT_ONCE = 2**18  # rows × resamples that are sorted out at once: more would leave the processor's cache
ROUNDING = 1e-12

Draws = dict[str, Floats]


@dataclass(frozen=True)
class Rows:
    """Labelled predictions of some studies, one row per study and target."""

    study: Integers  # [rows] place of the study among those that are resampled
    probabilities: Floats  # [rows, 3], sum 1
    severity: Integers  # [rows] 0, 1, 2

    def has(self, outcome: str) -> Booleans:
        """Return `[rows]`, whether the label has one of `OUTCOMES`."""
        return self.severity >= OUTCOMES[outcome]

    def chance(self, outcome: str, calibration: str = "as_given") -> Floats:
        """Return `[rows]`, the probability of one of `OUTCOMES`. The official score counts moderate twice and severe
        four times, so the best predictions for it are frequencies times these weights; with ``"weights_removed"`` they
        are divided by them again, which gives what a frequency can be held against."""
        values = self.probabilities
        if calibration == "weights_removed":
            values = without_weights(values)
        return np.asarray(np.clip(values[:, OUTCOMES[outcome] :].sum(axis=1), 0, 1))

    def studies_with(self, outcome: str) -> tuple[int, int]:
        """Return how many studies have a row with the outcome, and how many one without it."""
        has = self.has(outcome)
        return self.studies(has), self.studies(~has)

    def studies(self, chosen: Booleans) -> int:
        """Return how many studies have one of some rows `[rows]`."""
        return len(np.unique(self.study[chosen]))


def figures(rows: Rows) -> dict[str, float]:
    """Return the figures of all rows, NaN where one is not defined: `PLAIN`, `SHARES` and, per outcome, `CURVE` and the
    expected calibration errors, as ``severe_auroc`` or ``severe_ece_as_given``. The loss is the weighted log loss of
    the rows, of which there is one at least. Predicted is the most probable severity. Macro is the mean over the
    severities that occur, weighted by their rows. The Youden point is where sensitivity + specificity is greatest;
    ``sensitive`` is the first with a sensitivity of `SENSITIVITY`."""
    predicted, labels, grades = rows.probabilities.argmax(axis=1), rows.severity, [0, 1, 2]
    precision, recall, _, support = precision_recall_fscore_support(labels, predicted, labels=grades, zero_division=0.0)
    loss, weight = weighted_losses(rows.probabilities, labels).sum(axis=0)
    one_grade = len(np.unique([labels, predicted])) == 1
    made = {
        "loss": loss / weight,
        "accuracy": (predicted == labels).mean(),
        "precision_macro": precision[support > 0].mean(),
        "precision_weighted": np.average(precision, weights=support),
        "recall_macro": recall[support > 0].mean(),
    }
    for kind in ("quadratic", "linear"):
        kappa = np.nan if one_grade else cohen_kappa_score(labels, predicted, labels=grades, weights=kind)
        made[f"kappa_{kind}"] = kappa
    made |= _shares(confusion(rows.probabilities, labels)[None])
    for outcome in OUTCOMES:
        chance, has = rows.chance(outcome), rows.has(outcome)
        if has.all() or not has.any():
            curve = [np.nan] * len(CURVE)
        else:
            false, true, _ = roc_curve(has, chance, drop_intermediate=False)
            # The first point calls no row positive.
            places = _points(true[None, 1:], false[None, 1:])
            at = [value for place in places for value in (true[1:][place[0]], 1 - false[1:][place[0]])]
            curve = [roc_auc_score(has, chance), *at]
        made |= {f"{outcome}_{name}": value for name, value in zip(CURVE, curve, strict=True)}
        for calibration in CALIBRATIONS:
            chance = rows.chance(outcome, calibration)
            sums = [binned_statistic(chance, values, "sum", EDGES).statistic for values in (chance, has)]
            made[f"{outcome}_ece_{calibration}"] = np.abs(sums[0] - sums[1]).sum() / len(chance)
    return {name: float(np.squeeze(value)) for name, value in made.items()}


def thresholds(rows: Rows, outcome: str) -> dict[str, float]:
    """Return the probabilities from which on a row counts as positive at the two operating points of `figures`. Rows
    with and without the outcome are there."""
    false, true, at = roc_curve(rows.has(outcome), rows.chance(outcome), drop_intermediate=False)
    youden, sensitive = (int(place[0]) + 1 for place in _points(true[None, 1:], false[None, 1:]))
    return {"youden": float(at[youden]), "sensitive": float(at[sensitive])}


def _points(true: Floats, false: Floats) -> tuple[Integers, Integers]:
    """Return where the two operating points lie on curves `[curves, thresholds]` of true and false positive rates."""
    return (true - false).argmax(axis=1), (true >= SENSITIVITY - ROUNDING).argmax(axis=1)


def resampled(rows: Rows, drawn: Floats) -> Draws:
    """Return what `figures` returns of each resample: arrays `[resamples]`. `drawn` is `[resamples, studies]` as of
    `metric.draw_studies`. Operating points are looked for anew in each."""
    made = {}
    loss, weight = (drawn @ _by_study(rows, weighted_losses(rows.probabilities, rows.severity), drawn)).T
    with np.errstate(divide="ignore", invalid="ignore"):
        made["loss"] = loss / weight
        made |= _agreement(counts := confusions(rows, drawn)) | _shares(counts)
        for outcome in OUTCOMES:
            curve = _curve(rows.chance(outcome), rows.has(outcome), rows.study, drawn)
            made |= {f"{outcome}_{name}": values for name, values in zip(CURVE, curve.T, strict=True)}
            for calibration in CALIBRATIONS:
                counts, expected, seen = calibration_sums(rows, outcome, calibration, drawn)
                error = np.abs(expected - seen).sum(axis=1) / counts.sum(axis=1)
                made[f"{outcome}_ece_{calibration}"] = error
    return made


def _by_study(rows: Rows, values: NDArray[np.floating], drawn: Floats) -> Floats:
    """Return sums `[studies, k]` of rows `[rows, k]`."""
    sums = np.zeros((drawn.shape[1], values.shape[1]))
    np.add.at(sums, rows.study, values)
    return sums


def confusions(rows: Rows, drawn: Floats) -> Floats:
    """Return counts `[resamples, 3 true, 3 most probable]` of each resample."""
    cell = 3 * rows.severity + rows.probabilities.argmax(axis=1)
    return np.asarray(drawn @ _by_study(rows, np.eye(9)[cell], drawn)).reshape(-1, 3, 3)


def _shares(counts: NDArray[Any]) -> Draws:
    """Return `SHARES` of confusion matrices `[resamples, 3, 3]`, NaN where no row has the label."""
    every = counts.sum(axis=2, keepdims=True)
    shares = np.divide(counts, every, out=np.full(counts.shape, np.nan), where=every > 0)
    return {name: shares[:, k, j] for k, names in enumerate(SHARES.values()) for j, name in enumerate(names)}


def _agreement(counts: Floats) -> Draws:
    """Return the figures that a confusion matrix gives, of each of `[resamples, 3, 3]`."""
    right, true, called = np.einsum("rkk->rk", counts), counts.sum(axis=2), counts.sum(axis=1)
    rows, occurs = true.sum(axis=1), true > 0
    precision = np.where(called > 0, right / called, 0.0)
    recall = np.where(occurs, right / true, 0.0)
    made = {
        "accuracy": right.sum(axis=1) / rows,
        "precision_macro": (precision * occurs).sum(axis=1) / occurs.sum(axis=1),
        "precision_weighted": (precision * true).sum(axis=1) / rows,
        "recall_macro": recall.sum(axis=1) / occurs.sum(axis=1),
    }
    apart = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    by_chance = true[:, :, None] * called[:, None] / rows[:, None, None]
    for kind, cost in (("quadratic", apart**2), ("linear", apart)):
        made[f"kappa_{kind}"] = 1 - (counts * cost).sum(axis=(1, 2)) / (by_chance * cost).sum(axis=(1, 2))
    return made


def _curve(chance: Floats, has: Booleans, study: Integers, drawn: Floats) -> Floats:
    """Return `CURVE` of each resample, `[resamples, 5]`; see `figures`."""
    order = np.argsort(-chance, kind="stable")
    # A threshold lets in all rows of one probability.
    last = np.flatnonzero(np.diff(chance[order], append=-1.0))
    study, has = study[order], has[order]
    found = []
    for some in np.array_split(drawn, max(1, len(drawn) * len(order) // AT_ONCE)):
        weight = some[:, study]
        every = np.cumsum(weight, axis=1)[:, last]
        true = np.cumsum(weight * has, axis=1)[:, last]
        false = every - true
        true, false = true / true[:, -1:], false / false[:, -1:]
        area = np.trapezoid(true, false, axis=1) + true[:, 0] * false[:, 0] / 2
        line = np.arange(len(some))
        at = [value for place in _points(true, false) for value in (true[line, place], 1 - false[line, place])]
        # Without a row of either kind there is no curve.
        found.append(np.where(np.isfinite(area)[:, None], np.stack([area, *at], axis=1), np.nan))
    return np.concatenate(found)


def calibration_sums(rows: Rows, outcome: str, calibration: str, drawn: Floats) -> tuple[Floats, Floats, Floats]:
    """Return of each resample and bin `[resamples, BINS]`: the rows, the sum of their probabilities, and how many have
    the outcome."""
    chance = rows.chance(outcome, calibration)
    within = np.eye(BINS)[bins(chance)]
    parts = np.concatenate([within, within * chance[:, None], within * rows.has(outcome)[:, None]], axis=1)
    sums = drawn @ _by_study(rows, parts, drawn)
    return sums[:, :BINS], sums[:, BINS : 2 * BINS], sums[:, 2 * BINS :]


def bins(chance: Floats) -> Integers:
    """Return in which bin of the calibration each probability is."""
    return np.minimum(np.searchsorted(EDGES, chance, "right") - 1, BINS - 1)
