"""``lumbar pretrain``: a body that has seen spines, for machines without ImageNet weights.

Trains the body of a network on the middle T1 slices of phantom patients to grade the canal at all five
levels at once (nothing else can be seen on that slice), and saves it as a file for ``--weights``.
The patients are drawn from a seed of their own and are never those of a benchmark.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.learner import Learner
from fastai.torch_core import TensorImage
from fastai.vision.augment import aug_transforms
from torch import nn

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import locked
from lumbar_kaggle.core.settings import load_config, save_config
from lumbar_kaggle.core.targets import SEVERITY_WEIGHTS, TARGETS
from lumbar_kaggle.phantom.imaging import draw_middle_slices
from lumbar_kaggle.training.devices import training_device
from lumbar_kaggle.training.encoders import body_state, build_network
from lumbar_kaggle.training.loop import make_learner, train_file
from lumbar_kaggle.training.pretraining_config import HELD_OUT, PretrainConfig

log = logging.getLogger(__name__)

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
    log.info("Pretraining %s on %d phantom patients into %s", config.arch, config.patients, out)
    with locked(out, file=True):
        history = train_file(
            out,
            lambda _: _make_learner(config, out.parent),
            config,
            seed=config.seed,
            title="pretrain",
            # The body alone, under the names that the whole model has for its weights.
            keep=lambda model: body_state(model[0], config.arch),
        )
    return float(history["valid_loss"].iloc[-1])


def _make_learner(config: PretrainConfig, folder: Path) -> Learner:
    network = build_network(config.arch)
    images, severities = draw_middle_slices(config.seed, config.patients, config.image_size)
    device = training_device()
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (network.mean, network.std))
    rows = [
        (TensorImage(torch.from_numpy(image)[None].expand(3, -1, -1)), torch.from_numpy(grades))
        for image, grades in zip(images, severities[:, CANAL], strict=True)
    ]
    held_out = np.arange(len(rows)) % HELD_OUT == 0
    training, validation = ([rows[k] for k in np.flatnonzero(chosen)] for chosen in (~held_out, held_out))
    transforms = aug_transforms(do_flip=False)

    def normalise(batch: Any) -> Any:
        return (TensorImage(((batch[0].float() / 255) - mean) / std), batch[1])

    def augment(batch: Any) -> Any:
        picture = TensorImage(batch[0].float() / 255)
        for transform in transforms:
            picture = transform(picture, split_idx=0)
        return normalise((picture * 255, batch[1]))

    body = network.model[0]
    with torch.no_grad():
        features = body.eval()(torch.zeros(1, 3, config.image_size, config.image_size)).shape[1]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, 3 * len(CANAL)))
    model, parts = nn.Sequential(body, head), (training, validation)
    return make_learner(model, parts, _canal_loss, folder, config, after_batch=(augment, normalise))


def _canal_loss(logits: torch.Tensor, severity: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor(SEVERITY_WEIGHTS, device=logits.device)
    return nn.functional.cross_entropy(logits.reshape(-1, 3), severity.reshape(-1), weight=weights)
