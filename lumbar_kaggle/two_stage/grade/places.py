"""Where the five places of each level lie: tables of points, and the annotated ones, gaps filled."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.tables.reading import as_numbers, read_table
from lumbar_kaggle.two_stage.grade.views import PLACES
from lumbar_kaggle.two_stage.study import read_marked_studies, tell_unused

Floats = NDArray[np.float64]

COLUMNS = ("study_id", "place", "level", "x_mm", "y_mm", "z_mm", "confidence", "origin")

MARKED, BY_PLACES, BY_LEVELS = "marked", "from the level's other points", "from another level"
"""Where a point of the annotated table comes from."""

CONFIDENCE = {MARKED: 1.0, BY_PLACES: 0.5, BY_LEVELS: 0.25}


def annotated_places(competition: Competition, cache: Path) -> pd.DataFrame:
    """Return the points of ``train_label_coordinates.csv`` in the patient, gaps filled.

    A gap is filled from the level's other points by the set's median offsets between the places, and
    where the level has none at all, from the nearest level by the median step.

    Args:
        competition: the training split.
        cache: folder that holds its cached volumes.

    Returns:
        Columns `COLUMNS`, LPS mm; studies without any point in a series that knows its position are absent.

    Raises:
        InputError: the cache is missing.
    """
    studies = read_marked_studies(competition, cache)
    tell_unused(competition, studies, lambda study, mark: study.volumes[mark.volume].placed, "placed")
    every = {one.study_id: one.marked([v for v in one.volumes if v.placed]) for one in studies}
    marked = {study: points for study, points in sorted(every.items()) if np.isfinite(points).any()}
    if not marked:
        return pd.DataFrame(columns=list(COLUMNS))
    return to_table(list(marked), *fill(np.stack(list(marked.values()))))


def read_places(path: Path) -> pd.DataFrame:
    """Read a table as from `annotated_places`.

    Raises:
        InputError: the file is missing or no such table, or a number in it is none.
    """
    return as_numbers(path, read_table(path, COLUMNS), "x_mm", "y_mm", "z_mm", "confidence")


def to_table(studies: list[str], points: Floats, origin: NDArray[np.str_]) -> pd.DataFrame:
    """Return the table of points ``[studies, 5 places, 5 levels, 3]`` with their origins ``[…, 5, 5]``."""
    rows = [
        (
            study,
            place,
            level,
            *points[s, p, k].tolist(),
            CONFIDENCE[str(origin[s, p, k])],
            str(origin[s, p, k]),
        )
        for s, study in enumerate(studies)
        for p, place in enumerate(PLACES)
        for k, level in enumerate(LEVELS)
        if np.isfinite(points[s, p, k]).all()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def to_points(places: pd.DataFrame) -> dict[str, Floats]:
    """Return per study ``[5 places, 5 levels, 3]`` LPS mm in the order of `PLACES`; NaN where there is none.

    Args:
        places: at least ``study_id, place, level, x_mm, y_mm, z_mm``; see `choose` for which rows count.

    Raises:
        InputError: an unknown place or level.
    """
    for column, known in (("place", PLACES), ("level", LEVELS)):
        unknown = sorted(set(places[column]) - set(known))
        if unknown:
            raise InputError(f"table of points: {column} {unknown[0]!r} is none of {', '.join(known)}")
    places = choose(places)
    number_of = {study: k for k, study in enumerate(dict.fromkeys(places["study_id"].astype(str)))}
    points = np.full((len(number_of), len(PLACES), len(LEVELS), 3), np.nan)
    at = (
        places["study_id"].astype(str).map(number_of).to_numpy(dtype=np.int64),
        places["place"].map(PLACES.index).to_numpy(dtype=np.int64),
        places["level"].map(LEVELS.index).to_numpy(dtype=np.int64),
    )
    points[at] = places[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64)
    return {study: points[k] for study, k in number_of.items()}


def choose(places: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that count, one per study, place and level.

    Of several rows of a point that of the greatest ``confidence`` counts. With a column ``placed``, points of
    sagittal series that do not know their place count only where the study has no others: the two are of
    different frames.

    Args:
        places: at least ``study_id, place, level``.
    """
    if "placed" in places:
        places = _one_frame(places)
    if "confidence" in places:
        places = places.sort_values("confidence", kind="stable")
    return places.drop_duplicates(["study_id", "place", "level"], keep="last")


