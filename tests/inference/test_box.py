"""The models that come with the package are what is graded with where no bundle is given."""

import logging
import shutil
from pathlib import Path

import pandas as pd
import pytest

import lumbar_kaggle as lk
from lumbar_kaggle.cli import main
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.inference import bundle as in_the_box
from lumbar_kaggle.inference.bundle import read_manifest
from lumbar_kaggle.kaggle.datasets import package_files
from lumbar_kaggle.kaggle.session import find_bundle


@pytest.fixture
def box(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small bundle, where the package has its models."""
    place = shutil.copytree(bundle, tmp_path / "lumbar_kaggle" / "models" / "two-stage")
    monkeypatch.setattr(in_the_box, "BOX", place)
    return place


def test_predict_study_and_load_bundle_use_it(
    box: Path, competition: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without --bundle the result is that with it, and one line says what was used."""
    said = f"No --bundle is given: grading with the models in the box, baseline {read_manifest(box).fingerprint}; see"
    with caplog.at_level(logging.INFO):
        given, out = tmp_path / "given.csv", tmp_path / "s.csv"
        assert main(["predict", str(competition), "--bundle", str(box), "--out", str(given)]) == 0
        assert "in the box" not in caplog.text
        assert main(["predict", str(competition), "--out", str(out)]) == 0
        assert caplog.text.count(said) == 1
        pd.testing.assert_frame_equal(pd.read_csv(out), pd.read_csv(given))
        study, page = min((competition / "test_images").iterdir()).name, tmp_path / "page.html"
        assert main(["study", str(competition), study, "--out", str(page)]) == 0
        assert read_manifest(box).fingerprint in page.read_text(encoding="utf-8")
        assert lk.load_bundle().manifest == read_manifest(box)
        assert caplog.text.count(said) == 3


def test_on_kaggle_only_an_attached_bundle_counts(
    box: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where it lies deeper than that of the package; a kernel whose own was forgotten says so."""
    inputs = tmp_path / "input"
    monkeypatch.setenv("LUMBAR_INPUT", str(inputs))
    shutil.copytree(box, inputs / "package" / "lumbar_kaggle" / "models" / "two-stage")
    with pytest.raises(InputError, match="attach the input that holds it"):
        find_bundle()
    deep = inputs / "a" / "b" / "c" / "d" / "bundle"
    shutil.copytree(bundle, deep)
    assert find_bundle() == deep


def test_it_goes_up_with_the_package(tmp_path: Path) -> None:
    """Its JSON and its weights too, which no other folder's are."""
    for name in ("models/two-stage/bundle.json", "models/two-stage/weights/a.safetensors", "models/README.md"):
        for place in (tmp_path / name, tmp_path / "other" / name):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("x")
    assert sorted(package_files(tmp_path)) == [
        "models/README.md",
        "models/two-stage/bundle.json",
        "models/two-stage/weights/a.safetensors",
    ]
