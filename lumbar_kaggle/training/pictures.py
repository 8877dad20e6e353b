"""Training classifiers of whole pictures, for the baseline and for pretraining."""

from collections.abc import Callable, Iterable
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.data.transforms import IntToFloatTensor, Normalize, Pipeline
from fastai.learner import Learner
from fastai.torch_core import TensorImage
from fastai.vision.augment import aug_transforms
from numpy.typing import NDArray

from lumbar_kaggle.training.encoders import Network
from lumbar_kaggle.training.loop import make_learner


def picture_learner(
    network: Network,
    pictures: Iterable[NDArray[np.uint8]],
    labels: Iterable[Any],
    held_out: NDArray[np.bool_],
    loss: Callable[..., Any],
    folder: Path,
    config: Any,
    *,
    flip: bool = False,
    **options: Any,
) -> Learner:
    """Return a learner of pictures ``[side, side]`` in batches; those held out validate it, the others, augmented by
    fastai's usual transforms, train it. A horizontal `flip` is none of them by default: it would show a patient who
    faces the other way. For the other arguments see `loop.make_learner`."""
    images = (TensorImage(torch.from_numpy(picture)[None].expand(3, -1, -1)) for picture in pictures)
    items = list(zip(images, map(torch.as_tensor, labels), strict=True))
    training, validation = (list(compress(items, part)) for part in (~held_out, held_out))
    learner = make_learner(network.model, (training, validation), loss, folder, config, **options)
    batchwise = [IntToFloatTensor(), *aug_transforms(do_flip=flip), Normalize.from_stats(network.mean, network.std)]
    for number, loader in enumerate(learner.dls):  # fastai augments where the number is 0, the training's
        loader.after_batch = Pipeline(batchwise, split_idx=number)
    return learner
