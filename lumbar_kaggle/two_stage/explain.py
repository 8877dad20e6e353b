"""What a two-stage bundle says of one study, and where it looked: points, slices, regions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pandas as pd
import torch
from fastai.data.load import DataLoader
from fastai.torch_core import to_device
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import LEVELS, TARGETS
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.inference.base import ExplainedCrop, Explanation, LocatedSlice, Mark, MissingCrop, Slice, Study
from lumbar_kaggle.inference.heat import Floats32, captured, last_map, to_unit, weigh
from lumbar_kaggle.training.devices import device_of
from lumbar_kaggle.two_stage.grade.augment import cut
from lumbar_kaggle.two_stage.grade.data import Batch, levels_of
from lumbar_kaggle.two_stage.grade.network import PLANES, Grader
from lumbar_kaggle.two_stage.grade.places import choose
from lumbar_kaggle.two_stage.grade.views import CELLS, PLACES, VIEWS, Crop, View, crop_to_slice
from lumbar_kaggle.two_stage.predictor import Model, TwoStagePredictor
from lumbar_kaggle.two_stage.study import read_study

Floats = NDArray[np.float64]


SURROUNDINGS = 1.5
"""Side of the pictured part of a slice, in sides of the crop."""

UNSIDED = "foramen of unknown side"
"""What pages call both foramina of a study whose sides are not known."""


def shown_place(place: str, *, sided: bool) -> str:
    """Return what to call a place, without a side where that is not known."""
    return UNSIDED if place.endswith("foramen") and not sided else place


def edge_letters(orientation: Floats) -> tuple[str, str]:
    """Return which side of the patient lies at a picture's left and right edge: R and L, or L and R.

    Args:
        orientation: ``[6]`` direction cosines, LPS.

    Returns:
        Empty texts where the rows of the picture do not run from one side to the other.
    """
    across = orientation[0]
    if abs(across) < np.sqrt(0.5):
        return "", ""
    return ("R", "L") if across > 0 else ("L", "R")


def cut_slice(volume: Volume, index: int) -> Slice:
    """Return a slice of a stack."""
    facts: dict[str, object] = {
        "series_id": volume.series_id,
        "kind": volume.kind,
        "instance_number": volume.instance_numbers[index],
        "row_mm": float(volume.spacing[index, 0]),
        "column_mm": float(volume.spacing[index, 1]),
        "sides": edge_letters(volume.orientation[index]),
    }
    return Slice(np.ascontiguousarray(volume.images[index]), facts)


def located_slices(stacks: Sequence[Volume], points: pd.DataFrame, *, sided: bool = True) -> list[LocatedSlice]:
    """Return the canal, the left and the right foramina on a sagittal slice each, the recesses per level.

    Args:
        stacks: of the study.
        points: its located ones, columns `find.COLUMNS`; of several rows of a point the one that the crops
            lie around counts.
        sided: whether the sides of its foramina are known.

    Returns:
        Those for which there are points and a slice of a suitable series.
    """
    chosen = choose(points)
    canal, foramen, _, recess = VIEWS
    wanted = [(canal, chosen["place"] == "canal")]
    wanted += [(foramen, chosen["place"] == place) for place in foramen.places]
    wanted += [(recess, chosen["place"].isin(recess.places) & (chosen["level"] == level)) for level in LEVELS]
    shown = [_located_slice(stacks, view, chosen[rows]) for view, rows in wanted]
    return [
        replace(one, marks=tuple(replace(m, place=shown_place(m.place, sided=sided)) for m in one.marks))
        for one in shown
        if one is not None
    ]


def _located_slice(stacks: Sequence[Volume], view: View, rows: pd.DataFrame) -> LocatedSlice | None:
    points = rows[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64)
    nearest = _nearest(stacks, view, points) if len(points) else None
    if nearest is None:
        return None
    volume, index = nearest
    row, column, distance = volume.to_slice(index, points)
    places = zip(rows["place"], rows["level"], row, column, np.abs(distance), rows["confidence"], strict=True)
    marks = [Mark(place, level, *map(float, numbers)) for place, level, *numbers in places]
    marks.sort(key=lambda mark: (LEVELS.index(mark.level), view.places.index(mark.place)))
    return LocatedSlice(view.name, cut_slice(volume, index), tuple(marks))


def _nearest(stacks: Sequence[Volume], view: View, points: Floats) -> tuple[Volume, int] | None:
    """Return the slice of the view's first available kind with the least squared distance to the points."""
    for kind in view.kinds:
        near = []
        for order, volume in enumerate(stacks):
            if volume.kind == kind and volume.plane == view.plane:
                depth = (volume.positions[:, None] - points) @ volume.normal
                far = (depth**2).mean(axis=1)
                near.append((round(float(far.min()), 6), order, int(far.argmin())))
        if near:
            _, order, index = min(near)
            return stacks[order], index
    return None


def explain_study(study: Study, predictor: TwoStagePredictor) -> Explanation:
    """Grade one study and show what of it was looked at; a study that cannot be read gives notes."""
    seen = predictor.crop(read_study(study))
    probabilities, first = predictor.grade(seen), predictor.models[0]
    likeliest = np.zeros((len(LEVELS), len(PLACES)), dtype=np.int64)
    likeliest[CELLS] = probabilities.argmax(axis=1)
    return Explanation(
        study.study_id,
        probabilities,
        seen.notes,
        located=tuple(located_slices(seen.volumes, seen.points, sided=seen.sided)),
        crops=tuple(
            replace(one, place=shown_place(one.place, sided=seen.sided))
            for one in where_looked(first, seen.crops[0], likeliest)
        ),
        models=len(predictor.models),
        networks=len(first.networks),
    )


