"""``lumbar score``: predictions against the labels, beside the prior, an oracle and another file."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.scoring.metric import (
    NAMES,
    PRIOR_SMOOTHING,
    RESAMPLES,
    Estimate,
    Floats,
    Score,
    evaluate_targets,
    part_scores,
    resampled_scores,
    score,
    study_sums,
    to_arrays,
    weighted_prior,
    with_total,
)
from lumbar_kaggle.tables.reading import read_labels, refuse
from lumbar_kaggle.tables.submission import prior_predictions, read_predictions


@dataclass(frozen=True)
class Scoring:
    """Scores of one table of predictions beside the prior's on the same rows.

    Attributes:
        score, prior: of the predictions and of the prior.
        targets: as from `metric.evaluate_targets`, with the column ``prior``: the prior's loss.
        prior_source: what the prior was taken from.
    """

    score: Score
    prior: Score
    targets: pd.DataFrame
    prior_source: str

    @property
    def lines(self) -> list[tuple[str, float | None, float | None]]:
        """Name, score and the prior's of each of `metric.NAMES`; None where a part has no rows."""
        both = [{**one.parts, "total": one.total} for one in (self.score, self.prior)]
        return [(name, both[0].get(name), both[1].get(name)) for name in NAMES]

    def text(self, *, per_target: bool = False) -> str:
        """Return the table that the command prints."""
        lines = [f"{'':<20}{'score':>10}{'prior':>10}"]
        for name, *values in self.lines:
            shown = ["-" if value is None else f"{value:.6f}" for value in values]
            lines.append(f"{name:<20}" + "".join(f"{text:>10}" for text in shown))
        if self.score.total is None:
            lines[-1] += "  (needs rows of all three conditions)"
        lines.append(
            f"rows: {self.score.scored} scored, {self.score.dropped} dropped (without a label), "
            f"{self.score.missed} missed (not predicted)"
        )
        if self.score.rescaled:
            lines.append(f"{self.score.rescaled} rows did not sum to 1 and were rescaled")
        lines.append(f"prior: weighted, per condition and level, from {self.prior_source}")
        return "\n".join([*lines, "", self.target_text()] if per_target else lines)

    @property
    def losses(self) -> pd.DataFrame:
        """Weighted log losses, indexed by target: columns ``score, prior``."""
        losses = self.targets.set_index("target")[["weighted_log_loss", "prior"]]
        return losses.rename(columns={"weighted_log_loss": "score"})

    def target_text(self) -> str:
        """Return the table of the targets."""
        shown = ["target", "rows", "weighted_log_loss", "prior", "accuracy", "precision", "recall"]
        aucs = [name for name in self.targets.columns if name.startswith("auc_")]
        return str(self.targets[shown + aucs].to_string(index=False, float_format="%.4f"))


@dataclass(frozen=True)
class Comparison:
    """Scores of one file beside those of others on the same rows; ``[5]`` each, of `metric.NAMES`.

    Attributes:
        score, prior: of the predictions and of the prior.
        oracle: of the oracle, where there is one.
        skill: ``(prior - score) / (prior - oracle)``: 0 is the prior's, 1 the oracle's.
        against: of another file of predictions, where there is one.
        difference: score minus that.
        rows, studies: how many were scored.
        prior_source: file whose labels gave the prior.
    """

    score: Estimate
    prior: Floats
    oracle: Floats | None
    skill: Estimate | None
    against: Floats | None
    difference: Estimate | None
    rows: int
    studies: int
    prior_source: Path

    def text(self) -> str:
        """Return the table that the command prints."""
        shown: list[tuple[str, list[str]]] = []
        for name in ("score", "prior", "oracle", "skill", "against", "difference"):
            values = getattr(self, name)
            if isinstance(values, Estimate):
                shown += [(name, _numbers(values.value)), ("95 % interval", interval_texts(values))]
            elif values is not None:
                shown.append((name, _numbers(values)))
        table = pd.DataFrame(dict(enumerate(texts for _, texts in shown)), index=list(NAMES))
        lines = [
            # Two spaces, as the columns' own texts hold one.
            table.to_string(header=[f" {name}" for name, _ in shown]),
            f"rows: {self.rows} of {self.studies} studies, those that all files have in common",
            f"prior: weighted, per condition and level, from {self.prior_source}",
            f"intervals: {RESAMPLES} bootstrap resamples of the studies, the same for all columns",
        ]
        if self.oracle is not None:
            lines.append(
                "any_severe_spinal is read off the canal rows by a maximum: there the oracle is a reference, "
                "not a bound"
            )
        return "\n".join(lines)


def score_beside_prior(
    predictions: pd.DataFrame, labels: pd.DataFrame, prior: pd.DataFrame | None = None, source: str = ""
) -> Scoring:
    """Score predictions and the prior on the same rows.

    Args:
        predictions, labels: as in `metric.score`.
        prior: as from `metric.weighted_prior`; by default of `labels`, the best that a constant can do.
        source: what the prior was taken from, for the text.
    """
    known = labels[labels["row_id"].isin(predictions["row_id"])]
    constant = prior_predictions(weighted_prior(labels) if prior is None else prior, known)
    losses = evaluate_targets(constant, known).set_index("target")["weighted_log_loss"]
    targets = evaluate_targets(predictions, known)
    return Scoring(
        score=score(predictions, labels),
        prior=score(constant, labels),
        targets=targets.assign(prior=targets["target"].map(losses)),
        prior_source=source,
    )


