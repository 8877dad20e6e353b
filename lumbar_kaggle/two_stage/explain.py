"""What a two-stage bundle says of one study, and where it looked: points, slices, regions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from fastai.data.load import DataLoader
from fastai.torch_core import to_device
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import LEVELS, TARGETS, Target
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.inference.base import ExplainedCrop, Explanation, MissingCrop, Slice, Study
from lumbar_kaggle.inference.heat import Floats32, captured, last_map, to_unit, weigh
from lumbar_kaggle.training.devices import device_of
from lumbar_kaggle.two_stage.grade.augment import cut
from lumbar_kaggle.two_stage.grade.cropping import FreshCrops
from lumbar_kaggle.two_stage.grade.crops import Cut, Excerpt, StudyCrops, crop_to_slice
from lumbar_kaggle.two_stage.grade.data import Batch, crops_batch
from lumbar_kaggle.two_stage.grade.network import CANAL, MIDDLE, PLANES, Grader
from lumbar_kaggle.two_stage.grade.views import PLACE_OF_CONDITION, PLACES, VIEWS
from lumbar_kaggle.two_stage.located import cut_slice, located_slices, shown_place
from lumbar_kaggle.two_stage.predictor import Model, TwoStagePredictor
from lumbar_kaggle.two_stage.study import read_study

Floats = NDArray[np.float64]

SURROUNDINGS = 1.5
"""Side of the pictured part of a slice, in sides of the crop."""


def explain_study(study: Study, predictor: TwoStagePredictor) -> Explanation:
    """Grade one study and show what of it was looked at; a study that cannot be read gives notes."""
    seen = predictor.crop(read_study(study))
    probabilities = predictor.grade(study.study_id, seen)
    first = predictor.models[0]
    return Explanation(
        study.study_id,
        probabilities,
        seen.notes,
        located=tuple(located_slices(seen.volumes, seen.points, sided=seen.sided)),
        crops=tuple(
            replace(one, place=shown_place(one.place, sided=seen.sided))
            for one in where_looked(first, seen.crops[0], _likeliest(probabilities))
        ),
        models=len(predictor.models),
        networks=len(first.networks),
    )


def _likeliest(probabilities: Floats) -> NDArray[np.int64]:
    """Return the most probable severity ``[5 levels, 5 places]``, in the order of `PLACES`."""
    likeliest = np.zeros((len(LEVELS), len(PLACES)), dtype=np.int64)
    for of, values in zip(TARGETS, probabilities, strict=True):
        place = PLACES.index(PLACE_OF_CONDITION[of.condition])
        likeliest[LEVELS.index(of.level), place] = int(values.argmax())
    return likeliest


def where_looked(
    model: Model, crops: StudyCrops, chosen: NDArray[np.int64]
) -> Iterator[ExplainedCrop | MissingCrop]:
    """Yield where a model looked: of every level, view and side, in that order.

    Args:
        model: of the second stage.
        crops: of one study, made by its configuration.
        chosen: ``[5 levels, 5 places]`` severity to explain of each grade, in the order of `views.PLACES`.
    """
    for level in range(len(LEVELS)):
        yield from _level(model, crops, level, chosen[level])


def _level(
    model: Model, crops: StudyCrops, level: int, chosen: NDArray[np.int64]
) -> Iterator[ExplainedCrop | MissingCrop]:
    loader = DataLoader([(crops_batch(FreshCrops("", crops).level("", level), level),)], bs=1)
    ((cached,),) = to_device(list(loader), device_of(model.networks[0]))
    batch = cut(cached, model.config)
    each = [attend(network, batch, chosen.tolist()) for network in model.networks]
    made = zip(crops.cuts, crops.facts, crops.sources, strict=True)
    mine = [entry for entry in made if entry[0].level == level]
    for (one, facts, source), *seen in zip(mine, *each, strict=True):
        if source is None:
            yield MissingCrop(LEVELS[level], one.place, _target(one), facts.reason)
        else:
            yield _looked(one, source, seen, chosen)


def _target(one: Cut) -> str:
    """Return the name of the grade that a crop belongs to."""
    place = PLACES[one.view.outputs[one.side]]
    condition = next(name for name, mine in PLACE_OF_CONDITION.items() if mine == place)
    return Target(condition, LEVELS[one.level]).name


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network made of one view of one level and side.

    Attributes:
        attention: ``[slices]``, 0 for absent ones; the others sum to 1.
        heat: ``[slices, feature rows, feature columns]`` Grad-CAM, 0 or more.
    """

    attention: Floats
    heat: Floats32


