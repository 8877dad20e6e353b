"""Heat maps of a study's slices → its points in the patient, with a confidence each.

Sagittal series give the canal and the foramina. The axial slices that show a level are found by projection:
its canal point, in patient coordinates, is near the planes of some slices, of whatever axial series and
stack. On those a small picture around the projected point is searched for the two recesses.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from tqdm import tqdm

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.two_stage.config import LocateConfig
from lumbar_kaggle.two_stage.grade.views import FORAMINA, PLACES, RECESSES
from lumbar_kaggle.two_stage.locate.network import (
    CANAL_CHANNEL,
    FORAMEN_CHANNEL,
    STRIDE,
    Locator,
    Picture,
    predict_maps,
)
from lumbar_kaggle.two_stage.study import StudyVolumes

Floats = NDArray[np.float64]

COLUMNS = (
    *("study_id", "series_id", "kind", "place", "level", "instance_number", "slice", "row", "column"),
    *("x_mm", "y_mm", "z_mm", "confidence", "placed"),
)
"""Of the table of located points: `instance_number` is None where the header has none, `slice` an index with
fractions, `row` and `column` are pixels of the stored image, the mm are LPS; where not `placed`, in the frame
that `Volume.completed` assumes."""

AXIAL_SHAPE, AXIAL_PIXEL_MM = (96, 96), 1.0
"""Of the picture around a level: large enough for the whole canal, the facet joints and a wrong guess of
15 mm."""

REACH_MM = 8.0
"""Slices whose plane is further from the level's point do not show it."""

PEAKS = 6
"""Candidates taken from each level's map."""

STEP_MM, STEP_SPREAD = 36.0, 0.22
"""Distance of neighbouring discs: middle, and standard deviation of its logarithm; adults of all sizes."""

OUTSIDE_STEPS = (0.45, 2.2)
"""Steps outside of these parts of the usual one never join two levels."""

FLOOR = 1e-6


def locate_studies(
    studies: Sequence[StudyVolumes],
    sagittal: Sequence[Locator],
    axial: Sequence[Locator],
    config: LocateConfig,
    *,
    quiet: bool = False,
) -> pd.DataFrame:
    """Return the points that networks find in some studies, columns `COLUMNS`; their marks are not looked at.

    Args:
        studies: to search.
        sagittal, axial: networks of the two planes, on the device that computes, whose predictions are
            averaged; none: nothing is found.
        config: of the networks.
        quiet: without progress bars.
    """
    series = [(one.study_id, volume) for one in studies for volume in one.sagittal() if sagittal]
    bar = tqdm(series, unit="series", desc="locate", disable=quiet or not sagittal)
    found = _together([locate_sagittal(study, volume, sagittal, config) for study, volume in bar])
    if not axial:
        return found
    centres = study_points(found)
    across = [one for one in studies if one.axial()]
    bar = tqdm(across, unit="study", desc="locate axial", disable=quiet)
    return _together([found, *(locate_axial(one, centres.get(one.study_id), axial) for one in bar)])


def _together(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(COLUMNS))


