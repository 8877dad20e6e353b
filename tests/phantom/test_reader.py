"""The simulated reader: real frequencies and correlations, rare faults, points on the discs it read."""

from dataclasses import replace

import numpy as np
import pytest

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.targets import CONDITIONS, SCORE_GROUPS, TARGETS
from lumbar_kaggle.phantom.grades import (
    CAP,
    FREQUENCIES,
    LATENT_FACTOR,
    OTHER_SIDE,
    STANDARD,
    Grades,
    confusions,
    draw_grades,
    grade_frequencies,
    mixing,
    read_grades,
    severity_of,
    thresholds,
)
from lumbar_kaggle.phantom.inspection import NEXT_LEVEL, POOLED, SIDES, correlation, figures, make_tables, share
from lumbar_kaggle.phantom.settings import PhantomSet, Reader
from lumbar_kaggle.phantom.study import Part, plan_study, read_study, true_point
from tests.support.phantom_fit import fit_latent_factor, label_correlation

NONE = (0.0, 0.0, 0.0)
PERFECT = Reader(strictness=0.0, group_strictness=NONE, noise=NONE, off_by_one=0.0, swapped=0.0, gross=NONE)
COUNT = 8000


@pytest.fixture(scope="module")
def patients() -> list[Grades]:
    return [draw_grades(np.random.default_rng([1, k]), STANDARD) for k in range(COUNT)]


@pytest.fixture(scope="module")
def labels(patients: list[Grades]) -> np.ndarray:
    """Labels ``[COUNT, 5, 5]``."""
    return np.array([one.labels for one in patients])


def latent(seed: int) -> np.ndarray:
    return (LATENT_FACTOR @ np.random.default_rng(seed).standard_normal(25)).reshape(5, 5)


def test_the_labels_have_the_real_frequencies(labels: np.ndarray) -> None:
    shares = (labels.reshape(COUNT, 25, 1) == np.arange(3)).mean(axis=0)
    error = np.sqrt(FREQUENCIES * (1 - FREQUENCIES) / COUNT)
    assert np.abs((shares - FREQUENCIES) / error).max() < 4


def test_the_thresholds_make_up_for_the_faults() -> None:
    """Exactly, not only within what sampling can tell."""
    assert np.abs(grade_frequencies() - FREQUENCIES).max() > 1e-4
    np.testing.assert_allclose((mixing(STANDARD) @ grade_frequencies())[:, 1:], FREQUENCIES[:, 1:], atol=1e-12)


def test_the_computed_correlations_are_those_of_the_labels(labels: np.ndarray) -> None:
    """The formula knows noise, shifts, swaps and gross errors."""
    factor = LATENT_FACTOR
    computed = label_correlation(factor @ factor.T, STANDARD)
    flat = labels.reshape(COUNT, 25).astype(float)
    scaled = (flat - flat.mean(axis=0)) / flat.std(axis=0)
    found = np.corrcoef(flat.T)
    # Standard error of a correlation of whatever distribution, by its influence function.
    influence = scaled[:, :, None] * scaled[:, None] - found * (scaled**2)[:, :, None] / 2
    influence -= found * (scaled**2)[:, None] / 2
    error = influence.std(axis=0) / np.sqrt(COUNT)
    apart = ~np.eye(25, dtype=bool)
    assert np.abs((found - computed)[apart] / error[apart]).max() < 4.5
    assert np.sqrt(np.mean(((found - computed)[apart] / error[apart]) ** 2)) < 1.3


def test_the_table_of_the_latent_factor_is_what_the_fit_gives() -> None:
    fitted = fit_latent_factor()
    np.testing.assert_allclose(LATENT_FACTOR @ LATENT_FACTOR.T, fitted @ fitted.T, atol=1e-9)


def test_the_labels_have_the_real_correlations() -> None:
    factor = LATENT_FACTOR
    assert np.diag(factor @ factor.T) == pytest.approx(1.0)
    cells = label_correlation(factor @ factor.T, STANDARD).reshape(5, 5, 5, 5)
    for c, wanted in enumerate(NEXT_LEVEL):
        assert [cells[c, k, c, k + 1] for k in range(4)] == pytest.approx(wanted, abs=1e-3)
    for (a, b), wanted in SIDES.items():
        assert [cells[a, k, b, k] for k in range(5)] == pytest.approx(wanted, abs=1e-3)


