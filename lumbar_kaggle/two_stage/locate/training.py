"""Training one locator network, resumable at its epoch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fastai.learner import Learner

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.settings import load_config
from lumbar_kaggle.tables.folds import derive_seed
from lumbar_kaggle.training.devices import CPU, training_device
from lumbar_kaggle.training.loop import make_learner, train_file
from lumbar_kaggle.training.weights import load_weights
from lumbar_kaggle.two_stage.locate.config import LocateConfig
from lumbar_kaggle.two_stage.locate.network import CHANNELS, Locator, to_input
from lumbar_kaggle.two_stage.locate.samples import Sample, augment, heat_maps

CONFIG = "locate.json"
"""The configuration in a run folder."""


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


def read_config(run: Path) -> LocateConfig:
    """Return the configuration of a run.

    Raises:
        InputError: the folder holds no locator.
    """
    if not (run / CONFIG).is_file():
        raise InputError(f"{run}: holds no locator; give a folder that lumbar locate wrote")
    return load_config(run / CONFIG, LocateConfig)


def load_networks(run: Path, name: str, device: torch.device = CPU) -> list[Locator]:
    """Return the finished folds' networks called ``sagittal`` or ``axial``, on a device; none is no error."""
    config = read_config(run)
    files = [network_file(run, name, fold) for fold in range(config.folds)]
    return [load_network(file, config, CHANNELS[name], device) for file in files if file.is_file()]


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
    outputs, file = len(parts[0][0].state), network_file(run, name, fold)
    if not file.is_file():
        train_file(
            file,
            lambda _: _make_learner(parts, run, config, start),
            config,
            seed=derive_seed(config.seed, name, str(fold)),
            title=f"train {name} fold {fold + 1}/{config.folds}",
            phase=name,
            budget=budget,
        )
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
    parts: tuple[Sequence[Sample], Sequence[Sample]],
    folder: Path,
    config: LocateConfig,
    start: Locator | None,
) -> Learner:
    network = Locator(config.channels, len(parts[0][0].state))
    if start is not None:
        network.load_state_dict(start.state_dict())
    network.to(memory_format=torch.channels_last)  # a third faster on a CPU
    slices = _Slices(parts[0], training=True), _Slices(parts[1], training=False)
    return make_learner(network, slices, _loss, folder, config)


def _loss(log_probabilities: torch.Tensor, targets: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return the cross-entropy of the heat maps over the channels of which something is known."""
    maps, weights = targets
    each = -(maps * log_probabilities).sum(dim=2)
    return (each * weights).sum() / weights.sum().clamp(min=1.0)
