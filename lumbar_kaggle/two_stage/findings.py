"""What a prediction rests on: the located points, and the slices that each view was graded from."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from lumbar_kaggle.core.targets import LEVELS, TARGET_NAMES, Target
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.inference.base import LocatedPoint, SliceName, UsedView
from lumbar_kaggle.two_stage.grade.views import Crop
from lumbar_kaggle.two_stage.study import PLACE_OF_CONDITION, POINT, choose


def located_points(volumes: Sequence[Volume], points: pd.DataFrame, *, sided: bool) -> tuple[LocatedPoint, ...]:
    """Return the points that the crops lie around, in the order of `targets.TARGETS`. `points` are the located ones of
    one study, columns `find.COLUMNS`; `volumes` the stacks that crops are cut from; `sided` whether the left foramina
    can be told from the right ones."""
    rows = {(row.place, row.level): row for row in choose(points).itertuples()}
    cells = [(place, condition, level) for condition, place in PLACE_OF_CONDITION.items() for level in LEVELS]
    return tuple(
        _located(volumes, rows[place, level], Target(condition, level).name, sided=sided)
        for place, condition, level in cells
        if (place, level) in rows
    )


def _located(volumes: Sequence[Volume], row: Any, target: str, *, sided: bool) -> LocatedPoint:
    stacks = [one for one in volumes if one.series_id == row.series_id]
    mm, told = tuple(float(getattr(row, name)) for name in POINT), sided or not row.place.endswith("foramen")
    known = bool(stacks) and all(one.placed and one.measured for one in stacks)
    near = [
        (round(float(depth), 3), order, index)
        for order, stack in enumerate(stacks)
        for index, depth in enumerate(stack.depth(mm))
        if stack.instance_numbers[index] == row.instance_number
    ]
    _, order, index = min(near, default=(0.0, -1, -1))
    name = _name(stacks[order], index) if near else SliceName(row.instance_number, None)
    place = row.place if told else "foramen of unknown side"
    return LocatedPoint(target, place, mm if known and told else None, float(row.confidence), row.series_id, name)


def used_view(crops: Sequence[Crop]) -> UsedView:
    """Return the slices of one view of one level and side; `crops` are that of each model of a blend."""
    first = next((crop for crop in crops if crop.volume is not None), crops[0])
    targets = (TARGET_NAMES[first.view.outputs[first.side] * len(LEVELS) + first.level],)
    if first.volume is None:
        return UsedView(first.view.name, targets, reason=first.reason)
    indices = sorted({index for crop in crops if crop.volume is first.volume for index in _indices(crop)})
    names = tuple(_name(first.volume, index) for index in indices)
    return UsedView(first.view.name, targets, first.volume.series_id, names)


def _indices(crop: Crop) -> Iterator[int]:
    """Yield the slices that the network is given; those around them are for shifts in training."""
    window = crop.indices[crop.size.extra : crop.size.extra + crop.size.slices]
    return (int(index) for index in window if index >= 0)


def _name(volume: Volume, index: int) -> SliceName:
    number = volume.instance_numbers[index]
    return SliceName(number, tuple(volume.positions[index].tolist()) if volume.placed else None)