def test_pooled_over_levels_the_conditions_hang_together_as_the_real_ones_do(labels: np.ndarray) -> None:
    pooled = np.corrcoef(labels.transpose(1, 0, 2).reshape(5, -1))
    # Left with right is nowhere fitted: it follows from the levels.
    for pair, wanted in (POOLED | {(1, 2): 0.438, (3, 4): 0.582}).items():
        assert pooled[pair] == pytest.approx(wanted, abs=0.025)


def test_studies_without_findings_and_with_a_severe_canal(labels: np.ndarray) -> None:
    """Nowhere fitted; real 12.9 and 18.5 %."""
    assert (labels.max(axis=(1, 2)) == 0).mean() == pytest.approx(254 / 1975, abs=0.025)
    assert (labels[:, 0].max(axis=1) == 2).mean() == pytest.approx(365 / 1974, abs=0.02)


def test_a_perfect_reader_reads_the_severity() -> None:
    for seed in range(200):
        grades = latent(seed)
        severity = severity_of(grades)
        expected = (severity > 1).astype(int) + (severity > 2)
        np.testing.assert_array_equal(read_grades(np.random.default_rng(seed), grades, PERFECT).labels, expected)


def test_the_severity_rises_with_the_latent_grade() -> None:
    """Strictly, so that an image can show whatever the oracle knows; the cap is met by few."""
    grid = np.linspace(-4, 4, 401)
    severity = severity_of(np.broadcast_to(grid[:, None, None], (401, 5, 5)))
    free = severity[1:] < CAP
    assert (np.diff(severity, axis=0)[free] > 0).all()
    assert severity.min() > 0
    assert severity.max() == CAP
    at_cuts = severity_of(np.moveaxis(thresholds().reshape(5, 5, 2), -1, 0))
    np.testing.assert_allclose(at_cuts, [np.ones((5, 5)), np.full((5, 5), 2.0)])


def test_patients_do_not_depend_on_the_reader() -> None:
    one, other = (draw_grades(np.random.default_rng(3), reader) for reader in (STANDARD, PERFECT))
    np.testing.assert_array_equal(one.severity, other.severity)


def test_left_and_right_change_places() -> None:
    readers = PERFECT, replace(PERFECT, swapped=1.0)
    for seed in range(20):
        grades = latent(seed)
        plain, swapped = (read_grades(np.random.default_rng(0), grades, reader).labels for reader in readers)
        np.testing.assert_array_equal(swapped, plain[list(OTHER_SIDE)])
    assert OTHER_SIDE == (0, 2, 1, 4, 3)


def test_off_by_one_reads_the_disc_beside() -> None:
    grades = latent(7)
    seen = set()
    for seed in range(40):
        plain = read_grades(np.random.default_rng(seed), grades, PERFECT).labels
        reading = read_grades(np.random.default_rng(seed), grades, replace(PERFECT, off_by_one=1.0))
        for c in range(5):
            shift = reading.shifts[next(g for g, name in enumerate(SCORE_GROUPS) if name in CONDITIONS[c])]
            padded = np.concatenate([[0], plain[c], [0]])
            np.testing.assert_array_equal(reading.labels[c], padded[1 + shift : 6 + shift])
            seen.add(shift)
    assert seen == {-1, 1}


def test_the_faults_are_as_frequent_as_they_should_be() -> None:
    assert sum(way.share for way in confusions(STANDARD)) == pytest.approx(1.0)
    # An entrant dropped 364 of 49,375 cells as off by one.
    assert STANDARD.off_by_one == pytest.approx(364 / 49_375, abs=1e-4)
    noisy = replace(PERFECT, gross=(0.1, 0.2, 0.4), off_by_one=0.2)
    grades = np.full((5, 5), -5.0)  # as healthy as can be: whatever is read is a gross error
    readings = [read_grades(np.random.default_rng(k), grades, noisy) for k in range(3000)]
    sick = np.mean([one.labels > 0 for one in readings], axis=(0, 2))
    above = 1 - FREQUENCIES[:, 0].reshape(5, 5).mean(axis=1)
    np.testing.assert_allclose(sick, np.array([0.1, 0.2, 0.2, 0.4, 0.4]) * above, rtol=0.15)
    shifts = np.array([one.shifts for one in readings])
    np.testing.assert_allclose([(shifts == s).mean() for s in (-1, 0, 1)], [0.1, 0.8, 0.1], atol=0.015)


