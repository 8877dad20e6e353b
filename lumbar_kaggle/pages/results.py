"""A run folder as the report page needs it: tables of figures, nothing drawn yet."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.baseline.config import BaselineConfig
from lumbar_kaggle.baseline.run import (
    RERUN,
    histories,
    read_results,
    read_run,
    validation_predictions,
)
from lumbar_kaggle.baseline.summary import summarise
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_csv
from lumbar_kaggle.core.targets import SEVERITIES, split_row_id
from lumbar_kaggle.score.agreement import confusion, evaluate_targets
from lumbar_kaggle.score.metric import PARTS, score, weighted_prior
from lumbar_kaggle.tables.submission import prior_predictions


@dataclass(frozen=True, eq=False)
class RunResults:
    """What a run's finished targets came to.

    Attributes:
        config: of the run.
        records: content of each finished target's ``target.json``, in the usual order.
        summary: as from `recipes.baseline.summary.summarise`, indexed by target name.
        predictions: per target the columns ``row_id, fold, truth`` and `SEVERITIES`, uncalibrated.
        histories: per target the columns ``fold, epoch, train_loss, valid_loss, accuracy``.
        oof: columns ``row_id, fold`` and `SEVERITIES`, calibrated; None where the run has none.
    """

    config: BaselineConfig
    records: list[dict[str, Any]]
    summary: pd.DataFrame
    predictions: dict[str, pd.DataFrame]
    histories: dict[str, pd.DataFrame]
    oof: pd.DataFrame | None

    @property
    def targets(self) -> list[str]:
        """Names of the finished targets."""
        return [str(record["target"]) for record in self.records]

    @property
    def studies(self) -> int:
        """Distinct studies among the validation rows."""
        return int(self.truth()["study_id"].nunique())

    def confusion(self, name: str) -> NDArray[np.int64]:
        """Return the confusion matrix ``[3 true, 3 most probable]`` of one target."""
        rows = self.predictions[name]
        return confusion(rows[list(SEVERITIES)].to_numpy(), rows["truth"].to_numpy())

    def truth(self) -> pd.DataFrame:
        """Rebuild the labels of the validation rows: ``row_id, study_id, target, severity``."""
        rows = pd.concat(list(self.predictions.values()), ignore_index=True).drop_duplicates("row_id")
        parts = pd.DataFrame([split_row_id(row) for row in rows["row_id"]], columns=["study_id", "target"])
        return parts.assign(row_id=rows["row_id"].to_numpy(), severity=rows["truth"].to_numpy())


def read_run_results(run: Path) -> RunResults:
    """Read a run folder.

    The table is made from the records anew, so that targets finished since the run's last clean stop
    are in it.

    Raises:
        InputError: no run, no finished target, or a file of a finished target is missing.
    """
    config, records = read_run(run), read_results(run)
    if not records:
        raise InputError(f"{run}: no target is finished yet; run lumbar train again to go on")
    try:
        summary = summarise(run, records)
        predictions = {record["target"]: validation_predictions(run, record) for record in records}
        curves = {record["target"]: histories(run, record) for record in records}
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file; the run is incomplete, copy it whole") from None
    oof = read_csv(run / "oof.csv", ("row_id", *SEVERITIES), RERUN) if (run / "oof.csv").is_file() else None
    return RunResults(config, records, summary.set_index("label", drop=False), predictions, curves, oof)


class ScoreTable(NamedTuple):
    """The official score of the out-of-fold predictions, beside the prior's on the same rows.

    Attributes:
        lines: ``(part, score, prior)`` of the four parts and the total; None where a part has no rows.
        rows: scored rows.
        losses: indexed by target, columns ``oof, prior``: weighted log losses.
    """

    lines: list[tuple[str, float | None, float | None]]
    rows: int
    losses: pd.DataFrame


def score_beside_prior(oof: pd.DataFrame, truth: pd.DataFrame) -> ScoreTable:
    """Score predictions beside the prior.

    The prior is taken from the very rows it is scored on, which is the best a constant can do.

    Args:
        oof: columns ``row_id`` and `SEVERITIES`.
        truth: columns ``row_id, study_id, target, severity``; rows that are not predicted do not count.
    """
    truth = truth[truth["row_id"].isin(oof["row_id"])]
    constant = prior_predictions(weighted_prior(truth), truth)
    ours, prior = score(oof, truth), score(constant, truth)
    lines = [(name, ours.parts.get(name), prior.parts.get(name)) for name in PARTS]
    losses = {
        name: evaluate_targets(table, truth).set_index("target")["weighted_log_loss"]
        for name, table in (("oof", oof), ("prior", constant))
    }
    return ScoreTable([*lines, ("total", ours.total, prior.total)], ours.scored, pd.DataFrame(losses))


class Comparison(NamedTuple):
    """An honest run beside one by the report's protocol, on the targets that both have.

    Attributes:
        table: indexed by target, columns ``honest, report`` (latest accuracy), ``honest_recall,
            report_recall`` (mean over the severities) and ``always_normal``.
        shared: share of the report protocol's validation rows whose picture was trained on too.
        differing: settings other than the protocol and the targets in which the runs differ.
    """

    table: pd.DataFrame
    shared: float
    differing: list[str]


def compare(honest: RunResults, report: RunResults) -> Comparison:
    """Put the accuracies of both protocols side by side.

    Raises:
        InputError: the first run is not honest, the second not by the report's protocol, or they
            have no target in common.
    """
    if (honest.config.protocol, report.config.protocol) != ("honest", "report"):
        raise InputError(
            "the comparison takes an honest run and, with --against, one trained with --protocol report; "
            f"these are {honest.config.protocol} and {report.config.protocol}"
        )
    names = [name for name in honest.targets if name in report.targets]
    if not names:
        raise InputError("the run given with --against has no finished target in common with the first")
    ours, theirs = honest.summary.loc[names], report.summary.loc[names]
    table = pd.DataFrame(
        {
            "honest": ours["latest_accuracy"],
            "report": theirs["latest_accuracy"],
            "honest_recall": ours["recall"],
            "report_recall": theirs["recall"],
            "always_normal": ours["always_normal"],
        }
    )
    first, second = asdict(honest.config), asdict(report.config)
    differing = [key for key in first if first[key] != second[key] and key not in ("targets", "protocol")]
    shared = float(np.mean(np.concatenate([_also_elsewhere(report.predictions[name]) for name in names])))
    return Comparison(table, shared, differing)


def _also_elsewhere(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether each validation row has a copy in another fold, that is in its own training part."""
    folds = rows.groupby("row_id")["fold"].transform("nunique")
    elsewhere: NDArray[np.bool_] = (folds > 1).to_numpy()
    return elsewhere
