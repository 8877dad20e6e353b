"""The page of a training run, of either recipe: every figure and curve of it in one self-contained file."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lumbar_kaggle.baseline.run import COLUMNS, averages
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_csv, write_text
from lumbar_kaggle.core.targets import (
    CONDITIONS,
    SEVERITIES,
    TARGET_NAMES,
    condition_words,
    split_row_id,
    target,
)
from lumbar_kaggle.inference.bundle import read_manifest
from lumbar_kaggle.inference.shown import BaselineExplanation
from lumbar_kaggle.pages import charts
from lumbar_kaggle.pages.pictures import explained_slice
from lumbar_kaggle.pages.render import render, target_words
from lumbar_kaggle.pages.results import RunResults, compare, read_run_results, score_beside_prior
from lumbar_kaggle.score.agreement import confusion
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.two_stage import config as two_stage
from lumbar_kaggle.two_stage.grade.config import GradeConfig

MAPS_PER_STUDY = 5
"""Heat maps shown of each chosen study; the study page has them all."""

NOISE_ROWS = 20
"""Contradicted labels shown; the run's own table has them all."""


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
    if (run / two_stage.RUN_FILE).is_file():
        if against or bundle or studies:
            raise InputError(
                f"{run}: the page of a two-stage run takes no --against, --bundle or --studies; "
                "lumbar study shows where its models look"
            )
        template, content = "two_stage_report.html", _two_stage(run, folder)
    else:
        template, content = "baseline_report.html", _baseline(run, against)
        content["studies"] = _pictured_studies(studies, bundle, folder)
    write_text(out, render(template, score_text=score_text, **content))
    return out


def _baseline(run: Path, against: Path | None) -> dict[str, Any]:
    results = read_run_results(run)
    summary, missing = results.summary, len(set(results.config.targets) - set(results.targets))
    return {
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
    }


def _facts(results: RunResults) -> dict[str, Any]:
    config, folds = results.config, [fold for record in results.records for fold in record["folds"]]
    pretrained = {bool(fold["pretrained"]) for fold in folds}
    # The name alone: where the file lay on somebody's disk is of no use to a reader.
    source = {"auto": "the library's own", "none": "none"}.get(config.weights, Path(config.weights).name)
    return {
        "studies": results.studies,
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


def _pictured_studies(
    studies: Sequence[str], bundle: Path | None, folder: Path | None
) -> list[dict[str, Any]]:
    if not studies:
        return []
    if bundle is None or folder is None:
        raise InputError("pictures of studies need the models and the images: give --bundle and --folder too")
    # Here and not above: it brings torch along.
    from lumbar_kaggle.inference.explain import explain_studies

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


def _two_stage(run: Path, folder: Path | None) -> dict[str, Any]:
    """Return what is there of a run; what is not finished yet is said on the page."""
    config = two_stage.load(run / two_stage.RUN_FILE)
    names = ("locator/folds.csv", "locator/figures.csv", "oof.csv", "noise.csv")
    folds, figures, oof, noise = (_read(run / name) for name in names)
    blend = run / "blend.txt"
    scored = None
    if folder is not None and not oof.empty:
        scored = _scored(oof, read_competition(folder, "train").labels)
    return {
        "locate": config.locate,
        "models": [_model(run, number, one) for number, one in enumerate(config.grade, start=1)],
        "studies": len(folds),
        "figures": figures.to_dict("records"),
        "unfinished": " yet" if oof.empty else "",
        "blend": blend.read_text(encoding="utf-8") if blend.is_file() else "",
        "noise": [_contradicted(row) for row in noise.head(NOISE_ROWS).to_dict("records")],
        "contradicted": len(noise),
        **(scored or {"scores": None}),
    }


def _read(path: Path) -> pd.DataFrame:
    """Return a table of the run as far as it is there; empty cells stay empty text."""
    return read_csv(path, (), two_stage.RERUN, keep_default_na=False) if path.is_file() else pd.DataFrame()


def _model(run: Path, number: int, config: GradeConfig) -> dict[str, Any]:
    """Return a model's settings and the losses of the folds that are finished."""
    folder = two_stage.grade_folder(run, number)
    files = {fold: folder / f"fold-{fold}-history.csv" for fold in range(config.folds)}
    columns = ("epoch", "train_loss", "valid_loss")
    parts = [
        read_csv(path, columns, two_stage.RERUN).assign(fold=fold)
        for fold, path in files.items()
        if path.is_file()
    ]
    finished = sum((folder / f"fold-{fold}-predictions.csv").is_file() for fold in range(config.folds))
    chart = None
    if parts:
        history = pd.concat(parts, ignore_index=True)
        # The file counts epochs from 0, the chart from 1.
        chart = charts.loss_curves(history.assign(epoch=history["epoch"] + 1), f"Losses of model {number}")
    return {"number": number, "config": config, "finished": finished, "chart": chart}


def _scored(oof: pd.DataFrame, truth: pd.DataFrame) -> dict[str, Any]:
    """Return the score beside the prior's, the loss of each target and a confusion matrix per condition."""
    scores = score_beside_prior(oof, truth)
    losses = scores.losses.reindex([name for name in TARGET_NAMES if name in scores.losses.index])
    both = oof.merge(truth[["row_id", "severity"]], on="row_id")
    conditions = both["row_id"].map(lambda row: target(split_row_id(row)[1]).condition)
    parts = [(condition_words(condition), both[conditions == condition]) for condition in CONDITIONS]
    return {
        "scores": scores,
        "losses": charts.bar_rows(losses["oof"], high=float(losses.to_numpy().max()), marks=losses["prior"]),
        "confusions": {
            words: confusion(rows[list(SEVERITIES)].to_numpy(), rows["severity"].to_numpy()).tolist()
            for words, rows in parts
            if len(rows)
        },
    }


def _contradicted(row: dict[Hashable, Any]) -> dict[str, Any]:
    study_id, name = split_row_id(row["row_id"])
    shown = {str(key): value for key, value in row.items()}
    return {**shown, "study_id": study_id, "target": name}
