"""The axial half of the locator: which slices show a level, and where its two lateral recesses are.

A level's slices are found by projection: the canal point of the sagittal series, in patient coordinates, is
near the planes of some slices, of whatever axial series and stack. On those a small picture about the
projected point is looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom.cache import OK, Cache
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.two_stage.locate.chain import refine
from lumbar_kaggle.two_stage.locate.config import LocateConfig
from lumbar_kaggle.two_stage.locate.find import COLUMNS, predict_maps
from lumbar_kaggle.two_stage.locate.network import STRIDE, Locator
from lumbar_kaggle.two_stage.locate.pictures import from_picture, picture, to_picture
from lumbar_kaggle.two_stage.locate.points import (
    Series,
    empty_points,
    fill_points,
    tell_unused,
)
from lumbar_kaggle.two_stage.locate.samples import ABSENT, PRESENT, UNKNOWN, Sample
from lumbar_kaggle.two_stage.stacks import Stack, read_stacks

Floats = NDArray[np.float64]

AXIAL_CHANNELS = 2
SIDES = ("left recess", "right recess")

SHAPE, PIXEL_MM = (96, 96), 1.0
"""Of the picture about a level: large enough for the whole canal, its joints and a wrong guess of 15 mm."""

REACH_MM = 8.0
"""Slices whose plane is further from the level's point do not show it."""

NEAR_MM, FAR_MM = 3.0, 9.0
"""A recess is marked on this slice or on one beside it; it is not on slices further away than the second."""


@dataclass(frozen=True, eq=False)
class AxialStudy:
    """The axial stacks of one study with what is known of its points.

    Attributes:
        study_id: whose they are.
        stacks: series identifier and stack, of all axial series.
        own: ``[2 sides, 5 levels, 3]`` marked points, patient mm; NaN: none.
        centres: ``[5 levels, 3]`` canal points that were marked, or the middle of the recesses; NaN: none.
    """

    study_id: str
    stacks: tuple[tuple[str, Stack], ...]
    own: Floats
    centres: Floats


def read_axial(competition: Competition, cache: Path, sagittal: Sequence[Series]) -> list[AxialStudy]:
    """Read the axial series of a split with their labelled points.

    Args:
        competition: the split.
        cache: cache folder that holds its volumes.
        sagittal: its sagittal series, for the canal points that are marked on them.

    Raises:
        InputError: the cache is not there.
    """
    volumes = Cache(cache, "volumes")
    index = volumes.index()
    index = index[(index["status"] == OK) & (index["kind"] == "axial_t2")]
    index = index[index["study_id"].isin(competition.studies)]
    marks = dict(list(competition.coordinates.groupby(["study_id", "series_id"])))
    canal = {one.study_id: one.shared[0] for one in sagittal if one.stack.placed}
    studies, used = [], 0
    for study_id, rows in index.groupby("study_id", sort=False):
        own, stacks = empty_points(len(SIDES)), []
        for row in rows.to_dict("records"):
            for stack in read_stacks(volumes.folder, row["file"]):
                stacks.append((row["series_id"], stack))
                if stack.placed:
                    used += fill_points(own, stack, marks.get((study_id, row["series_id"])), _SIDE_OF)
        centres = canal.get(str(study_id), empty_points(1)[0])
        centres = np.where(np.isnan(centres), own.mean(axis=0), centres)
        study = axial_study(str(study_id), stacks, own, centres)
        studies += [study] if study is not None else []
    tell_unused(competition, _SIDE_OF, used, "placed axial")
    return studies


def axial_study(
    study_id: str,
    stacks: Sequence[tuple[str, Stack]],
    own: Floats | None = None,
    centres: Floats | None = None,
) -> AxialStudy | None:
    """Return the axial stacks that know their place, with what is known of the points; None without any."""
    placed = tuple(entry for entry in stacks if entry[1].placed and entry[1].plane == "axial")
    if not placed:
        return None
    own = empty_points(len(SIDES)) if own is None else own
    return AxialStudy(study_id, placed, own, empty_points(1)[0] if centres is None else centres)


_SIDE_OF = {"left_subarticular_stenosis": 0, "right_subarticular_stenosis": 1}


