"""Training all targets of a run, and what is concluded from them: OOF, calibration, the report's table."""

import logging
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
from lumbar_kaggle.baseline.run import (
    finished_targets,
    read_results,
    summarise,
    target_folder,
    validation_predictions,
)
from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, write_csv, write_json
from lumbar_kaggle.core.settings import begin_run
from lumbar_kaggle.core.targets import SCORE_GROUPS, SEVERITIES, target
from lumbar_kaggle.dicom.cache import Cache
from lumbar_kaggle.score.metric import PRIOR_SMOOTHING, weighted_prior
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.tables.folds import make_folds

log = logging.getLogger(__name__)


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
    rows = pd.concat([validation_predictions(run, result) for result in results], ignore_index=True)
    rows = rows.drop(columns="truth").merge(train.labels, on="row_id", validate="1:1")
    seen_by = {
        (one["target"], record["fold"]): record["severities_seen"]
        for one in results
        for record in one["folds"]
    }
    held_by = zip(rows["target"], rows["fold"], strict=True)
    seen = np.array([np.isin(range(3), seen_by[place]) for place in held_by])
    # The prior that each fold's training part alone gives.
    fold_of = train.labels["study_id"].map(folds.set_index("study_id")["fold"])
    priors = {
        fold: weighted_prior(train.labels[fold_of != fold], smoothing=PRIOR_SMOOTHING)
        for fold in set(rows["fold"])
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
