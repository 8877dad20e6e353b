"""How much better than the prior a classifier is, cross-fitted over studies, with its sampling error."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lumbar_kaggle.core.targets import LEVELS, TARGETS
from tests.support.leak_features import Features, Sample

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FOLDS, RESAMPLES = 4, 4000
CONFIDENCE = 99.9
"""Per cent, one-sided: some dozens of comparisons are made, and none may be significant by chance."""
PATCH_COMPONENTS = 24
SMOOTHING = 1.0
"""Rows added to each class of a prior."""


@dataclass(frozen=True)
class Gain:
    """Mean fall of the log loss per label against a reference, above 0 where the classifier is better.

    Attributes:
        mean: over all labels.
        low, high: bootstrap bounds over studies, at `CONFIDENCE` each.
        labels: how many.
    """

    mean: float
    low: float
    high: float
    labels: int

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f}) over {self.labels} labels"


@dataclass(frozen=True)
class Problem:
    """Labels to be predicted, one row each.

    Attributes:
        study: ``[rows]`` number of the study.
        cell: ``[rows]`` number of the target: rows of one cell share their prior.
        severity: ``[rows]`` 0, 1, 2.
        features: ``[rows, n]``, NaN where there is none.
    """

    study: Ints
    cell: Ints
    severity: Ints
    features: Floats


def feature_table(rows: list[Features]) -> pd.DataFrame:
    """Return one row per study; columns without any variation are dropped."""
    table = pd.DataFrame(rows).astype(np.float64)
    return table.loc[:, table.nunique(dropna=False) > 1]


def pooled_problem(table: pd.DataFrame, labels: Ints, group: str) -> Problem:
    """Return all targets of a score group, the study's features repeated, with level and side beside them.

    Args:
        table: one row per study.
        labels: ``[studies, 25]``, below 0 where there is none.
        group: one of `targets.SCORE_GROUPS`.
    """
    cells = [k for k, target in enumerate(TARGETS) if target.score_group == group]
    study, column = np.nonzero(labels[:, cells] >= 0)
    cell = np.array(cells)[column]
    place = np.array([(LEVELS.index(t.level), t.side == "left") for t in TARGETS], dtype=np.float64)
    features = np.hstack([table.to_numpy()[study], place[cell]])
    return Problem(study, cell, labels[study, cell], features)


def boosted(problem: Problem, train: NDArray[np.bool_]) -> Floats:
    """Return ``[held-out rows, 3]`` of a gradient-boosted classifier fitted to the training rows."""
    model = HistGradientBoostingClassifier(
        max_iter=20,
        learning_rate=0.08,
        max_leaf_nodes=6,
        min_samples_leaf=40,
        l2_regularization=20.0,
        max_bins=32,
        max_features=0.3,
        early_stopping=False,
        random_state=0,
    )
    model.fit(problem.features[train], problem.severity[train])
    return _three_classes(model.predict_proba(problem.features[~train]), model.classes_)


def logistic(problem: Problem, train: NDArray[np.bool_]) -> Floats:
    """Return ``[held-out rows, 3]`` of a logistic regression on the features and the cell."""
    cells = (problem.cell[:, None] == np.unique(problem.cell)).astype(np.float64)
    features = np.hstack([problem.features, cells])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    model.fit(features[train], problem.severity[train])
    return _three_classes(model.predict_proba(features[~train]), model.classes_)


def _three_classes(probabilities: Floats, classes: Ints) -> Floats:
    """Return ``[rows, 3]`` although a class may have been absent in training."""
    full = np.full((len(probabilities), 3), 1e-4)
    full[:, classes] = probabilities
    return full / full.sum(axis=1, keepdims=True)


def losses(problem: Problem, classify=None, share: float = 0.5) -> Floats:  # type: ignore[no-untyped-def]
    """Return ``[rows]`` cross-fitted log losses of the prior, or of a classifier blended with the prior.

    The blend keeps an overfitted classifier from hiding a small leak: where it has learned nothing it costs
    little, where it has learned something half of it counts.

    Args:
        problem: rows of one study are never on both sides of a fold.
        classify: `boosted`, `logistic` or None for the prior alone.
        share: of the classifier in the blend.
    """
    result = np.zeros(len(problem.severity))
    fold = np.random.default_rng(0).permutation(int(problem.study.max()) + 1)[problem.study] % FOLDS
    for k in range(FOLDS):
        train = fold != k
        probabilities = _prior(problem, train)[~train]
        if classify is not None:
            probabilities = (1 - share) * probabilities + share * classify(problem, train)
        result[~train] = -np.log(probabilities[np.arange(len(probabilities)), problem.severity[~train]])
    return result


def _prior(problem: Problem, train: NDArray[np.bool_]) -> Floats:
    counts = np.full((len(TARGETS), 3), SMOOTHING)
    np.add.at(counts, (problem.cell[train], problem.severity[train]), 1.0)
    return (counts / counts.sum(axis=1, keepdims=True))[problem.cell]


def gain(problem: Problem, reference: Floats, loss: Floats) -> Gain:
    """Return how much `loss` ``[rows]`` is below `reference` ``[rows]``, bootstrapped over studies."""
    _, study = np.unique(problem.study, return_inverse=True)
    total = np.bincount(study, reference - loss)
    count = np.bincount(study).astype(np.float64)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(count), np.full(len(count), 1 / len(count)), RESAMPLES)
    means = (drawn @ total) / (drawn @ count)
    low, high = np.percentile(means, [100 - CONFIDENCE, CONFIDENCE])
    return Gain(float(total.sum() / count.sum()), float(low), float(high), len(loss))


def leak(table: pd.DataFrame, labels: Ints, group: str) -> Gain:
    """Return what a boosted classifier knows of a score group's labels from study-wide features."""
    problem = pooled_problem(table, labels, group)
    return gain(problem, losses(problem), losses(problem, boosted))


