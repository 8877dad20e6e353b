"""fastai callbacks that all recipes share: reproducible epochs, checkpoints, the time budget, progress."""

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback, CancelEpochException
from fastai.callback.tracker import TrackerCallback
from fastai.learner import Learner
from fastai.torch_core import set_seed, to_device

from lumbar_kaggle.budget import Budget
from lumbar_kaggle.files import write_atomic
from lumbar_kaggle.folds import derive_seed


class SeedEpochs(Callback):  # type: ignore[misc]
    """Seed every generator at the start of each epoch, from the run's seed and the epoch's number.

    An epoch then depends on the weights that it starts from and on nothing before it, which is what
    makes a resumed run end with the same bytes as an uninterrupted one.
    """

    order = -100

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_epoch(self) -> None:
        """Seed Python, NumPy, torch and the order of the training images."""
        seed = derive_seed(self.seed, "epoch", self.epoch)
        set_seed(seed)
        self.learn.dls.train.rng = random.Random(seed)
        # fastai smooths the training loss over all batches so far; here each epoch's is its own.
        self.learn.recorder.smooth_loss.reset()


class Checkpoint(TrackerCallback):  # type: ignore[misc]
    """Keep the weights of the best validation loss, and after each epoch all that a resumed run needs.

    After the fit the best weights are in the model. On resuming, the epochs already done are skipped
    by replaying their recorded losses and metrics, so that every tracking callback (such as
    `EarlyStoppingCallback`) comes to the state that it had.

    Args:
        path: the checkpoint file.
        phase: name of this fit within the run; a checkpoint of another phase is not resumed.
    """

    # After the recorder (50) and early stopping's siblings, before early stopping (63) can end the fit.
    order = TrackerCallback.order + 2

    def __init__(self, path: Path, phase: str) -> None:
        super().__init__(monitor="valid_loss")
        self.path_to_checkpoint, self.phase = path, phase
        self.done: list[list[float]] = []
        self.best_state: dict[str, torch.Tensor] = {}

    def before_fit(self) -> None:
        """Take up the checkpoint of this phase, if there is one."""
        super().before_fit()
        self.done, self.best_state = [], {}
        state = read_checkpoint(self.path_to_checkpoint)
        if state is not None and state["phase"] == self.phase:
            self.done = restore_learner(self.learn, state)
            self.best_state = state["best"]

    def before_epoch(self) -> None:
        """Skip an epoch that is already done, with its recorded figures."""
        if self.epoch < len(self.done):
            self.learn.recorder.log += self.done[self.epoch]
            raise CancelEpochException

    def after_epoch(self) -> None:
        """Note the best weights and write the checkpoint."""
        super().after_epoch()
        if self.epoch < len(self.done):
            return
        if self.new_best or not self.best_state:
            self.best_state = {name: value.detach().cpu().clone() for name, value in self._weights()}
        state = {"phase": self.phase, "best": self.best_state, **learner_state(self.learn)}
        write_checkpoint(self.path_to_checkpoint, state)

    def after_fit(self) -> None:
        """Put the best weights into the model."""
        super().after_fit()
        if self.best_state:
            self.learn.model.load_state_dict(self.best_state)

    def _weights(self) -> Any:
        return self.learn.model.state_dict().items()


def learner_state(learner: Learner) -> dict[str, Any]:
    """Return the history, weights and optimiser of a learner between two epochs, for a checkpoint."""
    optimizer = learner.opt.state_dict()
    return {
        "history": [[float(value) for value in row] for row in learner.recorder.values],
        "model": dict(learner.model.state_dict()),
        "hypers": [{name: _plain(value) for name, value in group.items()} for group in optimizer["hypers"]],
        "state": list(optimizer["state"]),
    }


def restore_learner(learner: Learner, state: dict[str, Any]) -> list[list[float]]:
    """Bring a learner to what `learner_state` gave; return the figures of the epochs that are done."""
    learner.model.load_state_dict(state["model"])
    moments = to_device(state["state"], learner.dls.device)
    learner.opt.load_state_dict({"hypers": state["hypers"], "state": moments})
    return [list(row) for row in state["history"]]


def _plain(value: Any) -> Any:
    # The schedulers leave NumPy scalars, which a checkpoint read without pickle cannot hold.
    return value.item() if isinstance(value, np.generic) else value


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values, atomically."""
    write_atomic(path, lambda temporary: torch.save(state, temporary))


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read what `write_checkpoint` wrote, on the CPU; None where there is no such file, or a damaged one."""
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:100]
        print(f"{path}: damaged ({reason}); what it belongs to begins anew")
        return None
    return state


class WithinBudget(Callback):  # type: ignore[misc]
    """Ask the time budget before each training batch; `OutOfTime` then ends the run.

    Nothing needs saving at that moment: the last finished epoch is in the checkpoint.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def before_batch(self) -> None:
        """Raise `OutOfTime` when the budget is spent."""
        if self.training:
            self.budget.check()


class ReportEpochs(Callback):  # type: ignore[misc]
    """Tell a function the figures of each epoch: number, training loss, validation loss, accuracy."""

    order = TrackerCallback.order + 1

    def __init__(self, tell: Callable[[int, list[float]], None]) -> None:
        self.tell = tell

    def after_epoch(self) -> None:
        """Pass the epoch's figures on."""
        self.tell(self.epoch, [float(value) for value in self.recorder.values[-1]])
