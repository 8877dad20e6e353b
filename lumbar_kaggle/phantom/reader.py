"""The simulated reader: from true grades to labels, with the faults that the real labels have.

A reading of a disc is its latent grade, plus how strict this study's reader is, plus noise that differs from
cell to cell; it is cut at two thresholds into Normal/Mild, Moderate, Severe. Then three faults, all
rare: the discs of a score group are counted one too high or too low, left and right are swapped, or a single
label has nothing to do with the disc. Thresholds are such that the labels that come out of all this have the
class frequencies of the competition's ``train.csv`` exactly. They are those of the standard reader; another,
say one who never slips, reads the same patients with the same thresholds. Rates and their sources are in
`settings.Reader`.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import CONDITIONS, SCORE_GROUPS, TARGETS
from lumbar_kaggle.phantom.arrays import Floats
from lumbar_kaggle.phantom.settings import Reader

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

OTHER_SIDE = tuple(
    CONDITIONS.index(
        name.replace("left", "right") if name.startswith("left") else name.replace("right", "left")
    )
    for name in CONDITIONS
)
"""Index of each condition's counterpart on the other side; the canal's is itself."""

STANDARD = Reader()
"""The reader for whom patients and thresholds are made."""


@dataclass(frozen=True)
class Confusion:
    """One way in which a score group's labels can come from other cells.

    Attributes:
        share: how often it happens, 0 to 1.
        shift: how many levels too far down the disc lies that was read: -1, 0 or 1.
        source: ``[25, 25]`` zeros and ones: the labels are ``source @ grades``. Beyond the first and the
            last level the discs are healthy, which a row of zeros says.
    """

    share: float
    shift: int
    source: Floats


@dataclass(frozen=True)
class Reading:
    """What a reader made of one patient.

    Attributes:
        labels: ``[5 conditions, 5 levels]`` 0, 1 or 2.
        shifts: ``[3 score groups]``, see `Confusion.shift`; the points of the group are shifted too.
    """

    labels: Integers
    shifts: tuple[int, ...]


def frequencies() -> Floats:
    """Return ``[25, 3]`` shares of the severities among the real labels, in `targets.TARGETS` order."""
    counts = np.array([row for condition in CONDITIONS for row in COUNTS[condition]], dtype=np.float64)
    shares: Floats = counts / counts.sum(axis=1, keepdims=True)
    return shares


def per_target(of_groups: tuple[float, ...]) -> Floats:
    """Return ``[25]`` a value per target from one per score group."""
    return np.array([of_groups[group] for group in GROUP_OF_TARGET], dtype=np.float64)


def total_noise(reader: Reader) -> Floats:
    """Return ``[25]`` standard deviation of a reading around the latent grade."""
    shared = reader.strictness**2 + per_target(reader.group_strictness) ** 2
    total: Floats = np.sqrt(shared + per_target(reader.noise) ** 2)
    return total


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
    shares: Floats = np.sum([way.share * way.source for way in confusions(reader)], axis=0)
    return shares


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
    spread = np.sqrt(1.0 + total_noise(STANDARD) ** 2)
    return _quantiles(STANDARD) * spread[:, None]


def read_grades(rng: np.random.Generator, latent: Floats, reader: Reader) -> Reading:
    """Return one reading of a patient.

    Args:
        rng: random stream; the number of draws does not depend on what is drawn.
        latent: ``[5 conditions, 5 levels]`` latent grades.
        reader: who reads.
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
    return Reading(labels.astype(np.int64).reshape(5, 5), tuple(ways[way].shift for way in chosen))


def _quantiles(reader: Reader) -> Floats:
    """Return ``[25, 2]`` standard normal quantiles where Moderate and Severe begin."""
    quantiles: Floats = ndtri(np.cumsum(grade_frequencies(reader), axis=1)[:, :2])
    return quantiles
