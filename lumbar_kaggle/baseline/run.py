"""Training all targets of a run, what is concluded from them, and what lies where in the run's folder.

Torch is imported only where there is something to train.

::

    config.json  folds.csv  prior.csv     written first
    targets/{target}/                     see `training`
    oof.csv  calibration.json             honest protocol only, over the finished targets
    summary.csv                           the report's table
"""

import logging
import math
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from lumbar_kaggle.baseline.calibration import cross_calibrate
from lumbar_kaggle.baseline.config import BaselineConfig
from lumbar_kaggle.baseline.images import CACHE_KIND, cached_images
from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, read_csv, read_json, write_csv, write_json
from lumbar_kaggle.core.settings import begin_run, load_config
from lumbar_kaggle.core.targets import SCORE_GROUPS, SEVERITIES, TARGET_NAMES, target
from lumbar_kaggle.dicom.cache import Cache
from lumbar_kaggle.scoring.metric import PRIOR_SMOOTHING, evaluate, weighted_prior
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.tables.folds import make_folds

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

    Columns ``row_id, fold, truth, normal_mild, moderate, severe``.
    """
    return _of_folds(run, result, "predictions.csv", "row_id", "truth", *SEVERITIES)


def histories(run: Path, result: dict[str, Any]) -> pd.DataFrame:
    """Return the kept folds' histories of a target: ``fold, epoch, train_loss, valid_loss, accuracy``."""
    return _of_folds(run, result, "history.csv", "epoch")


def _of_folds(run: Path, result: dict[str, Any], file: str, *columns: str) -> pd.DataFrame:
    """Return a table of the kept folds of one target with the column ``fold``."""
    folds = [record["fold"] for record in result["folds"]]
    parts = [read_csv(fold_folder(run, result, fold) / file, columns, RERUN) for fold in folds]
    return pd.concat([part.assign(fold=fold) for fold, part in zip(folds, parts, strict=True)], ignore_index=True)


