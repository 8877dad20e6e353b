"""How well points were found: errors in mm and beside the distance of the discs, and whole levels missed."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.two_stage.grade.views import PLACES, RECESSES
from lumbar_kaggle.two_stage.study import StudyVolumes

Floats = NDArray[np.float64]

_KEY = ["study_id", "series_id", "kind", "place", "level"]


class _Marked(NamedTuple):
    """The marked points of one place of one series: ``[5, 3]`` mm, NaN for none, and the slices' normal."""

    study_id: str
    series_id: str
    kind: str
    place: str
    points: Floats
    normal: Floats


def point_errors(located: pd.DataFrame, studies: Sequence[StudyVolumes]) -> pd.DataFrame:
    """Compare located points with the marked ones: sagittal on the same series, axial on whichever.

    Args:
        located: as from `find.locate_studies`.
        studies: with their marked points.

    Returns:
        One row per marked point: ``study_id, series_id, kind, place, level``, ``error_mm`` within the plane
        of the slices, ``depth_mm`` across them, ``relative`` (the error as part of the mean distance of
        marked neighbours), ``level_off`` (levels between the found point and the marked one nearest to it),
        ``found``.
    """
    series = located["series_id"].where(located["kind"] != "axial_t2", "")
    keys = zip(located["study_id"], series, located["place"], located["level"], strict=True)
    places = dict(zip(keys, located[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64), strict=True))
    rows: list[tuple[Any, ...]] = []
    for marked in (one for study in studies for one in _all_marked(study)):
        for level, name in enumerate(LEVELS):
            if not np.isnan(marked.points[level, 0]):
                found = places.get((marked.study_id, marked.series_id, marked.place, name))
                rows.append((*marked[:4], name, *_compare(marked, level, found)))
    return pd.DataFrame(rows, columns=[*_KEY, "error_mm", "depth_mm", "relative", "level_off", "found"])


def _all_marked(study: StudyVolumes) -> Iterator[_Marked]:
    for one in study.sagittal():
        for place, points in zip(PLACES[:3], study.marked([one])[:3], strict=True):
            yield _Marked(study.study_id, one.series_id, one.kind, place, points, one.normal)
    axial = study.axial()
    for place, points in zip(PLACES[RECESSES], study.marked(axial)[RECESSES], strict=True):
        if axial:
            yield _Marked(study.study_id, "", "axial_t2", place, points, axial[0].normal)


def _compare(marked: _Marked, level: int, found: Floats | None) -> tuple[float, float, float, float, bool]:
    if found is None:
        return (np.nan, np.nan, np.nan, np.nan, False)
    offset = found - marked.points
    depth = np.abs(offset[level] @ marked.normal)
    error = float(np.sqrt(max(offset[level] @ offset[level] - depth**2, 0.0)))
    steps = np.linalg.norm(np.diff(marked.points, axis=0), axis=1)
    step = float(np.nanmean(steps)) if np.isfinite(steps).any() else np.nan
    nearest = int(np.nanargmin(np.linalg.norm(offset, axis=1)))
    return (error, float(depth), error / step, float(abs(nearest - level)), True)


def summary(errors: pd.DataFrame) -> pd.DataFrame:
    """Return the figures per series kind and place, and for all.

    Returns:
        Indexed by kind and place: ``points``, ``median_mm``, ``p95_mm``, ``p99_mm``, ``within_5_mm``,
        ``within_10_mm``, ``off_by_level`` (shares of the marked points), ``median_relative``,
        ``median_depth_mm``, ``not_found`` (share).
    """
    groups = [*errors.groupby(["kind", "place"]), (("all", ""), errors)]
    rows = {key: _figures(group) for key, group in groups}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=["kind", "place"])
    return table


def _figures(group: pd.DataFrame) -> dict[str, float]:
    error = group["error_mm"]
    return {
        "points": float(len(group)),
        "median_mm": float(error.median()),
        "p95_mm": float(error.quantile(0.95)),
        "p99_mm": float(error.quantile(0.99)),
        "within_5_mm": float((error <= 5).mean()),
        "within_10_mm": float((error <= 10).mean()),
        "off_by_level": float((group["level_off"] > 0).mean()),
        "median_relative": float(group["relative"].median()),
        "median_depth_mm": float(group["depth_mm"].median()),
        "not_found": float((~group["found"].astype(bool)).mean()),
    }
