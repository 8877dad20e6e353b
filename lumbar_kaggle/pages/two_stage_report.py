"""The page of a two-stage run: what the locator found, how the models learned, how the blend grades."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pandas as pd

from lumbar_kaggle.competition import read_competition
from lumbar_kaggle.evaluation import confusion
from lumbar_kaggle.files import write_text
from lumbar_kaggle.pages import charts
from lumbar_kaggle.pages.render import render
from lumbar_kaggle.pages.results import score_beside_prior
from lumbar_kaggle.recipes.two_stage import config as configuration
from lumbar_kaggle.recipes.two_stage.config import RUN_FILE, grade_folder
from lumbar_kaggle.recipes.two_stage.grading.config import GradeConfig
from lumbar_kaggle.targets import CONDITIONS, SEVERITIES, TARGET_NAMES, condition_words, split_row_id, target

NOISE_ROWS = 20
"""Contradicted labels shown; the run's own table has them all."""


def write_two_stage_report(
    run: Path, out: Path, *, folder: Path | None = None, score_text: str | None = None
) -> Path:
    """Write the report page of a two-stage run; the same inputs give the same bytes.

    Args:
        run: folder of the run, see `recipes.two_stage.fit`; what is not finished yet is said on the page.
        out: the page, written atomically.
        folder: competition folder with the labels, to score the out-of-fold predictions beside the prior.
        score_text: a score table to show as it is, such as the one of ``lumbar score``.

    Returns:
        `out`.

    Raises:
        InputError: the run's configuration, or a table of the folder, is missing or faulty.
    """
    config = configuration.load(run / RUN_FILE)
    folds, oof, noise = (_read(run / name) for name in ("locator/folds.csv", "oof.csv", "noise.csv"))
    figures = _read(run / "locator" / "figures.csv")
    blend = run / "blend.txt"
    page = render(
        "two_stage_report.html",
        locate=config.locate,
        models=[_model(run, number, one) for number, one in enumerate(config.grade, start=1)],
        studies=0 if folds is None else len(folds),
        figures=[] if figures is None else figures.to_dict("records"),
        finished=oof is not None,
        score_text=score_text,
        blend=blend.read_text(encoding="utf-8") if blend.is_file() else "",
        noise=[]
        if noise is None
        else [_contradicted(row) for row in noise.head(NOISE_ROWS).to_dict("records")],
        contradicted=0 if noise is None else len(noise),
        **_scored(oof, folder),
    )
    write_text(out, page)
    return out


def _read(path: Path) -> pd.DataFrame | None:
    """Return a table of the run as far as it is there; empty cells stay empty text."""
    return pd.read_csv(path, keep_default_na=False) if path.is_file() else None


def _model(run: Path, number: int, config: GradeConfig) -> dict[str, Any]:
    """Return a model's settings and the losses of the folds that are finished."""
    folder = grade_folder(run, number)
    files = {fold: folder / f"fold-{fold}-history.csv" for fold in range(config.folds)}
    parts = [pd.read_csv(path).assign(fold=fold) for fold, path in files.items() if path.is_file()]
    finished = sum((folder / f"fold-{fold}-predictions.csv").is_file() for fold in range(config.folds))
    chart = None
    if parts:
        history = pd.concat(parts, ignore_index=True)
        # The file counts epochs from 0, the chart from 1.
        chart = charts.loss_curves(history.assign(epoch=history["epoch"] + 1), f"Losses of model {number}")
    return {"number": number, "config": config, "finished": finished, "chart": chart}


def _scored(oof: pd.DataFrame | None, folder: Path | None) -> dict[str, Any]:
    """Return the score beside the prior's and its charts; None without predictions or labels."""
    if oof is None or folder is None:
        return {"scores": None, "losses": [], "confusions": []}
    truth = read_competition(folder, "train").labels
    scores = score_beside_prior(oof, truth)
    return {"scores": scores, "losses": _losses(scores.losses), "confusions": _confusions(oof, truth)}


def _losses(losses: pd.DataFrame) -> list[dict[str, Any]]:
    ordered = losses.reindex([name for name in TARGET_NAMES if name in losses.index])
    return charts.bar_rows(ordered["oof"], high=float(ordered.to_numpy().max()), marks=ordered["prior"])


def _confusions(oof: pd.DataFrame, truth: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a confusion matrix per condition, over its levels."""
    both = oof.merge(truth[["row_id", "severity"]], on="row_id")
    conditions = both["row_id"].map(lambda row: target(split_row_id(row)[1]).condition)
    cards = []
    for condition in CONDITIONS:
        rows, words = both[conditions == condition], condition_words(condition)
        if len(rows):
            matrix = confusion(rows[list(SEVERITIES)].to_numpy(), rows["severity"].to_numpy())
            cards.append({"title": words, "matrix": matrix.tolist()})
    return cards


def _contradicted(row: dict[Hashable, Any]) -> dict[str, Any]:
    study_id, name = split_row_id(row["row_id"])
    shown = {str(key): value for key, value in row.items()}
    return {**shown, "study_id": study_id, "target": name}
