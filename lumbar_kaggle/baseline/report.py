"""The page of a run of the baseline: its figures, curves and comparison with another protocol."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.baseline.config import BaselineConfig
from lumbar_kaggle.baseline.run import (
    COLUMNS,
    RERUN,
    averages,
    histories,
    read_results,
    read_run,
    summarise,
    validation_predictions,
)
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_csv
from lumbar_kaggle.core.targets import CONDITIONS, SEVERITIES, TARGET_NAMES, split_row_id, target
from lumbar_kaggle.inference.bundle import read_manifest
from lumbar_kaggle.inference.predict import explain_studies
from lumbar_kaggle.inference.recipes import Report
from lumbar_kaggle.pages import charts
from lumbar_kaggle.pages.pictures import explained_slice
from lumbar_kaggle.pages.render import target_words
from lumbar_kaggle.scoring.comparison import score_beside_prior
from lumbar_kaggle.scoring.metric import confusion

TEMPLATE = Path(__file__).with_name("report.html")

MAPS_PER_STUDY = 5
"""Heat maps shown of each chosen study; the study page has them all."""


@dataclass(frozen=True, eq=False)
class RunResults:
    """What a run's finished targets came to.

    Attributes:
        config: of the run.
        records: content of each finished target's ``target.json``, in the usual order.
        summary: as from `run.summarise`, indexed by target name.
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
    # A row that has a copy in another fold has one in its own training part.
    rows = pd.concat([report.predictions[name] for name in names], keys=names, names=["target"])
    shared = float((rows.groupby(["target", "row_id"])["fold"].transform("nunique") > 1).mean())
    return Comparison(table, shared, differing)


def report(
    run: Path, *, against: Path | None, bundle: Path | None, studies: Sequence[str], folder: Path | None
) -> Report:
    """Return what the page shows of a run; see `Recipe.report`."""
    results = read_run_results(run)
    summary, missing = results.summary, len(set(results.config.targets) - set(results.targets))
    content = {
        "config": results.config,
        "facts": _facts(results),
        "unfinished": f": targets still to be trained: {missing}" if missing else "",
        "scores": None if results.oof is None else score_beside_prior(results.oof, results.truth()),
        "columns": COLUMNS,
        "summary": summary.to_dict("records"),
        "averages": averages(summary) | {"label": "Average", "convergence_rate": "–", "description": "–"},
        "comparison": None if against is None else _comparison(results, read_run_results(against)),
        "sizes": charts.bar_rows(summary["training_size"]),
        "accuracies": charts.bar_rows(summary["latest_accuracy"], high=1.0, marks=summary["always_normal"]),
        "seconds": charts.bar_rows(summary["seconds_per_epoch"]),
        "scatter": charts.accuracy_scatter(summary["latest_accuracy"], summary["max_accuracy"]),
        "details": _details(results),
        "studies": _pictured_studies(studies, bundle, folder),
    }
    return Report(TEMPLATE, content)


def _facts(results: RunResults) -> dict[str, Any]:
    config, folds = results.config, [fold for record in results.records for fold in record["folds"]]
    pretrained = {bool(fold["pretrained"]) for fold in folds}
    # The name alone: where the file lay on somebody's disk is of no use to a reader.
    source = {"auto": "the library's own", "none": "none"}.get(config.weights, Path(config.weights).name)
    return {
        "studies": int(results.truth()["study_id"].nunique()),
        "rows": int(results.summary["rows"].sum()),
        "finished": len(results.targets),
        "all": len(TARGET_NAMES),
        "weights": source if pretrained == {True} else "none: trained from random weights",
        "mixed_weights": len(pretrained) > 1,
    }


def _comparison(honest: RunResults, report: RunResults) -> dict[str, Any]:
    comparison = compare(honest, report)
    table = comparison.table
    return {
        "rows": [{"target": name, **row} for name, row in table.to_dict("index").items()],
        "means": {"target": "Average", **table.mean()},
        "shared": comparison.shared,
        "differing": comparison.differing,
        "accuracy_chart": charts.paired_dots(
            table["honest"], table["report"], "Accuracy by both protocols, per target"
        ),
        "recall_chart": charts.paired_dots(
            table["honest_recall"], table["report_recall"], "Mean recall by both protocols, per target"
        ),
    }


def _details(results: RunResults) -> list[dict[str, Any]]:
    """Loss curve and confusion matrix of each target, grouped by condition."""
    groups = []
    for condition in CONDITIONS:
        names = [name for name in results.targets if target(name).condition == condition]
        cards = [
            {
                "target": name,
                "level": target(name).level,
                "loss": charts.loss_curves(results.histories[name], f"Losses of {target_words(name)}"),
                "confusion": results.confusion(name).tolist(),
            }
            for name in names
        ]
        if cards:
            groups.append({"condition": condition, "cards": cards})
    return groups


def _pictured_studies(studies: Sequence[str], bundle: Path | None, folder: Path | None) -> list[dict[str, Any]]:
    if not studies:
        return []
    if bundle is None or folder is None:
        raise InputError("pictures of studies need the models and the images: give --bundle and --folder too")
    manifest, shown = read_manifest(bundle), []
    if manifest.recipe != "baseline":
        raise InputError(f"{bundle}: made by recipe {manifest.recipe!r}; give the one exported from this run")
    # The canal targets, which the middle slice shows best, or else the first ones there are.
    canal = [name for name in manifest.targets if target(name).score_group == "spinal"]
    names = (canal or manifest.targets)[:MAPS_PER_STUDY]
    for one in explain_studies(folder, studies, bundle, names):
        content = explained_slice(one, one.slice) if one.slice is not None else {}
        shown.append({"study_id": one.study_id, "reason": "; ".join(one.notes), **content})
    return shown
