"""The located points of a study on the slices that show them best."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.inference.base import LocatedSlice, Mark, Slice
from lumbar_kaggle.two_stage.grade.places import choose
from lumbar_kaggle.two_stage.grade.views import VIEWS, View

Floats = NDArray[np.float64]


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


def located_slices(
    stacks: Sequence[Volume], points: pd.DataFrame, *, sided: bool = True
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
