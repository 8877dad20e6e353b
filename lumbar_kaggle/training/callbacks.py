"""fastai callbacks that all recipes share: reproducible epochs, the weights' average, checkpoints, time, progress."""

import logging
import math
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback, CancelEpochException
from fastai.callback.tracker import TrackerCallback
from fastai.learner import Learner
from fastai.torch_core import set_seed, to_device
from timm.utils.model_ema import ModelEmaV3

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_atomic
from lumbar_kaggle.tables.folds import derive_seed
from lumbar_kaggle.training.devices import device_of

log = logging.getLogger(__name__)


class SeedEpochs(Callback):  # type: ignore[misc]
    """Seed every generator at the start of each epoch, from the run's seed and the epoch's number.

    An epoch then depends on nothing before the state that it starts from. On a CPU, with the same number of threads, a
    resumed run so ends with the same bytes as an uninterrupted one. On a GPU it sees the same images, augmented alike,
    in the same order; but the GPU adds in an order of its own, and any two runs differ by rounding.
    """

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
    """Keep an exponential moving average of the weights; validation and the end of the fit use it.

    The decay after step s is the lesser of `decay` and (1 + s) / (10 + s), so that the first, untrained weights are
    soon forgotten. Steps that mixed precision leaves out, because a gradient was beyond 16-bit floats, do not count.
    """

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
    """After each epoch, write all that a resumed run needs to `path`; the last epoch's weights are the result.

    Choosing the best epoch by the held-out part would make the figures of that part too good; `keep_best` ends with
    the weights of the least validation loss all the same. On resuming the same `phase`, the name of this fit within the
    run, the epochs already done are skipped by replaying their recorded losses and metrics, so that every tracking
    callback comes to the state that it had. `tell` receives each epoch's number from 0 and its losses and metrics.
    """

    # After the moving average, whose state it writes, and the recorder (50); before early stopping (63) ends the fit.
    order = TrackerCallback.order + 2

    def __init__(
        self,
        path: Path,
        phase: str,
        average: MovingAverage | None = None,
        *,
        keep_best: bool = False,
        tell: Callable[[int, list[float]], None] | None = None,
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
            raise InputError(
                f"{self.path_to_checkpoint}: in epoch {self.epoch + 1} the loss or a weight is no finite number; "
                "train with a smaller --lr into another --out"
            )
        if self.keep_best and losses[-1] < min(losses[:-1], default=math.inf):
            self.best = {name: value.cpu().clone() for name, value in self.learn.model.state_dict().items()}
        self.seconds.append(time.perf_counter() - self.begun)
        self.begun = time.perf_counter()
        state = {"phase": self.phase, "best": self.best, "average": average, "seconds": self.seconds}
        state |= learner_state(self.learn)
        write_atomic(self.path_to_checkpoint, lambda temporary: torch.save(state, temporary))

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
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
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
            self.budget.check()
