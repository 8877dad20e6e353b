"""Bundle and inference: what is loaded is what was exported, and every study gets its 25 rows."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch

from lumbar_kaggle.baseline.bundle import BaselinePredictor, export
from lumbar_kaggle.baseline.images import cached_images
from lumbar_kaggle.baseline.run import Calibration, Run, calibrate, fit_calibration
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_json
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES
from lumbar_kaggle.inference.base import study_rows
from lumbar_kaggle.inference.bundle import read_manifest
from lumbar_kaggle.inference.predict import log_path, predict
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.tables.submission import validate
from tests.conftest import SMALL
from tests.support.dicom_files import AXIAL, write_slice


@pytest.fixture
def studies(competition: Path, tmp_path: Path) -> Path:
    """A copy of the competition folder, free to be damaged."""
    return shutil.copytree(competition, tmp_path / "copy")


def test_the_exported_model_repeats_the_trained_ones_predictions(cache: Path, run: Path, bundle: Path) -> None:
    """From the picture on, prediction gives what training measured, up to the 16-bit rounding."""
    predictor = BaselinePredictor(bundle, read_manifest(bundle))
    pictures = cached_images(cache).set_index("study_id")["image"]
    name, stored = Run(run).targets[0], Run(run).predictions
    rows = stored[(stored["target"] == name) & (stored["fold"] == 1)]
    images = _images(pictures[rows["row_id"].str.split("_").str[0]])
    fold, model = list(predictor.models(name))[1]
    raw = model(predictor.normalise(images)).softmax(1).detach().numpy()
    assert fold.file.endswith("fold-1.safetensors")
    np.testing.assert_allclose(raw, rows[list(SEVERITIES)].to_numpy(), atol=2e-3)


def _images(paths: pd.Series) -> np.ndarray:
    import cv2

    return np.stack([cv2.imread(path, cv2.IMREAD_UNCHANGED) for path in paths])


def test_the_submission_is_complete_and_in_sample_order(competition: Path, bundle: Path, tmp_path: Path) -> None:
    """25 rows per test study; targets without a model hold the prior, the others differ from it."""
    outcome = predict(competition, bundle, tmp_path / "submission.csv", Budget())
    assert validate(outcome.path, competition) == []
    table = pd.read_csv(outcome.path)
    sample = pd.read_csv(competition / "sample_submission.csv")
    assert table["row_id"].tolist() == sample["row_id"].tolist()
    assert (outcome.log["status"] == "graded").all()
    prior = read_manifest(bundle).prior_table()
    untrained = table[table["row_id"].str.endswith("right_subarticular_stenosis_l1_l2")]
    expected = np.tile(prior.loc["right_subarticular_stenosis_l1_l2"], (6, 1))
    np.testing.assert_allclose(untrained[list(SEVERITIES)], expected)


def test_a_bad_study_keeps_the_prior_and_is_named(studies: Path, bundle: Path, tmp_path: Path) -> None:
    """Unreadable files, a missing folder, a study without T1: prior rows and a reason each."""
    folders = sorted((studies / "test_images").iterdir())
    for path in folders[0].glob("*/*.dcm"):
        path.write_bytes(b"\0" * 500)
    shutil.rmtree(folders[1])
    table = pd.read_csv(studies / "test_series_descriptions.csv")
    table.loc[table["study_id"] == int(folders[2].name), "series_description"] = "Sagittal T2/STIR"
    table.to_csv(studies / "test_series_descriptions.csv", index=False)
    outcome = predict(studies, bundle, tmp_path / "submission.csv", Budget())
    assert validate(outcome.path, studies) == []
    log = outcome.log.set_index("study_id")
    assert log["status"].value_counts().to_dict() == {"graded": 3, "prior": 3}
    assert "usable slice" in log.loc[folders[0].name, "reason"]
    assert log.loc[folders[2].name, "reason"] == "no sagittal T1 series"
    assert log.loc[folders[1].name, "reason"].startswith("no sagittal T1 series; series ")
    assert log.loc[folders[1].name, "reason"].endswith(" has no folder")
    assert "3 left at the prior" in outcome.sentence()
    written = pd.read_csv(log_path(outcome.path))
    assert len(written) == 6


def test_weights_that_give_no_numbers_are_named(competition: Path, bundle: Path, tmp_path: Path) -> None:
    """The target whose file holds them keeps the prior, and the reason says so; the other one is graded."""
    manifest = read_manifest(bundle)
    shutil.copytree(bundle, tmp_path / "bundle")
    bad, good = SMALL.targets
    file = manifest.models["folds"][bad][1]["file"]
    weights = safetensors.torch.load_file(bundle / file)
    spoilt = {name: value.float() * 1e30 if value.is_floating_point() else value for name, value in weights.items()}
    safetensors.torch.save_file(spoilt, tmp_path / "bundle" / file)
    test = read_competition(competition, "test")
    (found,) = BaselinePredictor(tmp_path / "bundle", manifest).predict([study_rows(test, test.studies[0])])
    assert np.flatnonzero(np.isfinite(found.probabilities).all(axis=1)) == [TARGET_NAMES.index(good)]
    assert found.reason == f"{bad} keeps the prior, for {file} gives no finite numbers"


def test_an_interrupted_run_goes_on(
    studies: Path, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Graded studies are taken over; failed ones, and those whose files changed, are graded anew."""
    whole = predict(studies, bundle, tmp_path / "whole.csv", Budget())
    out = tmp_path / "submission.csv"
    stopped = predict(studies, bundle, out, Budget(0.0))
    assert (stopped.log["status"] == "prior").all()
    assert stopped.log["reason"].iloc[0] == "the time budget was spent"
    assert validate(out, studies) == []
    predict(studies, bundle, out, Budget())
    assert out.read_bytes() == whole.path.read_bytes()
    caplog.set_level("INFO", logger="lumbar_kaggle")
    folder = next((studies / "test_images").glob("*/*"))
    write_slice(folder / "9.dcm", np.zeros((64, 64), np.uint16), position=(900, 0, 0), number=9)
    predict(studies, bundle, out, Budget())
    assert "5 studies are already graded and are skipped" in caplog.text
    assert validate(out, studies) == []


