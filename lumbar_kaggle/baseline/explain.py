"""Heat maps of the baseline: where in the slice each classifier found its evidence."""

from collections.abc import Iterable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from lumbar_kaggle.baseline.images import square
from lumbar_kaggle.baseline.predictor import BaselinePredictor, study_slice
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES
from lumbar_kaggle.inference.base import Explanation, HeatMap, Slice, Study
from lumbar_kaggle.inference.heat import grad_cam


def explain_study(
    study: Study, predictor: BaselinePredictor, targets: Iterable[str] | None = None
) -> Explanation:
    """Grade one study and draw a heat map for each target asked for.

    Each heat map is the mean over the folds' models, enlarged to the original slice.

    Args:
        study: with its series.
        predictor: of a baseline bundle; it may serve several studies.
        targets: names; by default every target of the bundle. The others are not graded.

    Raises:
        UnreadableSeries: the study has no usable slice.
    """
    image, facts = study_slice(study)
    inputs = predictor.normalise(square(image)[None])
    probabilities = np.full((len(TARGET_NAMES), len(SEVERITIES)), np.nan)
    heat_maps = []
    for name in targets or predictor.manifest.targets:
        graded, heat_map = _explain_target(predictor, name, inputs, image.shape)
        probabilities[TARGET_NAMES.index(name)] = graded
        heat_maps.append(heat_map)
    shown = Slice(image, facts)
    return Explanation(study.study_id, probabilities, slice=shown, heat_maps=tuple(heat_maps))


def _explain_target(
    predictor: BaselinePredictor, name: str, inputs: torch.Tensor, shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], HeatMap]:
    graded, raw, maps = [], [], []
    for fold, model in predictor.models(name):
        # The body's last output is the feature map that the head pools.
        logits, heat = grad_cam(model, model[0], inputs)
        softmax = logits.softmax(0)[None].double().cpu().numpy()
        graded.append(predictor.calibrate(name, fold, softmax)[0])
        raw.append(softmax[0])
        maps.append(heat)
    severity = int(np.mean(raw, axis=0).argmax())
    heat = np.mean(maps, axis=0)[severity]
    enlarged = cv2.resize(heat, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    heat_map = HeatMap(name, SEVERITIES[severity], np.clip(enlarged, 0, 1).astype(np.float32))
    return np.mean(graded, axis=0), heat_map
