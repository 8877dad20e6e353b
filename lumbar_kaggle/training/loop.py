"""The one training loop of all recipes: fastai's one-cycle fit, resumable at every epoch.

A recipe brings datasets, a network, a loss and a schedule; `make_learner` puts them together, `train` fits them or goes
on where an earlier process stopped, and `train_file` leaves the weights in a file. The callbacks below give
reproducible epochs, the weights' average, checkpoints and the end of the time budget."""

import json
import logging
import math
import pickle
import random
import struct
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from fastai.callback import fp16 as _fp16  # noqa: F401 — gives Learner its to_fp16
from fastai.callback import schedule as _schedule  # noqa: F401 — gives Learner its fit_one_cycle
from fastai.callback.core import Callback, CancelEpochException
from fastai.callback.tracker import EarlyStoppingCallback, TrackerCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.torch_core import set_seed, to_device
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from tqdm import tqdm

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_atomic, write_csv
from lumbar_kaggle.tables.folds import derive_seed
from lumbar_kaggle.training import devices, group
from lumbar_kaggle.training.devices import device_of, training_device
from lumbar_kaggle.training.together import TrainTogether

log = logging.getLogger(__name__)

Tell = Callable[[int, list[float]], None] | None  # receives each epoch's number from 0 and its losses and metrics


def make_learner(
    network: nn.Module,
    parts: tuple[Any, Any],
    loss: Callable[..., Any],
    folder: Path,
    config: Any,
    *,
    workers: int = 0,
    **options: Any,
) -> Learner:
    """Return a learner on the training's device, in 16 bits where that is faster and ``mixed_precision`` allows it.
    Parts are datasets to train and to validate on: anything with a length and items. Of the configuration its
    ``batch_size`` counts; `folder` is for fastai's own temporary files, `workers` are processes that load, and options
    are those of ``Learner``. Raises InputError where a batch has fewer items than there are processes in a group."""
    device = training_device()
    # The training loader drops its last, smaller batch: with fewer items than one batch nothing is left.
    shared = {"bs": min(config.batch_size, len(parts[0])), "num_workers": workers}
    if shared["bs"] < group.size():
        what = f"batches of {shared['bs']} are too small for {group.size()} processes"
        raise InputError(f"{folder}: {what}; start fewer, or give a larger --batch-size")
    training = DataLoader(parts[0], shuffle=True, drop_last=True, **shared)
    loaders = DataLoaders(training, DataLoader(parts[1], **shared)).to(device)
    network.to(device)
    learner = Learner(loaders, network, loss_func=loss, path=folder, model_dir=".", **options)
    if group.size() > 1:
        learner.add_cb(TrainTogether())
    halved = getattr(config, "mixed_precision", True) and device.type in devices.HALF
    return learner.to_fp16() if halved else learner


def train(
    learner: Learner,
    checkpoint: Path,
    epochs: int,
    lr: float | slice,
    *,
    seed: int,
    phase: str = "train",
    budget: Budget | None = None,
    ema: float = 0.0,
    patience: int | None = None,
    tell: Tell = None,
    **cycle: Any,
) -> list[float]:
    """Fit by one cycle, or go on after the last epoch that is in the checkpoint; return the seconds of each epoch. The
    caller removes the checkpoint, which is written after each epoch, once the result is kept. Epochs are all of them,
    those done earlier too; `lr` is the greatest rate, or fastai's slice of them; `seed` is for `SeedEpochs`, `phase`
    and `tell` are for `Checkpoint`. With `ema`, the decay of the weights' moving average, that is the result.
    `patience` epochs without a better validation loss end the fit early, with the weights of the best epoch; a spent
    budget ends it by `OutOfTime`. `cycle` holds further arguments of ``Learner.fit_one_cycle``. Raises `InputError`
    where the loss or a weight is no finite number any more."""
    average = MovingAverage(ema) if ema else None
    keeper = Checkpoint(checkpoint, phase, average, patience is not None, tell)
    within = WithinBudget(budget) if budget is not None else None
    early = EarlyStoppingCallback(patience=patience) if patience is not None else None
    with learner.no_bar(), learner.no_logging():
        callbacks = [one for one in (keeper, SeedEpochs(seed), average, within, early) if one is not None]
        learner.fit_one_cycle(epochs, lr, cbs=callbacks, **cycle)
    return keeper.seconds


