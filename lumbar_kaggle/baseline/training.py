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
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.callback.schedule import minimum, slide, steep, valley
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import ColReader, ColSplitter, Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.core import PILImage
from fastai.vision.data import ImageBlock
from PIL import Image
from sklearn.model_selection import KFold

from lumbar_kaggle.baseline.config import BaselineConfig, epochs_after_short_run
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_csv, write_json
from lumbar_kaggle.core.targets import SEVERITIES
from lumbar_kaggle.tables.folds import balance, derive_seed
from lumbar_kaggle.training.callbacks import WithinBudget, read_checkpoint
from lumbar_kaggle.training.devices import train_in_half_precision, training_device
from lumbar_kaggle.training.encoders import build_network, load_pretrained
from lumbar_kaggle.training.loop import history_of, train, write_network

SUGGESTIONS = (minimum, steep, valley, slide)
"""fastai's four ways to read the finder's curve; the valley's rate is the one used."""


def make_loaders(rows: pd.DataFrame, config: BaselineConfig, stats: Any) -> DataLoaders:
    """Make the data loaders of one target and fold.

    A horizontal flip would show a patient who faces the other way, which no sagittal slice does, and in
    other planes it would exchange left and right; the report had it on, and its protocol has it still.

    Args:
        rows: columns ``image`` (path), ``severity`` (0, 1, 2), ``is_valid`` (bool).
        config: sizes.
        stats: mean and standard deviation of the network's input.
    """
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=list(SEVERITIES), sort=False)),
        get_x=lambda row: PILImage(_picture(row["image"], config.image_size).convert("RGB")),
        get_y=ColReader("label"),
        splitter=ColSplitter("is_valid"),
        item_tfms=Resize(config.image_size),
        batch_tfms=[*aug_transforms(do_flip=config.protocol == "report"), Normalize.from_stats(*stats)],
    )
    labelled = rows.assign(label=[SEVERITIES[severity] for severity in rows["severity"]])
    training = int((~labelled["is_valid"]).sum())
    # The training loader drops its last, smaller batch: with fewer images than one batch nothing is left.
    batch = min(config.batch_size, training)
    loaders: DataLoaders = block.dataloaders(
        labelled, bs=batch, val_bs=config.batch_size, num_workers=0, device=training_device()
    )
    return loaders


@lru_cache(maxsize=8192)
def _picture(path: str, side: int) -> Image.Image:
    """Read a cached picture once for all targets and epochs, at the size that is trained (64 kB at 256 px).

    Resampled as fastai's `Resize` does it, which then finds nothing left to do.
    """
    with Image.open(path) as picture:
        return picture.resize((side, side), Image.Resampling.BILINEAR)


def make_learner(rows: pd.DataFrame, config: BaselineConfig, folder: Path, seed: int) -> tuple[Learner, bool]:
    """Return the learner of one target and fold, and whether its body is pretrained.

    The seed is of the random weights; fastai's own temporary files go to the folder.
    """
    set_seed(seed)
    network = build_network(config.arch)
    pretrained = bool(load_pretrained(network.model[0], config.arch, config.weights))
    loaders = make_loaders(rows, config, (network.mean, network.std))
    learner = Learner(
        loaders,
        network.model.to(loaders.device),
        loss_func=CrossEntropyLossFlat(),
        splitter=network.split,
        metrics=accuracy,
        path=folder,
        model_dir=".",
    )
    return train_in_half_precision(learner, wanted=config.mixed_precision), pretrained


