"""The patients' 25 grades, and what the simulated reader makes of them: labels with the real ones' faults.

A study has 25 latent grades, standard normal and correlated. Each becomes a continuous severity ``g >= 0``
that shapes the anatomy: below 1 is what a reader without noise calls Normal/Mild, 1 to 2 Moderate, above 2
Severe. The latent correlations are such that the labels, after all that the standard reader does to them,
have the correlations of the competition's ``train.csv``.

A reading of a disc is its latent grade, plus how strict this study's reader is, plus noise that differs from
cell to cell; it is cut at two thresholds into Normal/Mild, Moderate, Severe. Then three faults, all rare: the
discs of a score group are counted one too high or too low, left and right are swapped, or a single label has
nothing to do with the disc. Thresholds are such that the labels that come out of all this have the class
frequencies of ``train.csv`` exactly. They are those of the standard reader; another, say one who never slips,
reads the same patients with the same thresholds. Rates and their sources are in `settings.Reader`.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import CONDITIONS, SCORE_GROUPS, TARGETS
from lumbar_kaggle.phantom.settings import Floats, Reader

Integers = NDArray[np.int64]

# Normal/Mild, Moderate, Severe of the 1,975 real studies, per level: counted in public copies of the
# competition's tables.
COUNTS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "spinal_canal_stenosis": (
        (1886, 67, 21), (1770, 151, 53), (1622, 230, 122), (1482, 237, 255), (1904, 51, 19),
    ),
    "left_neural_foraminal_narrowing": (
        (1908, 63, 2), (1791, 171, 11), (1522, 411, 40), (1204, 629, 140), (1247, 520, 206),
    ),
    "right_neural_foraminal_narrowing": (
        (1891, 63, 13), (1793, 168, 6), (1512, 414, 41), (1208, 629, 130), (1281, 496, 190),
    ),
    "left_subarticular_stenosis": (
        (1690, 93, 28), (1555, 255, 83), (1324, 454, 194), (887, 624, 461), (1408, 409, 147),
    ),
    "right_subarticular_stenosis": (
        (1680, 110, 24), (1577, 243, 73), (1322, 454, 197), (891, 622, 460), (1399, 396, 173),
    ),
}  # fmt: skip

GROUP_OF_TARGET = tuple(SCORE_GROUPS.index(target.score_group) for target in TARGETS)
"""Index of the score group of each target."""

OTHER_SIDE = (0, 2, 1, 4, 3)  # index of each condition's counterpart on the other side; the canal's is itself
STANDARD = Reader()  # the reader for whom patients and thresholds are made
CAP = 3.4  # greatest g: what lies beyond looks the same


class Confusion(NamedTuple):
    """One way in which a score group's labels can come from other cells."""

    share: float  # how often it happens, 0 to 1
    shift: int  # how many levels too far down the disc lies that was read: -1, 0 or 1
    # [25, 25] zeros and ones: the labels are source @ grades. Beyond the first and the last level the discs
    # are healthy, which a row of zeros says.
    source: Floats


@dataclass(frozen=True)
class Grades:
    """A patient's grades and a reading; in the order of `targets.CONDITIONS` and `LEVELS`."""

    severity: Floats  # [5 conditions, 5 levels] continuous g, 0 (none) to `CAP`
    labels: Integers  # [5, 5] the reader's 0, 1 or 2
    latent: Floats  # [5, 5] standard normal
    # [3 score groups] see `Confusion.shift`; the points of the group are shifted too.
    shifts: tuple[int, ...] = (0, 0, 0)


def draw_grades(rng: np.random.Generator, reader: Reader) -> Grades:
    """Draw one patient's grades and the reading of them."""
    return read_grades(rng, (latent_factor() @ rng.standard_normal(25)).reshape(5, 5), reader)


def severity_of(latent: Floats) -> Floats:
    """Return g of latent grades ``[..., 5, 5]``: 1 and 2 at the thresholds, strictly rising to `CAP`.

    It is straight between and above the thresholds; below the first it fades towards 0.
    """
    first, second = np.moveaxis(thresholds().reshape(5, 5, 2), -1, 0)
    position = (latent - first) / (second - first)
    return np.minimum(np.where(position < 0, np.exp(np.minimum(position, 0.0)), 1.0 + position), CAP)


