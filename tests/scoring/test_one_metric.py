"""One score: on tables, per study, on arrays and on rows, to 1e-12 as plain Python words it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbar_kaggle.core.targets import SEVERITY_WEIGHTS, TARGETS
from lumbar_kaggle.scoring.metric import PARTS, as_table, part_scores, score, study_sums, to_arrays, weighted_log_loss
from lumbar_kaggle.tables.reading import label_rows
from tests.support.blend_worlds import labels_of, make_cells

EPSILON = float(np.finfo(float).eps)


def make_case(seed: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities ``[studies, 25, 3]`` and labels ``[studies, 25]``; NaN and -1 where missing."""
    rng = np.random.default_rng(seed)
    studies = int(rng.integers(1, 9))
    severity = rng.choice(3, (studies, 25), p=[0.6, 0.25, 0.15])
    values = rng.dirichlet([0.5, 0.5, 0.5], (studies, 25))
    if kind == "certain":
        values = np.eye(3)[rng.integers(0, 3, (studies, 25))]
    elif kind == "near certain":
        values = np.clip(np.eye(3)[severity], 1e-17, 1 - 1e-16)
    elif kind == "unscaled":
        values = values * rng.uniform(0.01, 0.9, (studies, 25, 1))
    elif kind == "gaps":
        severity[rng.random(severity.shape) < 0.3] = -1
        values[rng.random(severity.shape) < 0.3] = np.nan
        severity[0, :5] = -1  # a study without any canal label
        values[-1, 5:15] = np.nan  # and one without foramina
    elif kind == "one condition":
        severity[:, 5:] = -1
    return values, severity


KINDS = ("random", "certain", "near certain", "unscaled", "gaps", "one condition")


def by_hand(values: np.ndarray, severity: np.ndarray) -> np.ndarray:
    """``[studies, 4, 2]`` losses and weights, row by row."""
    sums = np.zeros((len(values), 4, 2))
    groups = ("spinal", "foraminal", "subarticular")
    for study, (lines, grades) in enumerate(zip(values.tolist(), severity.tolist(), strict=True)):
        canal = []
        for line, grade, of in zip(lines, grades, TARGETS, strict=True):
            if grade < 0 or math.isnan(line[0]):
                continue
            part = next(k for k, group in enumerate(groups) if group in of.condition)
            weight = SEVERITY_WEIGHTS[grade]
            clipped = [min(max(value, EPSILON), 1 - EPSILON) for value in line]
            sums[study, part] += (-weight * math.log(clipped[grade] / sum(clipped)), weight)
            if part == 0:
                canal.append((line[2], grade))
        if canal:
            severe = min(max(max(value for value, _ in canal), EPSILON), 1 - EPSILON)
            worst = max(grade for _, grade in canal)
            weight = SEVERITY_WEIGHTS[worst]
            sums[study, 3] = (-weight * math.log(severe if worst == 2 else 1 - severe), weight)
    return sums


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_the_score_of_tables_and_of_arrays_is_that_of_plain_python(kind: str, seed: int) -> None:
    values, severity = make_case(seed, kind)
    expected = by_hand(values, severity)
    cells = make_cells(values[None], severity)
    np.testing.assert_allclose(study_sums(values, severity), expected, rtol=1e-12, atol=1e-12)
    canal = (severity[:, :5] >= 0) & np.isfinite(values[:, :5, 0])
    if canal.any():
        flat = weighted_log_loss(values[:, :5][canal], severity[:, :5][canal])
        assert flat == pytest.approx(part_scores(expected.sum(axis=0))[0], rel=1e-12, abs=1e-12)
    table, truth = as_table(cells.studies, values), label_rows(labels_of(cells))
    official = score(table, truth)
    parts = part_scores(expected.sum(axis=0))
    np.testing.assert_allclose([official.parts.get(part, np.nan) for part in PARTS], parts, rtol=1e-12, atol=1e-12)
    assert (official.total is None) == bool(np.isnan(parts).any())
    if official.total is not None:
        assert official.total == pytest.approx(parts.mean(), rel=1e-12, abs=1e-12)
    studies, probabilities, labels = to_arrays(table, truth)
    found = study_sums(probabilities, labels)
    assert list(studies) == [study for study, one in zip(cells.studies, expected, strict=True) if one.any()]
    np.testing.assert_allclose(found, expected[expected.any(axis=(1, 2))], rtol=1e-12, atol=1e-12)
