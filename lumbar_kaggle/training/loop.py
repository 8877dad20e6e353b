"""The one training loop of all recipes: fastai's one-cycle fit, resumable at every epoch.

A recipe brings datasets, a network, a loss and a schedule; `make_learner` puts them together, `train` fits
them or goes on where an earlier process stopped, and `train_file` leaves the weights in a file.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
from fastai.callback import schedule as _schedule  # noqa: F401 — gives Learner its fit_one_cycle
from fastai.callback.core import Callback
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.torch_core import set_seed
from torch import nn
from tqdm import tqdm

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.files import write_atomic, write_csv
from lumbar_kaggle.training.callbacks import Checkpoint, MovingAverage, SeedEpochs, WithinBudget
from lumbar_kaggle.training.devices import train_in_half_precision, training_device


def make_learner(
    network: nn.Module,
    parts: tuple[Any, Any],
    loss: Callable[..., Any],
    folder: Path,
    config: Any,
    *,
    callbacks: Sequence[Callback] = (),
    workers: int = 0,
) -> Learner:
    """Return a learner on the training's device, in 16 bits where that is faster and ``mixed_precision`` allows it.

    Parts are datasets to train and to validate on: anything with a length and items. Of the configuration its
    ``batch_size`` counts; `folder` is for fastai's own temporary files, `workers` are processes that load.
    """
    device = training_device()
    # The training loader drops its last, smaller batch: with fewer items than one batch nothing is left.
    shared = {"bs": min(config.batch_size, len(parts[0])), "num_workers": workers}
    training = DataLoader(parts[0], shuffle=True, drop_last=True, **shared)
    loaders = DataLoaders(training, DataLoader(parts[1], **shared)).to(device)
    network.to(device)
    learner = Learner(loaders, network, loss_func=loss, path=folder, model_dir=".", cbs=list(callbacks))
    return train_in_half_precision(learner, wanted=getattr(config, "mixed_precision", True))


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
    tell: Callable[[int, list[float]], None] | None = None,
    **cycle: Any,
) -> list[float]:
    """Fit by one cycle, or go on after the last epoch that is in the checkpoint; return the seconds of each epoch.

    The caller removes the checkpoint, which is written after each epoch, once the result is kept. Epochs are all of
    them, those done earlier too; `lr` is the greatest rate, or fastai's slice of them; `seed` is for `SeedEpochs`,
    `phase` and `tell` are for `Checkpoint`. With `ema`, the decay of the weights' moving average, that is the result.
    `patience` epochs without a better validation loss end the fit early, with the weights of the best epoch; a spent
    budget ends it by `OutOfTime`. `cycle` holds further arguments of ``Learner.fit_one_cycle``.

    Raises:
        InputError: the loss or a weight is no finite number any more.
    """
    average = MovingAverage(ema) if ema else None
    keeper = Checkpoint(checkpoint, phase, average, keep_best=patience is not None, tell=tell)
    callbacks = [keeper, SeedEpochs(seed), *([average] if average else [])]
    callbacks += [WithinBudget(budget)] if budget is not None else []
    callbacks += [EarlyStoppingCallback(patience=patience)] if patience is not None else []
    with learner.no_bar(), learner.no_logging():
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
    """Train a network for ``config.epochs`` at ``config.lr``; killed at any moment, it goes on.

    `make` returns the learner, everything random in it drawn from `seed`, as the epochs are; it is told whether this is
    the beginning, since a resumed network needs no first weights. What `keep` takes of the trained model goes into the
    file, safetensors, with the configuration in its header; the table that is returned, see `history_of`, goes into
    `history`. `title` is the progress bar's, options are those of `train`.
    """
    checkpoint = file.with_suffix(".checkpoint.pt")
    set_seed(seed)
    learner = make(not checkpoint.is_file())
    with tqdm(total=config.epochs, unit="epoch", desc=title) as progress:

        def tell(_epoch: int, figures: list[float]) -> None:
            progress.set_postfix_str(f"train {figures[0]:.4f} valid {figures[1]:.4f}")
            progress.update()

        train(learner, checkpoint, config.epochs, config.lr, seed=seed, tell=tell, **options)
    table = history_of(learner)
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
