"""The two-stage recipe end to end: one command, one bundle, and 25 rows for whatever study comes."""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json
from lumbar_kaggle.core.targets import LEVELS, TARGET_NAMES
from lumbar_kaggle.inference.base import Study, study_rows
from lumbar_kaggle.inference.bundle import read_manifest
from lumbar_kaggle.inference.predict import log_path, predict
from lumbar_kaggle.inference.recipes import recipe
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.tables.submission import validate
from lumbar_kaggle.two_stage.bundle import TwoStagePredictor
from lumbar_kaggle.two_stage.config import GradeConfig, configure, preset
from lumbar_kaggle.two_stage.fit import with_measured_jitter
from lumbar_kaggle.two_stage.study import CachedStudies, read_study
from tests.support.clock import Clock
from tests.support.dicom_files import rewrite


@pytest.fixture(scope="module")
def place(two_stage: Path) -> Path:
    """A folder with a phantom competition, its cached volumes, settings, a trained run and its bundle."""
    return two_stage


def train(root: Path, run: Path, budget: Budget | None = None) -> str:
    """Train with the settings of the fixture."""
    two_stage = recipe("two-stage")
    settings = two_stage.configure(read_json(root / "settings.json"), "settings.json")
    return two_stage.fit(root / "competition", root / "cache", run, budget or Budget(), settings)


@pytest.fixture(scope="module")
def study(place: Path) -> Study:
    """The first study of the test split."""
    test = read_competition(place / "competition", "test")
    return study_rows(test, test.studies[0])


@pytest.fixture(scope="module")
def predictor(place: Path) -> TwoStagePredictor:
    return TwoStagePredictor(place / "bundle", read_manifest(place / "bundle"))


def test_the_run_leaves_what_a_reader_expects(place: Path) -> None:
    """Out-of-fold predictions of every labelled row, the blend, and the localisation's figures."""
    labels = read_competition(place / "competition", "train").labels
    oof = pd.read_csv(place / "run" / "oof.csv")
    assert set(oof["row_id"]) == set(labels["row_id"])
    np.testing.assert_allclose(oof[["normal_mild", "moderate", "severe"]].sum(axis=1), 1)
    assert (place / "run" / "locator" / "figures.csv").is_file()
    manifest = read_manifest(place / "bundle")
    assert len(manifest.networks) == 6
    assert manifest.targets == list(TARGET_NAMES)


def test_a_run_cut_again_and_again_ends_with_the_same_bundle(place: Path, tmp_path: Path) -> None:
    """Budgets end in each of the stages; the weights are those of the run that was never cut."""
    texts = []
    for number in range(60):
        reads = 14 if number % 2 else 2
        texts.append(train(place, tmp_path / "run", Budget(reads / 3600, clock=Clock())))
        if "resumable" not in texts[-1]:
            break
    assert any("locator" in text for text in texts[:-1])
    assert any("folds of model" in text for text in texts[:-1])
    assert "resumable" not in texts[-1]
    again = recipe("two-stage").export(tmp_path / "run", tmp_path / "bundle")
    assert again.fingerprint == read_manifest(place / "bundle").fingerprint


def test_a_run_with_other_settings_is_not_continued(place: Path) -> None:
    """The preset's own settings are not those of the run."""
    two_stage = recipe("two-stage")
    settings = two_stage.configure({})
    with pytest.raises(InputError, match="begun with another locate, grade;"):
        two_stage.fit(place / "competition", place / "cache", place / "run", Budget(), settings)