def train_file(
    file: Path,
    make: Callable[[bool], Learner],
    config: Any,
    *,
    seed: int,
    title: str,
    history: Path | None = None,
    keep: Callable[[Any], dict[str, Any]] = nn.Module.state_dict,
    **options: Any,
) -> pd.DataFrame:
    """Train a network for ``config.epochs`` at ``config.lr``; killed at any moment, it goes on. `make` returns the
    learner, everything random in it drawn from `seed`, as the epochs are; it is told whether this is the beginning,
    since a resumed network needs no first weights. What `keep` takes of the trained model goes into the file,
    safetensors, with the configuration in its header; the table that is returned, see `history_of`, goes into
    `history`. `title` is the progress bar's, options are those of `train`. In a `group` only the first process writes,
    and the others come back before it has."""
    checkpoint = file.with_suffix(".checkpoint.pt")
    set_seed(seed)
    learner = make(not checkpoint.is_file())
    with tqdm(total=config.epochs, unit="epoch", desc=title, disable=not group.leads()) as progress:

        def tell(_epoch: int, figures: list[float]) -> None:
            progress.set_postfix_str(f"train {figures[0]:.4f} valid {figures[1]:.4f}")
            progress.update()

        train(learner, checkpoint, config.epochs, config.lr, seed=seed, tell=tell, **options)
    table = history_of(learner)
    if not group.leads():
        return table
    if history is not None:
        write_csv(history, table)
    write_network(file, keep(learner.model), config)
    checkpoint.unlink(missing_ok=True)
    return table


def history_of(learner: Learner) -> pd.DataFrame:
    """Return a fit's epochs: columns ``epoch`` (from 1), ``train_loss``, ``valid_loss`` and the metrics."""
    rows = [[float(value) for value in row] for row in learner.recorder.values]
    table = pd.DataFrame(rows, columns=list(learner.recorder.metric_names[1:-1]))
    table.insert(0, "epoch", range(1, len(table) + 1))
    return table


def write_network(file: Path, state: dict[str, Any], config: Any = None) -> None:
    """Write a network's weights as safetensors, and its configuration into the header."""
    plain = {name: value.contiguous().cpu() for name, value in state.items()}
    # One entry only: safetensors writes several in an order that differs from run to run.
    facts = {"config": json.dumps(asdict(config), sort_keys=True)} if config is not None else None
    write_atomic(file, lambda path: safetensors.torch.save_file(plain, path, metadata=facts))


class SeedEpochs(Callback):  # type: ignore[misc]
    """Seed every generator at the start of each epoch, from the run's seed and the epoch's number. An epoch then
    depends on nothing before the state that it starts from. On a CPU, with the same number of threads, a resumed run so
    ends with the same bytes as an uninterrupted one. On a GPU it sees the same images, augmented alike, in the same
    order; but the GPU adds in an order of its own, and any two runs differ by rounding."""

    order = -100

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_epoch(self) -> None:
        """Seed Python, NumPy, torch on every device, hence the loaders' processes, and the images' order."""
        seed = derive_seed(self.seed, "epoch", self.epoch)
        set_seed(seed)
        self.learn.dls.train.rng = random.Random(seed)
        # fastai smooths the training loss over all batches so far; here each epoch's is its own.
        self.learn.recorder.smooth_loss.reset()


class MovingAverage(Callback):  # type: ignore[misc]
    """Keep an exponential moving average of the weights; validation and the end of the fit use it. The decay after step
    s is the lesser of `decay` and (1 + s) / (10 + s), so that the first, untrained weights are soon forgotten. Steps
    that mixed precision leaves out, because a gradient was beyond 16-bit floats, do not count."""

    order = 40  # before the recorder (50) and the checkpoint look at the validation's loss

    def __init__(self, decay: float) -> None:
        self.decay, self.steps, self.left_out = decay, 0, False

    def before_fit(self) -> None:
        """Start from the weights as they are; the checkpoint then brings the average of a resumed fit."""
        self.steps = 0
        # timm's warm-up counts from one step after the first, and so gives the decay above.
        self.average = ModelEmaV3(self.learn.model, self.decay, use_warmup=True, warmup_gamma=9.0, warmup_power=1.0)

    def after_cancel_step(self) -> None:
        """Note that the weights have not changed."""
        self.left_out = True

    def after_step(self) -> None:
        """Move the average towards the new weights."""
        if not self.left_out:
            self.steps += 1
            self.average.update(self.learn.model, self.steps + 2)
        self.left_out = False

    def before_validate(self) -> None:
        """Validate the average."""
        self._own, self.learn.model = self.learn.model, self.average.module

    def after_validate(self) -> None:
        """Train on with the weights themselves."""
        self.learn.model = self._own

    def after_fit(self) -> None:
        """End with the average."""
        self.learn.model.load_state_dict(self.average.module.state_dict())


