"""What lies where in a run folder; readable without torch.

::

    config.json  folds.csv  prior.csv     written first
    targets/{target}/                     see `training`
    oof.csv  calibration.json             honest protocol only, over the finished targets
    summary.csv                           the report's table
"""

from pathlib import Path
from typing import Any

import pandas as pd

from lumbar_kaggle.baseline.config import BaselineConfig
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_csv, read_json
from lumbar_kaggle.core.settings import load_config
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES

RERUN = "delete the folder of its target, or the run, and run lumbar train again"
"""What to do where a table of a run is damaged."""


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
    folders = [fold_folder(run, result, record["fold"]) for record in result["folds"]]
    columns = ("row_id", "fold", "truth", *SEVERITIES)
    parts = [read_csv(folder / "predictions.csv", columns, RERUN) for folder in folders]
    return pd.concat(parts, ignore_index=True)


def histories(run: Path, result: dict[str, Any]) -> pd.DataFrame:
    """Return the kept folds' histories of one target.

    Returns:
        Columns ``fold, epoch, train_loss, valid_loss, accuracy``.
    """
    parts = [
        read_csv(fold_folder(run, result, record["fold"]) / "history.csv", ("epoch",), RERUN).assign(
            fold=record["fold"]
        )
        for record in result["folds"]
    ]
    return pd.concat(parts, ignore_index=True)