def locate_sagittal(study_id: str, volume: Volume, networks: Sequence[Locator], config: LocateConfig) -> pd.DataFrame:
    """Find the canal and the foramina of one sagittal series.

    Args:
        study_id: for the table.
        volume: its largest stack.
        networks: one per fold that has not seen the study, or all of them for a new one.
        config: of the networks.

    Returns:
        Columns `COLUMNS`; a row per place and level that was found.
    """
    shape = config.picture[0], config.picture[1]
    pictures = [Picture(volume, k, shape, config.pixel_mm) for k in range(len(volume))]
    maps = predict_maps(pictures, networks)
    cell_mm = STRIDE * config.pixel_mm
    foramina = maps[:, FORAMEN_CHANNEL : FORAMEN_CHANNEL + 5]
    canal = _chain_of(maps[:, CANAL_CHANNEL : CANAL_CHANNEL + 5], cell_mm)
    found = [("canal", canal)]
    if len(volume) == 1:
        # The only slice may be one through the foramina, of a side that cannot be told.
        found += [(place, _chain_of(foramina, cell_mm)) for place in PLACES[FORAMINA]]
    elif canal:
        # Slices run from the patient's right to the left; a bent spine has another midline at each level.
        beside = np.arange(len(volume))[:, None] - _midline(canal)
        for place, there in (("right foramen", beside < -0.5), ("left foramen", beside > 0.5)):
            found.append((place, _chain_of(foramina * there[:, :, None, None], cell_mm)))
    rows = [
        (study_id, volume.series_id, volume.kind, place, level, *_in_patient(pictures, spot))
        for place, spots in found
        for level, spot in zip(LEVELS, spots, strict=False)
        if spot.confidence
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


class Spot(NamedTuple):
    """A point in the heat maps of a volume: all with fractions; confidence 0 where no slice shows it."""

    slice_index: float
    row: float
    column: float
    confidence: float


def _midline(canal: list[Spot]) -> Floats:
    """Return per level ``[5]`` the slice of the canal, with fractions; a faint one like its neighbours'."""
    index, confidence = np.array(canal)[:, [0, 3]].T
    apart = np.abs(np.subtract.outer(np.arange(len(canal)), np.arange(len(canal))))
    weight = np.maximum(confidence, 1e-9) * 0.1**apart
    middle: Floats = weight @ index / weight.sum(axis=1)
    return middle


def _chain_of(maps: Floats, cell_mm: float) -> list[Spot]:
    """Return the chain of ``[slices, 5, rows, columns]`` maps; empty where there is none."""
    together = maps.sum(axis=0)
    cells = best_chain(together, cell_mm)
    if cells is None:
        return []
    found, slices = [], np.arange(len(maps))
    for level, (row, column) in enumerate(cells):
        place, _ = refine(together[level], cells[level])
        near = maps[:, level, max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4].sum(axis=(1, 2))
        weight = near * (np.abs(slices - near.argmax()) <= 2)
        index = float((weight * slices).sum() / max(float(weight.sum()), 1e-9))
        found.append(Spot(index, float(place[0]), float(place[1]), min(float(near.max()), 1.0)))
    return found


def _in_patient(pictures: Sequence[Picture], spot: Spot) -> tuple[object, ...]:
    """Return the columns of a spot from ``instance_number`` on; between two slices its mm are, too."""
    volume, last = pictures[0].volume, len(pictures) - 1
    row, column = pictures[0].cell_to_slice(spot.row, spot.column)
    nearest, below = (int(np.clip(round_(spot.slice_index), 0, last)) for round_ in (round, np.floor))
    part = spot.slice_index - np.floor(spot.slice_index)
    ends = [volume.to_patient(k, row, column) for k in (below, min(below + 1, last))]
    point = (ends[0] * (1 - part) + ends[1] * part).tolist()
    number = volume.instance_numbers[nearest]
    return (number, spot.slice_index, row, column, *point, spot.confidence, volume.placed)


def study_points(located: pd.DataFrame) -> dict[str, Floats]:
    """Return, per study, its canal points ``[5, 3]`` in LPS mm, the most confident of its sagittal series.

    Series that do not know their place do not count: nothing can be projected from them.
    """
    canal = located[(located["place"] == "canal") & located["placed"].astype(bool)].sort_values("confidence")
    points = {}
    for study, rows in canal.groupby("study_id"):
        best = rows.drop_duplicates("level", keep="last").set_index("level")
        points[str(study)] = best.reindex(LEVELS)[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64)
    return points


def locate_axial(study: StudyVolumes, centres: Floats | None, networks: Sequence[Locator]) -> pd.DataFrame:
    """Find the lateral recesses of one study.

    Args:
        study: with at least one axial stack that knows its place.
        centres: ``[5, 3]`` canal points found in the sagittal series, LPS mm, NaN where none; None where the
            study has no such series: then the levels are spread evenly over what the slices cover.
        networks: one per fold that has not seen the study, or all of them.

    Returns:
        Columns `COLUMNS`; a row per side and level that was found.
    """
    known = _spread(study) if centres is None else centres
    rows: list[tuple[object, ...]] = []
    for level, centre in zip(LEVELS, known, strict=True):
        near = [] if np.isnan(centre).any() else slices_near(study, centre, REACH_MM)
        if near:
            pictures = [picture for picture, _ in near]
            maps = predict_maps(pictures, networks)  # [slices, 2, rows, columns]
            # The network knows what a recess looks like, the projection which level it is.
            closeness = np.exp(-0.5 * (np.array([distance for _, distance in near]) / 4.0) ** 2)
            for side, place in enumerate(PLACES[RECESSES]):
                best = int((maps[:, side].sum(axis=(1, 2)) * closeness).argmax())
                volume, found = pictures[best].volume, _recess(pictures[best], maps[best, side])
                rows.append((study.study_id, volume.series_id, volume.kind, place, level, *found))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def slices_near(study: StudyVolumes, point: Floats, reach_mm: float) -> list[tuple[Picture, float]]:
    """Return pictures around a point of the axial slices whose plane is near it, and their distance in mm."""
    return [
        (Picture(volume, k, AXIAL_SHAPE, AXIAL_PIXEL_MM, point), float(distance))
        for volume in study.axial()
        for k, distance in enumerate(volume.depth(point))
        if distance <= reach_mm
    ]


def _recess(picture: Picture, level_map: Floats) -> tuple[object, ...]:
    """Return the columns of the likeliest point of a map ``[rows, columns]`` from ``instance_number`` on."""
    peak = np.array(np.unravel_index(int(level_map.argmax()), level_map.shape))
    cell, mass = refine(level_map, peak)
    row, column = picture.cell_to_slice(float(cell[0]), float(cell[1]))
    volume, index = picture.volume, picture.index
    point = volume.to_patient(index, row, column).tolist()
    return (volume.instance_numbers[index], float(index), row, column, *point, mass, True)


def _spread(study: StudyVolumes) -> Floats:
    """Return ``[5, 3]`` guessed canal points: the middles of slices spread evenly from head to foot."""
    centres = np.array(
        [
            volume.to_patient(k, (volume.shape[0] - 1) / 2, (volume.shape[1] - 1) / 2)
            for volume in study.axial()
            for k in range(len(volume))
        ]
    )
    head, foot = centres[:, 2].max(), centres[:, 2].min()
    wanted = head - (np.arange(len(LEVELS)) + 0.5) / len(LEVELS) * (head - foot)
    spread: Floats = centres[np.abs(centres[:, 2] - wanted[:, None]).argmin(axis=1)]
    return spread


def best_chain(maps: Floats, cell_mm: float) -> NDArray[np.int64] | None:
    """Return the five cells ``[5, 2]`` (row, column) that are likeliest together, top to bottom.

    Candidates are the peaks of all five maps. A chain's score is the product of each level's probability at
    its place and of the likelihood of the steps between, relative to the chain's own middle step: so a
    doubtful peak cannot push the others by one level.

    Args:
        maps: ``[5, rows, columns]`` probabilities, level by level.
        cell_mm: mm per cell; nearly right is enough.

    Returns:
        None where fewer than five candidates lie below each other.
    """
    candidates = _candidates(maps)
    if len(candidates) < len(maps):
        return None
    # Each cell's probability of the point within two cells of it.
    mass = uniform_filter(maps, (1, 5, 5), mode="constant") * 25
    level_score = np.log(np.maximum(mass[:, candidates[:, 0], candidates[:, 1]], FLOOR))
    best, best_score = None, -np.inf
    # The chain's own scale is not known before: try a few, and keep the best.
    for scale in (0.75, 0.9, 1.0, 1.1, 1.3):
        path, score = _viterbi(level_score, _steps(candidates, cell_mm, STEP_MM * scale))
        score -= 0.5 * (np.log(scale) / STEP_SPREAD) ** 2
        if path is not None and score > best_score:
            best, best_score = candidates[path], score
    return best


def _candidates(maps: Floats) -> NDArray[np.int64]:
    """Return the strongest cells ``[n, 2]`` of every map, none within two cells of another."""
    chosen: list[tuple[int, int]] = []
    for level_map in maps:
        rest = level_map.copy()
        for _ in range(PEAKS):
            row, column = np.unravel_index(int(rest.argmax()), rest.shape)
            if rest[row, column] < FLOOR:
                break
            rest[max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4] = 0
            if all(abs(row - r) > 2 or abs(column - c) > 2 for r, c in chosen):
                chosen.append((int(row), int(column)))
    return np.array(sorted(chosen), dtype=np.int64).reshape(-1, 2)


def _steps(candidates: NDArray[np.int64], cell_mm: float, usual_mm: float) -> Floats:
    """Return log-likelihoods ``[n, n]`` of going from one candidate down to another."""
    offset = (candidates[None] - candidates[:, None]) * cell_mm
    length = np.linalg.norm(offset, axis=2) / usual_mm
    within = (offset[..., 0] > 0) & (length > OUTSIDE_STEPS[0]) & (length < OUTSIDE_STEPS[1])
    spread = 0.16  # of one patient's steps around their median, logarithmic
    likelihood = -0.5 * (np.log(np.maximum(length, 1e-3)) / spread) ** 2
    return np.where(within, likelihood, -np.inf)


def _viterbi(level_score: Floats, steps: Floats) -> tuple[NDArray[np.int64] | None, float]:
    """Return the best path through the candidates, one per level, and its score."""
    score = level_score[0].copy()
    came_from = []
    for level in range(1, len(level_score)):
        total = score[:, None] + steps
        came_from.append(total.argmax(axis=0))
        score = total.max(axis=0) + level_score[level]
    end = int(score.argmax())
    if not np.isfinite(score[end]):
        return None, -np.inf
    path = [end]
    for before in reversed(came_from):
        path.append(int(before[path[-1]]))
    return np.array(path[::-1]), float(score[end])


def refine(level_map: Floats, cell: NDArray[np.int64]) -> tuple[Floats, float]:
    """Return the centroid (row, column) of the probability around a cell, and its sum (0 to 1)."""
    row, column = int(cell[0]), int(cell[1])
    top, left = max(row - 3, 0), max(column - 3, 0)
    window = level_map[top : row + 4, left : column + 4]
    mass = float(window.sum())
    if mass <= 0:
        return cell.astype(np.float64), 0.0
    y, x = np.mgrid[: window.shape[0], : window.shape[1]]
    return np.array([top + (window * y).sum() / mass, left + (window * x).sum() / mass]), min(mass, 1.0)