def test_a_folder_without_tables_is_graded(competition: Path, bundle: Path, tmp_path: Path) -> None:
    """Study folders alone are enough: the series kind is recognised, names may be anything."""
    source = next((competition / "test_images").glob("*/*"))
    for index, path in enumerate(sorted(source.iterdir())):
        import pydicom

        dataset = pydicom.dcmread(path)
        dataset.SeriesDescription = "SAG T1 TSE"
        target = tmp_path / "studies" / "patient_one" / "series a" / f"{index}.dcm"
        target.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(target)
    write_slice(
        tmp_path / "studies" / "patient_two" / "x" / "1.dcm",
        np.full((8, 8), 5, np.uint16),
        orientation=AXIAL,
        SeriesDescription="AX T2",
    )
    outcome = predict(tmp_path / "studies", bundle, tmp_path / "submission.csv", Budget())
    log = outcome.log.set_index("study_id")
    assert log.loc["patient_one", "status"] == "graded"
    assert log.loc["patient_two", "reason"] == (
        "no sagittal T1 series; x: an axial series (description 'AX T2') has too few slices (1; at least 3); "
        "it is left out"
    )
    assert len(pd.read_csv(outcome.path)) == 50


def test_a_changed_weight_file_is_refused(bundle: Path, tmp_path: Path) -> None:
    """One flipped byte, a missing file, another format: one sentence each."""
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    weights = next((copy / "weights").iterdir())
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match="its SHA-256 is not the manifest's; the file was changed"):
        read_manifest(copy)
    weights.unlink()
    with pytest.raises(InputError, match="no such file; the bundle is incomplete"):
        read_manifest(copy)
    write_json(copy / "bundle.json", {"format": 99})
    with pytest.raises(InputError, match="not a bundle of format 1"):
        read_manifest(copy)
    with pytest.raises(InputError, match="give the folder that lumbar export wrote"):
        read_manifest(tmp_path)


def test_a_bundle_holds_no_pickle(bundle: Path) -> None:
    """Only JSON and safetensors; every weight file is in the manifest with its hash."""
    files = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    manifest = read_json(bundle / "bundle.json")
    assert files == {"bundle.json", *manifest["weights"]}
    assert all(name.endswith(".safetensors") for name in manifest["weights"])
    assert manifest["targets"] == [name for name in TARGET_NAMES if name in SMALL.targets]


def test_export_is_repeatable(run: Path, bundle: Path, tmp_path: Path) -> None:
    """The same run gives the same bytes; exporting onto it again changes nothing; other content is safe."""
    again = export(run, tmp_path / "again")
    assert again.fingerprint == read_manifest(bundle).fingerprint
    for path in (tmp_path / "again").rglob("*.safetensors"):
        assert path.read_bytes() == (bundle / path.relative_to(tmp_path / "again")).read_bytes()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    with pytest.raises(InputError, match="holds something else; choose an empty one"):
        export(run, tmp_path / "mine")


def test_calibration_restores_the_frequencies_and_can_distrust() -> None:
    """No evidence gives the prior, strength 1 is Bayes' rule, an unseen severity keeps its prior."""
    prior = np.array([[0.7, 0.2, 0.1]])
    seen = np.ones((1, 3), dtype=bool)
    uniform = np.full((1, 3), 1 / 3)
    np.testing.assert_allclose(calibrate(uniform, prior, seen, Calibration(1.0, 0.0)), prior)
    raw = np.array([[0.2, 0.2, 0.6]])
    expected = raw * prior / (raw * prior).sum()
    np.testing.assert_allclose(calibrate(raw, prior, seen, Calibration(1.0, 0.0)), expected)
    np.testing.assert_allclose(calibrate(raw, prior, seen, Calibration(0.0, 0.3)), prior)
    unseen = np.array([[True, True, False]])
    partial = calibrate(raw, prior, unseen, Calibration(1.0, 0.0))
    assert partial[0, 2] == pytest.approx(0.1)
    assert partial.sum() == pytest.approx(1)


def test_calibration_trusts_evidence_and_not_noise() -> None:
    """Fitted on noise the strength is near 0, fitted on evidence it is not."""
    generator = np.random.default_rng(0)
    severity = generator.choice(3, 600, p=[0.7, 0.2, 0.1])
    prior, seen = np.tile([0.5, 0.28, 0.22], (600, 1)), np.ones((600, 3), dtype=bool)
    noise = generator.dirichlet([1, 1, 1], 600)
    evidence = generator.dirichlet([1, 1, 1], 600) + 2 * np.eye(3)[severity]
    evidence /= evidence.sum(axis=1, keepdims=True)
    assert fit_calibration(noise, prior, seen, severity).strength <= 0.2
    assert fit_calibration(evidence, prior, seen, severity).strength >= 0.8
