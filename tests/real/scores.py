"""Figures of graded rows, with intervals from resamples of the patients.

A row is a picture's level: columns ``patient``, ``level`` (0 … 4), ``y`` (the class), then ``p0``, ``p1`` … (its
probabilities) and ``prior0``, ``prior1`` … (those of the training part).
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from lumbar_kaggle.core.targets import LEVELS

Floats = NDArray[np.float64]


def together(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Average the probabilities of a patient's T1 and T2; labels are those of the second table."""
    names = [name for name in one if str(name).startswith("p") and name != "patient"]
    both = other.merge(one, on=["patient", "level"], suffixes=("", "_one"))
    for name in names:
        both[name] = (both[name] + both[f"{name}_one"]) / 2
    return both[list(other)]


def scored(table: pd.DataFrame, resamples: int) -> dict[str, tuple[float, float, float]]:
    """Return each figure with its 95 % interval, from resamples of the patients."""
    chance = np.random.default_rng(0)
    groups = list(table.groupby("patient").indices.values())
    values = table.to_numpy(dtype=float)
    names = [str(name) for name in table]
    point = _figures(values, names)
    draws = [
        _figures(values[np.concatenate([groups[k] for k in chance.integers(len(groups), size=len(groups))])], names)
        for _ in range(resamples)
    ]
    return {
        name: (value, *np.nanpercentile([draw[name] for draw in draws], [2.5, 97.5])) for name, value in point.items()
    }


def _figures(values: Floats, names: list[str]) -> dict[str, float]:
    level, y = values[:, names.index("level")], values[:, names.index("y")].astype(int)
    classes = sum(name.startswith("prior") for name in names)
    guess, prior = (values[:, names.index(name) :][:, :classes] for name in ("p0", "prior0"))
    right = guess.argmax(axis=1) == y
    figures = {
        "accuracy": float(right.mean()),
        "recall": float(np.mean([right[y == c].mean() for c in np.unique(y)])),
        "loss": float(-np.log(np.clip(guess[np.arange(len(y)), y], 1e-6, 1)).mean()),
        "prior": float(-np.log(prior[np.arange(len(y)), y]).mean()),
    }
    for k, name in enumerate(LEVELS):
        rows = level == k
        if rows.any():
            figures[name] = _auroc(guess[rows], y[rows])
    areas = [figures[name] for name in LEVELS if name in figures]
    return {**figures, "auroc": float(np.mean(areas))}


def _auroc(guess: Floats, y: NDArray[np.int64]) -> float:
    """Mean over the classes, each against the rest; of two classes both are the same."""
    areas = []
    for c in np.unique(y):
        own = y == c
        if own.all():
            return float("nan")
        ranks = rankdata(guess[:, c])[own].sum() - own.sum() * (own.sum() + 1) / 2
        areas.append(ranks / (own.sum() * (~own).sum()))
    return float(np.mean(areas))
