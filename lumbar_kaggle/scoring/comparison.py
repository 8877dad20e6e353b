"""``lumbar score``: predictions against the labels, beside the prior, an oracle and another file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import SEVERITIES
from lumbar_kaggle.scoring import metric
from lumbar_kaggle.scoring.metric import NAMES, Floats, Score, evaluate_targets, weighted_prior
from lumbar_kaggle.tables.reading import read_labels
from lumbar_kaggle.tables.submission import prior_predictions, read_predictions


@dataclass(frozen=True)
class Scoring:
    """Scores of one table of predictions, and of the prior on the same rows."""

    score: Score
    prior: Score
    targets: pd.DataFrame  # as from `metric.evaluate_targets`, with the prior's loss as ``prior``
    prior_source: str  # what the prior was taken from

    @property
    def lines(self) -> list[tuple[str, float | None, float | None]]:
        """Name, score and the prior's of each of `metric.NAMES`; None where a part has no rows."""
        both = [{**one.parts, "total": one.total} for one in (self.score, self.prior)]
        return [(name, both[0].get(name), both[1].get(name)) for name in NAMES]

    def text(self, *, per_target: bool = False) -> str:
        """Return the table that the command prints."""
        lines, made = [f"{'':<20}{'score':>10}{'prior':>10}"], self.score
        for name, *values in self.lines:
            shown = ["-" if value is None else f"{value:.6f}" for value in values]
            lines.append(f"{name:<20}" + "".join(f"{text:>10}" for text in shown))
        if made.total is None:
            lines[-1] += "  (needs rows of all three conditions)"
        counts = f"{made.scored} scored, {made.dropped} dropped (without a label), {made.missed} missed (not predicted)"
        lines.append(f"rows: {counts}")
        if made.rescaled:
            lines.append(f"{made.rescaled} rows did not sum to 1 and were rescaled")
        lines.append(f"prior: weighted, per condition and level, from {self.prior_source}")
        return "\n".join([*lines, "", self.target_text()] if per_target else lines)

    @property
    def losses(self) -> pd.DataFrame:
        """Weighted log losses, indexed by target: columns ``score, prior``."""
        return self.targets.rename(columns={"weighted_log_loss": "score"}).set_index("target")[["score", "prior"]]

    def target_text(self) -> str:
        """Return the table of the targets."""
        shown = ["target", "rows", "weighted_log_loss", "prior", "accuracy", "precision", "recall"]
        shown += [f"auc_{name}" for name in SEVERITIES]
        return str(self.targets[shown].to_string(index=False, float_format="%.4f"))


@dataclass(frozen=True)
class Comparison:
    """`metric.resampled_scores` of one file and others on the same rows: ``score``, ``prior``, where they were given
    ``oracle``, with ``skill``, (prior - score) / (prior - oracle), and ``against``, with ``difference``."""

    scores: dict[str, Floats]
    rows: int
    studies: int
    prior_source: Path

    def text(self) -> str:
        """Return the table that the command prints."""
        shown: dict[str, list[str]] = {}
        for name in ("score", "prior", "oracle", "skill", "against", "difference"):
            if name not in self.scores:
                continue
            shown[name] = ["-" if np.isnan(value) else f"{value:.4f}" for value in self.scores[name][0]]
            if name in ("score", "skill", "difference"):
                shown[f"95 % interval of {name}"] = interval_texts(self.scores[name])
        # Two spaces between columns, as their own texts hold one.
        header = [f" {name.split(' of ')[0]}" for name in shown]
        lines = [
            pd.DataFrame(shown, index=list(NAMES)).to_string(header=header),
            f"rows: {self.rows} of {self.studies} studies, those that all files have in common",
            f"prior: weighted, per condition and level, from {self.prior_source}",
            f"intervals: {metric.RESAMPLES} bootstrap resamples of the studies, the same for all columns",
        ]
        note = "any_severe_spinal is read off the canal rows by a maximum: there the oracle is a reference, not a bound"
        return "\n".join([*lines, note] if "oracle" in self.scores else lines)


