"""Training one fold of the second stage with fastai, and predicting with its network."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from fastai.callback import schedule as _schedule  # noqa: F401 — gives Learner its fit_one_cycle
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.torch_core import set_seed
from numpy.typing import NDArray
from tqdm import tqdm

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.files import write_atomic, write_csv
from lumbar_kaggle.core.targets import LEVELS, SCORE_GROUPS, SEVERITIES, TARGET_NAMES, target
from lumbar_kaggle.score.metric import PRIOR_SMOOTHING, weighted_prior
from lumbar_kaggle.tables.folds import derive_seed
from lumbar_kaggle.training.callbacks import (
    Checkpoint,
    MovingAverage,
    ReportEpochs,
    SeedEpochs,
    WithinBudget,
)
from lumbar_kaggle.training.devices import device_of, half_precision, train_in_half_precision, training_device
from lumbar_kaggle.training.weights import load_weights
from lumbar_kaggle.two_stage.grade.augment import SWAPPED, cut, mirror, unpack
from lumbar_kaggle.two_stage.grade.callbacks import Accumulate, MixSamples, PrepareBatch
from lumbar_kaggle.two_stage.grade.config import GradeConfig
from lumbar_kaggle.two_stage.grade.cropping import CropSet, FreshCrops
from lumbar_kaggle.two_stage.grade.data import INPUTS, Labels, Samples
from lumbar_kaggle.two_stage.grade.losses import GradeLoss
from lumbar_kaggle.two_stage.grade.network import Grader


def level_prior(labels: pd.DataFrame, *, weighted: bool) -> torch.Tensor:
    """Return the prior ``[3 groups, 5 levels, 3]`` of `competition.Competition.labels`.

    Args:
        labels: of the training part.
        weighted: with the score's weights 1, 2 and 4.
    """
    table = weighted_prior(labels, smoothing=PRIOR_SMOOTHING)
    values = table.loc[list(TARGET_NAMES), list(SEVERITIES)].to_numpy(dtype=np.float64)
    if not weighted:
        values = values / np.array([1.0, 2.0, 4.0])
    prior = np.zeros((len(SCORE_GROUPS), len(LEVELS), len(SEVERITIES)))
    for name, row in zip(TARGET_NAMES, values, strict=True):
        of = target(name)
        prior[SCORE_GROUPS.index(of.score_group), LEVELS.index(of.level)] = row / row.sum()
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
    file, checkpoint = folder / f"fold-{fold}.safetensors", folder / f"fold-{fold}.checkpoint.pt"
    if file.is_file():
        return load_network(file, config)
    seed = derive_seed(config.seed, "grade", fold)
    set_seed(seed)
    network = Grader(config, prior, pretrained=not checkpoint.is_file())
    learner = make_learner(network, training, validation, folder, config)
    with tqdm(total=config.epochs, unit="epoch", desc=f"train fold {fold + 1}/{config.folds}") as progress:

        def tell(_epoch: int, figures: list[float]) -> None:
            progress.set_postfix_str(f"train {figures[0]:.4f} valid {figures[1]:.4f}")
            progress.update()

        average = MovingAverage(config.ema) if config.ema else None
        callbacks = [
            Checkpoint(checkpoint, "grade", average),
            SeedEpochs(seed),
            ReportEpochs(tell),
            WithinBudget(budget),
        ]
        callbacks += [average] if average is not None else []
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(config.epochs, config.lr, wd=config.weight_decay, cbs=callbacks)
    write_csv(folder / f"fold-{fold}-history.csv", _history(learner))
    state = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
    # One entry only: safetensors writes several in an order that differs from run to run.
    facts = {"config": json.dumps(asdict(config), sort_keys=True)}
    write_atomic(file, lambda path: safetensors.torch.save_file(state, path, metadata=facts))
    checkpoint.unlink(missing_ok=True)
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


def _history(learner: Learner) -> pd.DataFrame:
    rows = [[float(value) for value in row] for row in learner.recorder.values]
    return pd.DataFrame(rows, columns=["train_loss", "valid_loss"]).rename_axis("epoch").reset_index()


def make_learner(
    network: Grader, training: Samples, validation: Samples, folder: Path, config: GradeConfig
) -> Learner:
    """Return the fastai learner of one fold."""
    batch = min(config.batch_size, len(training))
    loaders = DataLoaders(
        DataLoader(
            training, bs=batch, shuffle=True, drop_last=True, n_inp=INPUTS, num_workers=config.workers
        ),
        DataLoader(validation, bs=batch, n_inp=INPUTS, num_workers=config.workers),
    )
    device = training_device()
    loaders.to(device)
    network.to(device)
    loss = GradeLoss(config)
    callbacks = [PrepareBatch(config)]
    if config.mixup:
        callbacks.append(MixSamples(config.mixup, loss))
    if config.accumulate > 1:
        callbacks.append(Accumulate(batch * config.accumulate))
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    learner = Learner(loaders, network, loss_func=loss, path=folder, model_dir=".", cbs=callbacks)
    return train_in_half_precision(learner, wanted=config.mixed_precision)


def unlabelled(studies: Sequence[str], crops: CropSet | FreshCrops) -> Samples:
    """Return the levels of studies whose grades nobody knows; all of them in `crops`."""
    blank = Labels(np.full((5, 5), -1, np.int64), np.ones((5, 5), np.float32))
    return Samples(studies, dict.fromkeys(studies, blank), crops)


def predict_studies(
    networks: Sequence[Grader],
    studies: Sequence[str],
    crops: CropSet | FreshCrops,
    config: GradeConfig,
) -> NDArray[np.float64]:
    """Return probabilities ``[studies, 5 levels, 5 places, 3]``: the mean over networks and mirror images.

    Args:
        networks: of one configuration, on one device, which computes.
        studies: all of them in `crops`.
        crops: around the points to grade at.
        config: of the networks.
    """
    samples = unlabelled(studies, crops)
    parts = [
        predict_batch(networks, batch, config) for batch in DataLoader(samples, bs=2 * config.batch_size)
    ]
    probabilities: NDArray[np.float64] = torch.cat(parts).double().numpy()
    return probabilities.reshape(len(studies), len(LEVELS), -1, len(SEVERITIES))


@torch.inference_mode()
def predict_batch(
    networks: Sequence[Grader], batch: tuple[torch.Tensor, ...], config: GradeConfig
) -> torch.Tensor:
    """Return probabilities ``[batch, 5, 3]`` of a batch as `data.Samples` gives it.

    They are the mean over networks, turns and, by the configuration, the mirrored patient.
    """
    device = device_of(networks[0])
    cached = unpack(tuple(tensor.to(device) for tensor in batch))
    found = []
    for turn in config.predict_turns:
        plain = cut(*cached, config, turn)
        shown = [(plain[0], list(range(len(SWAPPED))))]
        if config.flip_predictions:
            everyone = torch.ones(len(plain[0].level), dtype=torch.bool, device=device)
            shown.append((mirror(*plain, everyone)[0], SWAPPED))
        with half_precision(device, wanted=config.mixed_precision):
            for network in networks:
                network.eval()
                found += [
                    network(*inputs.flat())["logits"].softmax(dim=2)[:, order] for inputs, order in shown
                ]
    return torch.stack(found).mean(dim=0).cpu()