def summarise(run: Path, results: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the report's table of finished targets, as `read_results` gives them; means over folds.

    The columns of `COLUMNS`, then ``stage`` (which run was kept), ``accuracy`` (of the kept weights),
    ``always_normal`` (accuracy of answering normal/mild each time) and further figures of
    `metric.evaluate` on the uncalibrated validation predictions.
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


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """State of a run after `fit`: its folder, and the names of its finished and unfinished targets."""

    run: Path
    finished: tuple[str, ...]
    unfinished: tuple[str, ...]

    def sentence(self) -> str:
        """Return one line on the result; the word ``resumable`` when something is left to do."""
        text = f"{len(self.finished)} targets are trained in {self.run}"
        if self.unfinished:
            text += f"; {len(self.unfinished)} are left: resumable, run the same command again"
        return text


@alone_on("run")
def fit(train: Competition, cache: Path, run: Path, config: BaselineConfig, budget: Budget) -> FitResult:
    """Train every target of the configuration, or go on where an earlier call stopped.

    When the budget is spent, what is finished is concluded as if it were all, and the same call goes
    on from there later.

    Args:
        train: the training split.
        cache: folder of a finished baseline cache of it.
        run: where everything goes.
        config: what to train; in a run folder that exists, only the targets may differ.
        budget: time.

    Raises:
        InputError: the run was begun with another configuration or on other data, or another process is at
            work on it, or there is nothing to train on.
    """
    rows, folds = _open_run(train, cache, run, config)
    todo = [name for name in config.targets if not (target_folder(run, name) / "target.json").is_file()]
    log.info("Training %d targets into %s", len(config.targets), run)
    if len(todo) < len(config.targets):
        log.info("%d targets are already there and are skipped", len(config.targets) - len(todo))
    if todo:
        # Here and not above: importing torch and fastai takes seconds, and a finished run needs neither.
        from lumbar_kaggle.baseline.training import Job, train_target

        with tqdm(total=len(todo), unit="target", desc=f"train ({config.protocol})") as progress:
            tell = _Postfix(progress)
            for name in todo:
                job = Job(name, rows[rows["target"] == name], target_folder(run, name), config)
                try:
                    train_target(job, budget, partial(tell, name))
                except OutOfTime:
                    break
                progress.update()
    finished = finished_targets(run)
    if finished and (todo or not (run / "summary.csv").is_file()):
        results = read_results(run)
        if config.protocol == "honest":
            _write_oof(run, train, folds, results)
        write_csv(run / "summary.csv", summarise(run, results))
    unfinished = tuple(name for name in config.targets if name not in finished)
    return FitResult(run, finished, unfinished)


class _Postfix:
    """Tells the progress bar what is being done: a terminal each second, a log file every ten."""

    def __init__(self, progress: "tqdm[Any]") -> None:
        self.progress = progress
        self.pause_s = 1.0 if sys.stderr.isatty() else 10.0
        self.last = 0.0

    def __call__(self, target_name: str, text: str) -> None:
        due = time.monotonic() - self.last >= self.pause_s
        self.progress.set_postfix_str(f"{target_name} {text}", refresh=due)
        if due:
            self.last = time.monotonic()


def _open_run(train: Competition, cache: Path, run: Path, config: BaselineConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    images = cached_images(cache)
    data = {**train.identity(), "images": Cache(cache, CACHE_KIND).identity()}
    del data["coordinates"]  # the baseline does not look at them
    begin_run(run / "config.json", config, ("targets",), data)
    folds = make_folds(train.labels, config.folds, config.seed)
    rows = train.labels.merge(images, on="study_id").merge(folds, on="study_id")
    if rows.empty:
        raise InputError(f"{cache}: none of its pictures belongs to a labelled study of {train.root}")
    write_csv(run / "folds.csv", folds)
    prior = weighted_prior(train.labels, smoothing=PRIOR_SMOOTHING)
    write_csv(run / "prior.csv", prior.reset_index())
    return rows, folds


def _write_oof(run: Path, train: Competition, folds: pd.DataFrame, results: list[dict[str, Any]]) -> None:
    """Calibrate the out-of-fold predictions, each fold by the other folds, and all folds for export."""
    rows = pd.concat([validation_predictions(run, result) for result in results], ignore_index=True)
    rows = rows.drop(columns="truth").merge(train.labels, on="row_id", validate="1:1")
    seen_by = {(one["target"], record["fold"]): record["severities_seen"] for one in results for record in one["folds"]}
    held_by = zip(rows["target"], rows["fold"], strict=True)
    seen = np.array([np.isin(range(3), seen_by[place]) for place in held_by])
    # The prior that each fold's training part alone gives.
    fold_of = train.labels["study_id"].map(folds.set_index("study_id")["fold"])
    priors = {
        fold: weighted_prior(train.labels[fold_of != fold], smoothing=PRIOR_SMOOTHING) for fold in set(rows["fold"])
    }
    raw, prior = rows[list(SEVERITIES)].to_numpy(dtype=np.float64), np.zeros((len(rows), 3))
    fold, severity = rows["fold"].to_numpy(), rows["severity"].to_numpy()
    for number, table in priors.items():
        prior[fold == number] = table.loc[rows.loc[fold == number, "target"]].to_numpy()
    group = np.array([target(name).score_group for name in rows["target"]], dtype=object)
    calibrated, chosen = np.zeros((len(rows), 3)), {}
    for name in SCORE_GROUPS:
        if (at := group == name).any():
            calibrated[at], choice = cross_calibrate(raw[at], prior[at], seen[at], severity[at], fold[at])
            chosen[name] = asdict(choice)
    oof = rows[["row_id", "fold"]].assign(**dict(zip(SEVERITIES, calibrated.T, strict=True)))
    write_csv(run / "oof.csv", oof)
    write_json(run / "calibration.json", chosen)
