"""Varied patients: the same grades, shown by canals and discs that differ as real ones do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.grades import Grades
from lumbar_kaggle.phantom.patient import Patient, Spine
from lumbar_kaggle.phantom.sac import Sac
from lumbar_kaggle.phantom.settings import STANDARD_SETS, PhantomSet, choose_set
from lumbar_kaggle.phantom.study import plan_study, read_study

PLAIN = PhantomSet("", 9, 150, 0)
VARIED = replace(PLAIN, varied=True)
NO_GRADES = Grades(np.zeros((5, 5)), np.zeros((5, 5), np.int64), np.zeros((5, 5)))


@pytest.fixture(scope="module")
def patients() -> list[tuple[Patient, Patient]]:
    """Plain and varied patients of the same numbers."""
    return [tuple(plan_study(of, "train", k).patient for of in (PLAIN, VARIED)) for k in range(PLAIN.studies)]


def test_grades_and_labels_do_not_depend_on_it() -> None:
    for index in range(10):
        plain, varied = (plan_study(of, "train", index) for of in (PLAIN, VARIED))
        assert plain.study_id == varied.study_id
        np.testing.assert_array_equal(plain.grades.severity, varied.grades.severity)
        assert read_study(plain).oracle == read_study(varied).oracle


def test_most_narrowing_comes_from_the_front(patients: list[tuple[Patient, Patient]]) -> None:
    behind = np.array([[one.flavum_share.mean() for one in pair] for pair in patients]).mean(axis=0)
    assert behind[0] == pytest.approx(0.5, abs=0.03)
    assert behind[1] < 0.4


def test_dark_low_discs_lie_beside_narrow_canals(patients: list[tuple[Patient, Patient]]) -> None:
    def correlation(of: int, dimension: str) -> float:
        pairs = [
            (getattr(pair[of], dimension)[pair[of].first_disc + level], pair[of].severity[0, level])
            for pair in patients
            for level in range(5)
        ]
        return float(np.corrcoef(np.array(pairs).T)[0, 1])

    assert correlation(1, "hydration") < correlation(0, "hydration") - 0.15
    assert correlation(1, "bulge") > 0.2


@pytest.mark.parametrize("number", range(6))
def test_every_sac_narrows_with_the_grade(number: int) -> None:
    """However its narrowing is shaped, the least depth near the disc falls, so that the grade can be seen."""
    patient = Patient(np.random.default_rng([3, number]), NO_GRADES, varied=True)
    least = []
    for g in (0.0, 0.7, 1.4, 2.1, 2.8):
        patient.severity = np.zeros((5, 5))
        patient.severity[0, 2] = g
        spine = Spine(patient)
        front, back = Sac(patient, spine, np.random.default_rng(5)).bounds[:2]
        at = round(spine.level_at(2) / 0.25)
        least.append((back - front)[at - 32 : at + 33].min())
    assert np.all(np.diff(least) < 0)
    assert least[-1] < 0.6 * least[0]


def test_a_varied_set_has_a_folder_of_its_own_and_does_not_mix(tmp_path: Path) -> None:
    assert choose_set("small", False, True) == replace(STANDARD_SETS["small"], varied=True)
    assert choose_set("small", True, True).folder == Path("phantom-small-clean-varied")
    few = PhantomSet("", 5, 1, 0, STANDARD_SETS["tiny"].scanners, clean=True)
    write_set(tmp_path / "plain", few, workers=1)
    with pytest.raises(InputError, match="whose varied is False, not True"):
        write_set(tmp_path / "plain", replace(few, varied=True), workers=1)
