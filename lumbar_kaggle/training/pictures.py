"""Training classifiers of whole pictures, for the baseline and for pretraining."""

from collections.abc import Callable, Iterable
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.data.transforms import IntToFloatTensor, Normalize, Pipeline
from fastai.learner import Learner
from fastai.torch_core import TensorImage
from fastai.vision.augment import aug_transforms
from numpy.typing import NDArray

from lumbar_kaggle.training.devices import training_device
from lumbar_kaggle.training.library_models import Network
from lumbar_kaggle.training.loop import make_learner


def picture_learner(
    network: Network,
    pictures: NDArray[np.uint8],
    which: NDArray[np.int64],
    labels: Iterable[Any],
    held_out: NDArray[np.bool_],
    loss: Callable[..., Any],
    folder: Path,
    config: Any,
    *,
    flip: bool = False,
    **options: Any,
) -> Learner:
    """Return a learner of items, each of a label and of one of the pictures ``[n, side, side]``, whose number `which`
    tells. Those held out validate it, the others, augmented by fastai's usual transforms, train it. A horizontal `flip`
    is none of them by default: it would show a patient who faces the other way. For the other arguments see
    `loop.make_learner`."""
    items = list(zip(which.tolist(), map(torch.as_tensor, labels), strict=True))
    parts = list(compress(items, ~held_out)), list(compress(items, held_out))
    batchwise = [IntToFloatTensor(), *aug_transforms(do_flip=flip), Normalize.from_stats(network.mean, network.std)]
    prepare = PreparePictures(pictures, batchwise)
    return make_learner(network.model, parts, loss, folder, config, cbs=prepare, **options)


class PreparePictures(Callback):  # type: ignore[misc]
    """Take the pictures of a batch, which has their numbers, from those that lie on the training's device as bytes, and
    augment them there in training."""

    order = -5

    def __init__(self, pictures: NDArray[np.uint8], batchwise: list[Any]) -> None:
        self.pictures = torch.from_numpy(pictures).to(training_device())
        # fastai augments where the number is 0, the training's.
        self.training_part, self.validation_part = (Pipeline(batchwise, split_idx=number) for number in (0, 1))

    def before_batch(self) -> None:
        """Replace the batch."""
        images = TensorImage(self.pictures[self.xb[0]][:, None].expand(-1, 3, -1, -1))
        develop = self.training_part if self.training else self.validation_part
        self.learn.xb = (develop(images),)
