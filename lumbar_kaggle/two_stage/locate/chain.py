"""From heat maps to five points in order: level identity is decided for the chain as a whole."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

Floats = NDArray[np.float64]

PEAKS = 6
"""Candidates taken from each level's map."""

STEP_MM, STEP_SPREAD = 36.0, 0.22
"""Distance of neighbouring discs: middle, and standard deviation of its logarithm; adults of all sizes."""

OUTSIDE_STEPS = (0.45, 2.2)
"""Steps outside of these parts of the usual one never join two levels."""

FLOOR = 1e-6


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
