"""Training all targets of a run, what is concluded from them, and what lies where in the run's folder::

config.json  folds.csv  prior.csv     written first
body.safetensors                      where it is frozen: all classifiers share it, and have but heads of their own
targets/{target}/                     see `training`
oof.csv  calibration.json             honest protocol only, over the finished targets
summary.csv                           the report's table
"""

import logging
import math
import sys
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from lumbar_kaggle.baseline.images import CACHE_CONFIG, cached_images
from lumbar_kaggle.baseline.recipe import RUN_FILE, BaselineConfig
from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, read_csv, read_json, write_csv, write_json
from lumbar_kaggle.core.settings import Validated, begin_run, load_config, option
from lumbar_kaggle.core.targets import SCORE_GROUPS, SEVERITIES, TARGET_NAMES, target
from lumbar_kaggle.dicom.cache import Cache
from lumbar_kaggle.scoring import metric
from lumbar_kaggle.scoring.metric import Booleans, Floats, Integers
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.tables.folds import make_folds

log = logging.getLogger(__name__)

BODY = "body.safetensors"
RERUN = "delete the folder of its target, or the run, and run lumbar train again"  # where a table of it is damaged


class Run:
    """What the finished targets of a run's folder came to; `records` are their ``target.json``, see `training.Job`.
    Raises `InputError` where the folder holds no run, or a file of a finished target is missing or damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / RUN_FILE).is_file():
            raise InputError(f"{folder}: holds no training run; give the --out folder of lumbar train")
        self.config = load_config(folder / RUN_FILE, BaselineConfig)
        files = [folder / "targets" / name / "target.json" for name in TARGET_NAMES]
        self.records: list[dict[str, Any]] = [read_json(file) for file in files if file.is_file()]
        self.targets = [str(record["target"]) for record in self.records]
        self.unfinished = [name for name in self.config.targets if name not in self.targets]

    def sentence(self) -> str:
        """Return one line on the state; the word ``resumable`` when something is left to do."""
        left = f"; {len(self.unfinished)} are left: resumable, run the same command again" if self.unfinished else ""
        return f"{len(self.targets)} targets are trained in {self.folder}{left}"

    def check_finished(self) -> None:
        """Raise `InputError` where no target is finished."""
        if not self.records:
            raise InputError(f"{self.folder}: no target is finished yet; run lumbar train again to go on")

    def fold_folder(self, record: dict[str, Any], fold: int) -> Path:
        """Return the folder of one kept fold of a finished target."""
        return self.folder / f"targets/{record['target']}/{record['stage']}/fold-{fold}"

    def _table(self, file: str, *columns: str) -> pd.DataFrame:
        """Return a table that each kept fold has, of all finished targets, with the columns ``target, fold``."""
        parts = [
            read_csv(self.fold_folder(record, fold) / file, columns, RERUN).assign(target=record["target"], fold=fold)
            for record in self.records
            for fold in (one["fold"] for one in record["folds"])
        ]
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Validation predictions before calibration: ``target, fold, row_id, truth`` and `SEVERITIES`."""
        return self._table("predictions.csv", "row_id", "truth", *SEVERITIES)

    @cached_property
    def histories(self) -> pd.DataFrame:
        """Columns ``target, fold, epoch, train_loss, valid_loss, accuracy``."""
        return self._table("history.csv", "epoch")

    @cached_property
    def summary(self) -> pd.DataFrame:
        """The report's table, a row per target: means over folds; made from the records anew. Further columns tell
        which run was kept (``stage``), the accuracy of the kept weights and of answering normal/mild each time, and
        other figures of `metric.evaluate` on the uncalibrated predictions."""
        parts, lines = dict(list(self.predictions.groupby("target"))), []
        for record in self.records:
            folds, rows = pd.DataFrame(record["folds"]), parts[record["target"]]
            means, planned = folds.mean(numeric_only=True), int(folds["epochs_planned"].iloc[0])
            figures = metric.evaluate(rows[list(SEVERITIES)].to_numpy(), rows["truth"].to_numpy())
            del figures["weighted_log_loss"]  # it is of calibrated probabilities that it tells something
            line = {
                "label": record["target"],
                "latest_accuracy": means["latest_accuracy"],
                "max_accuracy": means["best_accuracy"],
                "seconds_per_epoch": means["seconds_per_epoch"],
                "optimal_epochs": round(means["best_epoch"]),
                "training_size": int(means["training_rows"]),
                "convergence_rate": convergence_rate(means["best_epoch"], planned),
                "description": description(means["latest_accuracy"], figures["always_normal"]),
                "suggested_lr": record["lr"]["valley"] or math.nan,
                "stage": record["stage"],
                "epochs": planned,
                "lr_used": record["lr"]["used"],
                "folds": len(folds),
            }
            lines.append(line | figures)
        return pd.DataFrame(lines)