def test_fresh_studies_are_seen_as_cached_ones(place: Path, predictor: TwoStagePredictor) -> None:
    """Every pixel and every number of the geometry is the same from DICOM and from the cache."""
    cache = CachedStudies(place / "cache")
    train_split = read_competition(place / "competition", "train")
    for study in train_split.studies[:4]:
        fresh = read_study(study_rows(train_split, study)).croppable()
        cached = cache.read(study).croppable()
        assert sorted((one.series_id, len(one)) for one in fresh) == sorted((one.series_id, len(one)) for one in cached)
        for one in cached:
            same = [other for other in fresh if np.array_equal(other.positions, one.positions)]
            assert any(np.array_equal(other.pixels, one.pixels) for other in same)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let torch have two threads: a network's last digits depend on how many it has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_studies_shared_out_over_devices_are_graded_as_alone(place: Path) -> None:
    """Read ahead, by two replicas or in two lanes of one CPU: the same probabilities and reasons, in the order of the
    studies, and torch has its threads again."""
    predictor = TwoStagePredictor(place / "bundle", read_manifest(place / "bundle"))
    assert len(predictor.replicas) == 2
    assert predictor.replicas[0] is predictor.replicas[1]
    split = read_competition(place / "competition", "train")
    studies = [study_rows(split, study) for study in split.studies[:5]]
    alone = [next(predictor.predict([study])) for study in studies]
    cpus = [torch.device("cpu")] * 2
    shared = TwoStagePredictor(place / "bundle", read_manifest(place / "bundle"), cpus)
    for one in (predictor, shared):
        for prediction, expected in zip(one.predict(studies), alone, strict=True):
            np.testing.assert_array_equal(prediction.probabilities, expected.probabilities)
            assert prediction.reason == expected.reason
    assert not np.array_equal(alone[0].probabilities, alone[1].probabilities)
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == 2


@pytest.mark.parametrize("part", ["grade", "sagittal"])
def test_weights_that_give_no_numbers_are_named(part: str, place: Path, study: Study, tmp_path: Path) -> None:
    """Weights so large that the outputs are none: the file is the reason, not some index."""
    manifest = read_manifest(place / "bundle")
    shutil.copytree(place / "bundle", tmp_path / "bundle")
    name = manifest.models["grade"][0]["folds"][1] if part == "grade" else manifest.models[part][1]
    weights = safetensors.torch.load_file(tmp_path / "bundle" / name)
    bad = {key: value.float() * 1e30 if value.is_floating_point() else value for key, value in weights.items()}
    safetensors.torch.save_file(bad, tmp_path / "bundle" / name)
    broken = TwoStagePredictor(tmp_path / "bundle", manifest)
    with pytest.raises(InputError, match=f"{name}: these weights give no finite numbers"):
        next(broken.predict([study]))


def test_predictions_do_not_depend_on_the_order_of_series(study: Study, predictor: TwoStagePredictor) -> None:
    """A study's table of series may come in any order; the grades are those of a second look."""
    backwards = Study(study.study_id, study.series.iloc[::-1])
    first, second = (one.probabilities for one in predictor.predict([study, backwards]))
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert np.isfinite(first).all()


def test_the_blend_of_the_bundle_is_applied(place: Path, study: Study, tmp_path: Path) -> None:
    """A temperature in blend.json softens the probabilities, and each row still sums to 1."""
    shutil.copytree(place / "bundle", tmp_path / "bundle")
    file = tmp_path / "bundle" / "weights" / "blend.json"
    content = read_json(file)
    for group in content["groups"]:
        group["temperature"] = 3.0
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="SHA-256"):
        read_manifest(tmp_path / "bundle")
    manifest = read_manifest(place / "bundle")
    plain = next(TwoStagePredictor(place / "bundle", manifest).predict([study])).probabilities
    soft = next(TwoStagePredictor(tmp_path / "bundle", manifest).predict([study])).probabilities
    expected = plain ** (1 / 3)
    np.testing.assert_allclose(soft, expected / expected.sum(axis=1, keepdims=True), rtol=1e-6)


def drop(kinds: tuple[str, ...]) -> Callable[[Path, pd.DataFrame], None]:
    """Remove a study's series of some kinds."""

    def harm(study: Path, series: pd.DataFrame) -> None:
        for row in series[series["kind"].isin(kinds)].itertuples():
            shutil.rmtree(row.folder)

    return harm


