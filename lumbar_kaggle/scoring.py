"""``lumbar score``: a file of predictions against the labels, beside the prior."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lumbar_kaggle.errors import InputError
from lumbar_kaggle.evaluation import evaluate_targets
from lumbar_kaggle.metric import PARTS, Score, prior_predictions, score, weighted_prior
from lumbar_kaggle.submission import read_predictions
from lumbar_kaggle.tables import read_labels


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
        if per_target:
            shown = ["target", "rows", "weighted_log_loss", "prior", "accuracy", "precision", "recall"]
            aucs = [name for name in self.targets.columns if name.startswith("auc_")]
            lines += ["", self.targets[shown + aucs].to_string(index=False, float_format="%.4f")]
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
    smoothing = 0.0 if source == truth else 0.5
    prior = weighted_prior(labels if source == truth else _labels(source), smoothing=smoothing)
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


def _labels(path: Path) -> pd.DataFrame:
    labels, faults = read_labels(path)
    if faults:
        raise InputError(str(faults[0]))
    return labels
