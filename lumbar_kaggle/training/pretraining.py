"""``lumbar pretrain``: a body that has seen spines.

Trains a network, from ImageNet's weights on, to grade all 25 targets at once on the middle T1 slices of phantom
patients, and saves its body as a file for ``--weights``. The patients are drawn from a seed of their own and are never
those of a benchmark. Heavy libraries are imported inside: the command line comes by here."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import locked, write_json
from lumbar_kaggle.core.settings import Validated, load_config, option
from lumbar_kaggle.core.targets import SEVERITIES, SEVERITY_WEIGHTS, TARGETS

log = logging.getLogger(__name__)
HELD_OUT = 10  # One patient in ten is kept aside and tells whether it learns.


@dataclass(frozen=True)
class PretrainConfig(Validated):
    """What determines the weights."""

    arch: str = option("tf_efficientnet_lite0", "any torchvision or timm model", metavar="NAME")
    weights: str = option("auto", "to start from: auto (ImageNet's), none, or a file", metavar="auto|none|FILE")
    patients: int = option(4000, "patients to draw, 20 or more", metavar="N", least=2 * HELD_OUT, most=1_000_000)
    image_size: int = option(160, "side of the input in px", metavar="PX", least=32, most=1024)
    batch_size: int = option(32, "images per training step", metavar="N", least=2, most=4096)
    epochs: int = option(4, "passes over the patients", metavar="N", least=1, most=10_000)
    lr: float = option(1e-3, "greatest learning rate", metavar="RATE", above=0, most=10)
    seed: int = option(20_000_001, "of the patients and the training", metavar="N", least=0, most=2**63 - 1)


def pretrain(out: Path, config: PretrainConfig) -> float:
    """Train a body and save it as safetensors, its configuration beside; an interrupted run goes on at its last epoch.
    Return the last epoch's validation loss: weighted cross-entropy, mean over the targets. Raises `InputError`
    where the architecture is unknown, or `out` was made with another configuration."""
    import numpy as np
    import torch
    from torch import nn

    from lumbar_kaggle.phantom.imaging import draw_middle_slices
    from lumbar_kaggle.training.library_models import body_state, build_network, load_pretrained
    from lumbar_kaggle.training.loop import train_file
    from lumbar_kaggle.training.pictures import picture_learner

    def loss(logits: torch.Tensor, severity: torch.Tensor) -> torch.Tensor:
        weights = torch.tensor(SEVERITY_WEIGHTS, device=logits.device)
        return nn.functional.cross_entropy(logits.reshape(-1, 3), severity.reshape(-1), weight=weights)

    def make(_fresh: bool) -> Any:
        network = build_network(config.arch, len(TARGETS) * len(SEVERITIES))
        load_pretrained(network.model[0], config.arch, config.weights)
        images, severities = draw_middle_slices(config.seed, config.patients, config.image_size)
        held_out = np.arange(len(images)) % HELD_OUT == 0
        return picture_learner(network, images, np.arange(len(images)), severities, held_out, loss, out.parent, config)

    def keep(model: nn.Sequential) -> dict[str, torch.Tensor]:
        return body_state(model[0], config.arch)  # under the names that the whole model has for its weights

    beside = out.with_suffix(".json")
    if beside.is_file() and load_config(beside, PretrainConfig) != config:
        raise InputError(f"{beside}: these weights were made with other settings; choose another file")
    write_json(beside, asdict(config))
    log.info("Pretraining %s on %d phantom patients into %s", config.arch, config.patients, out)
    with locked(out, file=True):
        history = train_file(out, make, config, seed=config.seed, title="pretrain", keep=keep)
    return float(history["valid_loss"].iloc[-1])