def unsided(places: pd.DataFrame) -> set[str]:
    """Return the studies of whose foramina nobody knows which is the left one.

    Either their sagittal series do not know their place, or all that is there of both sides is one slice.

    Args:
        places: located points, see `choose`; those of a table without a column ``placed`` all know theirs.
    """
    foramina = choose(places[places["place"].str.endswith("foramen")])
    unknown = foramina.duplicated(["study_id", "level", "x_mm", "y_mm", "z_mm"])
    if "placed" in foramina:
        unknown |= foramina["placed"].astype(str) != "True"
    return set(foramina.loc[unknown, "study_id"].astype(str))


def _one_frame(places: pd.DataFrame) -> pd.DataFrame:
    placed = places["placed"].astype(str) == "True"
    sagittal = ~places["place"].str.endswith("recess")
    anchored = places["study_id"].isin(places.loc[placed & sagittal, "study_id"])
    return places[placed | ~anchored]


def fill(points: Floats) -> tuple[Floats, NDArray[np.str_]]:
    """Fill the gaps of many studies' points.

    Args:
        points: ``[studies, 5 places, 5 levels, 3]`` LPS mm, NaN where not marked.

    Returns:
        The points without gaps, except for studies that have no point at all or where the set never shows
        two places together; and ``[studies, 5, 5]`` origins, empty text where there is still no point.
    """
    filled, origin = points.copy(), np.full(points.shape[:3], "", dtype="<U32")
    origin[np.isfinite(points).all(axis=-1)] = MARKED
    # between[p, q, l]: from place q to place p of one level; steps[p, k, l]: from level k to level l.
    between = _median(points[:, :, None] - points[:, None, :])
    steps = _median(points[:, :, None, :] - points[:, :, :, None])
    for study in range(len(points)):
        _fill_by_places(filled[study], origin[study], between)
        _fill_by_levels(filled[study], origin[study], steps)
        _fill_by_places(filled[study], origin[study], between)
    return filled, origin


@dataclass(frozen=True)
class _Gap:
    """A point that is missing."""

    place: int
    level: int


def _gaps(points: Floats) -> list[_Gap]:
    return [_Gap(int(p), int(k)) for p, k in np.argwhere(np.isnan(points).any(axis=-1))]


def _fill_by_places(points: Floats, origin: NDArray[np.str_], between: Floats) -> None:
    known = points.copy()
    for gap in _gaps(known):
        guesses = known[:, gap.level] + between[gap.place, :, gap.level]
        usable = guesses[np.isfinite(guesses).all(axis=-1)]
        if len(usable):
            points[gap.place, gap.level] = usable.mean(axis=0)
            origin[gap.place, gap.level] = BY_PLACES


def _fill_by_levels(points: Floats, origin: NDArray[np.str_], steps: Floats) -> None:
    known = points.copy()
    for gap in _gaps(known):
        guesses = known[gap.place] + steps[gap.place, :, gap.level]
        usable = np.flatnonzero(np.isfinite(guesses).all(axis=-1))
        if len(usable):
            nearest = usable[np.abs(usable - gap.level).argmin()]
            points[gap.place, gap.level] = guesses[nearest]
            origin[gap.place, gap.level] = BY_LEVELS


def _median(offsets: Floats) -> Floats:
    """Return the median over the studies, axis 0; NaN where no study has the offset."""
    # Only where something is known: NumPy warns of an empty median.
    known = np.isfinite(offsets).any(axis=0)
    median = np.full(offsets.shape[1:], np.nan)
    median[known] = np.nanmedian(offsets[:, known], axis=0)
    return median
