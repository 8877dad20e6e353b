"""The located points of a study on the slices that show them best."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom import geometry
from lumbar_kaggle.inference.explanation import LocatedSlice, Mark, Slice
from lumbar_kaggle.two_stage.grade.crops import Placed
from lumbar_kaggle.two_stage.grade.places import choose
from lumbar_kaggle.two_stage.grade.views import VIEWS, View

Floats = NDArray[np.float64]


UNSIDED = "foramen of unknown side"
"""What pages call both foramina of a study whose sides are not known."""


def shown_place(place: str, *, sided: bool) -> str:
    """Return what to call a place, without a side where that is not known, see `looking.Look.sided`."""
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


def cut_slice(placed: Placed, index: int) -> Slice:
    """Return a slice of a stack."""
    stack = placed.stack
    facts: dict[str, object] = {
        "series_id": placed.series_id,
        "kind": placed.kind,
        "instance_number": stack.instance_numbers[index],
        "row_mm": float(stack.spacing[0]),
        "column_mm": float(stack.spacing[1]),
        "sides": edge_letters(stack.orientation),
    }
    return Slice(np.ascontiguousarray(stack.pixels[index]), facts)


def located_slices(
    stacks: Sequence[Placed], points: pd.DataFrame, *, sided: bool = True
) -> list[LocatedSlice]:
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


def _located_slice(stacks: Sequence[Placed], view: View, rows: pd.DataFrame) -> LocatedSlice | None:
    points = rows[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64)
    nearest = _nearest(stacks, view, points) if len(points) else None
    if nearest is None:
        return None
    placed, index = nearest
    row, column, distance = placed.stack.to_slice(index, points)
    places = zip(rows["place"], rows["level"], row, column, np.abs(distance), rows["confidence"], strict=True)
    marks = [Mark(place, level, *map(float, numbers)) for place, level, *numbers in places]
    marks.sort(key=lambda mark: (LEVELS.index(mark.level), view.places.index(mark.place)))
    return LocatedSlice(view.name, cut_slice(placed, index), tuple(marks))


def _nearest(stacks: Sequence[Placed], view: View, points: Floats) -> tuple[Placed, int] | None:
    """Return the slice of the view's first available kind with the least squared distance to the points."""
    for kind in view.kinds:
        near = []
        for order, placed in enumerate(stacks):
            stack = placed.stack
            if placed.kind == kind and geometry.plane(stack.orientation) == view.plane:
                depth = (stack.positions[:, None] - points) @ stack.normal
                far = (depth**2).mean(axis=1)
                near.append((round(float(far.min()), 6), order, int(far.argmin())))
        if near:
            _, order, index = min(near)
            return stacks[order], index
    return None
