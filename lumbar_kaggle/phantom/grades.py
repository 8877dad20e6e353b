"""The patients' 25 grades, and what the simulated reader makes of them: labels with the real ones' faults.

A study has 25 latent grades, standard normal, such that the labels have the correlations of ``train.csv``. Each becomes
a severity ``g >= 0`` that shapes the anatomy: a reader without noise calls it Normal/Mild below 1, Severe above 2. A
reading is the latent grade, plus how strict this study's reader is, plus noise of the cell, cut at two thresholds that
give the standard reader's labels the real class frequencies exactly. Three rare faults follow (`settings.Reader`): the
discs of a score group are counted one too high or low, sides are swapped, a label has nothing to do with the disc."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from lumbar_kaggle.core.targets import SCORE_GROUPS, SEVERITIES, SEVERITY_WEIGHTS, TARGETS
from lumbar_kaggle.phantom.settings import Floats, Reader

# [25, 3] shares of the severities among the real labels, in `targets.TARGETS` order, from the numbers of Normal/Mild,
# Moderate, Severe at each level of the 1,975 studies: counted in public copies of the competition's tables.
FREQUENCIES = np.array((
    (1886, 67, 21), (1770, 151, 53), (1622, 230, 122), (1482, 237, 255), (1904, 51, 19),  # spinal canal
    (1908, 63, 2), (1791, 171, 11), (1522, 411, 40), (1204, 629, 140), (1247, 520, 206),  # left foraminal
    (1891, 63, 13), (1793, 168, 6), (1512, 414, 41), (1208, 629, 130), (1281, 496, 190),  # right foraminal
    (1690, 93, 28), (1555, 255, 83), (1324, 454, 194), (887, 624, 461), (1408, 409, 147),  # left recess
    (1680, 110, 24), (1577, 243, 73), (1322, 454, 197), (891, 622, 460), (1399, 396, 173),  # right recess
), np.float64)  # fmt: skip
FREQUENCIES /= FREQUENCIES.sum(axis=1, keepdims=True)
# [25, 25], independent normals to correlated latent grades: a table, as the fit's last digits depend on the processor.
LATENT_FACTOR: Floats = np.loadtxt(Path(__file__).with_name("latent_factor.csv"), delimiter=",")
GROUP_OF_TARGET = np.array([SCORE_GROUPS.index(target.score_group) for target in TARGETS])  # [25]
OTHER_SIDE = (0, 2, 1, 4, 3)  # index of each condition's counterpart on the other side; the canal's is itself
STANDARD = Reader()  # the reader for whom patients and thresholds are made
CAP = 3.4  # greatest g: what lies beyond looks the same
# Of ``oracle.csv``: what to submit, see `best_submission`; then the plain probabilities.
ORACLE_COLUMNS = ("row_id", *SEVERITIES, *(f"reader_{name}" for name in SEVERITIES))


class Confusion(NamedTuple):
    """One way in which a score group's labels can come from other cells."""

    share: float  # how often it happens, 0 to 1
    shift: int  # how many levels too far down the disc lies that was read: -1, 0 or 1
    source: Floats  # [25, 25] zeros and ones: labels are source @ grades; a row of zeros is a healthy disc beyond L1-S1


@dataclass(frozen=True)
class Grades:
    """A patient's grades and a reading; in the order of `targets.CONDITIONS` and `LEVELS`."""

    severity: Floats  # [5 conditions, 5 levels] continuous g, 0 (none) to `CAP`
    labels: NDArray[np.int64]  # [5, 5] the reader's 0, 1 or 2
    latent: Floats  # [5, 5] standard normal
    shifts: tuple[int, ...] = (0, 0, 0)  # of score groups, see `Confusion.shift`; their points are shifted too


def draw_grades(rng: np.random.Generator, reader: Reader) -> Grades:
    """Draw one patient's grades and the reading of them."""
    return read_grades(rng, (LATENT_FACTOR @ rng.standard_normal(25)).reshape(5, 5), reader)


def severity_of(latent: Floats) -> Floats:
    """Return g of latent grades ``[..., 5, 5]``: 1 and 2 at the thresholds, straight up to `CAP`, fading to 0 below."""
    first, second = np.moveaxis(thresholds().reshape(5, 5, 2), -1, 0)
    position = (latent - first) / (second - first)
    return np.minimum(np.where(position < 0, np.exp(np.minimum(position, 0.0)), 1.0 + position), CAP)


def per_target(of_groups: tuple[float, ...]) -> Floats:
    """Return ``[25]`` a value per target from one per score group."""
    return np.array(of_groups, dtype=np.float64)[GROUP_OF_TARGET]


