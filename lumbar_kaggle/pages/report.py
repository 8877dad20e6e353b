"""The page of a training run: every figure and curve of it in one self-contained HTML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lumbar_kaggle.bundle import read_manifest
from lumbar_kaggle.errors import InputError
from lumbar_kaggle.explain.shown import BaselineExplanation
from lumbar_kaggle.files import write_text
from lumbar_kaggle.pages import charts
from lumbar_kaggle.pages.pictures import explained_slice
from lumbar_kaggle.pages.render import render, target_words
from lumbar_kaggle.pages.results import Comparison, RunResults, compare, read_run_results, score_table
from lumbar_kaggle.pages.two_stage_report import write_two_stage_report
from lumbar_kaggle.recipes.baseline.summary import COLUMNS, averages
from lumbar_kaggle.recipes.two_stage.config import RUN_FILE
from lumbar_kaggle.targets import CONDITIONS, TARGET_NAMES, target

MAPS_PER_STUDY = 5
"""Heat maps shown of each chosen study; the study page has them all."""


def write_report(
    run: Path,
    out: Path,
    *,
    against: Path | None = None,
    bundle: Path | None = None,
    studies: Sequence[str] = (),
    folder: Path | None = None,
    score_text: str | None = None,
) -> Path:
    """Write the report page of a training run; the same inputs give the same bytes.

    Args:
        run: folder of an honest run, or of a two-stage one; it need not be finished.
        out: the page, written atomically.
        against: run by the report's protocol, whose accuracies are shown beside.
        bundle: exported models for the Grad-CAM pictures.
        studies: identifiers of the studies to picture; needs `bundle` and `folder`.
        folder: competition folder (its test split) or folder of studies that holds them; for a two-stage run
            the competition folder whose labels its out-of-fold predictions are scored by.
        score_text: a score table to show as it is, such as the one of ``lumbar score``.

    Returns:
        `out`.

    Raises:
        InputError: no run or nothing finished in it, runs that cannot be compared, an unknown study, studies
            without bundle and folder, or another run, bundle or studies given with a two-stage run. A study
            whose slice cannot be read is no error: the page says why.
    """
    if (run / RUN_FILE).is_file():
        if against or bundle or studies:
            raise InputError(
                f"{run}: the page of a two-stage run takes no --against, --bundle or --studies; "
                "lumbar study shows where its models look"
            )
        return write_two_stage_report(run, out, folder=folder, score_text=score_text)
    results = read_run_results(run)
    comparison = None if against is None else compare(results, read_run_results(against))
    page = render(
        "report.html",
        config=results.config,
        facts=_facts(results),
        scores=score_table(results),
        score_text=score_text,
        columns=COLUMNS,
        summary=results.summary.to_dict("records"),
        averages=averages(results.summary),
        comparison=None if comparison is None else _comparison_content(comparison),
        overview=_overview(results.summary),
        scatter=charts.accuracy_scatter(results.summary["latest_accuracy"], results.summary["max_accuracy"]),
        details=_details(results),
        studies=_pictured_studies(studies, bundle, folder),
    )
    write_text(out, page)
    return out


def _facts(results: RunResults) -> dict[str, Any]:
    config, folds = results.config, [fold for record in results.records for fold in record["folds"]]
    pretrained = {bool(fold["pretrained"]) for fold in folds}
    # The name alone: where the file lay on somebody's disk is of no use to a reader.
    source = {"auto": "the library's own", "none": "none"}.get(config.weights, Path(config.weights).name)
    return {
        "studies": results.studies,
        "rows": int(results.summary["rows"].sum()),
        "finished": len(results.targets),
        "planned": max(len(config.targets), len(results.targets)),
        "all": len(TARGET_NAMES),
        "weights": source if pretrained == {True} else "none: trained from random weights",
        "mixed_weights": len(pretrained) > 1,
    }


def _comparison_content(comparison: Comparison) -> dict[str, Any]:
    table = comparison.table
    return {
        "rows": [{"target": name, **row} for name, row in table.to_dict("index").items()],
        "means": table.mean().to_dict(),
        "shared": comparison.shared,
        "differing": comparison.differing,
        "accuracy_chart": charts.paired_dots(
            table["honest"], table["report"], "Accuracy by both protocols, per target"
        ),
        "recall_chart": charts.paired_dots(
            table["honest_recall"], table["report_recall"], "Mean recall by both protocols, per target"
        ),
    }


def _overview(summary: pd.DataFrame) -> list[dict[str, Any]]:
    normal = summary["always_normal"]
    return [
        {
            "title": "Training size",
            "note": "Pictures per fold, after upsampling.",
            "rows": charts.bar_rows(summary["training_size"]),
            "digits": 0,
        },
        {
            "title": "Latest accuracy",
            "note": "Mean over folds. The stroke is what always answering normal/mild reaches.",
            "rows": charts.bar_rows(summary["latest_accuracy"], high=1.0, marks=normal),
            "digits": 3,
        },
        {
            "title": "Seconds per epoch",
            "note": "Mean over epochs and folds.",
            "rows": charts.bar_rows(summary["seconds_per_epoch"]),
            "digits": 1,
        },
    ]


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


def _pictured_studies(
    studies: Sequence[str], bundle: Path | None, folder: Path | None
) -> list[dict[str, Any]]:
    if not studies:
        return []
    if bundle is None or folder is None:
        raise InputError("pictures of studies need the models and the images: give --bundle and --folder too")
    # Here and not above: it brings torch along.
    from lumbar_kaggle.explain.studies import explain_studies

    manifest, shown = read_manifest(bundle), []
    if manifest.recipe != "baseline":
        raise InputError(f"{bundle}: made by recipe {manifest.recipe!r}; give the one exported from this run")
    for one in explain_studies(folder, studies, bundle, _shown_targets(manifest.targets)):
        content = explained_slice(one) if isinstance(one, BaselineExplanation) else {}
        shown.append({"study_id": one.study_id, "reason": "; ".join(one.notes), **content})
    return shown


def _shown_targets(available: Sequence[str]) -> list[str]:
    """The canal targets, which the middle slice shows best, or else the first ones there are."""
    canal = [name for name in available if target(name).score_group == "spinal"]
    return (canal or list(available))[:MAPS_PER_STUDY]