def convergence_rate(optimal_epoch: float, epochs: int) -> str:
    """Say how early the best validation loss came: in the first third fast, the second moderate.

    >>> convergence_rate(2, 10), convergence_rate(9, 10)
    ('fast', 'slow')
    """
    share = optimal_epoch / epochs
    return "fast" if share <= 1 / 3 else "moderate" if share <= 2 / 3 else "slow"


def description(accuracy: float, always_normal: float) -> str:
    """Put the accuracy into words, by the report's bounds and by what a constant answer would reach."""
    words = "excellent" if accuracy > 0.95 else "good" if accuracy >= 0.91 else "fair" if accuracy >= 0.75 else "weak"
    return words if accuracy > always_normal + 1e-9 else f"{words}; no better than always normal/mild"


@alone_on("run")
def fit(train: Competition, cache: Path, run: Path, config: BaselineConfig, budget: Budget) -> Run:
    """Train every target of the configuration on the training split, or go on where an earlier call stopped. When the
    budget is spent, what is finished is concluded as if it were all, and the same call goes on from there later. Raises
    `InputError` where the run was begun with another configuration, other than in its targets, or on other data,
    another process is at work on it, or there is nothing to train on."""
    rows, folds = _open_run(train, cache, run, config)
    todo = [name for name in config.targets if not (run / "targets" / name / "target.json").is_file()]
    log.info("Training %d targets into %s", len(config.targets), run)
    if len(todo) < len(config.targets):
        log.info("%d targets are already there and are skipped", len(config.targets) - len(todo))
    if todo:
        _train(todo, rows, run, config, budget)
    result = Run(run)
    if result.records and (todo or not (run / "summary.csv").is_file()):
        if config.protocol == "honest":
            _write_oof(result, train.labels, folds)
        write_csv(run / "summary.csv", result.summary)
    return result


