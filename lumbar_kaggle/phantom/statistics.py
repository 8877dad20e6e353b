"""``lumbar phantom --statistics``: a phantom's label tables against the real ones, figure by figure.

No image is made: the tables follow from the plans of the studies. The wanted figures were counted in public
copies of the competition's tables (1,975 studies).
"""

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import (
    CONDITIONS,
    LEVELS,
    SEVERITY_WORDS,
    TARGET_NAMES,
    TARGETS,
    condition_words,
    level_words,
)
from lumbar_kaggle.phantom.grades import STANDARD, best_submission, expected_score, frequencies, reader_probabilities
from lumbar_kaggle.phantom.settings import Floats
from lumbar_kaggle.phantom.study import StudyPlan, plan_study
from lumbar_kaggle.phantom.tables import make_table, read_study
from lumbar_kaggle.scoring.metric import PARTS

log = logging.getLogger(__name__)

Figure = tuple[str, str, float, float, float]
"""Kind and name of a figure, the real value, the phantom's, and the standard error of that by sampling."""

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

# Left and right at each level, by the indices of the two conditions.
SIDES = {(1, 2): (0.194, 0.284, 0.316, 0.382, 0.413), (3, 4): (0.395, 0.515, 0.608, 0.570, 0.374)}
# Two conditions at the same level, all five levels taken together.
POOLED = {(0, 1): 0.278, (0, 2): 0.284, (0, 3): 0.570, (0, 4): 0.559, (1, 3): 0.396, (2, 4): 0.433}
# Correlation of left and right over all levels, by the indices of the conditions.
SIDES_POOLED = {(1, 2): 0.438, (3, 4): 0.582}
# Cells without a label, of how many.
MISSING = {"spinal": (5, 9875), "foraminal": (50, 19750), "subarticular": (517, 19750)}
MISSING_RECESS = (325, 164, 5, 5, 18)  # subarticular cells without a label at each level, of 3,950
ANY_SEVERE = 365 / 1974
NO_FINDING = 254 / 1975
UNMARKED = 170 / 48803  # labelled cells without coordinates

FIVE_ON_T2 = 1898 / 1973
"""Sagittal T2 series with points that have all five of them."""

FIVE_ON_AXIAL = 1783 / 2339  # axial series with points that have points of all five levels
CANAL_ON_ONE_SLICE = 0.78  # studies with five canal points whose five lie on one instance
SEVERITIES_KIND = "Shares of the severities"
GROUPS = {group: np.array([target.score_group == group for target in TARGETS]) for group in MISSING}
"""Score group → ``[25]`` which targets belong to it."""


class Tables(NamedTuple):
    """What the tables of n studies hold."""

    labels: Floats  # [n, 25] 0, 1, 2, or NaN without a label
    marked: NDArray[np.bool_]  # [n, 25] where there is a point
    points: pd.DataFrame  # the coordinate table
    latent: Floats  # [n, 5, 5] the true grades


def log_statistics(studies: int, seed: int) -> None:
    """Make the label tables of so many training studies and log them beside the real figures.

    Raises:
        InputError: there are too few studies to tell anything.
    """
    if studies < LEAST_STUDIES:
        raise InputError(f"phantom: {studies} studies tell nothing; give --statistics {LEAST_STUDIES} or more")
    plans = (plan_study(seed, "train", index) for index in range(studies))
    tables = make_tables(tqdm(plans, total=studies, unit="study", desc="tables", file=sys.stderr))
    log.info(statistics_text(figures(tables), studies))
    log.info(scores_text(tables.latent))


def make_tables(studies: Iterable[StudyPlan]) -> Tables:
    """Read studies and return what their tables hold."""
    latent, rows = zip(*((study.grades.latent, read_study(study)) for study in studies), strict=True)
    words, points = (make_table(list(rows), part) for part in ("labels", "coordinates"))
    words = words.set_index("study_id")
    severity = {word: grade for grade, word in enumerate(SEVERITY_WORDS)}
    names = [(condition_words(target.condition), level_words(target.level)) for target in TARGETS]
    marked = points.value_counts(["study_id", "condition", "level"]).unstack(["condition", "level"])
    has_point = marked.reindex(index=words.index, columns=names).notna().to_numpy()
    return Tables(words.map(severity.get).to_numpy(np.float64), has_point, points, np.array(latent))


