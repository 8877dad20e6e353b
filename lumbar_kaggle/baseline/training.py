"""Training one target: learning rate, short cross-validated run, the report's rule, the longer run.

Everything of a target lies in one folder; each finished piece is committed by its last file, so a run
that was killed goes on at the target, fold and epoch where it stopped::

    {target}/lr.json                         the finder's suggestions
    {target}/{short|long}/fold-{k}/          checkpoint.pt while training; then
        history.csv  predictions.csv  weights.safetensors  record.json (last)
    {target}/target.json                     which stage was kept; the target is finished
"""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fastai.learner import Learner
from sklearn.model_selection import KFold

from lumbar_kaggle.baseline.config import BaselineConfig, epochs_after_short_run
from lumbar_kaggle.baseline.learner import find_learning_rate, make_learner
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_csv, write_json
from lumbar_kaggle.core.targets import SEVERITIES
from lumbar_kaggle.tables.folds import balance, derive_seed
from lumbar_kaggle.training.callbacks import WithinBudget, phase_of
from lumbar_kaggle.training.loop import history_of, train, write_network

Tell = Callable[[str], None]
"""Receives a short text on what is being done, for the progress bar."""


@dataclass(frozen=True)
class Job:
    """One target to train.

    Attributes:
        target: its name.
        rows: columns ``row_id, study_id, severity, image, fold``, one per labelled study with a picture.
        folder: where everything of the target goes.
        config: the run's.
    """

    target: str
    rows: pd.DataFrame
    folder: Path
    config: BaselineConfig


def split_rows(rows: pd.DataFrame, fold: int, config: BaselineConfig, seed: int) -> pd.DataFrame:
    """Return the rows of one fold with the training part balanced and ``is_valid`` set.

    With the honest protocol the study decides, and only the training part is upsampled. With the
    report's, all rows are upsampled first and then dealt out at random: copies of one picture come to
    lie on both sides, which is what inflated the report's accuracy.

    Args:
        rows: as in `Job`.
        fold: 0 … folds - 1.
        config: protocol and number of folds.
        seed: of the copies, and of the report protocol's split.
    """
    if config.protocol == "report":
        everything = balance(rows, seed)
        deal = KFold(config.folds, shuffle=True, random_state=seed)
        _, held_out = list(deal.split(everything))[fold]
        return everything.assign(is_valid=np.isin(np.arange(len(everything)), held_out))
    training = balance(rows[rows["fold"] != fold], derive_seed(seed, "balance", fold))
    parts = [training.assign(is_valid=False), rows[rows["fold"] == fold].assign(is_valid=True)]
    return pd.concat(parts, ignore_index=True)


def train_target(job: Job, budget: Budget, tell: Tell) -> dict[str, Any]:
    """Train one target by the report's procedure; what is already there is not done again.

    Returns:
        The content of ``target.json``: ``target``, ``stage`` (short or long), ``short_accuracy``,
        ``folds`` (the records of the kept folds), ``lr`` (the finder's suggestions).

    Raises:
        OutOfTime: the budget is spent; the next call goes on from the last finished epoch.
        InputError: too few labelled pictures to train on.
    """
    done = job.folder / "target.json"
    if done.is_file():
        return dict(read_json(done))
    if len(job.rows) < 2 * job.config.folds:
        raise InputError(
            f"{job.target}: {len(job.rows)} labelled pictures are too few for {job.config.folds} folds; "
            "give more studies or fewer --folds"
        )
    budget.check()
    rates = _learning_rates(job, budget, tell)
    short = _train_folds(job, "short", job.config.short_epochs, rates["used"], budget, tell)
    accuracy = float(np.mean([record["accuracy"] for record in short]))
    epochs = epochs_after_short_run(accuracy, job.config)
    stage, kept = "short", short
    if epochs is not None:
        stage, kept = "long", _train_folds(job, "long", epochs, rates["used"], budget, tell)
        for weights in (job.folder / "short").glob("*/weights.safetensors"):
            weights.unlink()
    result = {"target": job.target, "stage": stage, "short_accuracy": accuracy, "lr": rates, "folds": kept}
    write_json(done, result)
    return result


def _learning_rates(job: Job, budget: Budget, tell: Tell) -> dict[str, float]:
    path = job.folder / "lr.json"
    if not path.is_file():
        tell("learning rate")
        seed = derive_seed(job.config.seed, job.target)
        rows = split_rows(job.rows, 0, job.config, seed)
        job.folder.mkdir(parents=True, exist_ok=True)
        learner, _ = make_learner(rows, job.config, job.folder, seed)
        learner.add_cb(WithinBudget(budget))
        rates = find_learning_rate(learner, job.config.lr_find_iterations, seed)
        if job.config.lr is not None:
            rates["used"] = job.config.lr
        # JSON has no NaN; a suggestion that could not be made is null.
        write_json(path, {name: rate if np.isfinite(rate) else None for name, rate in rates.items()})
    return dict(read_json(path))


