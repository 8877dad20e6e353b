"""Images and labels → fastai `Learner`, and the learning-rate finder."""

import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from fastai.callback.schedule import minimum, slide, steep, valley
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import ColReader, ColSplitter, Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.core import PILImage
from fastai.vision.data import ImageBlock
from PIL import Image

from lumbar_kaggle.baseline.config import BaselineConfig
from lumbar_kaggle.core.targets import SEVERITIES
from lumbar_kaggle.training.devices import train_in_half_precision, training_device
from lumbar_kaggle.training.encoders import build_network, load_pretrained

SUGGESTIONS = (minimum, steep, valley, slide)
"""fastai's four ways to read the finder's curve; the valley's rate is the one used."""


def make_loaders(rows: pd.DataFrame, config: BaselineConfig, stats: Any) -> DataLoaders:
    """Make the data loaders of one target and fold.

    A horizontal flip would show a patient who faces the other way, which no sagittal slice does, and in
    other planes it would exchange left and right; the report had it on, and its protocol has it still.

    Args:
        rows: columns ``image`` (path), ``severity`` (0, 1, 2), ``is_valid`` (bool).
        config: sizes.
        stats: mean and standard deviation of the network's input.
    """
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=list(SEVERITIES), sort=False)),
        get_x=lambda row: PILImage(_picture(row["image"], config.image_size).convert("RGB")),
        get_y=ColReader("label"),
        splitter=ColSplitter("is_valid"),
        item_tfms=Resize(config.image_size),
        batch_tfms=[
            *aug_transforms(do_flip=config.protocol == "report"),
            Normalize.from_stats(*stats),
        ],
    )
    labelled = rows.assign(label=[SEVERITIES[severity] for severity in rows["severity"]])
    training = int((~labelled["is_valid"]).sum())
    # The training loader drops its last, smaller batch: with fewer images than one batch nothing is left.
    batch = min(config.batch_size, training)
    loaders: DataLoaders = block.dataloaders(
        labelled, bs=batch, val_bs=config.batch_size, num_workers=0, device=training_device()
    )
    return loaders


@lru_cache(maxsize=8192)
def _picture(path: str, side: int) -> Image.Image:
    """Read a cached picture once for all targets and epochs, at the size that is trained (64 kB at 256 px).

    Resampled as fastai's `Resize` does it, which then finds nothing left to do.
    """
    with Image.open(path) as picture:
        return picture.resize((side, side), Image.Resampling.BILINEAR)


def make_learner(rows: pd.DataFrame, config: BaselineConfig, folder: Path, seed: int) -> tuple[Learner, bool]:
    """Make the learner of one target and fold.

    Args:
        rows: as in `make_loaders`.
        config: architecture, weights, sizes.
        folder: for fastai's own temporary files.
        seed: of the head's random weights, and of the body's where it is untrained.

    Returns:
        The learner, and whether its body is pretrained.
    """
    set_seed(seed)
    network = build_network(config.arch)
    pretrained = bool(load_pretrained(network.model[0], config.arch, config.weights))
    loaders = make_loaders(rows, config, (network.mean, network.std))
    learner = Learner(
        loaders,
        network.model.to(loaders.device),
        loss_func=CrossEntropyLossFlat(),
        splitter=network.split,
        metrics=accuracy,
        path=folder,
        model_dir=".",
    )
    return train_in_half_precision(learner, wanted=config.mixed_precision), pretrained


def find_learning_rate(learner: Learner, iterations: int, seed: int) -> dict[str, float]:
    """Run the learning-rate finder.

    Returns:
        The suggestions ``minimum``, ``steep``, ``valley`` and ``slide``, NaN where a curve that ended
        early is too short for one; and ``used``: the valley, or fastai's default without one.
    """
    set_seed(seed)
    with learner.no_bar(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner.lr_find(num_it=iterations, show_plot=False, suggest_funcs=None)
    # The same cut as fastai's own: a tenth at the start, and the last five, where the loss explodes.
    rates = torch.tensor(learner.recorder.lrs[iterations // 10 : -5])
    losses = torch.tensor([float(loss) for loss in learner.recorder.losses[iterations // 10 : -5]])
    found = {suggest.__name__: _suggestion(suggest, rates, losses, iterations) for suggest in SUGGESTIONS}
    found["used"] = found["valley"] if math.isfinite(found["valley"]) else float(learner.lr)
    return found


def _suggestion(
    suggest: Callable[..., Any], rates: torch.Tensor, losses: torch.Tensor, iterations: int
) -> float:
    finite = torch.isfinite(losses)
    try:
        return float(suggest(rates[finite], losses[finite], iterations)[0])
    except (IndexError, ValueError, RuntimeError):
        # fastai's rules index into the curve; one that diverged at once has too few points.
        return math.nan