def test_points_lie_on_the_disc_that_was_read() -> None:
    """A shifted group's points are those of the next disc; labels of the others stay where they are."""
    study = plan_study(PhantomSet(seed=0), "train", 1)
    reader = replace(STANDARD, missing_label=0.0, missing_coordinate=0.0, point_jitter_px=0.0)
    plain = read_study(replace(study, reader=reader, grades=replace(study.grades, shifts=(0, 0, 0))))
    lower = read_study(replace(study, reader=reader, grades=replace(study.grades, shifts=(1, 0, 0))))
    assert plain.labels == lower.labels
    assert plain.coordinates[5:] == lower.coordinates[5:]
    rows = [row[-1] for row in plain.coordinates[:5]]
    rows_lower = [row[-1] for row in lower.coordinates[:5]]
    np.testing.assert_allclose(rows_lower[:4], rows[1:], atol=2.0)
    assert rows_lower[4] > rows[4] + 10
    first, last = TARGETS[0], TARGETS[4]
    assert true_point(study, first, -1)[2] > true_point(study, first)[2] + 15
    assert true_point(study, last, 1)[2] < true_point(study, last)[2] - 8


def test_labels_do_not_depend_on_the_other_streams() -> None:
    study = plan_study(PhantomSet(seed=0), "test", 3)
    again = draw_grades(study.rng(Part.GRADES), STANDARD)
    np.testing.assert_array_equal(again.labels, study.grades.labels)
    np.testing.assert_array_equal(again.latent, study.grades.latent)


def test_standard_errors_are_those_of_repeated_samples() -> None:
    """Five values a study that hang together, a tenth of them missing: no simple formula holds."""
    generator = np.random.default_rng(8)
    shares, correlations = [], []
    for _ in range(400):
        common = generator.standard_normal((150, 1))
        first, second = (np.exp(0.7 * (common + generator.standard_normal((150, 5)))) for _ in range(2))
        first[generator.random((150, 5)) < 0.1] = np.nan
        shares.append(share(np.where(np.isnan(first), np.nan, first > 1)))
        correlations.append(correlation(first, second))
    for results, tolerance in ((np.array(shares), 0.12), (np.array(correlations), 0.25)):
        spread, told = results[:, 0].std(), results[:, 1]
        assert told.mean() == pytest.approx(spread, rel=tolerance)
    assert share(np.array([[1.0, 0.0], [1.0, np.nan], [0.0, 0.0]]))[0] == pytest.approx(0.4)
    first, second = np.array([[1.0], [2.0], [4.0], [np.nan]]), np.array([[2.0], [1.0], [5.0], [9.0]])
    assert correlation(first, second)[0] == pytest.approx(np.corrcoef([1, 2, 4], [2, 1, 5])[0, 1])
    assert np.isnan(correlation(np.zeros((5, 1)), np.arange(5.0)[:, None])[0])


def test_the_figures_are_counted_from_the_tables() -> None:
    studies = [plan_study(PhantomSet(seed=0), "train", k) for k in range(130)]
    rows = [read_study(study) for study in studies]
    found = {(one.kind, one.name): one for one in figures(make_tables(studies)).itertuples()}
    words = [one.labels[1 + 3] for one in rows]  # the canal at l4_l5
    severe = words.count("Severe") / sum(word is not None for word in words)
    one = found["Shares of the severities", "spinal_canal_stenosis_l4_l5 Severe"]
    assert one.found == pytest.approx(severe)
    assert one.wanted == pytest.approx(255 / 1974)
    cells = [word for row in rows for word in row.labels[16:]]
    lost = found["Cells without a label", "subarticular"].found
    assert lost == pytest.approx(cells.count(None) / len(cells))
    healthy = [not {"Moderate", "Severe"} & set(row.labels[1:]) for row in rows]
    assert found["Shares of studies", "without moderate or severe"].found == pytest.approx(np.mean(healthy))
    points = sum(len(row.coordinates) for row in rows)
    labelled = sum(word is not None for row in rows for word in row.labels[1:])
    assert found["Coordinates", "labelled cells without a point"].found == pytest.approx(1 - points / labelled)
    assert len(found) == 75 + 12 + 20 + 6 + 8 + 2 + 4


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phantom", "--statistics", "120"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("left_subarticular_stenosis_l") for line in lines) == 5
    assert any(line.startswith("correlations (38; root mean square") for line in lines)
    assert any(line.startswith("oracle") and "any_severe_spinal 0." in line for line in lines)
    assert main(["phantom", "--statistics", "5"]) == 2
    assert "give --statistics 100 or more" in capsys.readouterr().err