def forget_places(study: Path, series: pd.DataFrame) -> None:
    """Take positions, orientations and spacings out of all headers."""
    for path in study.rglob("*.dcm"):
        rewrite(path, remove=("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))


def single_slices(study: Path, series: pd.DataFrame) -> None:
    """Leave the middle slice of each series."""
    for row in series.itertuples():
        files = sorted(Path(row.folder).iterdir(), key=lambda path: int(path.stem))
        for path in files[: len(files) // 2] + files[len(files) // 2 + 1 :]:
            path.unlink()


def break_files(study: Path, series: pd.DataFrame) -> None:
    """Cut every file short."""
    for path in study.rglob("*.dcm"):
        path.write_bytes(path.read_bytes()[:300])


HARMS = {
    "no T2": (drop(("sagittal_t2",)), "no readable sagittal_t2", True),
    "no T1": (drop(("sagittal_t1",)), "no readable sagittal_t1", True),
    "no axial": (drop(("axial_t2",)), "no readable axial_t2", True),
    "only axial": (drop(("sagittal_t1", "sagittal_t2")), "no readable sagittal_t1", True),
    "no geometry": (forget_places, "no position in the headers", True),
    "single slices": (single_slices, "", True),
    "broken": (break_files, "none of", False),
    "nothing": (drop(("sagittal_t1", "sagittal_t2", "axial_t2")), "no readable axial_t2", False),
}


@pytest.fixture(scope="module")
def harmed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path, Path]:
    """The log and the submission of a test folder with one study per harm, and the folder."""
    root = tmp_path_factory.mktemp("harmed")
    source = read_competition(place / "competition", "test")
    whole = next(study for study in source.studies if len(study_rows(source, study).series) == 3)
    origin = study_rows(source, whole).series
    tables = []
    for number, (harm, _, _) in enumerate(HARMS.values(), start=1):
        name = str(4_100_000_000 + number)
        folder = root / "test_images" / name
        shutil.copytree(Path(origin["folder"].iloc[0]).parent, folder)
        series = origin.assign(folder=[str(folder / one) for one in origin["series_id"]])
        harm(folder, series)
        tables.append(source_rows(place, whole).assign(study_id=name))
    pd.concat(tables).to_csv(root / "test_series_descriptions.csv", index=False)
    out = root / "submission.csv"
    predict(root, place / "bundle", out, Budget(), strict=False)
    return pd.read_csv(log_path(out), dtype=str, keep_default_na=False), out, root


def source_rows(place: Path, study: str) -> pd.DataFrame:
    """The rows of a study in the table of the test series."""
    table = pd.read_csv(place / "competition" / "test_series_descriptions.csv", dtype=str)
    return table[table["study_id"] == study]


@pytest.mark.parametrize(("number", "harm"), list(enumerate(HARMS)))
def test_every_odd_study_gets_its_rows_and_a_reason(
    harmed: tuple[pd.DataFrame, Path, Path], number: int, harm: str
) -> None:
    """What can be seen is graded, the rest keeps the prior, and the log says what was missing."""
    log, _, _ = harmed
    row = log.iloc[number]
    _, reason, graded = HARMS[harm]
    assert row["status"] == ("graded" if graded else "prior"), row["reason"]
    assert reason in row["reason"]
    assert float(row["seconds"]) > 0


@pytest.mark.parametrize(("harm", "alike"), [("no geometry", True), ("single slices", True), ("no T2", False)])
def test_foramina_of_unknown_side_get_the_mean_of_both(
    harmed: tuple[pd.DataFrame, Path, Path], harm: str, alike: bool
) -> None:
    """Without positions, or with one slice alone, nothing tells left from right; the log says so."""
    log, out, _ = harmed
    row = log.iloc[list(HARMS).index(harm)]
    assert ("both get the mean of the two" in row["reason"]) == alike
    rows = pd.read_csv(out).set_index("row_id")
    mine = rows[rows.index.str.startswith(row["study_id"])]
    left, right = (mine[mine.index.str.contains(f"{side}_neural")].to_numpy() for side in ("left", "right"))
    assert len(left) == 5
    assert np.allclose(left, right, atol=1e-9) == alike


def test_spacing_that_is_assumed_is_in_the_log(harmed: tuple[pd.DataFrame, Path, Path]) -> None:
    """Only where it is missing."""
    log, _, _ = harmed
    told = log["reason"].str.contains("no plausible pixel spacing in the headers, spacing assumed")
    assert [harm for harm, said in zip(HARMS, told, strict=True) if said] == ["no geometry"]


def test_both_stages_are_trained_by_one_fold_table(place: Path) -> None:
    """The run's, the locator's and the models' tables are the same."""
    tables = [pd.read_csv(path) for path in sorted((place / "run").rglob("folds.csv"))]
    assert len(tables) == 3
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])
    assert set(tables[0]["study_id"].astype(str)) == set(read_competition(place / "competition", "train").studies)