def figures(tables: Tables) -> pd.DataFrame:
    """Return every figure for which a real one is known.

    Its columns are those of `Figure`, the deviation (found minus wanted), and that in standard errors.
    """
    rows = [*_severities(tables.labels), *_correlations(tables.labels), *_others(tables)]
    frame = pd.DataFrame(rows, columns=["kind", "name", "wanted", "found", "error"])
    frame["deviation"] = frame["found"] - frame["wanted"]
    frame["errors"] = frame["deviation"] / frame["error"].where(frame["error"] > 0)
    return frame


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


def _severities(labels: Floats) -> Iterator[Figure]:
    """Yield 75 shares of severities; the error is that of the wanted share, as a rare one may not occur."""
    for target, own, shares in zip(TARGETS, labels.T[..., None], frequencies(), strict=True):
        for severity, (word, wanted) in enumerate(zip(SEVERITY_WORDS, shares.tolist(), strict=True)):
            found, _ = share(np.where(np.isnan(own), np.nan, own == severity))
            error = float(np.sqrt(wanted * (1 - wanted) / (~np.isnan(own)).sum()))
            yield SEVERITIES_KIND, f"{target.name} {word}", wanted, found, error


def _correlations(labels: Floats) -> Iterator[Figure]:
    cells = labels.reshape(-1, 5, 5)
    kind = "Correlations of left and right"
    for (a, b), by_level in SIDES.items():
        name = CONDITIONS[a].replace("left_", "")
        for k, wanted in enumerate(by_level):
            found = correlation(cells[:, a, k, None], cells[:, b, k, None])
            yield kind, f"{name} {LEVELS[k]}", wanted, *found
        yield kind, f"{name} all levels", SIDES_POOLED[a, b], *correlation(cells[:, a], cells[:, b])
    kind = "Correlations of neighbouring levels"
    for c, condition in enumerate(CONDITIONS):
        for k, wanted in enumerate(NEXT_LEVEL[condition]):
            name = f"{condition} {LEVELS[k]} and {LEVELS[k + 1]}"
            yield kind, name, wanted, *correlation(cells[:, c, k, None], cells[:, c, k + 1, None])
    kind = "Correlations of conditions at a level, all levels"
    for (a, b), wanted in POOLED.items():
        yield kind, f"{CONDITIONS[a]} and {CONDITIONS[b]}", wanted, *correlation(cells[:, a], cells[:, b])


def _others(tables: Tables) -> Iterator[Figure]:
    labels, lost = tables.labels, np.isnan(tables.labels)
    kind = "Cells without a label"
    for group, (count, of) in MISSING.items():
        yield kind, group, count / of, *share(lost[:, GROUPS[group]])
    for k, count in enumerate(MISSING_RECESS):
        yield kind, f"subarticular {LEVELS[k]}", count / 3950, *share(lost.reshape(-1, 5, 5)[:, 3:, k])
    kind = "Shares of studies"
    healthy = np.where((labels > 0).any(axis=1), 0.0, 1.0)[:, None]
    yield kind, "without moderate or severe", NO_FINDING, *share(healthy)
    canal = labels[:, GROUPS["spinal"]]
    severe = np.where(np.isnan(canal).all(axis=1), np.nan, (canal == 2).any(axis=1))[:, None]
    yield kind, "with any severe canal", ANY_SEVERE, *share(severe)
    kind = "Coordinates"
    unmarked = np.where(lost, np.nan, ~tables.marked)
    yield kind, "labelled cells without a point", UNMARKED, *share(unmarked)
    condition = tables.points["condition"]
    canals = tables.points[condition.str.contains("Canal")].groupby("study_id")
    five = canals.size() == len(LEVELS)
    yield kind, "sagittal T2 series with all five points", FIVE_ON_T2, *share(_by_study(five))
    one_slice = (canals[["series_id", "instance_number"]].nunique() == 1).all(axis=1)[five]
    yield kind, "five canal points on one slice", CANAL_ON_ONE_SLICE, *share(_by_study(one_slice))
    axial = tables.points[condition.str.contains("Subarticular")].groupby(["study_id", "series_id"])
    five = axial["level"].nunique() == len(LEVELS)
    yield kind, "axial series with all five levels", FIVE_ON_AXIAL, *share(_by_study(five))