def interval_texts(scores: Floats) -> list[str]:
    """Return the `metric.intervals` of one file's scores in words, a dash where there is none."""
    return [f"{low:.4f} to {high:.4f}" if np.isfinite(low) else "-" for low, high in metric.intervals(scores).T]


def score_beside_prior(
    predictions: pd.DataFrame, labels: pd.DataFrame, prior: pd.DataFrame | None = None, source: str = ""
) -> Scoring:
    """Score predictions and the prior, by default that of `labels`, on the same rows; `source` names it in the text."""
    known = labels[labels["row_id"].isin(predictions["row_id"])]
    constant = prior_predictions(weighted_prior(labels) if prior is None else prior, known)
    losses = evaluate_targets(constant, known).set_index("target")["weighted_log_loss"]
    targets = evaluate_targets(predictions, known)
    targets = targets.assign(prior=targets["target"].map(losses))
    return Scoring(metric.score(predictions, labels), metric.score(constant, labels), targets, source)


def score_file(predictions: Path, truth: Path, prior_from: Path | None = None) -> Scoring:
    """Score a file of predictions against a label table with the columns of ``train.csv``. The prior is that of
    the labels `prior_from`, by default the truth, its best case. Without a row in common they are an `InputError`."""
    labels, prior = _read_truth(truth, prior_from)
    table, _ = read_labelled(predictions, labels, str(truth))
    return score_beside_prior(table, labels, prior, str(prior_from or truth))


def compare_files(
    predictions: Path, truth: Path, prior_from: Path | None, *, oracle: Path | None = None, against: Path | None = None
) -> Comparison:
    """Score a file, see `score_file`, beside the prior, an oracle and another file, with paired intervals. Studies are
    resampled with replacement, the same ones for every file, always in the same way. The oracle, the best predictions
    possible as ``lumbar phantom`` writes them, must have every row that is scored; of `against`, other predictions,
    only the rows that both have are scored. Raises `InputError` where that leaves nothing or the oracle lacks a row."""
    labels, prior = _read_truth(truth, prior_from)
    tables = {}
    tables["score"], labels = read_labelled(predictions, labels, str(truth))
    if against:
        tables["against"], labels = read_labelled(against, labels, f"{truth} and a row in {predictions}")
    tables["prior"] = prior_predictions(prior, labels)
    if oracle:
        tables["oracle"] = read_predictions(oracle)
        lacking = labels.loc[~labels["row_id"].isin(tables["oracle"]["row_id"]), "row_id"]
        if len(lacking):
            what = f"lacks {len(lacking)} of the {len(labels)} scored rows, the first is {lacking.iloc[0]}"
            raise InputError(f"{oracle}: {what}; give the oracle.csv of the phantom that {truth} belongs to")
    arrays = [metric.to_arrays(table, labels) for table in tables.values()]
    studies, probabilities, severities = zip(*arrays, strict=True)
    scores = dict(zip(tables, metric.resampled_scores(probabilities, severities[0]), strict=True))
    if oracle:
        # An oracle that is no better than the prior leaves no way to go, and no skill to be told.
        with np.errstate(divide="ignore", invalid="ignore"):
            scores["skill"] = (scores["prior"] - scores["score"]) / (scores["prior"] - scores["oracle"])
    if against:
        scores["difference"] = scores["score"] - scores["against"]
    return Comparison(scores, len(labels), len(studies[0]), prior_from or truth)


def read_labelled(path: Path, labels: pd.DataFrame, source: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a file's predictions, and the labels whose rows it has; raise where there are none in `source`."""
    table = read_predictions(path)
    common = labels[labels["row_id"].isin(table["row_id"])]
    if common.empty:
        raise InputError(
            f"{path}: none of its {len(table)} rows has a label in {source}; give predictions of its studies"
        )
    return table, common


def _read_truth(truth: Path, prior_from: Path | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the labels of the truth, and the prior of `prior_from`, by default of the same."""
    labels = read_labels(truth)
    if prior_from is None or prior_from == truth:
        return labels, weighted_prior(labels)
    # A severity that another label table lacks at a level may well occur in the truth.
    return labels, weighted_prior(read_labels(prior_from), smoothing=metric.PRIOR_SMOOTHING)