def total_noise(reader: Reader) -> Floats:
    """Return ``[25]`` standard deviation of a reading around the latent grade."""
    shared = reader.strictness**2 + per_target(reader.group_strictness) ** 2
    return np.sqrt(shared + per_target(reader.noise) ** 2)


@cache
def confusions(reader: Reader) -> tuple[Confusion, ...]:
    """Return every way in which labels come from other cells, the right way among them; shares sum to 1."""
    sides = ((np.eye(5), 1.0 - reader.swapped), (np.eye(5)[list(OTHER_SIDE)], reader.swapped))
    shifts = ((-1, reader.off_by_one / 2), (0, 1.0 - reader.off_by_one), (1, reader.off_by_one / 2))
    return tuple(
        Confusion(of_side * of_shift, shift, np.kron(side, np.eye(5, k=shift)).astype(np.float64))
        for side, of_side in sides
        for shift, of_shift in shifts
    )


def mixing(reader: Reader) -> Floats:
    """Return ``[25, 25]`` how often each target's label is the grade of each cell."""
    return np.sum([way.share * way.source for way in confusions(reader)], axis=0)


@cache
def grade_frequencies() -> Floats:
    """Return ``[25, 3]`` shares of the grades as the standard reader reads them, before cells are taken for others.
    They are such that the labels have the real `FREQUENCIES`. Gross errors are drawn from those and so change none."""
    found = np.linalg.solve(mixing(STANDARD), FREQUENCIES[:, 1:])
    return np.column_stack([1.0 - found.sum(axis=1), found])


def thresholds() -> Floats:
    """Return ``[25, 2]`` latent grades where Moderate and Severe begin."""
    quantiles = ndtri(np.cumsum(grade_frequencies(), axis=1)[:, :2])
    return quantiles * np.sqrt(1.0 + total_noise(STANDARD) ** 2)[:, None]


def read_grades(rng: np.random.Generator, latent: Floats, reader: Reader) -> Grades:
    """Return the grades of a patient with one reading of them, from the latent ones ``[5, 5]``; every draw is made."""
    strict = reader.strictness * rng.standard_normal()
    strict_here = np.asarray(reader.group_strictness) * rng.standard_normal(len(SCORE_GROUPS))
    noise = per_target(reader.noise) * rng.standard_normal(25)
    grades = (latent.ravel() + strict + strict_here[GROUP_OF_TARGET] + noise > thresholds().T).sum(axis=0)
    ways = confusions(reader)
    chosen = rng.choice(len(ways), size=len(SCORE_GROUPS), p=[way.share for way in ways])
    labels = np.array([ways[chosen[group]].source[t] @ grades for t, group in enumerate(GROUP_OF_TARGET)])
    anything = (rng.random((25, 1)) > np.cumsum(FREQUENCIES, axis=1)[:, :2]).sum(axis=1)
    labels = np.where(rng.random(25) < per_target(reader.gross), anything, labels).astype(np.int64)
    return Grades(severity_of(latent), labels.reshape(5, 5), latent, tuple(ways[way].shift for way in chosen))


def reader_probabilities(latent: Floats, reader: Reader) -> Floats:
    """Return probabilities ``[..., 25, 3]`` of the labels given latent grades ``[..., 5, 5]``; rows sum to 1. The
    closed form of noise, shifts, swaps and gross errors: nobody who sees the images alone can predict better, in
    expectation, as they show the grades (as g, up to its cap), and the reader adds chance that no image shows."""
    cells = latent.reshape(*latent.shape[:-2], 25, 1)
    # A reader without noise is the limit of one with hardly any.
    below = ndtr((thresholds() - cells) / np.maximum(total_noise(reader), 1e-12)[:, None])
    read = mixing(reader) @ np.diff(below, axis=-1, prepend=0.0, append=1.0)
    # What a row lacks of 1 is the share of discs beyond the five, which are healthy.
    read[..., 0] = 1.0 - read[..., 1:].sum(axis=-1)
    gross = per_target(reader.gross)[:, None]
    return (1.0 - gross) * read + gross * FREQUENCIES


def best_submission(probabilities: Floats) -> Floats:
    """Return what scores best in expectation when labels have the given probabilities ``[..., 3]``. A label of severity
    k costs its sample weight times -log q of it, so the expected loss of a row is least at q proportional to
    probability times weight. For the any-severe term, a maximum over rows, that is no strict bound."""
    weighted = probabilities * np.asarray(SEVERITY_WEIGHTS)
    return weighted / weighted.sum(axis=-1, keepdims=True)