def _open_run(train: Competition, cache: Path, run: Path, config: BaselineConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Begin a run or check that it is the same; return the labelled rows with their pictures, and the folds."""
    images = cached_images(cache)
    data = {**train.identity(), "images": Cache(cache, CACHE_CONFIG.kind).identity()}
    del data["coordinates"]  # the baseline does not look at them
    begin_run(run / RUN_FILE, config, ("targets",), data)
    folds = make_folds(train.labels, config.folds, config.seed)
    rows = train.labels.merge(images, on="study_id").merge(folds, on="study_id")
    if rows.empty:
        raise InputError(f"{cache}: none of its pictures belongs to a labelled study of {train.root}")
    write_csv(run / "folds.csv", folds)
    write_csv(run / "prior.csv", metric.weighted_prior(train.labels, smoothing=metric.PRIOR_SMOOTHING).reset_index())
    return rows, folds


def _train(todo: list[str], rows: pd.DataFrame, run: Path, config: BaselineConfig, budget: Budget) -> None:
    """Train one target after the other until the budget is spent."""
    # Here and not above: importing torch and fastai takes seconds, and a finished run needs neither.
    from lumbar_kaggle.baseline.training import Job, write_body

    if config.frozen:
        write_body(run / BODY, config)
    pause_s = 1.0 if sys.stderr.isatty() else 10.0  # between what a terminal, or a log file, is told
    what = f"train ({config.protocol})"
    with tqdm(total=len(todo), unit="target", desc=what, mininterval=pause_s, miniters=0) as progress:

        def tell(text: str) -> None:
            progress.set_postfix_str(text, refresh=False)
            progress.update(0)

        for name in todo:
            try:
                Job(name, rows[rows["target"] == name], run / "targets" / name, config, budget, tell).train()
            except OutOfTime:
                break
            progress.update()


def _write_oof(run: Run, labels: pd.DataFrame, folds: pd.DataFrame) -> None:
    """Calibrate the out-of-fold predictions, each fold by the other folds, and all folds for export."""
    rows = run.predictions
    raw, severity = rows[list(SEVERITIES)].to_numpy(dtype=np.float64), rows["truth"].to_numpy()
    fold = rows["fold"].to_numpy()
    held = {(one["target"], part["fold"]): part["severities_seen"] for one in run.records for part in one["folds"]}
    seen = np.array([np.isin(range(3), held[place]) for place in zip(rows["target"], fold, strict=True)])
    # The prior that each fold's training part alone gives.
    fold_of, prior = labels["study_id"].map(folds.set_index("study_id")["fold"]), np.zeros_like(raw)
    for number in np.unique(fold):
        table = metric.weighted_prior(labels[fold_of != number], smoothing=metric.PRIOR_SMOOTHING)
        prior[fold == number] = table.loc[rows.loc[fold == number, "target"]].to_numpy()
    group = rows["target"].map(lambda name: target(name).score_group).to_numpy()
    calibrated, chosen = np.zeros_like(raw), {}
    for name in SCORE_GROUPS:
        if (at := group == name).any():
            calibrated[at], choice = cross_calibrate(raw[at], prior[at], seen[at], severity[at], fold[at])
            chosen[name] = asdict(choice)
    oof = rows[["row_id", "fold"]].assign(**dict(zip(SEVERITIES, calibrated.T, strict=True)))
    write_csv(run.folder / "oof.csv", oof)
    write_json(run.folder / "calibration.json", chosen)


@dataclass(frozen=True)
class Calibration(Validated):
    """From a classifier trained on balanced severities to probabilities that the official score rewards. Upsampling
    teaches the network that all severities are equally frequent. By Bayes' rule its answer q becomes the one for the
    real, weighted frequencies π (the weighted prior) as q·π, normalised. A small or over-confident classifier deserves
    less trust than that; two numbers per score group, fitted on out-of-fold predictions, say how much: p = (1 - mix) ·
    normalise(q^strength · π) + mix · π. Strength 0, the default, is the prior itself, so a classifier that knows
    nothing cannot do harm."""

    strength: float = option(0.0, "exponent of the classifier's answer", least=0, most=10)
    mix: float = option(0.02, "share of the prior", least=0, most=1)


def calibrate(raw: Floats, prior: Floats, seen: Booleans, calibration: Calibration) -> Floats:
    """Return calibrated probabilities ``[rows, 3]`` of the classifier's softmax `raw`, of the same shape. `prior` is
    the weighted prior of each row's target. A severity that the classifier's training part did not contain (`seen` is
    False) keeps its prior probability."""
    evidence = np.clip(raw, 1e-12, 1.0) ** calibration.strength * prior * seen
    known = (prior * seen).sum(axis=1, keepdims=True)
    total = evidence.sum(axis=1, keepdims=True)
    posterior = np.where(seen, evidence / np.where(total > 0, total, 1.0) * known, prior)
    mixed = (1 - calibration.mix) * posterior + calibration.mix * prior
    return np.asarray(mixed / mixed.sum(axis=1, keepdims=True))


def fit_calibration(raw: Floats, prior: Floats, seen: Booleans, severity: Integers) -> Calibration:
    """Return the grid's best calibration of out-of-fold rows by the official loss; `severity [rows]` is 0, 1, 2."""
    # No mix of 0: one confident error costs more than a little doubt.
    candidates = [Calibration(round(0.1 * n, 1), mix) for n in range(16) for mix in (0.02, 0.05, 0.1, 0.2, 0.4)]
    losses = [metric.weighted_log_loss(calibrate(raw, prior, seen, choice), severity) for choice in candidates]
    return candidates[int(np.argmin(losses))]


def cross_calibrate(
    raw: Floats, prior: Floats, seen: Booleans, severity: Integers, fold: Integers
) -> tuple[Floats, Calibration]:
    """Return the cross-fitted probabilities ``[rows, 3]`` of a score group, and its calibration for export. Each fold
    is calibrated by the others; `fold [rows]` says which one held a row out. Classifiers that do not beat the prior on
    rows that neither they nor the calibration have seen are not trusted at all."""
    calibrated = np.zeros_like(raw)
    for held_out in np.unique(fold):
        inside, rest = fold == held_out, fold != held_out
        choice = fit_calibration(raw[rest], prior[rest], seen[rest], severity[rest])
        calibrated[inside] = calibrate(raw[inside], prior[inside], seen[inside], choice)
    if metric.weighted_log_loss(calibrated, severity) < metric.weighted_log_loss(prior, severity):
        return calibrated, fit_calibration(raw, prior, seen, severity)
    return calibrate(raw, prior, seen, Calibration()), Calibration()