class Checkpoint(Callback):  # type: ignore[misc]
    """After each epoch, write all that a resumed run needs to `path`; the last epoch's weights are the result. Choosing
    the best epoch by the held-out part would make the figures of that part too good; `keep_best` ends with the weights
    of the least validation loss all the same. On resuming the same `phase`, the name of this fit within the run, the
    epochs already done are skipped by replaying their recorded losses and metrics, so that every tracking callback
    comes to the state that it had."""

    # After the moving average, whose state it writes, and the recorder (50); before early stopping (63) ends the fit.
    order = TrackerCallback.order + 2

    def __init__(
        self, path: Path, phase: str, average: MovingAverage | None = None, keep_best: bool = False, tell: Tell = None
    ) -> None:
        self.path_to_checkpoint, self.phase = path, phase
        self.average, self.keep_best, self.tell = average, keep_best, tell
        self.seconds: list[float] = []

    def before_fit(self) -> None:
        self.done: list[list[float]] = []
        self.best: dict[str, torch.Tensor] = {}
        self.seconds, self.begun = [], time.perf_counter()
        state = read_checkpoint(self.path_to_checkpoint)
        if state is not None and state["phase"] == self.phase:
            self.done, self.best = restore_learner(self.learn, state), state["best"]
            self.seconds = list(state["seconds"])
            if self.average is not None:
                self.average.steps = state["average"]["steps"]
                self.average.average.module.load_state_dict(state["average"]["average"])

    def before_epoch(self) -> None:
        if self.epoch < len(self.done):
            self.learn.recorder.log += self.done[self.epoch]
            raise CancelEpochException

    def after_epoch(self) -> None:
        """Tell the epoch's figures and write the checkpoint; raise when the loss or a weight is no finite number."""
        if self.tell is not None:
            self.tell(self.epoch, [float(value) for value in self.learn.recorder.values[-1]])
        if self.epoch < len(self.done):
            return
        losses = [float(row[1]) for row in self.learn.recorder.values]
        weights = [*self.learn.model.state_dict().values()]
        average: dict[str, Any] = {}
        if self.average is not None:
            average = {"steps": self.average.steps, "average": dict(self.average.average.module.state_dict())}
            weights += average["average"].values()
        if not math.isfinite(losses[-1]) or not all(bool(torch.isfinite(value).all()) for value in weights):
            what = f"in epoch {self.epoch + 1} the loss or a weight is no finite number"
            raise InputError(f"{self.path_to_checkpoint}: {what}; train with a smaller --lr into another --out")
        if self.keep_best and losses[-1] < min(losses[:-1], default=math.inf):
            self.best = {name: value.cpu().clone() for name, value in self.learn.model.state_dict().items()}
        self.seconds.append(time.perf_counter() - self.begun)
        self.begun = time.perf_counter()
        state = {"phase": self.phase, "best": self.best, "average": average, "seconds": self.seconds}
        state |= learner_state(self.learn)
        if not group.leads():
            return
        # In torch's older format: the newer one is an archive, which Kaggle may unpack into a folder.
        save = partial(torch.save, state, _use_new_zipfile_serialization=False)
        write_atomic(self.path_to_checkpoint, save)

    def after_fit(self) -> None:
        if self.best:
            self.learn.model.load_state_dict(self.best)


def learner_state(learner: Learner) -> dict[str, Any]:
    """Return history, weights, optimiser and gradient scaler of a learner between two epochs."""
    optimizer, scaler = learner.opt.state_dict(), getattr(learner, "scaler", None)
    return {
        "history": [[float(value) for value in row] for row in learner.recorder.values],
        "model": dict(learner.model.state_dict()),
        # The schedulers leave NumPy scalars, which a checkpoint read without pickle cannot hold.
        "hypers": [{name: np.asarray(value).item() for name, value in one.items()} for one in optimizer["hypers"]],
        "state": list(optimizer["state"]),
        "scaler": scaler.state_dict() if scaler is not None else {},
    }


def restore_learner(learner: Learner, state: dict[str, Any]) -> list[list[float]]:
    """Bring a learner to what `learner_state` gave; return the figures of the epochs that are done."""
    learner.model.load_state_dict(state["model"])
    # The loaders may know of no device, or of another one than the model's.
    moments = to_device(state["state"], device_of(learner.model))
    learner.opt.load_state_dict({"hypers": state["hypers"], "state": moments})
    scaler = getattr(learner, "scaler", None)
    if scaler is not None and state["scaler"]:  # a run begun without a GPU has no scaler's state
        scaler.load_state_dict(state["scaler"])
    return [list(row) for row in state["history"]]


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read what `Checkpoint` wrote, on the CPU; None where there is no such file, or a damaged one."""
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, struct.error, pickle.UnpicklingError) as error:
        log.warning("%s: damaged (%s); what it belongs to begins anew", path, " ".join(str(error).split())[:100])
        return None
    return state


class WithinBudget(Callback):  # type: ignore[misc]
    """Raise `OutOfTime` before a training batch when the budget is spent; the last epoch is in the checkpoint."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def before_batch(self) -> None:
        """Ask the time budget."""
        if self.training:
            group.check(self.budget)