def test_the_submission_over_odd_studies_is_valid(harmed: tuple[pd.DataFrame, Path, Path]) -> None:
    """25 rows for each of them."""
    log, out, root = harmed
    assert validate(out, root) == []
    assert len(pd.read_csv(out)) == 25 * len(log)


def test_levels_that_nothing_shows_keep_the_prior(study: Study, predictor: TwoStagePredictor) -> None:
    """Where every view of a level is empty its five targets are NaN, the others are not."""
    seen = predictor.crop(read_study(study))
    (crops,) = seen.crops
    emptied = [replace(crop, reason="gone") if LEVELS[crop.level] == "l4_l5" else crop for crop in crops]
    grades, _ = predictor.grade(seen._replace(crops=(emptied,)))
    assert np.isnan(grades).any(axis=1).tolist() == [name.endswith("l4_l5") for name in TARGET_NAMES]


def test_the_jitter_is_the_locators_error() -> None:
    """Errors of 3 mm, a fifth of them one slice beside; gross ones and lost points do not count."""
    errors = pd.DataFrame(
        {
            "error_mm": [3.0] * 10 + [90.0, np.nan],
            "depth_mm": [0.2] * 8 + [4.1, 9.0, 0.0, np.nan],
            "found": [True] * 11 + [False],
        }
    )
    config = with_measured_jitter(GradeConfig(), errors)
    assert config.shift_mm == pytest.approx(3 / np.sqrt(2), abs=1e-3)
    assert config.slice_shift == pytest.approx((0.8, 0.2))
    assert with_measured_jitter(GradeConfig(), errors[errors["error_mm"] > 50]) == GradeConfig()


def test_settings_of_a_file_replace_the_presets(tmp_path: Path) -> None:
    """What is not named stays; the second stage's settings are for all its models; a wrong name is told."""
    file = tmp_path / "settings.json"
    merged = configure({"preset": "t4x2-gold", "grade": {"epochs": 3}})
    assert [one.epochs for one in merged.grade] == [3, 3, 3]
    assert merged.locate == preset("t4x2-gold").locate
    assert [one.backbones for one in merged.grade] == [one.backbones for one in preset("t4x2-gold").grade]
    for text, told in (('{"grade": {"epoch": 3}}', "unknown setting 'epoch'"), ('{"epochs": 3}', "give an object")):
        file.write_text(text)
        with pytest.raises(InputError, match=told):
            configure(read_json(file), str(file))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--recipe", "two-stage", "--image-size", "64"], "unrecognized options: --image-size"),
        (["--preset", "t4x2-gold"], "'t4x2-gold' is unknown to the recipe baseline; baseline has cpu; two-stage has"),
        (["--recipe", "two-stage", "--preset", "gpu"], "preset 'gpu' is unknown"),
    ],
)
def test_options_of_the_other_recipe_are_refused(
    place: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit code 2 and one sentence."""
    command = ["train", str(place / "competition"), "--cache", str(place / "cache"), "--out", str(tmp_path)]
    assert main([*command, *words]) == 2
    assert told in capsys.readouterr().err


def test_an_unfinished_run_exports_what_it_has(place: Path, study: Study, tmp_path: Path) -> None:
    """One fold of the second stage is enough for a bundle; without any the sentence says so."""
    shutil.copytree(place / "run", tmp_path / "run")
    for name in ("blend.json", "oof.csv", "grade-1/fold-1.safetensors", "grade-1/fold-1-predictions.csv"):
        (tmp_path / "run" / name).unlink()
    manifest = recipe("two-stage").export(tmp_path / "run", tmp_path / "bundle")
    assert len(manifest.networks) == 5
    found = next(TwoStagePredictor(tmp_path / "bundle", manifest).predict([study]))
    assert np.isfinite(found.probabilities).all()
    (tmp_path / "run" / "grade-1" / "fold-0.safetensors").unlink()
    with pytest.raises(InputError, match="no fold of the second stage"):
        recipe("two-stage").export(tmp_path / "run", tmp_path / "other")
