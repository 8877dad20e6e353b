"""Training one fold of the second stage with fastai, and predicting with its network."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.torch_core import to_device
from numpy.typing import NDArray

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.targets import LEVELS, SCORE_GROUPS, SEVERITIES, SEVERITY_WEIGHTS, TARGETS
from lumbar_kaggle.scoring.metric import PRIOR_SMOOTHING, weighted_prior
from lumbar_kaggle.tables.folds import derive_seed
from lumbar_kaggle.training.devices import device_of, half_precision
from lumbar_kaggle.training.loop import make_learner, train_file
from lumbar_kaggle.training.weights import load_weights
from lumbar_kaggle.two_stage.config import GradeConfig
from lumbar_kaggle.two_stage.grade.augment import SWAPPED, Accumulate, MixSamples, PrepareBatch, cut, mirror
from lumbar_kaggle.two_stage.grade.data import Batch, Samples
from lumbar_kaggle.two_stage.grade.network import GradeLoss, Grader


def level_prior(labels: pd.DataFrame, *, weighted: bool) -> torch.Tensor:
    """Return the prior ``[3 groups, 5 levels, 3]`` of labels; `weighted`: by the score's 1, 2 and 4."""
    weights = SEVERITY_WEIGHTS if weighted else (1.0, 1.0, 1.0)
    table = weighted_prior(labels, smoothing=PRIOR_SMOOTHING, weights=weights)
    prior = np.zeros((len(SCORE_GROUPS), len(LEVELS), len(SEVERITIES)))
    for of, row in zip(TARGETS, table.to_numpy(), strict=True):
        prior[SCORE_GROUPS.index(of.score_group), LEVELS.index(of.level)] = row
    return torch.from_numpy(prior)


def train_fold(
    training: Samples,
    validation: Samples,
    prior: torch.Tensor,
    fold: int,
    folder: Path,
    config: GradeConfig,
    budget: Budget,
) -> Grader:
    """Train one fold, or load it if that is done; killed at any moment, it goes on at the epoch it was in.

    Args:
        training, validation: levels of the fold's two parts.
        prior: see `level_prior`.
        fold: its number.
        folder: run folder; the fold leaves ``fold-{k}.safetensors`` and ``fold-{k}-history.csv`` there.
        config: what to train.
        budget: `OutOfTime` ends the training between two batches.
    """
    file = folder / f"fold-{fold}.safetensors"
    if not file.is_file():
        train_file(
            file,
            lambda fresh: _make_learner(
                Grader(config, prior, pretrained=fresh), (training, validation), folder, config
            ),
            config,
            seed=derive_seed(config.seed, "grade", fold),
            title=f"train fold {fold + 1}/{config.folds}",
            history=folder / f"fold-{fold}-history.csv",
            budget=budget,
            ema=config.ema,
            wd=config.weight_decay,
        )
    # As a resumed run has it: the order of the weights in memory shows in the last digits of the predictions.
    return load_network(file, config)


def load_network(file: Path, config: GradeConfig) -> Grader:
    """Return a fold's trained network, on the CPU.

    Raises:
        InputError: the file is missing, damaged, or of another network.
    """
    network = Grader(config)
    load_weights(network, file, "delete it and run the same command again, or export the bundle again")
    return network


def _make_learner(network: Grader, parts: tuple[Samples, Samples], folder: Path, config: GradeConfig) -> Learner:
    loss = GradeLoss(config)
    callbacks = [PrepareBatch(config)]
    if config.mixup:
        callbacks.append(MixSamples(config.mixup, loss))
    if config.accumulate > 1:
        callbacks.append(Accumulate(min(config.batch_size, len(parts[0])) * config.accumulate))
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    return make_learner(network, parts, loss, folder, config, callbacks=callbacks, workers=config.workers)


def predict_levels(
    networks: Sequence[Grader], levels: Samples | Sequence[tuple[Batch]], config: GradeConfig
) -> NDArray[np.float64]:
    """Return probabilities ``[studies, 5 levels, 5 places, 3]``: the mean over networks and mirror images.

    Args:
        networks: of one configuration, on one device, which computes.
        levels: of the studies, all five of each.
        config: of the networks.
    """
    loader = DataLoader(levels, bs=2 * config.batch_size)
    parts = [predict_batch(networks, batch, config) for (batch,) in loader]
    probabilities: NDArray[np.float64] = torch.cat(parts).double().numpy()
    return probabilities.reshape(-1, len(LEVELS), *probabilities.shape[1:])


@torch.inference_mode()
def predict_batch(networks: Sequence[Grader], batch: Batch, config: GradeConfig) -> torch.Tensor:
    """Return probabilities ``[batch, 5, 3]`` of crops as they are cached.

    They are the mean over networks, turns and, by the configuration, the mirrored patient.
    """
    device = device_of(networks[0])
    cached = to_device(batch, device)
    found = []
    for turn in config.predict_turns:
        plain = cut(cached, config, turn)
        shown = [(plain, list(range(len(SWAPPED))))]
        if config.flip_predictions:
            everyone = torch.ones(len(plain["level"]), dtype=torch.bool, device=device)
            shown.append((mirror(plain, everyone), SWAPPED))
        with half_precision(device, wanted=config.mixed_precision):
            for network in networks:
                network.eval()
                found += [network(one)["logits"].softmax(dim=2)[:, order] for one, order in shown]
    return torch.stack(found).mean(dim=0).cpu()
