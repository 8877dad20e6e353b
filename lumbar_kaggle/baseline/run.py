"""What lies where in a run folder, and the report's table of it; readable without torch.

::

    config.json  folds.csv  prior.csv     written first
    targets/{target}/                     see `training`
    oof.csv  calibration.json             honest protocol only, over the finished targets
    summary.csv                           the report's table
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lumbar_kaggle.baseline.config import BaselineConfig
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_csv, read_json
from lumbar_kaggle.core.settings import load_config
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES
from lumbar_kaggle.score.agreement import evaluate

RERUN = "delete the folder of its target, or the run, and run lumbar train again"
"""What to do where a table of a run is damaged."""

COLUMNS = {
    "label": "Label",
    "latest_accuracy": "Latest accuracy",
    "max_accuracy": "Max accuracy",
    "seconds_per_epoch": "Average training time per epoch (s)",
    "optimal_epochs": "Optimal epochs",
    "training_size": "Training size",
    "convergence_rate": "Convergence rate",
    "description": "Description",
    "suggested_lr": "Suggested learning rate",
}
"""The report's columns and their headings; `summarise` adds more behind them."""


def read_run(run: Path) -> BaselineConfig:
    """Return the configuration of a run folder.

    Raises:
        InputError: the folder holds no run.
    """
    if not (run / "config.json").is_file():
        raise InputError(f"{run}: holds no training run; give the --out folder of lumbar train")
    return load_config(run / "config.json", BaselineConfig)


def target_folder(run: Path, name: str) -> Path:
    """Return the folder of one target."""
    return run / "targets" / name


def finished_targets(run: Path) -> tuple[str, ...]:
    """Return the targets of a run that are finished, in the usual order."""
    return tuple(name for name in TARGET_NAMES if (target_folder(run, name) / "target.json").is_file())


def read_results(run: Path) -> list[dict[str, Any]]:
    """Return the content of every finished target's ``target.json``; see `training.train_target`."""
    return [read_json(target_folder(run, name) / "target.json") for name in finished_targets(run)]


def fold_folder(run: Path, result: dict[str, Any], fold: int) -> Path:
    """Return the folder of one kept fold of a finished target."""
    return target_folder(run, result["target"]) / str(result["stage"]) / f"fold-{fold}"


def validation_predictions(run: Path, result: dict[str, Any]) -> pd.DataFrame:
    """Return the kept folds' uncalibrated validation predictions of one target.

    Returns:
        Columns ``row_id, fold, truth, normal_mild, moderate, severe``.
    """
    return _of_folds(run, result, "predictions.csv", "row_id", "truth", *SEVERITIES)


def histories(run: Path, result: dict[str, Any]) -> pd.DataFrame:
    """Return the kept folds' histories of one target.

    Returns:
        Columns ``fold, epoch, train_loss, valid_loss, accuracy``.
    """
    return _of_folds(run, result, "history.csv", "epoch")


def _of_folds(run: Path, result: dict[str, Any], file: str, *columns: str) -> pd.DataFrame:
    """Return a table of the kept folds of one target with the column ``fold``."""
    folds = [record["fold"] for record in result["folds"]]
    parts = [read_csv(fold_folder(run, result, fold) / file, columns, RERUN) for fold in folds]
    return pd.concat(
        [part.assign(fold=fold) for fold, part in zip(folds, parts, strict=True)], ignore_index=True
    )


def summarise(run: Path, results: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the report's table.

    Args:
        run: the run folder.
        results: contents of the finished targets' ``target.json``.

    Returns:
        The columns of `COLUMNS`, then ``stage`` (which run was kept), ``accuracy`` (of the kept
        weights), ``always_normal`` (accuracy of answering normal/mild each time) and further figures
        of `agreement.evaluate` on the uncalibrated validation predictions. Means over folds.
    """
    return pd.DataFrame([_row(run, result) for result in results])


def _row(run: Path, result: dict[str, Any]) -> dict[str, object]:
    records = pd.DataFrame(result["folds"])
    predictions = validation_predictions(run, result)
    figures = evaluate(predictions[list(SEVERITIES)].to_numpy(), predictions["truth"].to_numpy())
    latest, best = records["latest_accuracy"].mean(), records["best_accuracy"].mean()
    optimal, planned = records["best_epoch"].mean(), int(records["epochs_planned"].iloc[0])
    lr = result["lr"]["valley"]
    return {
        "label": result["target"],
        "latest_accuracy": latest,
        "max_accuracy": best,
        "seconds_per_epoch": records["seconds_per_epoch"].mean(),
        "optimal_epochs": round(optimal),
        "training_size": int(records["training_rows"].mean()),
        "convergence_rate": convergence_rate(optimal, planned),
        "description": description(latest, figures["always_normal"]),
        "suggested_lr": math.nan if lr is None else lr,
        "stage": result["stage"],
        "epochs": planned,
        "lr_used": result["lr"]["used"],
        "folds": len(records),
        **{name: value for name, value in figures.items() if name != "weighted_log_loss"},
    }


def convergence_rate(optimal_epoch: float, epochs: int) -> str:
    """Say how early the best validation loss came: in the first third fast, the second moderate.

    >>> convergence_rate(2, 10), convergence_rate(9, 10)
    ('fast', 'slow')
    """
    share = optimal_epoch / epochs
    return "fast" if share <= 1 / 3 else "moderate" if share <= 2 / 3 else "slow"


def description(accuracy: float, always_normal: float) -> str:
    """Put the accuracy into words, by the report's bounds and by what a constant answer would reach."""
    words = "excellent" if accuracy > 0.95 else "good" if accuracy >= 0.91 else "fair"
    if accuracy < 0.75:
        words = "weak"
    if accuracy <= always_normal + 1e-9:
        return f"{words}; no better than always normal/mild"
    return words


def averages(summary: pd.DataFrame) -> dict[str, float]:
    """Return the mean of each numeric column of the report's table."""
    numeric = summary.select_dtypes(np.number)
    return {str(name): float(value) for name, value in numeric.mean().items()}