def _train_folds(
    job: Job, stage: str, epochs: int, rate: float, budget: Budget, tell: Tell
) -> list[dict[str, Any]]:
    return [train_fold(job, stage, fold, epochs, rate, budget, tell) for fold in range(job.config.folds)]


def train_fold(
    job: Job, stage: str, fold: int, epochs: int, rate: float, budget: Budget, tell: Tell
) -> dict[str, Any]:
    """Train one fold, or return its record if that is done.

    The report's protocol stops early and keeps the best epoch, by the validation loss of the very fold whose
    figures it then gives. The honest one trains all epochs and keeps the last, so that the fold that is
    reported has chosen nothing; an inner split for early stopping would cost the rare grades a part of their
    few examples. (That a short run is followed by a longer one is the report's rule in both.)

    Returns:
        The content of ``record.json``.

    Raises:
        OutOfTime: the budget is spent.
    """
    folder = job.folder / stage / f"fold-{fold}"
    done = folder / "record.json"
    if done.is_file():
        return dict(read_json(done))
    budget.check()
    folder.mkdir(parents=True, exist_ok=True)
    seed = derive_seed(job.config.seed, job.target)
    rows = split_rows(job.rows, fold, job.config, seed)
    run_seed = derive_seed(seed, stage, fold)
    learner, pretrained = make_learner(rows, job.config, folder, run_seed)
    checkpoint, report = folder / "checkpoint.pt", job.config.protocol == "report"
    tell(f"{stage} fold {fold + 1}/{job.config.folds}")

    def progress(epoch: int, figures: list[float]) -> None:
        tell(f"{stage} fold {fold + 1}/{job.config.folds} epoch {epoch + 1}/{epochs} valid {figures[1]:.3f}")

    def fit(phase: str, count: int, lr: float | slice, **cycle: Any) -> list[float]:
        options = {"patience": job.config.patience if report else None, "keep_best": report, **cycle}
        phase_seed = derive_seed(run_seed, phase)
        return train(learner, checkpoint, count, lr, seed=phase_seed, phase=phase, budget=budget, **options)

    with contextlib.redirect_stdout(io.StringIO()):  # early stopping prints
        if not pretrained:
            # A random body has nothing to keep, so it is trained whole from the start at one rate.
            seconds = fit("train", epochs, rate, tell=progress)
        else:
            # The fits of ``Learner.fine_tune``, one by one, so that a resumed run can enter at either: the
            # body is frozen for one epoch while the new head learns, then all is trained with rates that
            # fall towards the first layers; fastai's own constants.
            if phase_of(checkpoint) != "train":
                learner.freeze()
                fit("head", 1, slice(rate), pct_start=0.99)
                learner.unfreeze()
            rates = slice(rate / 2 / 100, rate / 2)
            seconds = fit("train", epochs, rates, tell=progress, pct_start=0.3, div=5.0)
    record = _finish_fold(folder, learner, rows, fold)
    record |= {
        "stage": stage,
        "epochs_planned": epochs,
        "pretrained": pretrained,
        "lr": rate,
        "seed": run_seed,
        "seconds_per_epoch": float(np.mean(seconds)),
    }
    write_json(done, record)
    checkpoint.unlink(missing_ok=True)
    return record


def _finish_fold(folder: Path, learner: Learner, rows: pd.DataFrame, fold: int) -> dict[str, Any]:
    """Write history, validation predictions and weights of a trained fold; return their figures."""
    history = history_of(learner)
    write_csv(folder / "history.csv", history)
    with learner.no_bar():
        probabilities = learner.get_preds(dl=learner.dls.valid)[0].double().numpy()
    held_out = rows[rows["is_valid"]]
    predictions = pd.DataFrame({"row_id": held_out["row_id"].to_numpy(), "fold": fold})
    predictions["truth"] = held_out["severity"].to_numpy()
    predictions[list(SEVERITIES)] = probabilities / probabilities.sum(axis=1, keepdims=True)
    write_csv(folder / "predictions.csv", predictions)
    write_network(folder / "weights.safetensors", learner.model.state_dict())
    training = rows[~rows["is_valid"]]
    return {
        "fold": fold,
        "accuracy": float((probabilities.argmax(axis=1) == held_out["severity"].to_numpy()).mean()),
        "latest_accuracy": float(history["accuracy"].iloc[-1]),
        "best_accuracy": float(history["accuracy"].max()),
        "best_epoch": int(np.argmin(history["valid_loss"].to_numpy())) + 1,
        "epochs_run": len(history),
        "training_rows": len(training),
        "validation_rows": len(held_out),
        "severities_seen": sorted(int(severity) for severity in training["severity"].unique()),
    }
