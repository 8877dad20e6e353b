"""One fold table for both stages, and what each fold may learn from."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import SEVERITIES
from lumbar_kaggle.inference.recipes import recipe
from lumbar_kaggle.tables.competition import Competition, read_marked
from lumbar_kaggle.tables.folds import make_folds, open_folds
from lumbar_kaggle.tables.submission import read_soft_labels
from lumbar_kaggle.two_stage.config import GradeConfig, LocateConfig, TwoStageConfig
from lumbar_kaggle.two_stage.fit import TwoStageRun
from lumbar_kaggle.two_stage.grade.fit import GraderRun
from lumbar_kaggle.two_stage.locate.fit import LocatorRun, learned_marks
from lumbar_kaggle.two_stage.study import annotated_places, read_marked_studies, tell_unused
from tests.support.two_stage_studies import write_competition
from tests.two_stage.test_grading import TINY
from tests.two_stage.test_locate import SMALL, write_folder


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Competition, Path]:
    root = tmp_path_factory.mktemp("folds")
    return write_competition(root, 8), root


def located(studies: tuple[Competition, Path], moved: set[str], *, unplaced: set[str]) -> pd.DataFrame:
    """The annotated points as if they were located; of some studies 12 mm too far to the back."""
    table = annotated_places(*studies)
    table["y_mm"] += 12.0 * table["study_id"].isin(moved)
    return table.assign(placed=[str(study not in unplaced) for study in table["study_id"]])


def test_no_fold_trains_on_points_of_a_locator_that_saw_what_it_holds_out(
    studies: tuple[Competition, Path], tmp_path: Path
) -> None:
    """What is located in the studies that a fold trains on makes no difference to its network."""
    folds = make_folds(studies[0].labels, 2, TINY.seed)
    others = set(folds.loc[folds["fold"] == 1, "study_id"])
    weights = []
    for name, moved in (("right", set[str]()), ("moved", others)):
        places = located(studies, moved, unplaced=set())
        GraderRun(*studies, places, tmp_path / name, replace(TINY, epochs=1), Budget(), folds=folds).train([0])
        weights.append((tmp_path / name / "fold-0.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_soft_labels_are_learned_from_in_training_alone(studies: tuple[Competition, Path], tmp_path: Path) -> None:
    """Those that are sure of each label give the same network as the labels, others another one; the labels judge."""
    labels, networks = studies[0].labels, []
    sure = np.eye(3)[labels["severity"]]
    for name, shares in (("labels", None), ("sure", sure), ("doubtful", 0.5 * sure + 0.5 / 3)):
        soft = None
        if shares is not None:
            path = tmp_path / f"{name}.csv"
            table = labels[["row_id"]].assign(**dict(zip(SEVERITIES, shares.T, strict=True)))
            table.to_csv(path, index=False)
            soft = read_soft_labels(path)
        run = GraderRun(*studies, None, tmp_path / name, replace(TINY, epochs=1), Budget(), soft=soft)
        run.train([0])
        networks.append((tmp_path / name / "fold-0.safetensors").read_bytes())
    assert networks[0] == networks[1] != networks[2]
    assert soft is not None
    others = soft.assign(study_id=soft["study_id"] + "0")
    with pytest.raises(InputError, match="the soft labels are of none of its studies; give"):
        GraderRun(*studies, None, tmp_path / "others", TINY, Budget(), soft=others).train()


def test_the_baseline_takes_no_soft_labels(tmp_path: Path) -> None:
    """It is said, before anything is read."""
    settings = recipe("baseline").configure({})
    with pytest.raises(InputError, match="--soft-labels is for --recipe two-stage"):
        recipe("baseline").fit(tmp_path, tmp_path, tmp_path, Budget(), settings, soft_labels=tmp_path / "oof.csv")


def test_foramina_of_unknown_side_are_judged_by_their_mean(studies: tuple[Competition, Path], tmp_path: Path) -> None:
    """Left and right are predicted alike in a study without positions, and not in the others."""
    lost = studies[0].studies[0]
    places = located(studies, set(), unplaced={lost})
    GraderRun(*studies, places, tmp_path, replace(TINY, epochs=1), Budget()).train()
    oof = pd.read_csv(tmp_path / "oof.csv").set_index("row_id")["severe"]
    sides = [oof[oof.index.str.contains(f"{side}_neural")].to_numpy() for side in ("left", "right")]
    alike = np.isclose(*sides).reshape(len(studies[0].studies), 5).all(axis=1)
    assert dict(zip(studies[0].studies, alike, strict=True)) == {name: name == lost for name in studies[0].studies}


def test_a_fold_whose_marks_are_all_held_out_trains_no_network(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One study has marked recesses: the fold that holds it out learns none, and says so."""
    caplog.set_level("INFO", "lumbar_kaggle")
    folder = write_folder(tmp_path / "folder", count=4)
    marks = pd.read_csv(folder / "train_label_coordinates.csv")
    axial = marks["condition"].str.contains("Subarticular")
    marks[~axial | (marks["study_id"] == 101)].to_csv(folder / "train_label_coordinates.csv", index=False)
    recipe("two-stage").preprocess(folder, tmp_path / "cache")
    LocatorRun(read_marked(folder), tmp_path / "cache", tmp_path / "run", replace(SMALL, epochs=1), Budget()).train()
    folds = pd.read_csv(tmp_path / "run" / "folds.csv").set_index("study_id")["fold"]
    held_out = folds[101]
    assert not (tmp_path / "run" / f"axial-{held_out}.safetensors").is_file()
    assert (tmp_path / "run" / f"axial-{1 - held_out}.safetensors").is_file()
    assert f"Fold {held_out}: all marked axial slices are of the studies that it holds out" in caplog.text


