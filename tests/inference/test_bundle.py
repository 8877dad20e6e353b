"""A bundle's manifest: what cannot be true in it ends the run with a sentence, before any study is read."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, sha256_file
from lumbar_kaggle.core.targets import SCORE_GROUPS, TARGET_NAMES
from lumbar_kaggle.inference.bundle import MANIFEST, read_manifest, write_manifest
from lumbar_kaggle.inference.recipes import load_predictor
from lumbar_kaggle.scoring.metric import weighted_prior
from lumbar_kaggle.training.library_models import build_network
from lumbar_kaggle.two_stage.config import TwoStageConfig, preset
from tests.support.dicom_files import write_sagittal

ARCH, TARGET, WEIGHTS = "test_efficientnet", TARGET_NAMES[0], "weights/a.safetensors"

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """An untrained baseline bundle of one target."""
    folder = tmp_path / "bundle"
    (folder / "weights").mkdir(parents=True)
    state = {name: value.contiguous() for name, value in build_network(ARCH).model.state_dict().items()}
    safetensors.torch.save_file(state, folder / WEIGHTS)
    write_manifest(
        folder,
        recipe="baseline",
        config={},
        targets=[TARGET],
        contract={"image_size": 32},
        prior=weighted_prior(pd.DataFrame({"target": [], "severity": []})),
        metrics={},
        weights=[WEIGHTS],
        models={
            "arch": ARCH,
            "folds": {TARGET: [{"file": WEIGHTS, "severities_seen": [0, 1, 2]}]},
            "calibration": {group: {"strength": 1.0, "mix": 0.02} for group in SCORE_GROUPS},
        },
    )
    return folder


def rewrite(bundle: Path, change: Change) -> None:
    """Change a manifest and give it the fingerprint of its new content, as a careful forger would."""
    content = json.loads((bundle / MANIFEST).read_text())
    change(content)
    content["fingerprint"] = digest({key: value for key, value in content.items() if key != "fingerprint"})
    (bundle / MANIFEST).write_text(json.dumps(content))


def load(bundle: Path) -> None:
    load_predictor(bundle, read_manifest(bundle))


def test_an_unchanged_bundle_loads(bundle: Path) -> None:
    """The checks below refuse for what was changed, and for nothing else."""
    rewrite(bundle, lambda content: None)
    load(bundle)


def set_prior(*values: object) -> Change:
    return lambda content: content["prior"].update({TARGET: list(values)})


def set_models(**values: object) -> Change:
    return lambda content: content["models"].update(values)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (set_prior(float("nan"), 0.5, 0.5), r"is nan; it must be a finite number"),
        (set_prior(-0.5, 1.0, 0.5), "it must be three numbers above 0 whose sum is 1"),
        (set_prior(0.0, 0.5, 0.5), "it must be three numbers above 0 whose sum is 1"),
        (set_prior(1.0, 1.0, 1.0), "it must be three numbers above 0 whose sum is 1"),
        (set_prior(0.5, 0.5), "it must be three numbers above 0 whose sum is 1"),
        (set_prior("a", 0.5, 0.5), "is 'a'; it must be a finite number"),
        (lambda content: content["prior"].pop(TARGET), f"the prior of {TARGET} is "),
        (lambda content: content.update(prior=[]), r"prior is \[\]; it must be an object"),
        (lambda content: content.update(targets="all"), "targets is 'all'; it must be a list"),
        (lambda content: content.update(targets=["knee"]), "targets are not different ones of the 25"),
        (lambda content: content.update(targets=[TARGET] * 2), "targets are not different ones of the 25"),
        (lambda content: content.update(weights={WEIGHTS: 5}), "is 5; it must be text"),
        (lambda content: content.update(models=5), "models is 5; it must be an object"),
        (lambda content: content.pop("input"), "'input' is missing"),
        (lambda content: content.update(more=1), "unknown setting 'more'"),
        (lambda content: content.update(recipe="magic"), "recipe 'magic', which this version does not know"),
        (lambda content: content["input"].update(image_size=100_000), "image_size is 100000; it must be 1024"),
        (lambda content: content["input"].update(image_size="64"), "image_size is '64'; it must be a whole"),
        (lambda content: content["input"].clear(), "image_size is None; it must be a whole number"),
        (set_models(arch=3), "arch is 3; it must be text"),
        (set_models(arch="no_such_net"), "arch 'no_such_net' is no model"),
        (set_models(folds={}), f"target {TARGET} has no fold"),
        (set_models(folds={TARGET: [{"file": "weights/b.safetensors"}]}), "weights/b.safetensors is used but"),
        (set_models(folds={TARGET: [{"file": WEIGHTS, "severities_seen": [3]}]}), "each must be 2 or less"),
        (set_models(folds={TARGET: [5]}), "5 where an object of settings is wanted"),
        (set_models(calibration={}), f"target {TARGET} has no calibration"),
        (set_models(calibration={"spinal": {"mix": 2}}), "mix is 2.0; it must be 1 or less"),
        (set_models(calibration={"spinal": {"strength": None}}), "strength is None; it must be a finite"),
    ],
)
def test_what_cannot_be_true_is_refused(bundle: Path, change: Change, sentence: str) -> None:
    """One sentence with the manifest's path."""
    rewrite(bundle, change)
    with pytest.raises(InputError, match=sentence) as caught:
        load(bundle)
    assert str(bundle) in str(caught.value) or "no_such_net" in sentence


