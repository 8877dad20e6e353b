"""Training one locator network, resumable at its epoch."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from fastai.callback import schedule as _schedule  # noqa: F401 — gives Learner its fit_one_cycle
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.torch_core import set_seed
from tqdm import tqdm

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.files import write_atomic
from lumbar_kaggle.tables.folds import derive_seed
from lumbar_kaggle.training.callbacks import Checkpoint, ReportEpochs, SeedEpochs, WithinBudget
from lumbar_kaggle.training.devices import CPU, train_in_half_precision, training_device
from lumbar_kaggle.training.weights import load_weights
from lumbar_kaggle.two_stage.locate.config import LocateConfig
from lumbar_kaggle.two_stage.locate.network import Locator, to_input
from lumbar_kaggle.two_stage.locate.samples import Sample, augment, heat_maps


def network_file(run: Path, name: str, fold: int) -> Path:
    """Return the weights' file of a fold of the network called `name`."""
    return run / f"{name}-{fold}.safetensors"


def load_network(file: Path, config: LocateConfig, outputs: int, device: torch.device = CPU) -> Locator:
    """Return a trained network on a device.

    Raises:
        InputError: the file is missing or of another network.
    """
    network = Locator(config.channels, outputs)
    load_weights(network, file, "run lumbar locate to its end first")
    return network.to(device)


def train_network(
    name: str,
    fold: int,
    parts: tuple[Sequence[Sample], Sequence[Sample]],
    run: Path,
    config: LocateConfig,
    budget: Budget,
    start: Locator | None,
) -> Locator:
    """Train one fold's network, or take it up where it was, save it, and return it on the training's device.

    Args:
        name: ``sagittal`` or ``axial``.
        fold: number of the fold.
        parts: the samples to train on and those to validate on; not empty.
        run: folder for weights and checkpoint.
        config: what to train.
        budget: asked before each batch.
        start: a network to start from.
    """
    outputs = len(parts[0][0].state)
    file = network_file(run, name, fold)
    if file.is_file():
        return load_network(file, config, outputs, training_device())
    seed = derive_seed(config.seed, name, str(fold))
    set_seed(seed)
    network = Locator(config.channels, outputs)
    if start is not None:
        network.load_state_dict(start.state_dict())
    learner = _make_learner(network, *parts, run, config)
    checkpoint = run / f"{name}-{fold}.checkpoint.pt"
    title = f"train {name} fold {fold + 1}/{config.folds}"
    with tqdm(total=config.epochs, unit="epoch", desc=title) as progress:

        def tell(_epoch: int, figures: list[float]) -> None:
            progress.set_postfix_str(f"valid {figures[1]:.3f}")
            progress.update()

        callbacks = [SeedEpochs(seed), Checkpoint(checkpoint, name), ReportEpochs(tell), WithinBudget(budget)]
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(config.epochs, config.lr, cbs=callbacks)
    state = {key: value.contiguous().cpu() for key, value in network.state_dict().items()}
    # One entry only: safetensors writes several in an order of its own.
    facts = {"config": json.dumps(asdict(config))}
    write_atomic(file, lambda path: safetensors.torch.save_file(state, path, metadata=facts))
    checkpoint.unlink(missing_ok=True)
    # As a resumed run has it: the order of the weights in memory shows in the last digits of the points.
    return load_network(file, config, outputs, training_device())


class _Slices:
    """Samples as the loader asks for them: augmented for training, as they are for validation."""

    def __init__(self, samples: Sequence[Sample], *, training: bool) -> None:
        self.samples, self.training = samples, training

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        sample = self.samples[index]
        if self.training:
            # From NumPy's own generator, which `SeedEpochs` seeds at the start of each epoch.
            sample = augment(sample, np.random.default_rng(np.random.randint(2**31)))  # noqa: NPY002
        maps, weights = heat_maps(sample.places, sample.state, (sample.image.shape[0], sample.image.shape[1]))
        return to_input(sample.image[None])[0], (torch.from_numpy(maps), torch.from_numpy(weights))


def _make_learner(
    network: Locator,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    folder: Path,
    config: LocateConfig,
) -> Learner:
    batch = min(config.batch_size, len(training))
    loaders = DataLoaders(
        DataLoader(_Slices(training, training=True), bs=batch, shuffle=True, drop_last=True),
        DataLoader(_Slices(validation, training=False), bs=batch),
    )
    device = training_device()
    loaders.to(device)
    network.to(device).to(memory_format=torch.channels_last)  # a third faster on a CPU
    learner = Learner(loaders, network, loss_func=_loss, path=folder, model_dir=".")
    return train_in_half_precision(learner, wanted=config.mixed_precision)


def _loss(log_probabilities: torch.Tensor, targets: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return the cross-entropy of the heat maps over the channels of which something is known."""
    maps, weights = targets
    each = -(maps * log_probabilities).sum(dim=2)
    return (each * weights).sum() / weights.sum().clamp(min=1.0)
