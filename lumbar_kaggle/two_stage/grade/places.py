"""Where the five places of each level lie: tables of points, and the annotated ones, gaps filled."""

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

POINT = ["x_mm", "y_mm", "z_mm"]
COLUMNS = ("study_id", "place", "level", *POINT, "confidence", "origin")

MARKED, BY_PLACES, BY_LEVELS = "marked", "from the level's other points", "from another level"
CONFIDENCE = {MARKED: 1.0, BY_PLACES: 0.5, BY_LEVELS: 0.25}
"""Of the origins, where a point of the annotated table comes from."""


def annotated_places(competition: Competition, cache: Path) -> pd.DataFrame:
    """Return the points of ``train_label_coordinates.csv`` in the patient, gaps filled; columns `COLUMNS`, LPS mm.

    A gap is filled from the level's other points by the set's median offsets between the places, and where the level
    has none at all, from the nearest level by the median step. Studies without any point in a series that knows its
    position are absent. Raises InputError where the cache of the split's volumes is missing.
    """
    studies = read_marked_studies(competition, cache)
    tell_unused(competition, studies, lambda study, mark: study.volumes[mark.volume].placed, "placed")
    every = {one.study_id: one.marked([v for v in one.volumes if v.placed]) for one in studies}
    marked = {study: points for study, points in sorted(every.items()) if np.isfinite(points).any()}
    if not marked:
        return pd.DataFrame(columns=list(COLUMNS))
    points, origin = fill(np.stack(list(marked.values())))
    at = pd.MultiIndex.from_product([marked, PLACES, LEVELS], names=COLUMNS[:3])
    table = pd.DataFrame(points.reshape(-1, 3), at, POINT).assign(origin=origin.ravel()).dropna().reset_index()
    return table.assign(confidence=table["origin"].map(CONFIDENCE))[list(COLUMNS)]


def read_places(path: Path) -> pd.DataFrame:
    """Read a table as from `annotated_places`; raises InputError for one that is none, or has no numbers."""
    return as_numbers(path, read_table(path, COLUMNS), *POINT, "confidence")


def to_points(places: pd.DataFrame) -> dict[str, Floats]:
    """Return per study ``[5 places, 5 levels, 3]`` LPS mm in the order of `PLACES`; NaN where there is none.

    See `choose` for which rows count. Raises InputError for an unknown place or level.
    """
    for column, known in (("place", PLACES), ("level", LEVELS)):
        unknown = sorted(set(places[column]) - set(known))
        if unknown:
            raise InputError(f"table of points: {column} {unknown[0]!r} is none of {', '.join(known)}")
    places = choose(places)
    number, studies = pd.factorize(places["study_id"].astype(str))
    points = np.full((len(studies), len(PLACES), len(LEVELS), 3), np.nan)
    place, level = pd.Categorical(places["place"], PLACES), pd.Categorical(places["level"], LEVELS)
    points[number, place.codes, level.codes] = places[POINT].to_numpy(dtype=np.float64)
    return dict(zip(studies, points, strict=True))


def choose(places: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that count, one per ``study_id``, ``place`` and ``level``.

    Of several rows of a point that of the greatest ``confidence`` counts. With a column ``placed``, points of
    sagittal series that do not know their place count only where the study has no others: the two are of
    different frames.
    """
    if "placed" in places:
        placed = places["placed"].astype(str) == "True"
        sagittal = ~places["place"].str.endswith("recess")
        places = places[placed | ~places["study_id"].isin(places.loc[placed & sagittal, "study_id"])]
    if "confidence" in places:
        places = places.sort_values("confidence", kind="stable")
    return places.drop_duplicates(["study_id", "place", "level"], keep="last")


def unsided(places: pd.DataFrame) -> set[str]:
    """Return the studies of whose foramina nobody knows which is the left one.

    Either their sagittal series do not know their place, or all that is there of both sides is one slice.
    `places` are located points, see `choose`; those of a table without a column ``placed`` all know theirs.
    """
    foramina = choose(places[places["place"].str.endswith("foramen")])
    unknown = foramina.duplicated(["study_id", "level", *POINT])
    if "placed" in foramina:
        unknown |= foramina["placed"].astype(str) != "True"
    return set(foramina.loc[unknown, "study_id"].astype(str))


def fill(points: Floats) -> tuple[Floats, NDArray[np.str_]]:
    """Fill the gaps, NaN, of points ``[studies, 5 places, 5 levels, 3]``, LPS mm.

    Studies that have no point at all keep theirs, and so do all where the set never shows two places together.
    Returned beside the points are their origins ``[studies, 5, 5]``, empty text where there is still none.
    """
    filled, origin = points.copy(), np.where(np.isfinite(points).all(axis=-1), MARKED, "").astype("<U32")
    # between[p, q, l]: from place q to place p of one level; steps[p, k, l]: from level k to level l.
    between = _median(points[:, :, None] - points[:, None, :])
    steps = _median(points[:, :, None, :] - points[:, :, :, None])
    for study in range(len(points)):
        for source, offsets in ((BY_PLACES, between), (BY_LEVELS, steps), (BY_PLACES, between)):
            _fill_gaps(filled[study], origin[study], source, offsets)
    return filled, origin


def _fill_gaps(points: Floats, origin: NDArray[np.str_], source: str, offsets: Floats) -> None:
    """Fill what one source can tell: the mean of the level's places, or the nearest of the place's levels."""
    known = points.copy()
    for place, level in np.argwhere(np.isnan(known).any(axis=-1)):
        guesses = (known[:, level] if source == BY_PLACES else known[place]) + offsets[place, :, level]
        usable = np.flatnonzero(np.isfinite(guesses).all(axis=-1))
        if len(usable):
            if source == BY_LEVELS:
                usable = usable[[np.abs(usable - level).argmin()]]
            points[place, level] = guesses[usable].mean(axis=0)
            origin[place, level] = source


def _median(offsets: Floats) -> Floats:
    """Return the median over the studies, axis 0; NaN where no study has the offset."""
    flat = pd.DataFrame(offsets.reshape(len(offsets), -1))  # pandas does not warn of empty medians
    return flat.median().to_numpy().reshape(offsets.shape[1:])