def _by_study(values: pd.Series) -> Floats:
    """Return ``[studies, k]``, filled up with NaN, from values whose index begins with the study."""
    study = values.index.get_level_values("study_id")
    table = values.astype(np.float64).set_axis([study, values.groupby("study_id").cumcount()]).unstack()
    return table.to_numpy()


def statistics_text(found: pd.DataFrame, studies: int) -> str:
    """Return the tables and the largest deviations, which by chance alone are never all small."""
    shares, correlations = found["kind"] == SEVERITIES_KIND, found["kind"].str.startswith("Correlations")
    columns = pd.MultiIndex.from_product([SEVERITY_WORDS, ["wanted", "found", "errors"]])
    percent = found[shares][["wanted", "found", "errors"]].to_numpy() * [100, 100, 1]
    table = pd.DataFrame(percent.reshape(len(TARGETS), -1), list(TARGET_NAMES), columns)
    parts = [
        f"{studies} studies of this phantom against the 1,975 real ones",
        f"{SEVERITIES_KIND}, %\n{table.to_string(float_format='{:.2f}'.format)}",
    ]
    for kind, group in found[~shares].groupby("kind", sort=False):
        table = group.set_index("name")[["wanted", "found", "deviation", "errors"]]
        parts.append(f"{kind}\n{table.rename_axis(None).to_string(float_format='{:.4f}'.format)}")
    lines = [
        "Largest deviations; errors are standard errors by the sampling of this phantom's studies,",
        "and the real figures have errors of their own, as large as those of 1,975 studies",
    ]
    others = ~shares & ~correlations
    titles = ("shares of the severities", "correlations", "all other figures")
    for title, chosen in zip(titles, (shares, correlations, others), strict=True):
        known = found[chosen].dropna(subset="errors")
        typical = np.sqrt((known["errors"] ** 2).mean())
        lines.append(f"{title} ({len(known)}; root mean square {typical:.2f} errors):")
        for column in ("deviation", "errors"):
            worst = known.iloc[int(known[column].abs().argmax())]
            off = abs(worst["deviation"]), abs(worst["errors"])
            lines.append(f"    {off[0]:.4f}, {off[1]:.1f} errors: {worst['name']}")
    return "\n\n".join([*parts, "\n".join(lines)])


def scores_text(latent: Floats) -> str:
    """Return a line each for what the oracle and the prior of the real frequencies score in expectation."""
    plain = reader_probabilities(latent, STANDARD)
    constant = np.broadcast_to(best_submission(frequencies()), plain.shape)
    lines = ["", "Expected scores given the true grades"]
    for name, submitted in (("oracle", best_submission(plain)), ("prior", constant)):
        parts = expected_score(latent, submitted, STANDARD)
        lines.append(f"{name:<8}" + ", ".join(f"{part} {parts[part]:.4f}" for part in (*PARTS, "total")))
    contradicted = (plain * (plain < 0.15)).sum(axis=2).mean(axis=0)
    shares = (f"{group} {100 * contradicted[GROUPS[group]].mean():.1f} %" for group in MISSING)
    lines.append("labels that contradict the oracle by more than 0.85: " + ", ".join(shares))
    lines.append("any_severe_spinal is read off the canal rows by a maximum: there the oracle is no strict bound")
    return "\n".join(lines)
