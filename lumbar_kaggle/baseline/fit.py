"""Training all targets of a run, and what is concluded from them: OOF, calibration, the report's table."""

import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from lumbar_kaggle.baseline.calibration import (
    DISTRUST,
    Calibration,
    calibrate,
    fit_calibration,
)
from lumbar_kaggle.baseline.config import BaselineConfig
from lumbar_kaggle.baseline.images import CACHE_KIND, cached_images
from lumbar_kaggle.baseline.run import (
    finished_targets,
    read_results,
    target_folder,
    validation_predictions,
)
from lumbar_kaggle.baseline.summary import summarise
from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, write_csv, write_json
from lumbar_kaggle.core.settings import begin_run
from lumbar_kaggle.core.targets import SCORE_GROUPS, SEVERITIES, target
from lumbar_kaggle.dicom.cache import Cache
from lumbar_kaggle.score.metric import weighted_log_loss, weighted_prior
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.tables.folds import make_folds

PRIOR_SMOOTHING = 0.5
"""Rows added per severity, so that one never seen at a level is not declared impossible."""


@dataclass(frozen=True)
class FitResult:
    """State of a run after `fit`.

    Attributes:
        run: its folder.
        finished, unfinished: target names.
    """

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
    print(f"Training {len(config.targets)} targets into {run}")
    if len(todo) < len(config.targets):
        print(f"{len(config.targets) - len(todo)} targets are already there and are skipped")
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
        _conclude(run, train, config, folds)
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


def _open_run(
    train: Competition, cache: Path, run: Path, config: BaselineConfig
) -> tuple[pd.DataFrame, pd.DataFrame]:
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


def _conclude(run: Path, train: Competition, config: BaselineConfig, folds: pd.DataFrame) -> None:
    results = read_results(run)
    if config.protocol == "honest":
        _write_oof(run, train, folds, results)
    write_csv(run / "summary.csv", summarise(run, results))


def _write_oof(run: Path, train: Competition, folds: pd.DataFrame, results: list[dict[str, Any]]) -> None:
    """Calibrate the out-of-fold predictions, each fold by the other folds, and all folds for export."""
    raw = pd.concat([_raw_rows(run, result) for result in results], ignore_index=True)
    raw = raw.merge(train.labels, on="row_id", validate="1:1")
    raw = raw.merge(_fold_priors(train.labels, folds), on=["fold", "target"], validate="m:1")
    group = np.array([target(name).score_group for name in raw["target"]], dtype=object)
    calibrated, chosen = np.zeros((len(raw), 3)), {}
    for name in SCORE_GROUPS:
        if (members := group == name).any():
            calibrated[members], calibration = _calibrate_group(raw[members])
            chosen[name] = asdict(calibration)
    oof = raw[["row_id", "fold"]].assign(**dict(zip(SEVERITIES, calibrated.T, strict=True)))
    write_csv(run / "oof.csv", oof)
    write_json(run / "calibration.json", chosen)


def _calibrate_group(rows: pd.DataFrame) -> tuple[NDArray[np.float64], Calibration]:
    """Return the cross-fitted probabilities ``[rows, 3]`` of a score group, and its calibration for export.

    Classifiers that do not beat the prior on rows that neither they nor the calibration have seen are
    not trusted at all.
    """
    fold, calibrated = rows["fold"].to_numpy(), np.zeros((len(rows), 3))
    for held_out in np.unique(fold):
        inside = fold == held_out
        calibrated[inside] = calibrate(*_arrays(rows[inside]), _fit_rows(rows[~inside]))
    severity, (raw, prior, seen) = rows["severity"].to_numpy(), _arrays(rows)
    if weighted_log_loss(calibrated, severity) < weighted_log_loss(prior, severity):
        return calibrated, _fit_rows(rows)
    return calibrate(raw, prior, seen, DISTRUST), DISTRUST


def _raw_rows(run: Path, result: dict[str, Any]) -> pd.DataFrame:
    rows = validation_predictions(run, result).drop(columns="truth")
    seen = {record["fold"]: record["severities_seen"] for record in result["folds"]}
    for index in range(3):
        rows[f"seen_{index}"] = [index in seen[fold] for fold in rows["fold"]]
    return rows


def _fold_priors(labels: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """The prior that each fold's training part alone gives: columns ``fold, target, prior_0 … prior_2``."""
    parts = []
    fold_of = labels["study_id"].map(dict(zip(folds["study_id"], folds["fold"], strict=True)))
    for fold in sorted(folds["fold"].unique()):
        prior = weighted_prior(labels[fold_of != fold], smoothing=PRIOR_SMOOTHING)
        prior.columns = pd.Index([f"prior_{index}" for index in range(3)])
        parts.append(prior.reset_index().assign(fold=fold))
    return pd.concat(parts, ignore_index=True)


def _fit_rows(rows: pd.DataFrame) -> Calibration:
    return fit_calibration(*_arrays(rows), rows["severity"].to_numpy())


def _arrays(rows: pd.DataFrame) -> tuple[Any, Any, Any]:
    """Return raw probabilities, priors and seen severities, ``[rows, 3]`` each."""
    raw = rows[list(SEVERITIES)].to_numpy(dtype=np.float64)
    prior = rows[[f"prior_{index}" for index in range(3)]].to_numpy(dtype=np.float64)
    seen = rows[[f"seen_{index}" for index in range(3)]].to_numpy(dtype=bool)
    return raw, prior, seen
