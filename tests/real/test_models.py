"""The training of the models in the box, at toy size: real slices drawn, four phantom patients, an epoch each."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from lumbar_kaggle.inference.bundle import read_manifest
from lumbar_kaggle.phantom.settings import STANDARD_SETS, PhantomSet
from tests.real import models
from tests.real.test_folders import mendeley, spider  # noqa: F401 — fixtures


def test_both_sets_and_the_phantom_become_a_bundle(
    mendeley: Path,  # noqa: F811
    spider: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All locators of the sagittal plane, one of the axial one, one grader; started again it trains nothing anew."""
    locate = replace(models.LOCATE, folds=2, epochs=1, channels=(4, 4, 4, 4, 4), picture=(96, 80), batch_size=4)
    grade = replace(models.GRADE, folds=2, epochs=1, sagittal_px=24, axial_px=24, features=8, batch_size=4)
    sizes = {"PATIENTS": 4, "WITHOUT_T2": 2, "WITHOUT_T1": 1, "FOR_LOCATOR": 2, "LOCATE": locate, "GRADE": grade}
    for name, value in sizes.items():
        monkeypatch.setattr(models, name, value)
    monkeypatch.setattr(models, "PhantomSet", partial(PhantomSet, scanners=STANDARD_SETS["tiny"].scanners))
    work, bundle = tmp_path / "work", tmp_path / "bundle"
    arguments = [str(mendeley.parent), str(bundle), "--folder", str(work)]
    assert models.main(arguments) == 0
    made = read_manifest(bundle)
    assert capsys.readouterr().out.split()[-1] == made.fingerprint
    names = sorted(made.weights)
    assert names == [f"weights/{name}.safetensors" for name in ("axial-0", "grade-1-0", "sagittal-0", "sagittal-1")]
    assert [file.name for file in (work / "locator").glob("axial-*.safetensors")] == ["axial-0.safetensors"]
    trained = {file: file.stat().st_mtime_ns for file in work.rglob("*.safetensors")}
    assert models.main(arguments) == 0
    assert read_manifest(bundle).fingerprint == made.fingerprint
    kept = {file: file.stat().st_mtime_ns for file in work.rglob("*.safetensors") if "run" not in file.parts}
    assert kept.items() <= trained.items()