def test_a_changed_manifest_is_not_that_of_its_fingerprint(bundle: Path) -> None:
    """A digit that was edited by hand is noticed, although it could be true."""
    text = (bundle / MANIFEST).read_text()
    (bundle / MANIFEST).write_text(text.replace('"mix": 0.02', '"mix": 0.03', 1))
    with pytest.raises(InputError, match=r"bundle\.json: its content is not that of its fingerprint"):
        read_manifest(bundle)


@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_no_file_outside_of_the_bundle_is_read(bundle: Path, tmp_path: Path, kind: str) -> None:
    """Neither by a path that climbs, nor by an absolute one, nor through a link."""
    outside = tmp_path / "outside.safetensors"
    os.replace(bundle / WEIGHTS, outside)
    name = {"parent": "../outside.safetensors", "absolute": str(outside), "link": WEIGHTS}[kind]
    if kind == "link":
        (bundle / WEIGHTS).symlink_to(outside)
    rewrite(bundle, lambda content: content.update(weights={name: sha256_file(outside)}))
    with pytest.raises(InputError, match="lies outside of the bundle"):
        read_manifest(bundle)


def test_damaged_weights_end_the_run_at_once(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not one reason per study and a submission of priors: exit code 2 and the tensor's name."""
    state = safetensors.torch.load_file(bundle / WEIGHTS)
    first = next(name for name, value in state.items() if value.is_floating_point())
    state[first].view(-1)[0] = torch.nan
    safetensors.torch.save_file(state, bundle / WEIGHTS)
    rewrite(bundle, lambda content: content["weights"].update({WEIGHTS: sha256_file(bundle / WEIGHTS)}))
    write_sagittal(tmp_path / "studies" / "one" / "t1", SeriesDescription="Sagittal T1")
    words = ["predict", str(tmp_path / "studies"), "--bundle", str(bundle), "--out", str(tmp_path / "s.csv")]
    assert main(words) == 2
    assert f"{WEIGHTS}: {first} holds NaN or infinite numbers" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "darwin", reason="the file system takes UTF-8 only")
def test_a_study_whose_name_is_no_text_is_graded(bundle: Path, tmp_path: Path) -> None:
    """Of bytes that are not UTF-8; they become escapes in the submission and on the page."""
    studies, name = tmp_path / "studies", os.fsdecode(b"M\xfcller")
    for study in (name, "other"):
        write_sagittal(studies / study / "t1", SeriesDescription="Sagittal T1")
    out, page = tmp_path / "s.csv", tmp_path / "page.html"
    assert main(["predict", str(studies), "--bundle", str(bundle), "--out", str(out)]) == 0
    lines = out.read_text().splitlines()
    assert len(lines) == 1 + 2 * 25
    assert sum(line.startswith("M\\udcfcller_") for line in lines) == 25
    assert main(["study", str(studies), name, "--bundle", str(bundle), "--out", str(page)]) == 0
    assert "M\\udcfcller" in page.read_text()


@pytest.mark.parametrize(
    ("models", "config", "sentence"),
    [
        ({}, {}, "'locate' is missing"),
        ({}, None, "'sagittal' is missing"),
        ({"sagittal": [], "axial": [], "grade": []}, None, "sagittal has 0 values; it needs at least one"),
        ({"sagittal": ["a"], "axial": 5, "grade": []}, None, "axial is 5; it must be a list"),
        ({"sagittal": ["a"], "axial": [], "grade": [1]}, None, "1 where an object of settings is wanted"),
        (
            {"sagittal": ["../a"], "axial": [], "grade": [{"config": {}, "folds": ["b"]}]},
            None,
            r"\.\./a is used but is not among the weights",
        ),
        (
            {"sagittal": ["a"], "axial": [], "grade": [{"config": {"features": 10**6}, "folds": ["b"]}]},
            None,
            "features is 1000000; it must be 4096 or less",
        ),
    ],
)
def test_a_two_stage_manifest_is_checked_alike(
    bundle: Path, models: dict[str, object], config: dict[str, object] | None, sentence: str
) -> None:
    """Its settings and the files of both stages."""
    whole: TwoStageConfig = preset("cpu")
    settings = asdict(whole) if config is None else config
    rewrite(bundle, lambda content: content.update(recipe="two-stage", models=models, config=settings))
    with pytest.raises(InputError, match=sentence):
        load(bundle)
