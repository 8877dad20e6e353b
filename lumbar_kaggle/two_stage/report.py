"""The page of a two-stage run: how well the points were found, how the models learned and how they grade."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_csv
from lumbar_kaggle.core.settings import load_config
from lumbar_kaggle.core.targets import CONDITIONS, SEVERITIES, TARGET_NAMES, condition_words, split_row_id, target
from lumbar_kaggle.inference.recipes import Report
from lumbar_kaggle.pages import charts
from lumbar_kaggle.scoring.comparison import score_beside_prior
from lumbar_kaggle.scoring.metric import confusion
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.two_stage import config as two_stage
from lumbar_kaggle.two_stage.config import GradeConfig

TEMPLATE = Path(__file__).with_name("report.html")

NOISE_ROWS = 20
"""Contradicted labels shown; the run's own table has them all."""


def report(
    run: Path, *, against: Path | None, bundle: Path | None, studies: Sequence[str], folder: Path | None
) -> Report:
    """Return what is there of a run; what is not finished yet is said on the page. See `Recipe.report`."""
    if against or bundle or studies:
        raise InputError(
            f"{run}: the page of a two-stage run takes no --against, --bundle or --studies; "
            "lumbar study shows where its models look"
        )
    config = load_config(run / two_stage.RUN_FILE, two_stage.TwoStageConfig)
    names = ("locator/folds.csv", "locator/figures.csv", "oof.csv", "noise.csv")
    folds, figures, oof, noise = (_read(run / name) for name in names)
    blend = run / "blend.txt"
    scored = None
    if folder is not None and not oof.empty:
        scored = _scored(oof, read_competition(folder, "train").labels)
    content = {
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
    return Report(TEMPLATE, content)


def _read(path: Path) -> pd.DataFrame:
    """Return a table of the run as far as it is there; empty cells stay empty text."""
    return read_csv(path, (), two_stage.RERUN, keep_default_na=False) if path.is_file() else pd.DataFrame()


def _model(run: Path, number: int, config: GradeConfig) -> dict[str, Any]:
    """Return a model's settings and the losses of the folds that are finished."""
    folder = two_stage.grade_folder(run, number)
    files = {fold: folder / f"fold-{fold}-history.csv" for fold in range(config.folds)}
    columns = ("epoch", "train_loss", "valid_loss")
    parts = [
        read_csv(path, columns, two_stage.RERUN).assign(fold=fold) for fold, path in files.items() if path.is_file()
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
        "losses": charts.bar_rows(losses["score"], high=float(losses.to_numpy().max()), marks=losses["prior"]),
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