def attend(network: Grader, batch: Batch, severities: Sequence[int]) -> list[Seen]:
    """Return slice attention and Grad-CAM of every view and side of one level, in that order.

    The gradient is that of the fused logit of what the view is centred on: other views count in it, too.

    Args:
        network: in eval mode.
        batch: one level, cut to the network's size, on its device.
        severities: which logit of each of the five outputs is explained.
    """
    probes = [batch["images"][number][0, :1, :1] for number in (CANAL, MIDDLE)]  # sagittal, axial
    layers = [last_map(encoder, probe) for encoder, probe in zip(network.encoders, probes, strict=True)]
    # cuDNN differentiates a recurrent network in training mode only.
    with torch.backends.cudnn.flags(enabled=False), captured(layers) as features:
        graded = network(batch)
        seen, start = [], dict.fromkeys(PLANES, 0)
        for view, attention in zip(VIEWS, graded["attention"], strict=True):
            activation = features[PLANES.index(view.plane)]
            for side, output in enumerate(view.outputs):
                logit = graded["logits"][0, output, severities[output]]
                # Without the axial views in the canal's head nothing of the axial middle reaches it: 0.
                (gradient,) = torch.autograd.grad(
                    logit, activation, retain_graph=True, materialize_grads=True
                )
                # The slices of a plane went through its encoder together, view by view, side by side.
                mine = slice(start[view.plane], start[view.plane] + attention.shape[2])
                start[view.plane] = mine.stop
                weights = attention[0, side].detach().double().cpu().numpy()
                seen.append(Seen(weights, weigh(activation[mine], gradient[mine])))
    return seen


def _looked(one: Cut, source: Excerpt, each: Sequence[Seen], chosen: NDArray[np.int64]) -> ExplainedCrop:
    """Return the mean over a model's networks, on the slice with the greatest attention."""
    output = one.view.outputs[one.side]
    indices = source.indices[one.size.extra : one.size.extra + one.size.slices]
    there = np.flatnonzero(indices >= 0)
    attention = np.mean([seen.attention for seen in each], axis=0)[there]
    pictured = int(attention.argmax())
    stack, index = source.volume, int(indices[there[pictured]])
    # Every network counts the same, whatever the size of its gradients.
    heat = np.mean([to_unit(seen.heat[there[pictured], None]) for seen in each], axis=0)
    whole = cut_slice(source.volume, index)
    corner, shape = surroundings(stack, index, one)
    # Whole pixels: nothing is resampled; black where the slice ends.
    moved = np.array([[1.0, 0.0, -corner[0]], [0.0, 1.0, -corner[1]]])
    part = cv2.warpAffine(whole.image, moved, shape[::-1], flags=cv2.INTER_NEAREST)
    return ExplainedCrop(
        LEVELS[one.level],
        one.place,
        _target(one),
        severity=int(chosen[output]),
        slice=Slice(np.asarray(part, dtype=np.uint8), whole.facts),
        heat=on_slice(to_unit(heat)[0], stack, index, one),
        frame=frame(stack, index, one) - corner,
        instances=tuple(stack.instance_numbers[k] for k in indices[there]),
        attention=tuple(float(weight) for weight in attention),
        pictured=pictured,
    )


def surroundings(stack: Volume, index: int, one: Cut) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Return the part of a slice around a crop's point, `SURROUNDINGS` of the crop wide.

    Returns:
        Its first column and row ``[2]``, which may lie outside of the slice, and its rows and columns.
    """
    row, column, _ = stack.to_slice(index, one.point)
    side_mm = SURROUNDINGS * one.size.px * one.size.pixel_mm
    half = np.rint(side_mm / 2 / stack.spacing[index, ::-1]).astype(np.int64)
    corner = np.rint([float(column), float(row)]).astype(np.int64) - half
    return corner, (int(2 * half[1] + 1), int(2 * half[0] + 1))


def _network_to_slice(stack: Volume, index: int, one: Cut) -> Floats:
    """Return the map ``[2, 3]`` from (column, row, 1) of the network's crop to column and row of a slice."""
    matrix = crop_to_slice(stack, index, one)
    # The network is given the middle of what is cached.
    matrix[:, 2] += matrix[:, :2].sum(axis=1) * one.size.margin_px
    return matrix


def on_slice(heat: Floats32, stack: Volume, index: int, one: Cut) -> Floats32:
    """Lay the heat map of a crop back onto its slice, turned and mirrored as it was cut.

    Args:
        heat: ``[feature rows, feature columns]`` of the network's crop.
        stack, index: the slice.
        one: the crop.

    Returns:
        ``[rows, columns]`` float32 of the `surroundings`, 0 outside of the crop.
    """
    corner, shape = surroundings(stack, index, one)
    enlarged = cv2.resize(heat, (one.size.px, one.size.px), interpolation=cv2.INTER_LINEAR)
    matrix = _network_to_slice(stack, index, one)
    matrix[:, 2] -= corner
    warped = cv2.warpAffine(enlarged, matrix, shape[::-1], flags=cv2.INTER_LINEAR)
    return np.asarray(warped, dtype=np.float32)


def frame(stack: Volume, index: int, one: Cut) -> Floats:
    """Return column and row ``[4, 2]`` of the corners of the network's crop in a slice, going round."""
    low, high = -0.5, one.size.px - 0.5
    corners = np.array([[low, low, 1], [high, low, 1], [high, high, 1], [low, high, 1]])
    outline: Floats = corners @ _network_to_slice(stack, index, one).T
    return outline
