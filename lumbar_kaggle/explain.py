"""Heat maps: where in the slice a classifier found its evidence. They explain a model, not a patient."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lumbar_kaggle.bundle import read_manifest
from lumbar_kaggle.recipes.base import Study
from lumbar_kaggle.recipes.baseline.images import square
from lumbar_kaggle.recipes.baseline.predictor import BaselinePredictor, study_slice
from lumbar_kaggle.targets import SEVERITIES

Floats32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Grad-CAM of one target.

    Attributes:
        target: its name.
        severity: the one explained: the most probable by the uncalibrated classifiers.
        heat: ``[rows, columns]`` float32 of the slice, 0 … 1.
    """

    target: str
    severity: str
    heat: Floats32


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a bundle says of one study, and where it looked.

    Attributes:
        study_id: the study.
        facts: of the slice: ``series_id``, ``instance_number``, ``slices``, spacing and size.
        image: ``[rows, columns]`` uint8, the slice as stored, windowed.
        probabilities: ``[25, 3]`` calibrated, in the order of `targets.TARGETS`; NaN for targets that
            the bundle has no model of.
        heat_maps: of the targets asked for.
    """

    study_id: str
    facts: dict[str, object]
    image: NDArray[np.uint8]
    probabilities: NDArray[np.float64]
    heat_maps: tuple[HeatMap, ...]


def grad_cam(model: nn.Module, layer: nn.Module, inputs: torch.Tensor, output: int) -> Floats32:
    """Return the Grad-CAM of one output (Selvaraju et al., ICCV 2017, equations 1 and 2).

    Args:
        model: in eval mode; gives logits ``[1, outputs]``.
        layer: a module in it whose output is a feature map ``[1, channels, rows, columns]``.
        inputs: ``[1, 3, rows, columns]``.
        output: index of the logit to explain.

    Returns:
        ``[feature rows, feature columns]`` float32 in 0 … 1; all 0 when nothing speaks for the output.
    """
    with _captured(layer) as features:
        logits = model(inputs)
        activation = features[0]
        (gradient,) = torch.autograd.grad(logits[0, output], activation)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat = (weights * activation).sum(dim=1).clamp(min=0)[0].detach().float().cpu().numpy()
    peak = float(heat.max())
    scaled: Floats32 = (heat / peak if peak > 0 else heat).astype(np.float32)
    return scaled


def explain_study(study: Study, bundle: Path, targets: Iterable[str] | None = None) -> Explanation:
    """Grade one study and draw heat maps for some targets.

    Each heat map is the mean over the folds' models, enlarged to the original slice.

    Args:
        study: with its series.
        bundle: a baseline bundle.
        targets: names; by default every target of the bundle.

    Raises:
        InputError: no usable bundle.
        UnreadableSeries: the study has no usable slice.
    """
    manifest = read_manifest(bundle)
    predictor = BaselinePredictor(bundle, manifest)
    image, facts = study_slice(study)
    picture = square(image)
    wanted = [name for name in (targets or manifest.targets) if name in manifest.targets]
    return Explanation(
        study_id=study.study_id,
        facts=facts,
        image=image,
        probabilities=predictor.grade(picture[None])[0],
        heat_maps=tuple(_heat_map(predictor, name, picture, image.shape) for name in wanted),
    )


def _heat_map(
    predictor: BaselinePredictor, name: str, picture: NDArray[np.uint8], shape: tuple[int, ...]
) -> HeatMap:
    inputs = predictor.normalise(picture[None])
    with torch.inference_mode():
        logits = torch.stack([model(inputs)[0].softmax(0) for _, model in predictor.models(name)])
    severity = int(logits.mean(0).argmax())
    # The body's last output is the feature map that the head pools.
    maps = [grad_cam(model, model[0], inputs.clone(), severity) for _, model in predictor.models(name)]
    heat = np.mean(maps, axis=0)
    enlarged = cv2.resize(heat, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return HeatMap(name, SEVERITIES[severity], np.clip(enlarged, 0, 1).astype(np.float32))


@contextmanager
def _captured(layer: nn.Module) -> Iterator[list[torch.Tensor]]:
    outputs: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()
