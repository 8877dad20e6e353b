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
from lumbar_kaggle.training.callbacks import Checkpoint, MovingAverage, ReportEpochs, SeedEpochs, WithinBudget
from lumbar_kaggle.training.devices import train_in_half_precision, training_device


def make_learner(
    network: nn.Module,
    parts: tuple[Any, Any],
    loss: Callable[..., Any],
    folder: Path,
    config: Any,
    *,
    callbacks: Sequence[Callback] = (),
    after_batch: tuple[Any, Any] = (None, None),
    workers: int = 0,
) -> Learner:
    """Return a learner of two datasets, on the training's device, in 16 bits where that is faster.

    Args:
        network: to be trained.
        parts: datasets to train and to validate on: anything with a length and items.
        loss: of the network's output and the batch's targets.
        folder: for fastai's own temporary files.
        config: its ``batch_size`` and, where it has one, its ``mixed_precision``.
        callbacks: of the recipe.
        after_batch: what happens to a training and to a validation batch on the device.
        workers: processes that load.
    """
    device = training_device()
    # The training loader drops its last, smaller batch: with fewer items than one batch nothing is left.
    shared = {"bs": min(config.batch_size, len(parts[0])), "num_workers": workers}
    training, validation = after_batch
    loaders = DataLoaders(
        DataLoader(parts[0], shuffle=True, drop_last=True, after_batch=training, **shared),
        DataLoader(parts[1], after_batch=validation, **shared),
    ).to(device)
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
    keep_best: bool = False,
    patience: int | None = None,
    tell: Callable[[int, list[float]], None] | None = None,
    **cycle: Any,
) -> list[float]:
    """Fit by one cycle, or go on after the last epoch that is in the checkpoint.

    Args:
        learner: as it is before its first epoch.
        checkpoint: written after each epoch; the caller removes it once the result is kept.
        epochs: all of them, those done earlier too.
        lr: greatest learning rate, or fastai's slice of them.
        seed: of the epochs, see `SeedEpochs`.
        phase: of several fits that share a checkpoint.
        budget: `OutOfTime` ends the fit between two batches.
        ema: decay of the weights' moving average, which is then the result; 0: none.
        keep_best: end with the weights of the least validation loss; otherwise the last epoch's.
        patience: epochs without a better validation loss before the fit ends early.
        tell: receives each epoch's number from 0 and its figures: losses, metrics.
        cycle: further arguments of ``Learner.fit_one_cycle``.

    Returns:
        Seconds of each epoch, those of earlier processes too.

    Raises:
        InputError: the loss or a weight is no finite number any more.
    """
    average = MovingAverage(ema) if ema else None
    keeper = Checkpoint(checkpoint, phase, average, keep_best=keep_best)
    callbacks = [keeper, SeedEpochs(seed), *([average] if average else [])]
    callbacks += [WithinBudget(budget)] if budget is not None else []
    callbacks += [EarlyStoppingCallback(patience=patience)] if patience is not None else []
    callbacks += [ReportEpochs(tell)] if tell is not None else []
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
    """Train a network for ``config.epochs`` at ``config.lr`` and write it; killed at any moment, it goes on.

    Args:
        file: gets the weights, safetensors, with the configuration beside them.
        make: returns the learner, everything random in it drawn after seeding; told whether this is the
            beginning: a resumed network needs no first weights.
        config: dataclass of what is trained.
        seed: of the network's random weights and of the epochs.
        title: of the progress bar.
        history: where the table that is returned goes too.
        keep: what of the trained model is written.
        options: of `train`.

    Returns:
        See `history_of`.
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
