"""The labelled points of the sagittal series, in the patient: what the locator learns and is judged by."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom.cache import OK, Cache
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.two_stage.stacks import Stack, read_stacks

Floats = NDArray[np.float64]

CANAL, FORAMEN = 0, 5
"""First channel of the five canal points and of the five foramina, L1/L2 first."""
CHANNELS = 10

PLACES = ("canal", "left foramen", "right foramen")
"""Rows of a study's points."""

_PLACE_OF = {
    "spinal_canal_stenosis": 0,
    "left_neural_foraminal_narrowing": 1,
    "right_neural_foraminal_narrowing": 2,
}


class Series:
    """One sagittal series with what is known of its points.

    Attributes:
        study_id, series_id, kind: as in the competition's table.
        stack: its largest stack.
        own: ``[3 places, 5 levels, 3]`` points that were marked on this series, patient mm; NaN: none.
        shared: the same, those marked on the study's other sagittal series included.
    """

    def __init__(
        self, study_id: str, series_id: str, kind: str, stack: Stack, own: Floats | None = None
    ) -> None:
        self.study_id, self.series_id, self.kind, self.stack = study_id, series_id, kind, stack
        self.own = empty_points(len(PLACES)) if own is None else own
        self.shared = self.own


def read_sagittal(competition: Competition, cache: Path) -> list[Series]:
    """Read the sagittal series of a split with their labelled points.

    Args:
        competition: the split.
        cache: cache folder that holds its volumes.

    Raises:
        InputError: the cache is not there.
    """
    volumes = Cache(cache, "volumes")
    index = volumes.index()
    index = index[(index["status"] == OK) & index["kind"].str.startswith("sagittal")]
    index = index[index["study_id"].isin(competition.studies)]
    marks = dict(list(competition.coordinates.groupby(["study_id", "series_id"])))
    series, used = [], 0
    for row in index.itertuples():
        stack = sagittal_stack(read_stacks(volumes.folder, str(row.file)))
        if stack is None:
            continue
        own = empty_points(len(PLACES))
        used += fill_points(own, stack, marks.get((row.study_id, row.series_id)), _PLACE_OF)
        series.append(Series(str(row.study_id), str(row.series_id), str(row.kind), stack, own))
    tell_unused(competition, _PLACE_OF, used, "sagittal")
    _share(series)
    return series


def sagittal_stack(stacks: Sequence[Stack]) -> Stack | None:
    """Return the largest stack of a series whose slices are sagittal; None without any."""
    return max((stack for stack in stacks if stack.plane == "sagittal"), key=len, default=None)


def empty_points(places: int) -> Floats:
    """Return ``[places, 5 levels, 3]`` unknown points."""
    return np.full((places, len(LEVELS), 3), np.nan)


def fill_points(points: Floats, stack: Stack, marks: pd.DataFrame | None, place_of: dict[str, int]) -> int:
    """Put the marks that lie on a stack's slices into `points` ``[places, 5, 3]``, in patient mm.

    Args:
        points: changed in place.
        stack: whose slices are looked at.
        marks: rows of `competition.Competition.coordinates` of its series; None for none.
        place_of: index of the place of each condition; other conditions are left out.

    Returns:
        How many marks that were.
    """
    if marks is None:
        return 0
    used = 0
    at = {number: index for index, number in enumerate(stack.instance_numbers)}
    for mark in marks.to_dict("records"):
        place, index = place_of.get(mark["condition"]), at.get(mark["instance_number"])
        if place is not None and index is not None:
            points[place, LEVELS.index(mark["level"])] = stack.to_patient(index, mark["y"], mark["x"])
            used += 1
    return used


def tell_unused(competition: Competition, place_of: dict[str, int], used: int, plane: str) -> None:
    """Print how many marks nothing is learned from, if there are such.

    Args:
        competition: the split.
        place_of: the conditions that are asked for, as of `fill_points`.
        used: how many of their marks lie on a slice that was read.
        plane: of these slices.
    """
    marked = int(competition.coordinates["condition"].isin(list(place_of)).sum())
    if used < marked:
        print(f"{marked - used} of {marked} marks are not used: no {plane} slice in the cache is theirs")


def _share(series: list[Series]) -> None:
    """Fill in, per study, points that were marked on another series of the same patient frame."""
    studies: dict[str, list[Series]] = {}
    for one in series:
        studies.setdefault(one.study_id, []).append(one)
    for members in studies.values():
        placed = [one for one in members if one.stack.placed]
        for one in placed:
            one.shared = one.own.copy()
            for other in placed:
                one.shared = np.where(np.isnan(one.shared), other.own, one.shared)
