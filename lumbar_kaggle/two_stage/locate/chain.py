"""The likeliest chain of five levels in the maps of a series, and the middle of a spot in a map."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from lumbar_kaggle.dicom.volume import Floats
from lumbar_kaggle.two_stage.study import DISC_MM

FLOOR = 1e-6  # probability of a cell that counts as none


def best_chain(maps: Floats, cell_mm: float) -> NDArray[np.int64] | None:
    """Return the five cells ``[5, 2]`` (row, column) of ``[5, rows, columns]`` maps that are likeliest together.
    Candidates are the peaks of all five maps. A chain's score is the product of each level's probability at its place
    and of the likelihood of the steps between, relative to the chain's own middle step: so a doubtful peak cannot push
    the others by one level. None where fewer than five candidates lie below each other."""
    candidates = _candidates(maps)
    if len(candidates) < len(maps):
        return None
    # Each cell's probability of the point within two cells of it.
    mass = uniform_filter(maps, (1, 5, 5), mode="constant") * 25
    level_score = np.log(np.maximum(mass[:, candidates[:, 0], candidates[:, 1]], FLOOR))
    offset = (candidates[None] - candidates[:, None]) * cell_mm
    best, best_score = None, -np.inf
    # Neighbouring discs of adults are `DISC_MM` apart; the logarithm deviates by 0.22, within one patient by 0.16.
    # The chain's own scale is not known before: try a few, and keep the best.
    for scale in (0.75, 0.9, 1.0, 1.1, 1.3):
        length = np.linalg.norm(offset, axis=2) / (DISC_MM * scale)
        likelihood = -0.5 * (np.log(np.maximum(length, 1e-3)) / 0.16) ** 2
        within = (offset[..., 0] > 0) & (length > 0.45) & (length < 2.2)  # others never join two levels
        path, score = _viterbi(level_score, np.where(within, likelihood, -np.inf))
        score -= 0.5 * (np.log(scale) / 0.22) ** 2
        if score > best_score:
            best, best_score = candidates[path], score
    return best


def _candidates(maps: Floats) -> NDArray[np.int64]:
    """Return the six strongest cells of every map, none within two cells of another: ``[n, 2]``."""
    chosen: list[tuple[int, int]] = []
    for level_map in maps:
        rest = level_map.copy()
        for _ in range(6):
            row, column = (int(index) for index in np.unravel_index(rest.argmax(), rest.shape))
            if rest[row, column] < FLOOR:
                break
            rest[around(row, column)] = 0
            if all(abs(row - r) > 2 or abs(column - c) > 2 for r, c in chosen):
                chosen.append((row, column))
    return np.array(sorted(chosen), dtype=np.int64).reshape(-1, 2)


def _viterbi(level_score: Floats, steps: Floats) -> tuple[list[int], float]:
    """Return the best path through the candidates, one per level, by the steps' log-likelihoods ``[n, n]``, and its
    score: -inf where no path is possible."""
    score, came_from = level_score[0], []
    for of_level in level_score[1:]:
        total = score[:, None] + steps
        came_from.append(total.argmax(axis=0))
        score = total.max(axis=0) + of_level
    path = [int(score.argmax())]
    for before in reversed(came_from):
        path.append(int(before[path[-1]]))
    return path[::-1], float(score.max())


def refine(level_map: Floats, cell: NDArray[np.int64]) -> tuple[Floats, float]:
    """Return the centroid (row, column) of the probability around a cell, and its sum (0 to 1)."""
    window = level_map[around(*cell)]
    mass = float(window.sum())
    if mass <= 0:
        return cell.astype(np.float64), 0.0
    centroid = (np.indices(window.shape) * window).sum(axis=(1, 2)) / mass
    return np.maximum(cell - 3, 0) + centroid, min(mass, 1.0)


def around(row: int, column: int) -> tuple[slice, slice]:
    """Return the cells within three of one, as far as the map goes."""
    return slice(max(row - 3, 0), row + 4), slice(max(column - 3, 0), column + 4)
