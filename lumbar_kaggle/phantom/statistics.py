"""``lumbar phantom --statistics``: a phantom's label tables against the real ones, figure by figure.

No image is made: the tables follow from the plans of the studies. The wanted figures were counted in public
copies of the competition's tables (1,975 studies).
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lumbar_kaggle.errors import InputError
from lumbar_kaggle.metric import PARTS
from lumbar_kaggle.phantom.oracle import best_submission, expected_score, reader_probabilities
from lumbar_kaggle.phantom.reader import STANDARD, frequencies
from lumbar_kaggle.phantom.study import StudyPlan, plan_study
from lumbar_kaggle.phantom.tables import Rows, read_study
from lumbar_kaggle.targets import (
    CONDITIONS,
    LEVELS,
    SEVERITY_WORDS,
    TARGETS,
    condition_words,
    level_words,
)

Floats = NDArray[np.float64]

LEAST_STUDIES = 100

# Pearson correlations of the real labels (0, 1, 2).
NEXT_LEVEL = {
    "spinal_canal_stenosis": (0.365, 0.460, 0.387, 0.186),
    "left_neural_foraminal_narrowing": (0.314, 0.438, 0.455, 0.379),
    "right_neural_foraminal_narrowing": (0.321, 0.389, 0.448, 0.327),
    "left_subarticular_stenosis": (0.445, 0.547, 0.468, 0.330),
    "right_subarticular_stenosis": (0.391, 0.475, 0.472, 0.362),
}
"""A level and the next one below, within a condition."""

SIDES = {(1, 2): (0.194, 0.284, 0.316, 0.382, 0.413), (3, 4): (0.395, 0.515, 0.608, 0.570, 0.374)}
"""Left and right at each level, by the indices of the two conditions."""

POOLED = {(0, 1): 0.278, (0, 2): 0.284, (0, 3): 0.570, (0, 4): 0.559, (1, 3): 0.396, (2, 4): 0.433}
"""Two conditions at the same level, all five levels taken together."""

SIDES_POOLED = {(1, 2): 0.438, (3, 4): 0.582}
"""Correlation of left and right over all levels, by the indices of the conditions."""

MISSING = {"spinal": (5, 9875), "foraminal": (50, 19750), "subarticular": (517, 19750)}
"""Cells without a label, of how many."""

MISSING_RECESS = (325, 164, 5, 5, 18)
"""Subarticular cells without a label at each level, of 3,950."""

ANY_SEVERE = 365 / 1974
NO_FINDING = 254 / 1975
UNMARKED = 170 / 48803
"""Labelled cells without coordinates."""

FIVE_ON_T2 = 1898 / 1973
"""Sagittal T2 series with points that have all five of them."""

FIVE_ON_AXIAL = 1783 / 2339
"""Axial series with points that have points of all five levels."""

CANAL_ON_ONE_SLICE = 0.78
"""Studies with five canal points whose five lie on one instance."""


@dataclass(frozen=True)
class Figure:
    """One figure of the tables.

    Attributes:
        kind: what it belongs to, a heading of the printed table.
        name: what it tells.
        wanted: the real value.
        found: the phantom's.
        error: standard error of `found` by the sampling of studies.
    """

    kind: str
    name: str
    wanted: float
    found: float
    error: float

    @property
    def deviation(self) -> float:
        """Found minus wanted."""
        return self.found - self.wanted

    @property
    def errors(self) -> float:
        """The deviation in standard errors."""
        return self.deviation / self.error if self.error > 0 else float("nan")


@dataclass(frozen=True)
class Marks:
    """What a study's coordinates hold; values are those of `Tables`, one study's each."""

    marked: NDArray[np.bool_]
    five_on_t2: float
    canal_on_one_slice: float
    five_on_axial: Floats


@dataclass(frozen=True)
class Tables:
    """What the tables of n studies hold, NaN where there is nothing.

    Attributes:
        labels: ``[n, 25]`` 0, 1 or 2.
        unmarked: ``[n, 25]`` of labelled cells, 1 where the point is missing.
        five_on_t2: ``[n, 1]`` 1 where all five canal points are there, 0 where only some.
        canal_on_one_slice: ``[n, 1]`` 1 where these five lie on one instance, 0 where not.
        five_on_axial: ``[n, 5]`` 1 for each axial series with points of all levels, 0 for one with some.
        latent: ``[n, 5, 5]`` the true grades.
    """

    labels: Floats
    unmarked: Floats
    five_on_t2: Floats
    canal_on_one_slice: Floats
    five_on_axial: Floats
    latent: Floats


def print_statistics(studies: int, seed: int) -> None:
    """Make the label tables of so many training studies and print them beside the real figures.

    Raises:
        InputError: there are too few studies to tell anything.
    """
    if studies < LEAST_STUDIES:
        raise InputError(
            f"phantom: {studies} studies tell nothing; give --statistics {LEAST_STUDIES} or more"
        )
    plans = (plan_study(seed, "train", index) for index in range(studies))
    tables = make_tables(tqdm(plans, total=studies, unit="study", desc="tables", file=sys.stderr))
    print(statistics_text(figures(tables), studies))
    print(scores_text(tables.latent))


def make_tables(studies: Iterable[StudyPlan]) -> Tables:
    """Read studies and return what their tables hold."""
    parts = [(study, read_study(study)) for study in studies]
    marks = [_marks(rows) for _, rows in parts]
    labels = np.array([[_severity(word) for word in rows.labels[1:]] for _, rows in parts])
    marked = np.array([one.marked for one in marks])
    return Tables(
        labels=labels,
        unmarked=np.where(np.isnan(labels), np.nan, ~marked),
        five_on_t2=np.array([[one.five_on_t2] for one in marks]),
        canal_on_one_slice=np.array([[one.canal_on_one_slice] for one in marks]),
        five_on_axial=np.array([one.five_on_axial for one in marks]),
        latent=np.array([study.grades.latent for study, _ in parts]),
    )


def figures(tables: Tables) -> list[Figure]:
    """Return every figure for which a real one is known."""
    return [*_severities(tables), *_correlations(tables), *_others(tables)]


def share(values: Floats) -> tuple[float, float]:
    """Return the mean of the values ``[n studies, k]`` that are not NaN, and its standard error.

    The studies are independent, the values of one study are not.
    """
    known = ~np.isnan(values)
    mean = float(values[known].mean())
    misses = np.where(known, values - mean, 0.0).sum(axis=1)
    return mean, float(np.sqrt((misses**2).sum()) / known.sum())


def correlation(first: Floats, second: Floats) -> tuple[float, float]:
    """Return the Pearson correlation of values ``[n studies, k]`` and its standard error.

    Pairs with a NaN are left out. The error is that of the influence function, which holds for any
    distribution; the studies are independent, the values of one study are not.
    """
    known = ~np.isnan(first) & ~np.isnan(second)
    with np.errstate(invalid="ignore"):  # where all are alike there is no correlation: NaN
        x, y = (np.where(known, (v - v[known].mean()) / v[known].std(), 0.0) for v in (first, second))
    found = float((x * y).sum() / known.sum())
    influence = (x * y - found * (x**2 + y**2) / 2).sum(axis=1)
    return found, float(np.sqrt((influence**2).sum()) / known.sum())


def _severities(tables: Tables) -> Iterator[Figure]:
    """Yield 75 shares of severities; the error is that of the wanted share, as a rare one may not occur."""
    for index, target in enumerate(TARGETS):
        labels = tables.labels[:, index : index + 1]
        count = (~np.isnan(labels)).sum()
        for severity, word in enumerate(SEVERITY_WORDS):
            wanted = float(frequencies()[index, severity])
            found, _ = share(np.where(np.isnan(labels), np.nan, labels == severity))
            error = float(np.sqrt(wanted * (1 - wanted) / count))
            yield Figure("Shares of the severities", f"{target.name} {word}", wanted, found, error)


def _correlations(tables: Tables) -> Iterator[Figure]:
    cells = tables.labels.reshape(-1, 5, 5)

    def figure(kind: str, name: str, wanted: float, first: Floats, second: Floats) -> Figure:
        return Figure(f"Correlations {kind}", name, wanted, *correlation(first, second))

    for (a, b), by_level in SIDES.items():
        name = CONDITIONS[a].replace("left_", "")
        for k, wanted in enumerate(by_level):
            pair = cells[:, a, k : k + 1], cells[:, b, k : k + 1]
            yield figure("of left and right", f"{name} {LEVELS[k]}", wanted, *pair)
        wanted = SIDES_POOLED[a, b]
        yield figure("of left and right", f"{name} all levels", wanted, cells[:, a], cells[:, b])
    for c, condition in enumerate(CONDITIONS):
        for k, wanted in enumerate(NEXT_LEVEL[condition]):
            name = f"{condition} {LEVELS[k]} and {LEVELS[k + 1]}"
            pair = cells[:, c, k : k + 1], cells[:, c, k + 1 : k + 2]
            yield figure("of neighbouring levels", name, wanted, *pair)
    for (a, b), wanted in POOLED.items():
        name = f"{CONDITIONS[a]} and {CONDITIONS[b]}"
        yield figure("of conditions at a level, all levels", name, wanted, cells[:, a], cells[:, b])


def _others(tables: Tables) -> Iterator[Figure]:
    labels, lost = tables.labels, np.isnan(tables.labels).astype(np.float64)
    kind = "Cells without a label"
    for group, (count, of) in MISSING.items():
        yield Figure(kind, group, count / of, *share(lost[:, _of_group(group)]))
    recess = lost.reshape(-1, 5, 5)[:, 3:]
    for k, count in enumerate(MISSING_RECESS):
        yield Figure(kind, f"subarticular {LEVELS[k]}", count / 3950, *share(recess[:, :, k]))
    kind = "Shares of studies"
    seen = ~np.isnan(labels)
    healthy: NDArray[np.bool_] = ~((labels > 0) & seen).any(axis=1).reshape(-1, 1)
    yield Figure(kind, "without moderate or severe", NO_FINDING, *share(healthy.astype(np.float64)))
    canal = labels[:, _of_group("spinal")]
    severe = np.where(np.isnan(canal).all(axis=1), np.nan, (canal == 2).any(axis=1)).reshape(-1, 1)
    yield Figure(kind, "with any severe canal", ANY_SEVERE, *share(severe))
    kind = "Coordinates"
    yield Figure(kind, "labelled cells without a point", UNMARKED, *share(tables.unmarked))
    yield Figure(kind, "sagittal T2 series with all five points", FIVE_ON_T2, *share(tables.five_on_t2))
    yield Figure(
        kind, "five canal points on one slice", CANAL_ON_ONE_SLICE, *share(tables.canal_on_one_slice)
    )
    yield Figure(kind, "axial series with all five levels", FIVE_ON_AXIAL, *share(tables.five_on_axial))


def statistics_text(found: Sequence[Figure], studies: int) -> str:
    """Return the printed table and the largest deviations, which by chance alone are never all small."""
    severities, others = found[:75], found[75:]
    lines = [f"{studies} studies of this phantom against the 1,975 real ones", ""]
    lines.append(f"{'Shares of the severities, %':<40}" + "".join(f"{word:^22}" for word in SEVERITY_WORDS))
    lines.append(" " * 40 + f"{'wanted':>7}{'found':>7}{'errors':>7} " * 3)
    for k, target in enumerate(TARGETS):
        cells = severities[3 * k : 3 * k + 3]
        row = [f"{100 * one.wanted:7.2f}{100 * one.found:7.2f}{one.errors:7.1f} " for one in cells]
        lines.append(f"{target.name:<40}" + "".join(row))
    kind = ""
    for one in others:
        if one.kind != kind:
            kind = one.kind
            lines += ["", f"{kind:<68}{'wanted':>8}{'found':>8}{'deviation':>11}{'errors':>8}"]
        numbers = f"{one.wanted:8.4f}{one.found:8.4f}{one.deviation:11.4f}{one.errors:8.1f}"
        lines.append(f"{one.name:<68}{numbers}")
    lines += ["", "Largest deviations; errors are standard errors by the sampling of this phantom's studies,"]
    lines += ["and the real figures have errors of their own, as large as those of 1,975 studies"]
    correlations = [one for one in others if one.kind.startswith("Correlations")]
    rest = [one for one in others if not one.kind.startswith("Correlations")]
    lines += _largest("shares of the severities", severities) + _largest("correlations", correlations)
    return "\n".join([*lines, *_largest("all other figures", rest)])


def scores_text(latent: Floats) -> str:
    """Return a line each for what the oracle and the prior of the real frequencies score in expectation."""
    plain = reader_probabilities(latent, STANDARD)
    constant = np.broadcast_to(best_submission(frequencies()), plain.shape)
    lines = ["", "Expected scores given the true grades"]
    for name, submitted in (("oracle", best_submission(plain)), ("prior", constant)):
        parts = expected_score(latent, submitted, STANDARD)
        lines.append(f"{name:<8}" + ", ".join(f"{part} {parts[part]:.4f}" for part in (*PARTS, "total")))
    contradicted = (plain * (plain < 0.15)).sum(axis=2).mean(axis=0)
    shares = (f"{group} {100 * contradicted[_of_group(group)].mean():.1f} %" for group in MISSING)
    lines.append("labels that contradict the oracle by more than 0.85: " + ", ".join(shares))
    lines.append(
        "any_severe_spinal is read off the canal rows by a maximum: there the oracle is no strict bound"
    )
    return "\n".join(lines)


def _largest(name: str, group: Sequence[Figure]) -> list[str]:
    """Return the lines of the figures that are furthest off, as they are and in standard errors."""
    known = [one for one in group if np.isfinite(one.errors)]
    first = max(known, key=lambda one: abs(one.deviation))
    second = max(known, key=lambda one: abs(one.errors))
    typical = np.sqrt(np.mean([one.errors**2 for one in known]))
    return [
        f"{name} ({len(known)}; root mean square {typical:.2f} errors):",
        f"    {abs(first.deviation):.4f}, {abs(first.errors):.1f} errors: {first.name}",
        f"    {abs(second.errors):.1f} errors, {abs(second.deviation):.4f}: {second.name}",
    ]


def _of_group(group: str) -> NDArray[np.bool_]:
    """Return ``[25]`` which targets belong to a score group."""
    return np.array([target.score_group == group for target in TARGETS])


def _severity(word: int | str | None) -> float:
    """Return 0, 1, 2, or NaN without a label."""
    return float("nan") if word is None else float(SEVERITY_WORDS.index(str(word)))


def _marks(rows: Rows) -> Marks:
    """Return what a study's coordinates hold."""
    names = {(condition_words(target.condition), level_words(target.level)): target for target in TARGETS}
    targets = [names[str(row[3]), str(row[4])] for row in rows.coordinates]
    places = [(row[1], row[2]) for row in rows.coordinates]
    marked = np.array([target in targets for target in TARGETS])
    canal = [place for target, place in zip(targets, places, strict=True) if target.score_group == "spinal"]
    levels = defaultdict(set)
    for target, (series, _) in zip(targets, places, strict=True):
        if target.score_group == "subarticular":
            levels[series].add(target.level)
    axial = np.full(5, np.nan)
    axial[: len(levels)] = [len(seen) == len(LEVELS) for seen in levels.values()]
    whole = len(canal) == len(LEVELS)
    return Marks(
        marked=marked,
        five_on_t2=float(whole) if canal else float("nan"),
        canal_on_one_slice=float(len(set(canal)) == 1) if whole else float("nan"),
        five_on_axial=axial,
    )