@lru_cache(maxsize=1)
def latent_factor() -> Floats:
    """Return ``[25, 25]``, which turns independent normals into correlated latent grades.

    It is a table, since a fit's last digits depend on the processor; see ``tests/support/phantom_fit.py``.
    """
    table = files("lumbar_kaggle.phantom").joinpath("latent_factor.csv")
    return np.loadtxt(table.read_text(encoding="utf-8").splitlines(), delimiter=",")


def frequencies() -> Floats:
    """Return ``[25, 3]`` shares of the severities among the real labels, in `targets.TARGETS` order."""
    counts = np.array([row for condition in CONDITIONS for row in COUNTS[condition]], dtype=np.float64)
    return counts / counts.sum(axis=1, keepdims=True)


def per_target(of_groups: tuple[float, ...]) -> Floats:
    """Return ``[25]`` a value per target from one per score group."""
    return np.array([of_groups[group] for group in GROUP_OF_TARGET], dtype=np.float64)


def total_noise(reader: Reader) -> Floats:
    """Return ``[25]`` standard deviation of a reading around the latent grade."""
    shared = reader.strictness**2 + per_target(reader.group_strictness) ** 2
    return np.sqrt(shared + per_target(reader.noise) ** 2)


@lru_cache(maxsize=8)
def confusions(reader: Reader) -> tuple[Confusion, ...]:
    """Return every way in which labels come from other cells, the right way among them; shares sum to 1."""
    ways = []
    for side, of_side in ((np.eye(5), 1.0 - reader.swapped), (np.eye(5)[list(OTHER_SIDE)], reader.swapped)):
        for shift in (-1, 0, 1):
            of_shift = reader.off_by_one / 2 if shift else 1.0 - reader.off_by_one
            source = np.kron(side, np.eye(5, k=shift)).astype(np.float64)
            ways.append(Confusion(of_side * of_shift, shift, source))
    return tuple(ways)


def mixing(reader: Reader) -> Floats:
    """Return ``[25, 25]`` how often each target's label is the grade of each cell."""
    return np.sum([way.share * way.source for way in confusions(reader)], axis=0)


@lru_cache(maxsize=8)
def grade_frequencies(reader: Reader) -> Floats:
    """Return ``[25, 3]`` shares of the grades as they are read, before cells are taken for one another.

    They are such that the labels have the real `frequencies`. Gross errors are drawn from those and so
    change none.
    """
    found = np.linalg.solve(mixing(reader), frequencies()[:, 1:])
    if found.min() <= 0 or found.sum(axis=1).max() >= 1:
        raise InputError(
            f"reader: with {reader.off_by_one} off by one and {reader.swapped} swapped, no thresholds give "
            "the real class frequencies; choose smaller rates"
        )
    return np.column_stack([1.0 - found.sum(axis=1), found])


def thresholds() -> Floats:
    """Return ``[25, 2]`` latent grades where Moderate and Severe begin."""
    quantiles = ndtri(np.cumsum(grade_frequencies(STANDARD), axis=1)[:, :2])
    return quantiles * np.sqrt(1.0 + total_noise(STANDARD) ** 2)[:, None]


def read_grades(rng: np.random.Generator, latent: Floats, reader: Reader) -> Grades:
    """Return the grades of a patient with one reading of them, from the latent ones ``[5, 5]``.

    The number of draws does not depend on what is drawn.
    """
    group = np.array(GROUP_OF_TARGET)
    strict = reader.strictness * rng.standard_normal()
    strict_here = np.asarray(reader.group_strictness) * rng.standard_normal(len(SCORE_GROUPS))
    seen = latent.ravel() + strict + strict_here[group] + per_target(reader.noise) * rng.standard_normal(25)
    grades = (seen[:, None] > thresholds()).sum(axis=1)
    ways = confusions(reader)
    chosen = rng.choice(len(ways), size=len(SCORE_GROUPS), p=[way.share for way in ways])
    labels = np.array([ways[chosen[g]].source[target] @ grades for target, g in enumerate(group)])
    anything = (rng.random((25, 1)) > np.cumsum(frequencies(), axis=1)[:, :2]).sum(axis=1)
    labels = np.where(rng.random(25) < per_target(reader.gross), anything, labels)
    labels = labels.astype(np.int64).reshape(5, 5)
    return Grades(severity_of(latent), labels, latent, tuple(ways[way].shift for way in chosen))
