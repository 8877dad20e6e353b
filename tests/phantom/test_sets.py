"""Standard sets and clean phantoms: fixed, named in the manifest, never mixed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import SERIES_KINDS
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.generate import MANIFEST
from lumbar_kaggle.phantom.settings import FORMAT, STANDARD_SETS, PhantomSet, choose_set
from lumbar_kaggle.phantom.study import plan_study, read_study
from lumbar_kaggle.training.pretraining import PretrainConfig


def test_the_sizes_are_those_that_are_promised() -> None:
    assert FORMAT == "phantom-1"
    assert {name: (one.studies, one.test_studies) for name, one in STANDARD_SETS.items()} == {
        "tiny": (12, 6),
        "small": (400, 200),
        "standard": (2000, 700),
    }
    seeds = {one.seed for one in STANDARD_SETS.values()}
    assert len(seeds) == 3
    assert not seeds & {1, PretrainConfig().seed}


def test_the_first_patients_of_a_set_never_change() -> None:
    """The sets are part of the format: who changes a seed must change `FORMAT`."""
    first = {name: plan_study(one, "train", 0).study_id for name, one in STANDARD_SETS.items()}
    assert first == {"tiny": 1633885775, "small": 180580188, "standard": 1371846622}


def test_a_set_excludes_sizes_and_seed() -> None:
    assert choose_set("small", False, studies=None) == STANDARD_SETS["small"]
    assert choose_set(None, False, studies=None, test_studies=3) == PhantomSet("", 1, 40, 3)
    for number in ({"studies": 5}, {"test_studies": 5}, {"seed": 0}):
        with pytest.raises(InputError, match="leave out --set, or leave out --studies"):
            choose_set("small", False, **number)
    with pytest.raises(InputError, match="the sets are tiny, small, standard"):
        choose_set("huge", False)


def test_a_set_has_a_folder_of_its_own() -> None:
    assert STANDARD_SETS["small"].folder == Path("phantom-small")
    assert choose_set("small", True).folder == Path("phantom-small-clean")
    assert PhantomSet("", 1, 1, 1).folder is None


def test_the_command_writes_a_set_and_records_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With two studies of the tiny set, which the whole set would begin with."""
    few = replace(STANDARD_SETS["tiny"], studies=1, test_studies=1)
    monkeypatch.setitem(STANDARD_SETS, "tiny", few)
    monkeypatch.chdir(tmp_path)
    assert main(["phantom", "--set", "tiny", "--workers", "1"]) == 0
    assert "The competition folder is phantom-tiny" in capsys.readouterr().out
    assert sorted(place.name for place in tmp_path.iterdir()) == ["phantom-tiny", "phantom-tiny-truth"]
    manifest = json.loads((tmp_path / "phantom-tiny-truth" / MANIFEST).read_text())
    assert manifest == {
        "format": "phantom-1",
        "set": "tiny",
        "seed": few.seed,
        "clean": False,
        "studies": 1,
        "test_studies": 1,
        "complete": True,
    }
    assert len(list((tmp_path / "phantom-tiny" / "train_images").iterdir())) == 1
    assert main(["phantom", "phantom-tiny", "--studies", "1", "--seed", str(few.seed)]) == 2
    assert "whose set is 'tiny', not ''" in capsys.readouterr().err
    assert main(["phantom", "phantom-tiny", "--set", "tiny", "--clean"]) == 2
    assert "whose clean is False, not True" in capsys.readouterr().err


def test_a_clean_phantom_has_no_defects(tmp_path: Path) -> None:
    few = PhantomSet("", 5, 3, 1, STANDARD_SETS["tiny"].scanners, clean=True)
    folder = tmp_path / "clean"
    write_set(folder, few, workers=1)
    series = pd.read_csv(folder / "train_series_descriptions.csv")
    assert (series.groupby("study_id").size() == len(SERIES_KINDS)).all()
    assert pd.read_csv(folder / "train.csv").notna().all(axis=None)
    assert len(pd.read_csv(folder / "train_label_coordinates.csv")) == 3 * 25
    files = list(folder.glob("*_images/*/*"))
    shapes = [{pydicom.dcmread(file).pixel_array.shape for file in place.iterdir()} for place in files]
    assert {len(one) for one in shapes} == {1}


def test_clean_plans_are_whole_and_regular() -> None:
    for index in range(40):
        study = plan_study(choose_set("small", True), "train", index)
        assert [series.kind for series in study.series] == list(SERIES_KINDS)
        for series in study.series:
            steps = np.diff([plane.position for plane in series.planes], axis=0)
            assert (np.linalg.norm(steps, axis=1) > 0.5).all()
            assert not series.signed
        rows = read_study(study)
        assert None not in rows.labels
        assert len(rows.coordinates) == 25


def test_clean_does_not_change_who_the_patients_are() -> None:
    for index in range(5):
        plain, clean = (plan_study(choose_set("small", choice), "test", index) for choice in (False, True))
        assert plain.study_id == clean.study_id
        np.testing.assert_array_equal(plain.grades.severity, clean.grades.severity)


def test_a_size_out_of_range_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed is -1; it must be 0 or more"):
        write_set(tmp_path / "x", PhantomSet("", -1, 1, 0))
