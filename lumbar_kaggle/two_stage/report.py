"""The page of a two-stage run: how well the points were found, how the models learned and how they grade."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_csv
from lumbar_kaggle.core.settings import load_config
from lumbar_kaggle.core.targets import CONDITIONS, SEVERITIES, TARGET_NAMES, condition_words, split_row_id
from lumbar_kaggle.inference.recipes import Report
from lumbar_kaggle.pages import charts
from lumbar_kaggle.scoring.comparison import score_beside_prior
from lumbar_kaggle.scoring.metric import confusion
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.two_stage.config import LOCATOR, RERUN, RUN_FILE, GradeConfig, TwoStageConfig


def report(
    run: Path, *, against: Path | None, bundle: Path | None, studies: Sequence[str], folder: Path | None
) -> Report:
    """Return what is there of a run; what is not finished yet is said on the page. See `Recipe.report`."""
    if against or bundle or studies:
        raise InputError(
            f"{run}: the page of a two-stage run takes no --against, --bundle or --studies; "
            "lumbar study shows where its models look"
        )
    config, blend = load_config(run / RUN_FILE, TwoStageConfig), run / "blend.txt"
    names = (f"{LOCATOR}/folds.csv", f"{LOCATOR}/figures.csv", "oof.csv", "noise.csv")
    # As far as they are there; empty cells stay empty text.
    folds, figures, oof, noise = (
        read_csv(run / name, (), RERUN, keep_default_na=False) if (run / name).is_file() else pd.DataFrame()
        for name in names
    )
    # The run's own table has all contradicted labels.
    contradicted = [(*split_row_id(row["row_id"]), row) for row in noise.head(20).to_dict("records")]
    content = {
        "locate": config.locate,
        "models": [_model(*model) for model in config.models(run)],
        "studies": len(folds),
        "figures": figures.to_dict("records"),
        "unfinished": " yet" if oof.empty else "",
        "blend": blend.read_text(encoding="utf-8") if blend.is_file() else "",
        "noise": [{**row, "study_id": study, "target": name} for study, name, row in contradicted],
        "contradicted": len(noise),
        "scores": None,
    }
    if folder is not None and not oof.empty:
        content |= _scored(oof, read_competition(folder, "train").labels)
    return Report(Path(__file__).with_name("report.html"), content)


def _model(number: int, folder: Path, config: GradeConfig) -> dict[str, Any]:
    """Return a model's settings and the losses of the folds that are finished."""
    columns = ("epoch", "train_loss", "valid_loss")
    files = {fold: folder / f"fold-{fold}-history.csv" for fold in range(config.folds)}
    parts = [read_csv(path, columns, RERUN).assign(fold=fold) for fold, path in files.items() if path.is_file()]
    return {
        "number": number,
        "config": config,
        "finished": sum((folder / f"fold-{fold}-predictions.csv").is_file() for fold in range(config.folds)),
        "chart": charts.loss_curves(pd.concat(parts), f"Losses of model {number}") if parts else None,
    }


def _scored(oof: pd.DataFrame, truth: pd.DataFrame) -> dict[str, Any]:
    """Return the score beside the prior's, the loss of each target and a confusion matrix per condition."""
    scores = score_beside_prior(oof, truth)
    losses = scores.losses.reindex([name for name in TARGET_NAMES if name in scores.losses.index])
    both = oof.merge(truth[["row_id", "target", "severity"]], on="row_id")
    parts = [(name, both[both["target"].str.startswith(name)]) for name in CONDITIONS]
    return {
        "scores": scores,
        "losses": charts.bar_rows(losses["score"], high=float(losses.to_numpy().max()), marks=losses["prior"]),
        "confusions": {
            condition_words(name): confusion(rows[list(SEVERITIES)].to_numpy(), rows["severity"].to_numpy()).tolist()
            for name, rows in parts
            if len(rows)
        },
    }
