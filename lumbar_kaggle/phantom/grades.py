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

The reader is a known mixture of normal noise, shifts, swaps and gross errors, so the oracle has a closed
form: the probabilities of the labels given the true grades. Nobody who sees the images alone can predict
better, in expectation: the images show the grades, and the reader adds chance that no image shows.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import SCORE_GROUPS, SEVERITIES, SEVERITY_WEIGHTS, TARGETS
from lumbar_kaggle.phantom.settings import Floats, Reader
from lumbar_kaggle.scoring.metric import PARTS

Integers = NDArray[np.int64]

# Normal/Mild, Moderate, Severe of the 1,975 real studies, per level: counted in public copies of the
# competition's tables.
COUNTS = (
    (1886, 67, 21), (1770, 151, 53), (1622, 230, 122), (1482, 237, 255), (1904, 51, 19),  # spinal canal
    (1908, 63, 2), (1791, 171, 11), (1522, 411, 40), (1204, 629, 140), (1247, 520, 206),  # left foraminal
    (1891, 63, 13), (1793, 168, 6), (1512, 414, 41), (1208, 629, 130), (1281, 496, 190),  # right foraminal
    (1690, 93, 28), (1555, 255, 83), (1324, 454, 194), (887, 624, 461), (1408, 409, 147),  # left recess
    (1680, 110, 24), (1577, 243, 73), (1322, 454, 197), (891, 622, 460), (1399, 396, 173),  # right recess
)  # fmt: skip

GROUP_OF_TARGET = tuple(SCORE_GROUPS.index(target.score_group) for target in TARGETS)
"""Index of the score group of each target."""

OTHER_SIDE = (0, 2, 1, 4, 3)  # index of each condition's counterpart on the other side; the canal's is itself
STANDARD = Reader()  # the reader for whom patients and thresholds are made
CAP = 3.4  # greatest g: what lies beyond looks the same

ORACLE_COLUMNS = ("row_id", *SEVERITIES, *(f"reader_{name}" for name in SEVERITIES))
"""Of ``oracle.csv``: what to submit, see `best_submission`; then the plain probabilities."""

ALL = slice(25)  # the targets, all of them
_WEIGHTS = np.asarray(SEVERITY_WEIGHTS)
_LEAST = float(np.finfo(np.float64).eps)  # the metric clips there


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
    counts = np.array(COUNTS, dtype=np.float64)
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


def reader_probabilities(latent: Floats, reader: Reader) -> Floats:
    """Return probabilities ``[..., 25, 3]`` of the labels given latent grades ``[..., 5, 5]``; rows sum to 1.

    Severities g say the same as latent grades, up to their cap.
    """
    grades = _grade_probabilities(latent.reshape(*latent.shape[:-2], 25), total_noise(reader))
    return _with_gross_errors(mixing(reader) @ grades, reader)


def best_submission(probabilities: Floats) -> Floats:
    """Return what scores best in expectation when labels have the given probabilities ``[..., 3]``.

    A label of severity k costs its sample weight times -log q of it, so the expected loss of a row is least
    at q proportional to probability times weight. For the any-severe term, which is read off the same rows
    by a maximum, that is a reference and not a strict bound.
    """
    weighted = probabilities * _WEIGHTS
    return weighted / weighted.sum(axis=-1, keepdims=True)


def worst_canal_probabilities(latent: Floats, reader: Reader) -> Floats:
    """Return the probabilities ``[n, 3]`` of a study's worst canal label given latent grades ``[n, 5, 5]``.

    The five labels share the reader's bias and the shift; given both they are independent. The
    bias is integrated by a Gauss-Hermite rule.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    bias = np.hypot(reader.strictness, reader.group_strictness[0])
    canal = latent[:, 0]
    none, not_severe = np.zeros(len(canal)), np.zeros(len(canal))
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        grades = _grade_probabilities(canal + bias * node, per_target(reader.noise), slice(5))
        for way in confusions(reader):
            labels = _with_gross_errors(way.source[:5, :5] @ grades, reader, slice(5))
            none += weight * way.share * labels[..., 0].prod(axis=1)
            not_severe += weight * way.share * labels[..., :2].sum(axis=2).prod(axis=1)
    return np.stack([none, not_severe - none, 1.0 - not_severe], axis=1)


def expected_score(latent: Floats, submitted: Floats, reader: Reader) -> dict[str, float]:
    """Return what a submission scores in expectation: each part of `metric.PARTS`, and the ``total``.

    Of each part it is the expected sum of weight times loss over the expected sum of weights, all rows being
    labelled; over many studies that is the expectation of the score.

    Args:
        latent: ``[n, 5 conditions, 5 levels]`` latent grades.
        submitted: ``[n, 25, 3]`` probabilities in the order of `targets.TARGETS`, rows sum to 1.
        reader: who reads.
    """
    weighted = reader_probabilities(latent, reader) * _WEIGHTS
    losses = (weighted * -np.log(np.clip(submitted, _LEAST, 1.0 - _LEAST))).sum(axis=2)
    group = np.array([SCORE_GROUPS.index(target.score_group) for target in TARGETS])
    parts = {
        name: float(losses[:, group == number].sum() / weighted[:, group == number].sum())
        for number, name in enumerate(SCORE_GROUPS)
    }
    worst = worst_canal_probabilities(latent, reader) * _WEIGHTS
    severe = np.clip(submitted[:, group == 0, 2].max(axis=1), _LEAST, 1.0 - _LEAST)
    loss = worst[:, 2] * -np.log(severe) + worst[:, :2].sum(axis=1) * -np.log1p(-severe)
    parts["any_severe_spinal"] = float(loss.sum() / worst.sum())
    return parts | {"total": float(np.mean([parts[name] for name in PARTS]))}


def _grade_probabilities(cells: Floats, noise: Floats, targets: slice = ALL) -> Floats:
    """Return ``[..., n, 3]`` probabilities of what is read in the right cells, from latent ``[..., n]``.

    `noise` is ``[25]``; `targets` says which n of the 25 are given.
    """
    # A reader without noise is the limit of one with hardly any.
    sd = np.maximum(noise, 1e-12)[targets, None]
    below = ndtr((thresholds()[targets] - cells[..., None]) / sd)
    return np.diff(below, axis=-1, prepend=0.0, append=1.0)


def _with_gross_errors(mixed: Floats, reader: Reader, targets: slice = ALL) -> Floats:
    """Return the labels' probabilities ``[..., n, 3]`` from those of the grades that were read for them.

    What a row lacks of 1 is the share of discs beyond the five, which are healthy.
    """
    mixed = np.concatenate([1.0 - mixed[..., 1:].sum(axis=-1, keepdims=True), mixed[..., 1:]], axis=-1)
    gross = per_target(reader.gross)[targets, None]
    return (1.0 - gross) * mixed + gross * frequencies()[targets]
