"""The page of a run of the baseline: its figures, curves and comparison with another protocol."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from lumbar_kaggle.baseline.recipe import NAME
from lumbar_kaggle.baseline.run import RERUN, Run
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_csv
from lumbar_kaggle.core.targets import CONDITIONS, SEVERITIES, TARGET_NAMES, split_row_id, target
from lumbar_kaggle.inference.bundle import Bundle, explain_studies
from lumbar_kaggle.inference.recipes import Report
from lumbar_kaggle.pages import charts
from lumbar_kaggle.pages.pictures import explained_slice
from lumbar_kaggle.pages.render import target_words
from lumbar_kaggle.scoring.comparison import score_beside_prior
from lumbar_kaggle.scoring.metric import confusion


def report(
    run: Path, *, against: Path | None, bundle: Path | None, studies: Sequence[str], folder: Path | None
) -> Report:
    """Return what the page shows of a run; see `Recipe.report`."""
    trained = Run(run)
    trained.check_finished()
    summary, truth = trained.summary.set_index("label", drop=False), truth_of(trained)
    oof = read_csv(run / "oof.csv", ("row_id", *SEVERITIES), RERUN) if (run / "oof.csv").is_file() else None
    missing, weights = len(trained.unfinished), trained.config.weights
    # The name alone: where the file lay on somebody's disk is of no use to a reader.
    source = "the library's own" if weights == "auto" else Path(weights).name
    pretrained = {bool(fold["pretrained"]) for record in trained.records for fold in record["folds"]}
    content = {
        "config": trained.config,
        "facts": {
            "studies": truth["study_id"].nunique(),
            "rows": len(trained.predictions),
            "finished": len(trained.targets),
            "all": len(TARGET_NAMES),
            "weights": source if pretrained == {True} else "none: trained from random weights",
            "mixed_weights": len(pretrained) > 1,
        },
        "unfinished": f": targets still to be trained: {missing}" if missing else "",
        "scores": None if oof is None else score_beside_prior(oof, truth),
        "summary": summary.to_dict("records"),
        "averages": {"label": "Average", **summary.mean(numeric_only=True)},
        "comparison": None if against is None else compare(trained, Run(against)),
        "sizes": charts.bar_rows(summary["training_size"]),
        "accuracies": charts.bar_rows(summary["latest_accuracy"], high=1.0, marks=summary["always_normal"]),
        "seconds": charts.bar_rows(summary["seconds_per_epoch"]),
        "scatter": charts.accuracy_scatter(summary["latest_accuracy"], summary["max_accuracy"]),
        "details": _details(trained),
        "studies": _pictured_studies(studies, bundle, folder),
    }
    return Report(Path(__file__).with_name("report.html"), content)


def truth_of(run: Run) -> pd.DataFrame:
    """Rebuild the labels of a run's validation rows: ``row_id, study_id, target, severity``."""
    rows = run.predictions.drop_duplicates("row_id").rename(columns={"truth": "severity"})
    rows["study_id"] = [split_row_id(row)[0] for row in rows["row_id"]]
    return rows[["row_id", "study_id", "target", "severity"]].reset_index(drop=True)


def compare(honest: Run, report: Run) -> dict[str, Any]:
    """Put an honest run beside one by the report's protocol, on the targets that both have. Returns ``rows`` and their
    ``means``, ``honest`` and ``report`` being latest accuracies and the recalls means over the severities; ``shared``,
    the share of the report protocol's validation rows whose picture was trained on too; ``differing``, other settings
    in which the runs differ; and two charts. Raises `InputError` where the runs are not by these protocols or have no
    target in common."""
    report.check_finished()
    if (protocols := (honest.config.protocol, report.config.protocol)) != ("honest", "report"):
        wanted = "the comparison takes an honest run and, with --against, one trained with --protocol report"
        raise InputError(f"{wanted}; these are {' and '.join(protocols)}")
    # An inner join in the order of the first, which is the usual one.
    both = honest.summary.merge(report.summary, on="label", suffixes=("", "_report")).set_index("label")
    if both.empty:
        raise InputError("the run given with --against has no finished target in common with the first")
    table = both[["latest_accuracy", "latest_accuracy_report", "recall", "recall_report", "always_normal"]]
    table.columns = pd.Index(["honest", "report", "honest_recall", "report_recall", "always_normal"])
    first, second = asdict(honest.config), asdict(report.config)
    # A row that has a copy in another fold has one in its own training part.
    rows = report.predictions[report.predictions["target"].isin(table.index)]
    title = "{} by both protocols, per target"
    return {
        "rows": [{"target": name, **row} for name, row in table.to_dict("index").items()],
        "means": {"target": "Average", **table.mean()},
        "shared": float((rows.groupby(["target", "row_id"])["fold"].transform("nunique") > 1).mean()),
        "differing": [key for key in first if first[key] != second[key] and key not in ("targets", "protocol")],
        "accuracy_chart": charts.paired_dots(table["honest"], table["report"], title.format("Accuracy")),
        "recall_chart": charts.paired_dots(table["honest_recall"], table["report_recall"], title.format("Mean recall")),
    }


def _details(run: Run) -> list[dict[str, Any]]:
    """Return the loss curve and the confusion matrix of each target, grouped by condition."""
    cards: dict[str, list[dict[str, Any]]] = {condition: [] for condition in CONDITIONS}
    for name in run.targets:
        history, rows = (table[table["target"] == name] for table in (run.histories, run.predictions))
        cards[target(name).condition].append(
            {
                "target": name,
                "level": target(name).level,
                "loss": charts.loss_curves(history, f"Losses of {target_words(name)}"),
                "confusion": confusion(rows[list(SEVERITIES)].to_numpy(), rows["truth"].to_numpy()).tolist(),
            }
        )
    return [{"condition": condition, "cards": some} for condition, some in cards.items() if some]


def _pictured_studies(studies: Sequence[str], bundle: Path | None, folder: Path | None) -> list[dict[str, Any]]:
    if not studies:
        return []
    if bundle is None or folder is None:
        raise InputError("pictures of studies need the models and the images: give --bundle and --folder too")
    graders = Bundle(bundle)
    if graders.manifest.recipe != NAME:
        raise InputError(f"{bundle}: made by recipe {graders.manifest.recipe!r}; give the one exported from this run")
    # The canal targets, which the middle slice shows best, or else the first ones there are.
    targets = graders.manifest.targets
    names = [name for name in targets if target(name).score_group == "spinal"] or targets
    return [
        {"study_id": one.study_id, "reason": "; ".join(one.notes), **explained_slice(one)}
        for one in explain_studies(folder, studies, graders, names[:5])  # the study page has them all
    ]