def planted(table: pd.DataFrame, labels: Ints, noise: float = 1.0) -> pd.DataFrame:
    """Return the table with a leak: the study's mean label, with noise, in place of one feature.

    Args:
        table, labels: as in `pooled_problem`.
        noise: standard deviation, in standard deviations of the mean label.
    """
    known = np.where(labels >= 0, labels, np.nan)
    mean = np.nanmean(known, axis=1)
    rng = np.random.default_rng(1)
    leaky = mean + noise * mean.std() * rng.standard_normal(len(mean))
    return table.assign(**{table.columns[0]: leaky})


def carriers(table: pd.DataFrame, labels: Ints, group: str, most: int = 5) -> list[tuple[str, float]]:
    """Return the features whose shuffling between studies costs a boosted classifier most, worst first."""
    problem = pooled_problem(table, labels, group)
    train = np.random.default_rng(0).random(int(problem.study.max()) + 1)[problem.study] < 0.6
    rng = np.random.default_rng(2)
    model = HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=6, min_samples_leaf=40, random_state=0)
    model.fit(problem.features[train], problem.severity[train])
    held = problem.features[~train]
    rows = np.arange(len(held)), problem.severity[~train]
    before = -np.log(model.predict_proba(held)[rows]).mean()
    order = rng.permutation(len(table))[problem.study[~train]]
    costs = {}
    for k, name in enumerate(table.columns):
        shuffled = held.copy()
        shuffled[:, k] = table[name].to_numpy()[order]
        costs[name] = float(-np.log(model.predict_proba(shuffled)[rows]).mean() - before)
    return sorted(costs.items(), key=lambda item: -item[1])[:most]


def all_labels(samples: list[Sample]) -> Ints:
    """Return ``[studies, 25]`` labels."""
    return np.stack([sample.labels for sample in samples])


def crop_problem(samples: list[Sample], group: str, away: int) -> tuple[Problem, Problem]:
    """Return the labels of a group with the patches of a level `away` levels further down as features.

    Rows are the cells that have a label and a patch at both levels, so that problems of one `away` share
    their rows.

    Args:
        samples: studies with patches.
        group: one of `targets.SCORE_GROUPS`.
        away: 0 for the right level.

    Returns:
        The problem with the patches, and the one with the true severities of all five conditions at the
        patch's level: the most that any picture of that level can tell.
    """
    cells = [(k, t) for k, t in enumerate(TARGETS) if t.score_group == group]
    rows = []
    for study, sample in enumerate(samples):
        for k, target in cells:
            level = LEVELS.index(target.level) + away
            if not 0 <= level < len(LEVELS) or sample.labels[k] < 0:
                continue
            patch = sample.patches[TARGETS.index(target._replace(level=LEVELS[level]))]
            if np.isfinite(patch).all():
                rows.append((study, k, sample.labels[k], patch.ravel(), _position(sample.severity[:, level])))
    study, cell, severity, patches, positions = (np.array(part) for part in zip(*rows, strict=True))
    by_cell = (cell[:, None] == np.unique(cell)).astype(np.float64)
    # What a severity at the other level means depends on the level and the side.
    told = (positions[:, :, None] * by_cell[:, None, :]).reshape(len(rows), -1)
    problem = Problem(study, cell, severity, patches.astype(np.float64))
    return problem, Problem(study, cell, severity, np.hstack([positions, told]))


def _position(severity: Floats) -> Floats:
    """Return where g lies on the latent scale, between the cuts at 1 and 2: g fades exponentially below 1."""
    return np.where(severity < 1, np.log(np.maximum(severity, 0.02)), severity - 1)


def compressed(problem: Problem, train: NDArray[np.bool_]) -> Floats:
    """Return ``[held-out rows, 3]`` of a logistic regression on principal components and the cell."""
    components = PCA(PATCH_COMPONENTS, random_state=0).fit(problem.features[train])
    return logistic(replace(problem, features=components.transform(problem.features)), train)
