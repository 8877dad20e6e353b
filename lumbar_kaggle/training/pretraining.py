"""``lumbar pretrain``: a body that has seen spines, for machines without ImageNet weights.

Trains the body of a network on the middle T1 slices of phantom patients to grade the canal at all five
levels at once (nothing else can be seen on that slice), and saves it as a file for ``--weights``.
The patients are drawn from a seed of their own and are never those of a benchmark.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from fastai.callback import schedule as _schedule  # noqa: F401 — gives Learner its fit_one_cycle
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.torch_core import TensorImage, set_seed
from fastai.vision.augment import aug_transforms
from torch import nn
from tqdm import tqdm

from lumbar_kaggle.baseline.network import Network, body_state, build_network
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import locked, write_atomic
from lumbar_kaggle.core.settings import load_config, save_config
from lumbar_kaggle.core.targets import SEVERITY_WEIGHTS, TARGETS
from lumbar_kaggle.phantom.imaging import draw_middle_slices
from lumbar_kaggle.training.callbacks import Checkpoint, ReportEpochs, SeedEpochs
from lumbar_kaggle.training.devices import train_in_half_precision, training_device
from lumbar_kaggle.training.pretraining_config import HELD_OUT, PretrainConfig

CANAL = [index for index, target in enumerate(TARGETS) if target.side is None]


def pretrain(out: Path, config: PretrainConfig) -> float:
    """Train a body and save it; an interrupted run goes on at its last epoch.

    Args:
        out: the weights, safetensors; the configuration is saved beside as ``.json``.
        config: what to train.

    Returns:
        The last epoch's validation loss: weighted cross-entropy, mean over the canal's five levels.

    Raises:
        InputError: unknown architecture, or `out` was made with another configuration.
    """
    beside = out.with_suffix(".json")
    if beside.is_file() and load_config(beside, PretrainConfig) != config:
        raise InputError(f"{beside}: these weights were made with other settings; choose another file")
    save_config(beside, config)
    with locked(out, file=True):
        return _pretrain(out, config)


def _pretrain(out: Path, config: PretrainConfig) -> float:
    print(f"Pretraining {config.arch} on {config.patients} phantom patients into {out}")
    set_seed(config.seed)
    network = build_network(config.arch)
    learner = _make_learner(network, config, out.parent)
    checkpoint = out.with_suffix(".checkpoint.pt")
    with tqdm(total=config.epochs, unit="epoch", desc="pretrain") as progress:

        def tell(_epoch: int, figures: list[float]) -> None:
            progress.set_postfix_str(f"valid {figures[1]:.3f}")
            progress.update()

        callbacks = [SeedEpochs(config.seed), Checkpoint(checkpoint, "pretrain"), ReportEpochs(tell)]
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(config.epochs, config.lr, cbs=callbacks)
    loss = float(learner.recorder.values[-1][1])
    state = {name: value.contiguous().cpu() for name, value in body_state(network, config.arch).items()}
    # One entry only: safetensors writes several in an order of its own.
    facts = {"config": json.dumps(asdict(config))}
    write_atomic(out, lambda path: safetensors.torch.save_file(state, path, metadata=facts))
    checkpoint.unlink(missing_ok=True)
    return loss


def _make_learner(network: Network, config: PretrainConfig, folder: Path) -> Learner:
    images, severities = draw_middle_slices(config.seed, config.patients, config.image_size)
    device = training_device()
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (network.mean, network.std))
    rows = [
        (TensorImage(torch.from_numpy(image)[None].expand(3, -1, -1)), torch.from_numpy(grades))
        for image, grades in zip(images, severities[:, CANAL], strict=True)
    ]
    held_out = np.arange(len(rows)) % HELD_OUT == 0
    parts = [[rows[index] for index in np.flatnonzero(chosen)] for chosen in (~held_out, held_out)]
    augment = aug_transforms(do_flip=False)

    def normalise(batch: Any) -> Any:
        return (TensorImage(((batch[0].float() / 255) - mean) / std), batch[1])

    def augmented(batch: Any) -> Any:
        picture = TensorImage(batch[0].float() / 255)
        for transform in augment:
            picture = transform(picture, split_idx=0)
        return normalise((picture * 255, batch[1]))

    loaders = DataLoaders(
        DataLoader(parts[0], bs=config.batch_size, shuffle=True, drop_last=True, after_batch=augmented),
        DataLoader(parts[1], bs=config.batch_size, after_batch=normalise),
        device=device,
    )
    with torch.no_grad():
        features = network.model[0].eval()(torch.zeros(1, 3, config.image_size, config.image_size)).shape[1]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, 3 * len(CANAL)))
    model = nn.Sequential(network.model[0], head).to(device)
    learner = Learner(loaders, model, loss_func=_canal_loss, path=folder, model_dir=".")
    return train_in_half_precision(learner, wanted=True)


def _canal_loss(logits: torch.Tensor, severity: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor(SEVERITY_WEIGHTS, device=logits.device)
    return nn.functional.cross_entropy(logits.reshape(-1, 3), severity.reshape(-1), weight=weights)