def make_axial_samples(study: AxialStudy, config: LocateConfig) -> list[Sample]:
    """Return, per level, the slices that show a marked recess, and one that does not."""
    samples = []
    for level in range(len(LEVELS)):
        centre = study.centres[level]
        if np.isnan(centre).any() or np.isnan(study.own[:, level]).all():
            continue
        near = sorted(_slices_near(study, centre, 2 * REACH_MM), key=lambda entry: entry[3])
        candidates = [_sample(study, stack, k, level, centre) for _, stack, k, _ in near]
        shown = [sample for sample in candidates if (sample.state == PRESENT).any()]
        # Of the slices that show nothing of the level one is enough, the nearest of them.
        empty = [sample for sample in candidates if (sample.state == ABSENT).all()]
        samples += shown[: config.slices // 3 or 1] + empty[:1]
    return samples


def _sample(study: AxialStudy, stack: Stack, k: int, level: int, centre: Floats) -> Sample:
    places, state = np.full((AXIAL_CHANNELS, 2), np.nan), np.full(AXIAL_CHANNELS, UNKNOWN)
    middle = _middle(stack, k, centre)
    for side in range(AXIAL_CHANNELS):
        row, column, distance = stack.to_slice(k, study.own[side, level])
        if abs(distance) <= NEAR_MM:
            places[side] = to_picture(stack, row, column, SHAPE, PIXEL_MM, middle)
            state[side] = PRESENT
        elif abs(distance) >= FAR_MM:
            state[side] = ABSENT
    image = picture(stack, k, SHAPE, PIXEL_MM, middle)
    return Sample(study.study_id, image, places, state, pair=(0, 1))


def _slices_near(study: AxialStudy, point: Floats, reach_mm: float) -> list[tuple[str, Stack, int, float]]:
    """Return series, stack, index and distance (mm) of the slices whose plane is near a point."""
    near = []
    for series_id, stack in study.stacks:
        for k in range(len(stack)):
            distance = abs(float(stack.to_slice(k, point)[2]))
            if distance <= reach_mm:
                near.append((series_id, stack, k, distance))
    return near


def _middle(stack: Stack, k: int, centre: Floats) -> tuple[float, float]:
    """Return row and column of a slice that the level's point is projected on."""
    row, column, _ = stack.to_slice(k, centre)
    return float(row), float(column)


def locate_axial(
    study: AxialStudy, centres: Floats | None, networks: Sequence[Locator], config: LocateConfig
) -> pd.DataFrame:
    """Find the lateral recesses of one study.

    Args:
        study: its labelled points are not looked at.
        centres: ``[5, 3]`` canal points found in the sagittal series, LPS mm, NaN where none; None where the
            study has no such series: then the levels are spread evenly over what the slices cover.
        networks: one per fold that has not seen the study, or all of them.
        config: of the networks.

    Returns:
        Columns `locating.COLUMNS`; a row per side and level that was found.
    """
    known = _spread(study) if centres is None else centres
    rows: list[tuple[object, ...]] = []
    for level, centre in enumerate(known):
        near = [] if np.isnan(centre).any() else _slices_near(study, centre, REACH_MM)
        if near:
            rows += _find(study, LEVELS[level], centre, near, networks)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _find(
    study: AxialStudy,
    level: str,
    centre: Floats,
    near: list[tuple[str, Stack, int, float]],
    networks: Sequence[Locator],
) -> list[tuple[object, ...]]:
    pictures = [picture(stack, k, SHAPE, PIXEL_MM, _middle(stack, k, centre)) for _, stack, k, _ in near]
    maps = predict_maps(np.stack(pictures), networks)  # [slices, 2, rows, columns]
    # The network knows what a recess looks like, the projection which level it is.
    closeness = np.exp(-0.5 * (np.array([distance for *_, distance in near]) / 4.0) ** 2)
    rows: list[tuple[object, ...]] = []
    for side, name in enumerate(SIDES):
        best = int((maps[:, side].sum(axis=(1, 2)) * closeness).argmax())
        chosen = maps[best, side]
        peak = np.array(np.unravel_index(int(chosen.argmax()), chosen.shape))
        cell, mass = refine(chosen, peak)
        series_id, stack, k, _ = near[best]
        place = cell[::-1] * STRIDE + (STRIDE - 1) / 2
        row, column = from_picture(stack, place, SHAPE, PIXEL_MM, _middle(stack, k, centre))
        point = stack.to_patient(k, float(row), float(column))
        names = (study.study_id, series_id, "axial_t2", name, level)
        where = (stack.instance_numbers[k], float(k), float(row), float(column))
        rows.append((*names, *where, *(float(value) for value in point), mass, True))
    return rows


def _spread(study: AxialStudy) -> Floats:
    """Return ``[5, 3]`` guessed canal points: the middles of slices spread evenly from head to foot."""
    middles = [
        stack.to_patient(k, (stack.pixels.shape[1] - 1) / 2, (stack.pixels.shape[2] - 1) / 2)
        for _, stack in study.stacks
        for k in range(len(stack))
    ]
    centres = np.array(middles)
    head, foot = centres[:, 2].max(), centres[:, 2].min()
    wanted = head - (np.arange(len(LEVELS)) + 0.5) / len(LEVELS) * (head - foot)
    spread: Floats = centres[np.abs(centres[:, 2] - wanted[:, None]).argmin(axis=1)]
    return spread