def where_looked(
    model: Model, crops: Sequence[Crop], chosen: NDArray[np.int64]
) -> Iterator[ExplainedCrop | MissingCrop]:
    """Yield where a model looked: of every level, view and side, in that order.

    Args:
        model: of the second stage.
        crops: of one study, made by its configuration.
        chosen: ``[5 levels, 5 places]`` severity to explain of each grade, in the order of `views.PLACES`.
    """
    for level, (cached,) in enumerate(DataLoader(levels_of(crops), bs=1)):
        batch = cut(to_device(cached, device_of(model.networks[0])), model.config)
        each = [attend(network, batch, chosen[level].tolist()) for network in model.networks]
        mine = [crop for crop in crops if crop.level == level]
        for one, *seen in zip(mine, *each, strict=True):
            if one.volume is None:
                yield MissingCrop(LEVELS[level], one.place, _target(one), one.reason)
            else:
                yield _looked(one, one.volume, seen, int(chosen[level, one.view.outputs[one.side]]))


def _target(one: Crop) -> str:
    """Return the name of the grade that a crop belongs to."""
    return next(
        of.name
        for of, cell in zip(TARGETS, zip(*CELLS, strict=True), strict=True)
        if cell == (one.level, one.view.outputs[one.side])
    )


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
    first = [next(k for k, view in enumerate(VIEWS) if view.plane == plane) for plane in PLANES]
    probes = [batch["images"][number][0, :1, :1] for number in first]
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
                (gradient,) = torch.autograd.grad(logit, activation, retain_graph=True, materialize_grads=True)
                # The slices of a plane went through its encoder together, view by view, side by side.
                mine = slice(start[view.plane], start[view.plane] + attention.shape[2])
                start[view.plane] = mine.stop
                weights = attention[0, side].detach().double().cpu().numpy()
                seen.append(Seen(weights, weigh(activation[mine], gradient[mine])))
    return seen


def _looked(one: Crop, stack: Volume, each: Sequence[Seen], severity: int) -> ExplainedCrop:
    """Return the mean over a model's networks, on the slice with the greatest attention."""
    indices = one.indices[one.size.extra : one.size.extra + one.size.slices]
    there = np.flatnonzero(indices >= 0)
    attention = np.mean([seen.attention for seen in each], axis=0)[there]
    pictured = int(attention.argmax())
    index = int(indices[there[pictured]])
    # Every network counts the same, whatever the size of its gradients.
    heat = np.mean([to_unit(seen.heat[there[pictured], None]) for seen in each], axis=0)
    whole = cut_slice(stack, index)
    corner, shape = surroundings(stack, index, one)
    # Whole pixels: nothing is resampled; black where the slice ends.
    moved = np.array([[1.0, 0.0, -corner[0]], [0.0, 1.0, -corner[1]]])
    part = cv2.warpAffine(whole.image, moved, shape[::-1], flags=cv2.INTER_NEAREST)
    return ExplainedCrop(
        LEVELS[one.level],
        one.place,
        _target(one),
        severity=severity,
        slice=Slice(np.asarray(part, dtype=np.uint8), whole.facts),
        heat=on_slice(to_unit(heat)[0], stack, index, one),
        frame=frame(stack, index, one) - corner,
        instances=tuple(stack.instance_numbers[k] for k in indices[there]),
        attention=tuple(float(weight) for weight in attention),
        pictured=pictured,
    )


def surroundings(stack: Volume, index: int, one: Crop) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Return the part of a slice around a crop's point, `SURROUNDINGS` of the crop wide.

    Returns:
        Its first column and row ``[2]``, which may lie outside of the slice, and its rows and columns.
    """
    row, column, _ = stack.to_slice(index, one.point)
    side_mm = SURROUNDINGS * one.size.px * one.size.pixel_mm
    half = np.rint(side_mm / 2 / stack.spacing[index, ::-1]).astype(np.int64)
    corner = np.rint([float(column), float(row)]).astype(np.int64) - half
    return corner, (int(2 * half[1] + 1), int(2 * half[0] + 1))


def _network_to_slice(stack: Volume, index: int, one: Crop) -> Floats:
    """Return the map ``[2, 3]`` from (column, row, 1) of the network's crop to column and row of a slice."""
    matrix = crop_to_slice(stack, index, one)
    # The network is given the middle of what is cached.
    matrix[:, 2] += matrix[:, :2].sum(axis=1) * one.size.margin_px
    return matrix


def on_slice(heat: Floats32, stack: Volume, index: int, one: Crop) -> Floats32:
    """Lay a crop's heat map ``[feature rows, feature columns]`` back onto its slice, as it was cut.

    Returns:
        ``[rows, columns]`` float32 of the `surroundings`, 0 outside of the crop.
    """
    corner, shape = surroundings(stack, index, one)
    enlarged = cv2.resize(heat, (one.size.px, one.size.px), interpolation=cv2.INTER_LINEAR)
    matrix = _network_to_slice(stack, index, one)
    matrix[:, 2] -= corner
    warped = cv2.warpAffine(enlarged, matrix, shape[::-1], flags=cv2.INTER_LINEAR)
    return np.asarray(warped, dtype=np.float32)


def frame(stack: Volume, index: int, one: Crop) -> Floats:
    """Return column and row ``[4, 2]`` of the corners of the network's crop in a slice, going round."""
    low, high = -0.5, one.size.px - 0.5
    corners = np.array([[low, low, 1], [high, low, 1], [high, high, 1], [low, high, 1]])
    outline: Floats = corners @ _network_to_slice(stack, index, one).T
    return outline