def score_file(predictions: Path, truth: Path, prior_from: Path | None = None) -> Scoring:
    """Score a file of predictions.

    Args:
        predictions: columns ``row_id`` and the three severities; any rows, in any order.
        truth: a label table with the columns of ``train.csv``.
        prior_from: label table that the prior is taken from; by default `truth` itself, which is the
            prior's best case.

    Raises:
        InputError: a file is unreadable, or the two have no row in common.
    """
    labels = labels_from(truth)
    prior = _prior(labels, truth, prior_from)
    table = read_scored(predictions, labels, truth)
    return score_beside_prior(table, labels, prior, str(prior_from or truth))


def compare_files(
    predictions: Path,
    truth: Path,
    prior_from: Path | None = None,
    *,
    oracle: Path | None = None,
    against: Path | None = None,
) -> Comparison:
    """Score a file of predictions beside the prior, an oracle and another file, with paired intervals.

    Studies are resampled with replacement, the same ones for every file, always in the same way.

    Args:
        predictions, truth, prior_from: as in `score_file`.
        oracle: the best predictions that are possible, as ``lumbar phantom`` writes them; it must have every
            row that is scored.
        against: another file of predictions; only rows that it has too are scored.

    Raises:
        InputError: a file is unreadable, nothing is in common, or the oracle lacks a row.
    """
    all_labels = labels_from(truth)
    given = {path: read_predictions(path) for path in (predictions, against) if path}
    labels = _common(all_labels, truth, given)
    tables = {"score": given[predictions]}
    tables["prior"] = prior_predictions(_prior(all_labels, truth, prior_from), labels)
    tables |= {"oracle": _read_oracle(oracle, labels, truth)} if oracle else {}
    tables |= {"against": given[against]} if against else {}
    sums = np.stack([study_sums(*to_arrays(table, labels)[1:]) for table in tables.values()])
    values = dict(zip(tables, with_total(part_scores(sums.sum(axis=1))), strict=True))
    draws = dict(zip(tables, with_total(resampled_scores(sums)), strict=True))
    return Comparison(
        score=Estimate.of(values["score"], draws["score"]),
        prior=values["prior"],
        oracle=values.get("oracle"),
        skill=Estimate.of(_skill(values), _skill(draws)) if oracle else None,
        against=values.get("against"),
        difference=Estimate.of(*(one["score"] - one["against"] for one in (values, draws))) if against else None,
        rows=len(labels),
        studies=sums.shape[1],
        prior_source=prior_from or truth,
    )


def labels_from(path: Path) -> pd.DataFrame:
    """Return the labelled rows of a label table, see `reading.label_rows`.

    Raises:
        InputError: with the table's first fault, where there is one.
    """
    labels, faults = read_labels(path)
    refuse(faults)
    return labels


def read_scored(path: Path, labels: pd.DataFrame, truth: Path) -> pd.DataFrame:
    """Return predictions of which at least one row has a label.

    Raises:
        InputError: the file is unreadable, or none has; `truth`, the labels' file, is named too.
    """
    table = read_predictions(path)
    if not table["row_id"].isin(labels["row_id"]).any():
        raise InputError(
            f"{path}: none of its {len(table)} rows has a label in {truth}; give predictions of its studies"
        )
    return table


def interval_texts(estimate: Estimate) -> list[str]:
    """Return the intervals in words, a dash where there is none."""
    return [f"{low:.4f} to {high:.4f}" if np.isfinite(low) else "-" for low, high in estimate.interval.T]


def _numbers(values: Iterable[float]) -> list[str]:
    return [f"{value:.4f}" if np.isfinite(value) else "-" for value in values]


def _prior(labels: pd.DataFrame, truth: Path, prior_from: Path | None) -> pd.DataFrame:
    """Return the prior of `prior_from`, or of the truth itself, whose labels are given."""
    if prior_from is None or prior_from == truth:
        return weighted_prior(labels)
    # A severity that another label table lacks at a level may well occur in the truth.
    return weighted_prior(labels_from(prior_from), smoothing=PRIOR_SMOOTHING)


def _common(labels: pd.DataFrame, truth: Path, files: dict[Path, pd.DataFrame]) -> pd.DataFrame:
    """Return the labels whose rows all files have."""
    known = [str(truth)]
    for path, table in files.items():
        labels = labels[labels["row_id"].isin(table["row_id"])]
        if labels.empty:
            raise InputError(
                f"{path}: none of its {len(table)} rows has a label in {' and a row in '.join(known)}; "
                "give files of the same studies"
            )
        known.append(str(path))
    return labels


def _read_oracle(path: Path, labels: pd.DataFrame, truth: Path) -> pd.DataFrame:
    """Return the oracle's predictions; raise when it lacks one of the labelled rows."""
    table = read_predictions(path)
    lacking = labels.loc[~labels["row_id"].isin(table["row_id"]), "row_id"]
    if len(lacking):
        raise InputError(
            f"{path}: lacks {len(lacking)} of the {len(labels)} scored rows, the first is {lacking.iloc[0]}; "
            f"give the oracle.csv of the phantom that {truth} belongs to"
        )
    return table


def _skill(scores: dict[str, Floats]) -> Floats:
    """Return the share of the way from the prior to the oracle, ``[..., 5]``."""
    # An oracle that is no better than the prior leaves no way to go, and no skill to be told.
    with np.errstate(divide="ignore", invalid="ignore"):
        skill: Floats = (scores["prior"] - scores["score"]) / (scores["prior"] - scores["oracle"])
    return skill