def test_stages_of_different_fold_numbers_are_refused(studies: tuple[Competition, Path], tmp_path: Path) -> None:
    """One sentence names both."""
    config = TwoStageConfig(LocateConfig(folds=3), (GradeConfig(folds=3), GradeConfig(folds=2)))
    with pytest.raises(InputError, match="the locator has 3 folds and the models of the second stage 3, 2; give"):
        TwoStageRun(studies[0], tmp_path, config, Budget()).folds()


def test_a_locator_of_other_folds_is_refused(studies: tuple[Competition, Path], tmp_path: Path) -> None:
    """A second stage must not be judged at points of a locator that has seen the study."""
    config = TwoStageConfig(LocateConfig(folds=2), (GradeConfig(folds=2),))
    folds = TwoStageRun(studies[0], tmp_path, config, Budget()).folds()
    (tmp_path / "locator").mkdir()
    folds.to_csv(tmp_path / "locator" / "folds.csv", index=False)
    pd.testing.assert_frame_equal(TwoStageRun(studies[0], tmp_path, config, Budget()).folds(), folds)
    folds.assign(fold=1 - folds["fold"]).to_csv(tmp_path / "locator" / "folds.csv", index=False)
    with pytest.raises(InputError, match="begun with other folds"):
        TwoStageRun(studies[0], tmp_path, config, Budget()).folds()


def test_a_run_keeps_its_folds_and_its_studies(studies: tuple[Competition, Path], tmp_path: Path) -> None:
    """Other grades change no fold of a run that was begun; other studies end it."""
    labels = studies[0].labels
    first = open_folds(tmp_path / "folds.csv", labels, 2, 0)
    shuffled = labels.assign(severity=np.roll(labels["severity"], 7))
    pd.testing.assert_frame_equal(open_folds(tmp_path / "folds.csv", shuffled, 2, 0), first)
    with pytest.raises(InputError, match="begun with other studies"):
        open_folds(tmp_path / "folds.csv", labels[labels["study_id"] != studies[0].studies[0]], 2, 0)


def test_marks_that_are_on_no_cached_slice_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once for each stage: a study that is not in the cache, and a mark on an instance that no slice is."""
    caplog.set_level(logging.INFO)

    def read(competition: Competition) -> None:
        marks = learned_marks(read_marked_studies(competition, tmp_path))
        tell_unused(competition, marks, "sagittal or placed axial")
        annotated_places(competition, tmp_path)

    competition = write_competition(tmp_path, 3)
    read(competition)
    assert caplog.messages == []
    index = pd.read_csv(tmp_path / "volumes" / "index.csv", dtype=str)
    index[index["study_id"] != competition.studies[1]].to_csv(tmp_path / "volumes" / "index.csv", index=False)
    wrong = competition.coordinates.copy()
    wrong.loc[wrong.index[0], "instance_number"] = 99
    read(replace(competition, coordinates=wrong))
    assert caplog.messages == [
        "26 of 75 marks are not used: no sagittal or placed axial slice in the cache is theirs",
        "26 of 75 marks are not used: no placed slice in the cache is theirs",
    ]