def find_learning_rate(learner: Learner, iterations: int, seed: int) -> dict[str, float]:
    """Run the learning-rate finder.

    Returns:
        The suggestions ``minimum``, ``steep``, ``valley`` and ``slide``, NaN where a curve that ended
        early is too short for one; and ``used``: the valley, or fastai's default without one.
    """
    set_seed(seed)
    with learner.no_bar(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner.lr_find(num_it=iterations, show_plot=False, suggest_funcs=None)
    # The same cut as fastai's own: a tenth at the start, and the last five, where the loss explodes.
    rates = torch.tensor(learner.recorder.lrs[iterations // 10 : -5])
    losses = torch.tensor([float(loss) for loss in learner.recorder.losses[iterations // 10 : -5]])
    found = {suggest.__name__: _suggestion(suggest, rates, losses, iterations) for suggest in SUGGESTIONS}
    found["used"] = found["valley"] if math.isfinite(found["valley"]) else float(learner.lr)
    return found


def _suggestion(suggest: Callable[..., Any], rates: torch.Tensor, losses: torch.Tensor, iterations: int) -> float:
    finite = torch.isfinite(losses)
    try:
        return float(suggest(rates[finite], losses[finite], iterations)[0])
    except (IndexError, ValueError, RuntimeError):
        # fastai's rules index into the curve; one that diverged at once has too few points.
        return math.nan


Tell = Callable[[str], None]
"""Receives a short text on what is being done, for the progress bar."""


@dataclass(frozen=True)
class Job:
    """One target to train, and the folder where everything of it goes.

    The rows have the columns ``row_id, study_id, severity, image, fold``, one per labelled study with a
    picture.
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

    def all_folds(stage: str, epochs: int) -> list[dict[str, Any]]:
        return [train_fold(job, stage, fold, epochs, rates["used"], budget, tell) for fold in range(job.config.folds)]

    short = all_folds("short", job.config.short_epochs)
    accuracy = float(np.mean([record["accuracy"] for record in short]))
    epochs = epochs_after_short_run(accuracy, job.config)
    stage, kept = "short", short
    if epochs is not None:
        stage, kept = "long", all_folds("long", epochs)
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


def train_fold(job: Job, stage: str, fold: int, epochs: int, rate: float, budget: Budget, tell: Tell) -> dict[str, Any]:
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
    done, checkpoint = folder / "record.json", folder / "checkpoint.pt"
    if done.is_file():
        return dict(read_json(done))
    budget.check()
    folder.mkdir(parents=True, exist_ok=True)
    seed = derive_seed(job.config.seed, job.target)
    rows = split_rows(job.rows, fold, job.config, seed)
    run_seed = derive_seed(seed, stage, fold)
    learner, pretrained = make_learner(rows, job.config, folder, run_seed)
    report, words = job.config.protocol == "report", f"{stage} fold {fold + 1}/{job.config.folds}"
    tell(words)

    def progress(epoch: int, figures: list[float]) -> None:
        tell(f"{words} epoch {epoch + 1}/{epochs} valid {figures[1]:.3f}")

    def fit(phase: str, count: int, lr: float | slice, **cycle: Any) -> list[float]:
        cycle["patience"] = job.config.patience if report else None
        phase_seed = derive_seed(run_seed, phase)
        return train(learner, checkpoint, count, lr, seed=phase_seed, phase=phase, budget=budget, **cycle)

    with contextlib.redirect_stdout(io.StringIO()):  # early stopping prints
        if not pretrained:
            # A random body has nothing to keep, so it is trained whole from the start at one rate.
            seconds = fit("train", epochs, rate, tell=progress)
        else:
            # The fits of ``Learner.fine_tune``, one by one, so that a resumed run can enter at either: the
            # body is frozen for one epoch while the new head learns, then all is trained with rates that
            # fall towards the first layers; fastai's own constants.
            if (read_checkpoint(checkpoint) or {}).get("phase") != "train":
                learner.freeze()
                fit("head", 1, slice(rate), pct_start=0.99)
                learner.unfreeze()
            rates = slice(rate / 2 / 100, rate / 2)
            seconds = fit("train", epochs, rates, tell=progress, pct_start=0.3, div=5.0)
    record = {"stage": stage, "epochs_planned": epochs, "pretrained": pretrained, "lr": rate, "seed": run_seed}
    record |= {"seconds_per_epoch": float(np.mean(seconds)), **_finish_fold(folder, learner, rows, fold)}
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
