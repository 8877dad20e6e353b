"""Pages of the two-stage recipe, of a run that was trained for an epoch on phantoms."""

import html
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from playwright.sync_api import Browser

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import LEVELS, TARGET_NAMES
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.inference.base import ExplainedCrop, study_rows
from lumbar_kaggle.inference.bundle import read_manifest
from lumbar_kaggle.inference.recipes import recipe
from lumbar_kaggle.pages.render import fixed, percent, write_report
from lumbar_kaggle.pages.study import write_study_page
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.settings import STANDARD_SETS, PhantomSet
from lumbar_kaggle.scoring.metric import score
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.two_stage.bundle import TwoStagePredictor
from lumbar_kaggle.two_stage.locate.find import COLUMNS
from lumbar_kaggle.two_stage.pages import explain_study, located_slices
from lumbar_kaggle.two_stage.study import PLACES, read_study
from tests.pages.test_pages import Tables, assert_stands_alone, write_run
from tests.support.browser import watched_page
from tests.support.dicom_files import rewrite
from tests.support.two_stage_studies import AXIAL, SAGITTAL, SETTINGS, ball, make_stack, place_points

TINY = {stage: {**settings, "epochs": 1} for stage, settings in SETTINGS.items()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a set of phantoms, a run and its bundle."""
    root = tmp_path_factory.mktemp("two-stage-pages")
    patients = PhantomSet("", 3, 6, 1, STANDARD_SETS["tiny"].scanners, clean=True)
    write_set(root / "set", patients, workers=1)
    two_stage = recipe("two-stage")
    settings = two_stage.configure(TINY)
    two_stage.preprocess(root / "set", root / "cache")
    two_stage.fit(root / "set", root / "cache", root / "run", Budget(), settings, processes=1)
    two_stage.export(root / "run", root / "bundle")
    return root


@pytest.fixture(scope="module")
def study_id(root: Path) -> str:
    """The only study of its test split."""
    return find_studies(root / "set").studies[0]


@pytest.fixture(scope="module")
def page(root: Path, study_id: str) -> str:
    """Its page."""
    return write_study_page(root / "set", study_id, root / "bundle", root / "study.html").read_text()


def predictor_of(root: Path) -> TwoStagePredictor:
    """The predictor of the bundle."""
    return TwoStagePredictor(root / "bundle", read_manifest(root / "bundle"))


@pytest.fixture(params=[1, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """So many of torch's."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_an_explanation_is_of_what_was_predicted(root: Path, study_id: str, threads: int) -> None:
    """The same probabilities to the last digit, and the most probable severity explained."""
    study, predictor = study_rows(find_studies(root / "set"), study_id), predictor_of(root)
    explanation = predictor.explain(study)
    (prediction,) = predictor.predict([study])
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(explanation.probabilities, prediction.probabilities)
    assert "; ".join(explanation.notes) == prediction.reason
    assert (explanation.models, explanation.networks) == (1, 2)
    assert len(explanation.crops) == 5 * 6
    likeliest = prediction.probabilities.argmax(axis=1)
    seen = [one for one in explanation.crops if isinstance(one, ExplainedCrop)]
    assert seen
    assert all(one.severity == likeliest[TARGET_NAMES.index(one.target)] for one in seen)


def test_study_page(root: Path, study_id: str, page: str) -> None:
    """Everything is there, in pictures that hold themselves; a second run writes the same bytes."""
    assert_stands_alone(page)
    assert len(page.encode()) < 1_500_000
    assert "Not a medical device" in page
    assert len(Tables(page).tables["grid"]) == 6
    assert page.count('class="grade ') == 25
    explanation = explain_study(study_rows(find_studies(root / "set"), study_id), predictor_of(root))
    seen = [one for one in explanation.crops if isinstance(one, ExplainedCrop)]
    series = {one.slice.facts["series_id"] for one in explanation.located}
    assert page.count('"data:image/jpeg') == len(series) + len(seen) == 3 + len(seen)
    assert page.count('aria-label="Slice attention of ') == len(seen)
    assert page.count("No picture: ") == 30 - len(seen)
    assert page.count('class="outline"') == len(seen)
    sure = Tables(page).tables["confidences"]
    assert [row[0] for row in sure[1:]] == ["Canal", "Left foramen", "Right foramen", "Left recess", "Right recess"]
    assert "means over the model’s 2\nnetworks, one per fold" in page
    again = write_study_page(root / "set", study_id, root / "bundle", root / "again.html").read_text()
    assert again == page


def copy_without(root: Path, kinds: set[str], study_id: str, folder: Path) -> Path:
    """Copy a study without the series of some kinds, as a folder in the competition's layout."""
    table = pd.read_csv(root / "set" / "test_series_descriptions.csv", dtype=str)
    table = table[(table["study_id"] == study_id) & ~table["series_description"].isin(kinds)]
    folder.mkdir()
    table.to_csv(folder / "test_series_descriptions.csv", index=False)
    for series in table["series_id"]:
        target = folder / "test_images" / study_id / series
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(root / "set" / "test_images" / study_id / series)
    return folder


def test_a_study_without_axial_series(root: Path, study_id: str, tmp_path: Path) -> None:
    """The page says what is missing, in the words of the competition's tables."""
    folder = copy_without(root, {"Axial T2"}, study_id, tmp_path / "set")
    page = write_study_page(folder, study_id, root / "bundle", tmp_path / "a.html").read_text()
    assert_stands_alone(page)
    assert "<li>no readable Axial T2 series</li>" in page
    assert "<li>axial side: 10 of 10 crops without a picture</li>" in page
    assert page.count("No picture: the point was not found.") >= 10
    assert "axial_t2" not in page
    assert "Axial T2, series" not in page


def test_what_is_graded_from_another_series_is_said_at_the_missing_one(
    root: Path, study_id: str, tmp_path: Path
) -> None:
    folder = copy_without(root, {"Sagittal T1"}, study_id, tmp_path / "set")
    page = write_study_page(folder, study_id, root / "bundle", tmp_path / "a.html").read_text()
    (absent,) = re.findall(r'<figure class="panel absent">.*?</figure>', page, re.DOTALL)
    assert "<li>no readable Sagittal T1 series</li>" in absent
    assert re.search(r"<li>Sagittal T1: \d+ crops of the foramen are cut from Sagittal T2/STIR instead</li>", absent)


def test_a_study_that_does_not_know_its_sides(root: Path, study_id: str, tmp_path: Path) -> None:
    """No picture of its foramina claims a side, no slice a number that its header does not have."""
    folder = copy_without(root, {"Axial T2"}, study_id, tmp_path / "set")
    for series in sorted((folder / "test_images" / study_id).iterdir()):
        source = series.resolve()
        series.unlink()
        shutil.copytree(source, series)
        for path in series.iterdir():
            rewrite(path, remove=("ImagePositionPatient", "InstanceNumber"))
    page = write_study_page(folder, study_id, root / "bundle", tmp_path / "a.html").read_text()
    assert_stands_alone(page)
    assert "<li>the side of the foramina is not known: both get the mean of the two</li>" in page
    assert "Foramen of unknown side" in page
    assert re.search("(left|right) foramen|(left|right) foramina", page, re.IGNORECASE) is None
    assert "no instance number" in page
    assert "None" not in page


def test_a_study_without_instance_numbers(root: Path, study_id: str, tmp_path: Path) -> None:
    """Slices are shown all the same, and no number is made up."""
    folder = copy_without(root, set(), study_id, tmp_path / "set")
    for series in sorted((folder / "test_images" / study_id).iterdir()):
        source = series.resolve()
        series.unlink()
        shutil.copytree(source, series)
        for path in series.iterdir():
            rewrite(path, remove=("InstanceNumber",))
    page = write_study_page(folder, study_id, root / "bundle", tmp_path / "a.html").read_text()
    assert_stands_alone(page)
    assert "Sagittal T1, no instance number" in page
    assert '"instance": null' in page
    assert "<span>–</span>" in page
    assert "None" not in page


def test_a_study_with_nothing_readable(root: Path, study_id: str, browser: Browser, tmp_path: Path) -> None:
    """The prior and the reasons, no picture, no paths of somebody's disk."""
    folder = tmp_path / "set"
    broken = folder / "test_images" / study_id / "5"
    broken.mkdir(parents=True)
    (broken / "1.dcm").write_bytes(b"no slice")
    table = {"study_id": [study_id], "series_id": ["5"], "series_description": ["Sagittal T1"]}
    pd.DataFrame(table).to_csv(folder / "test_series_descriptions.csv", index=False)
    page = write_study_page(folder, study_id, root / "bundle", tmp_path / "a.html").read_text()
    assert_stands_alone(page)
    assert "This study could not be graded" in page
    assert page.count("<small>prior</small>") == 25
    absent = re.findall(r'<figure class="panel absent">.*?</figure>', page, re.DOTALL)
    assert len(absent) == 3
    assert "<span>series 5</span>" in absent[0]
    assert f"<li>test_images/{study_id}/5: none of 1 files is a usable slice" in absent[0]
    assert '"data:image/jpeg' not in page
    assert str(tmp_path) not in page
    with watched_page(browser) as opened:
        opened.goto((tmp_path / "a.html").as_uri())
        opened.locator('[data-target="0"]').click()
        assert "no slice was looked at" in opened.inner_text("#chosen")


def test_points_are_drawn_on_the_slices_nearest_to_them() -> None:
    """Slices and pixels of the patient's own points; the most confident of two rows counts."""
    points = place_points()
    stacks = [
        make_stack(ball((0, 0, 0)), SAGITTAL, series_id="1", kind="sagittal_t1"),
        make_stack(ball((0, 0, 0)), SAGITTAL, series_id="2", kind="sagittal_t2"),
        make_stack(ball((0, 0, 0)), AXIAL, slices=33, step=5.0, series_id="3", kind="axial_t2"),
    ]
    rows = [
        ("9", "1", "", place, level, 0, 0.0, 0.0, 0.0, *(points[p, k] + shift), confidence, True)
        for p, place in enumerate(PLACES)
        for k, level in enumerate(LEVELS)
        for shift, confidence in ((0.0, 0.9), (30.0, 0.2))
    ]
    found = located_slices(stacks, pd.DataFrame(rows, columns=list(COLUMNS)))
    assert [one.slice.facts["series_id"] for one in found] == ["2", "1", "1", *"33333"]
    for one in found:
        stack = next(stack for stack in stacks if stack.series_id == one.slice.facts["series_id"])
        index = int(one.slice.facts["instance_number"]) - 1
        np.testing.assert_array_equal(one.slice.image, stack.images[index])
        for mark in one.marks:
            point = points[PLACES.index(mark.place), LEVELS.index(mark.level)]
            nearest = np.abs((stack.positions - point) @ stack.normal).min()
            assert mark.distance_mm == pytest.approx(nearest, abs=1e-6)
            assert mark.confidence == 0.9
            assert mark.point == pytest.approx(point)
            assert mark.inside(one.slice.image.shape)
            row, column, _ = stack.to_slice(index, point)
            assert (mark.row, mark.column) == (pytest.approx(float(row)), pytest.approx(float(column)))
    assert [len(one.marks) for one in found] == [5, 5, 5, 2, 2, 2, 2, 2]
    assert located_slices(stacks, pd.DataFrame(columns=list(COLUMNS))) == []
    assert [one.view for one in located_slices(stacks[:1], pd.DataFrame(rows, columns=list(COLUMNS)))] == [
        *("canal", "foramen", "foramen")
    ]


def test_attention_bars_show_shares_over_instance_numbers(root: Path, study_id: str, page: str) -> None:
    """The highest fills the height; the pictured slice is the coloured one."""
    study = study_rows(find_studies(root / "set"), study_id)
    explanation, stacks = explain_study(study, predictor_of(root)), read_study(study).volumes
    seen = [one for one in explanation.crops if isinstance(one, ExplainedCrop)]
    charts = re.findall(r'<div class="attention".*?\n</div>', page, re.DOTALL)
    for one, chart in zip(seen, charts, strict=True):
        bars = re.findall(r"<small>(.+?)</small>.*?--share:([\d.]+).*?<span>(\d+)</span>", chart)
        stack = next(stack for stack in stacks if stack.series_id == one.series_id)
        nearest = [np.linalg.norm(stack.positions - place, axis=1).argmin() for place in one.positions]
        assert [int(number) for _, _, number in bars] == [stack.instance_numbers[k] for k in nearest]
        assert [html.unescape(text) for text, _, _ in bars] == [percent(weight) for weight in one.attention]
        heights = [float(height) for _, height, _ in bars]
        np.testing.assert_allclose(heights, np.array(one.attention) / max(one.attention), atol=0.001)
        marked = re.findall(r"<div( class=.pictured.)?><small>", chart)
        assert [bool(kind) for kind in marked] == [weight == max(one.attention) for weight in one.attention]


def test_report_of_a_run(root: Path, tmp_path: Path) -> None:
    """Every part of the run; its score beside the prior's with the labels; the same bytes again."""
    run, folder = root / "run", root / "set"
    page = write_report(run, tmp_path / "a.html", folder=folder, score_text="part 0.5").read_text()
    assert_stands_alone(page)
    assert re.findall(r'<section id="([^"]+)"', page) == ["run", "locator", "models", "blend", "noise"]
    truth = read_competition(folder, "train").labels
    mine = score(pd.read_csv(run / "oof.csv"), truth)
    assert mine.total is not None
    assert all(fixed(value, 5) in page for value in (mine.total, *mine.parts.values()))
    assert page.count('aria-label="Confusion matrix of ') == 5
    assert 'aria-label="Losses of model 1"' in page
    assert "part 0.5" in page
    figures = pd.read_csv(run / "locator" / "figures.csv", keep_default_na=False)
    rows = Tables(page).tables["figures"]
    assert rows[1][0] == "Left recess, Axial T2"
    assert rows[-1][0] == "All"
    assert [row[2] for row in rows[1:]] == [fixed(value, 1) for value in figures["median_mm"]]
    noise = pd.read_csv(run / "noise.csv")
    assert len(Tables(page).tables["noise-table"]) == 1 + min(20, len(noise))
    assert (run / "blend.txt").read_text().splitlines()[0] in page
    again = write_report(run, tmp_path / "b.html", folder=folder, score_text="part 0.5")
    assert again.read_text() == page
    unscored = write_report(run, tmp_path / "c.html").read_text()
    assert "<code>--folder</code>" in unscored
    assert "Confusion matrix" not in unscored


def test_report_of_an_unfinished_run(root: Path, tmp_path: Path) -> None:
    """Whatever is there is shown; what is not is said."""
    run = tmp_path / "run"
    shutil.copytree(root / "run", run, ignore=shutil.ignore_patterns("oof.csv", "blend.*", "noise.csv", "fold-1*"))
    page = write_report(run, tmp_path / "a.html").read_text()
    assert_stands_alone(page)
    assert "The run is not finished" in page
    assert "1 of 2 folds finished" in page
    assert 'id="blend"' not in page
    shutil.rmtree(run / "locator")
    shutil.rmtree(run / "grade-1")
    page = write_report(run, tmp_path / "b.html", folder=root / "set").read_text()
    assert "The locator is not finished yet." in page
    assert "No fold is finished yet." in page


def test_report_refuses_what_is_of_the_baseline(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes no --against"):
        write_report(root / "run", tmp_path / "a.html", bundle=root / "bundle", studies=["1"])
    assert not (tmp_path / "a.html").exists()


def test_report_of_the_baseline_refuses_a_two_stage_bundle(root: Path, study_id: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", TARGET_NAMES[:1], folds=2, studies=8)
    with pytest.raises(InputError, match="made by recipe 'two-stage'"):
        write_report(run, tmp_path / "a.html", bundle=root / "bundle", folder=root / "set", studies=[study_id])
