"""``lumbar score``: a file of predictions against the labels, beside the prior, an oracle, another file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.score.agreement import evaluate_targets
from lumbar_kaggle.score.metric import (
    PARTS,
    RESAMPLES,
    Score,
    confidence_interval,
    part_scores,
    prior_predictions,
    resampled_scores,
    score,
    study_sums,
    weighted_prior,
    with_total,
)
from lumbar_kaggle.tables.reading import read_labels
from lumbar_kaggle.tables.submission import read_predictions

Floats = NDArray[np.float64]

NAMES = (*PARTS, "total")
"""Lines of a comparison."""


@dataclass(frozen=True)
class Scoring:
    """Scores of one file.

    Attributes:
        score: of the predictions.
        prior: of the prior on the same rows.
        targets: as from `evaluation.evaluate_targets`, with the column ``prior``: the prior's loss.
        prior_source: file whose labels gave the prior.
    """

    score: Score
    prior: Score
    targets: pd.DataFrame
    prior_source: Path

    def text(self, *, per_target: bool = False) -> str:
        """Return the table that the command prints."""
        lines = [f"{'':<20}{'score':>10}{'prior':>10}"]
        for name in PARTS:
            if name in self.score.parts:
                lines.append(f"{name:<20}{self.score.parts[name]:>10.6f}{self.prior.parts[name]:>10.6f}")
            else:
                lines.append(f"{name:<20}{'-':>10}{'-':>10}")
        if self.score.total is not None and self.prior.total is not None:
            lines.append(f"{'total':<20}{self.score.total:>10.6f}{self.prior.total:>10.6f}")
        else:
            lines.append(f"{'total':<20}{'-':>10}{'-':>10}  (needs rows of all three conditions)")
        lines.append(
            f"rows: {self.score.scored} scored, {self.score.dropped} dropped (without a label), "
            f"{self.score.missed} missed (not predicted)"
        )
        if self.score.rescaled:
            lines.append(f"{self.score.rescaled} rows did not sum to 1 and were rescaled")
        lines.append(f"prior: weighted, per condition and level, from {self.prior_source}")
        return "\n".join([*lines, "", self.target_text()] if per_target else lines)

    def target_text(self) -> str:
        """Return the table of the targets."""
        shown = ["target", "rows", "weighted_log_loss", "prior", "accuracy", "precision", "recall"]
        aucs = [name for name in self.targets.columns if name.startswith("auc_")]
        table: str = self.targets[shown + aucs].to_string(index=False, float_format="%.4f")
        return table


@dataclass(frozen=True)
class Estimate:
    """Values ``[5]`` in the order of `NAMES`, ends of their 95 % intervals ``[2, 5]``; NaN without rows."""

    value: Floats
    interval: Floats

    @classmethod
    def of(cls, value: Floats, draws: Floats) -> "Estimate":
        """Return values ``[5]`` with the intervals of their resamples ``[RESAMPLES, 5]``."""
        return cls(value, confidence_interval(value, draws))


@dataclass(frozen=True)
class Comparison:
    """Scores of one file beside those of others on the same rows; ``[5]`` each, in the order of `NAMES`.

    Attributes:
        score: of the predictions.
        prior: of the prior.
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
        columns = [
            ["", *NAMES],
            ["score", *_numbers(self.score.value)],
            ["95 % interval", *_spans(self.score)],
        ]
        columns.append(["prior", *_numbers(self.prior)])
        if self.oracle is not None and self.skill is not None:
            columns += [["oracle", *_numbers(self.oracle)], ["skill", *_numbers(self.skill.value)]]
            columns.append(["95 % interval", *_spans(self.skill)])
        if self.against is not None and self.difference is not None:
            columns += [
                ["against", *_numbers(self.against)],
                ["difference", *_numbers(self.difference.value)],
            ]
            columns.append(["95 % interval", *_spans(self.difference)])
        widths = [max(map(len, column)) for column in columns]
        lines = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
            for line in zip(*columns, strict=True)
        ]
        lines += [
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
    labels = _labels(truth)
    source = prior_from or truth
    prior = _prior(labels, truth, prior_from)
    table = read_predictions(predictions)
    result = score(table, labels)
    if not result.scored:
        raise InputError(f"{predictions}: none of its {len(table)} rows has a label in {truth}")
    same_rows = labels[labels["row_id"].isin(table["row_id"])]
    constant = prior_predictions(prior, same_rows)
    prior_losses = evaluate_targets(constant, labels).set_index("target")["weighted_log_loss"]
    targets = evaluate_targets(table, labels)
    return Scoring(
        score=result,
        prior=score(constant, labels),
        targets=targets.assign(prior=targets["target"].map(prior_losses)),
        prior_source=source,
    )


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
    all_labels = _labels(truth)
    given = {path: read_predictions(path) for path in (predictions, against) if path}
    labels = _common(all_labels, truth, given)
    constant = prior_predictions(_prior(all_labels, truth, prior_from), labels)
    tables = {"score": given[predictions], "prior": constant}
    tables |= {"oracle": _read_oracle(oracle, labels, truth)} if oracle else {}
    tables |= {"against": given[against]} if against else {}
    return _compared(tables, labels, prior_from or truth)


def _compared(tables: dict[str, pd.DataFrame], labels: pd.DataFrame, prior_source: Path) -> Comparison:
    """Return the comparison of ``score`` with ``prior`` and, where given, with ``oracle`` and ``against``."""
    sums = np.stack([_sums_of(table, labels) for table in tables.values()])
    values = dict(zip(tables, with_total(part_scores(sums.sum(axis=1))), strict=True))
    draws = dict(zip(tables, with_total(resampled_scores(sums)), strict=True))
    return Comparison(
        score=Estimate.of(values["score"], draws["score"]),
        prior=values["prior"],
        oracle=values.get("oracle"),
        skill=Estimate.of(_skill(values), _skill(draws)) if "oracle" in tables else None,
        against=values.get("against"),
        difference=Estimate.of(_difference(values), _difference(draws)) if "against" in tables else None,
        rows=len(labels),
        studies=sums.shape[1],
        prior_source=prior_source,
    )


def _prior(labels: pd.DataFrame, truth: Path, prior_from: Path | None) -> pd.DataFrame:
    """Return the prior of `prior_from`, or of the truth itself, whose labels are given."""
    if prior_from is None or prior_from == truth:
        return weighted_prior(labels)
    # A severity that another label table lacks at a level may well occur in the truth.
    return weighted_prior(_labels(prior_from), smoothing=0.5)


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


def _skill(scores: dict[str, Floats]) -> Floats:
    """Return the share of the way from the prior to the oracle, ``[..., 5]``."""
    # An oracle that is no better than the prior leaves no way to go, and no skill to be told.
    with np.errstate(divide="ignore", invalid="ignore"):
        skill: Floats = (scores["prior"] - scores["score"]) / (scores["prior"] - scores["oracle"])
    return skill


def _difference(scores: dict[str, Floats]) -> Floats:
    """Return how much more than the other file the predictions lose, ``[..., 5]``."""
    return scores["score"] - scores["against"]


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


def _sums_of(table: pd.DataFrame, labels: pd.DataFrame) -> Floats:
    """Return ``[studies, 4 parts, 2]`` losses and weights."""
    sums = study_sums(table, labels)
    return sums.to_numpy(dtype=np.float64).reshape(len(sums), len(PARTS), 2)


def _numbers(values: Floats) -> list[str]:
    return [f"{value:.4f}" if np.isfinite(value) else "-" for value in values]


def _spans(estimate: Estimate) -> list[str]:
    return [f"{low:.4f} to {high:.4f}" if np.isfinite(low) else "-" for low, high in estimate.interval.T]


def _labels(path: Path) -> pd.DataFrame:
    labels, faults = read_labels(path)
    if faults:
        raise InputError(str(faults[0]))
    return labels
