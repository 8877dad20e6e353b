"""Training that starts from the models in the box, and from a locator that is given."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from torch import nn

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, read_json
from lumbar_kaggle.inference import bundle as in_the_box
from lumbar_kaggle.inference.bundle import models_in_the_box, read_manifest
from lumbar_kaggle.inference.recipes import recipe
from lumbar_kaggle.training import loop
from lumbar_kaggle.two_stage.config import preset
from lumbar_kaggle.two_stage.grade import fit as grading
from lumbar_kaggle.two_stage.locate import fit as locating
from lumbar_kaggle.two_stage.session import two_stage_config
from lumbar_kaggle.two_stage.start import box_for
from tests.support.two_stage_studies import SETTINGS


@pytest.fixture(scope="module")
def place(two_stage: Path) -> Path:
    """A folder with a competition, its cached volumes, and a bundle to be put into the box."""
    return two_stage


@pytest.fixture
def box(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That bundle, in the box."""
    monkeypatch.setattr(in_the_box, "BOX", place / "bundle")
    return place / "bundle"


def fit(root: Path, run: Path, budget: Budget | None = None, **changes: Any) -> str:
    """Train the small settings with some changes."""
    two_stage = recipe("two-stage")
    settings = {stage: {**SETTINGS[stage], **changes.pop(stage, {})} for stage in SETTINGS} | changes
    return two_stage.fit(root / "competition", root / "cache", run, budget or Budget(), two_stage.configure(settings))


def same_weights(network: nn.Module, file: Path) -> bool:
    """Whether a network has the numbers of a file, which may be in 16 bits."""
    there = safetensors.torch.load_file(file)
    return all(np.array_equal(value.numpy(), there[name].numpy()) for name, value in network.state_dict().items())


def test_before_their_first_epoch_all_networks_are_the_boxs(
    place: Path, box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Fold by fold in the second stage, in the first one all from its first, so that the bundle can have one locator,
    the mean of their weights; resumed ones get their checkpoint and not the box's again."""
    begun: list[tuple[str, bool]] = []

    def train_file(file: Path, make: Any, config: Any, **options: Any) -> Any:
        name = file.stem.replace("fold", "grade-1") if "fold" in file.stem else f"{file.stem[:-1]}0"
        name = f"weights/{name}.safetensors"
        begun.extend((file.stem, same_weights(make(fresh).model, box / name)) for fresh in (True, False))
        return loop.train_file(file, make, config, **options)

    for module in (locating, grading):
        monkeypatch.setattr(module, "train_file", train_file)
    with caplog.at_level("INFO"):
        assert "resumable" not in fit(place, tmp_path / "run", from_models=True, locate={"epochs": 1})
    assert "Both stages start from the models that come with the package" in caplog.text
    names = [f"{name}-{fold}" for name in ("sagittal", "axial", "fold") for fold in range(2)]
    assert sorted(begun) == sorted((name, fresh) for name in names for fresh in (True, False))
    with caplog.at_level("INFO"):
        made = recipe("two-stage").export(tmp_path / "run", tmp_path / "bundle")
    graders = [f"weights/grade-1-{fold}.safetensors" for fold in range(2)]
    assert sorted(made.networks) == ["weights/axial-mean.safetensors", *graders, "weights/sagittal-mean.safetensors"]
    assert "weights/sagittal-mean.safetensors: the mean of the weights of 2 folds" in caplog.text
    for plane in ("axial", "sagittal"):
        files = [tmp_path / "run" / "locator" / f"{plane}-{fold}.safetensors" for fold in range(2)]
        states = [safetensors.torch.load_file(file) for file in files]
        for key, value in safetensors.torch.load_file(
            tmp_path / "bundle" / f"weights/{plane}-mean.safetensors"
        ).items():
            if value.is_floating_point():
                wanted = np.mean([state[key].numpy() for state in states], axis=0)
                np.testing.assert_allclose(value.float().numpy(), wanted, rtol=1e-3, atol=1e-6)


def test_without_epochs_the_locator_of_the_box_is_taken_as_it_is(place: Path, box: Path, tmp_path: Path) -> None:
    """By every fold of the run, and so it goes into the new bundle; graders may have a fallback, though the box's have
    none."""
    fit(place, tmp_path / "run", from_models=True, locate={"epochs": 0}, grade={"epochs": 1, "fallback": True})
    made = recipe("two-stage").export(tmp_path / "run", tmp_path / "bundle")
    there = read_manifest(box)
    for name in there.networks:
        same = made.weights[name] == there.weights[name]
        assert same == ("grade" not in name), name
    assert (tmp_path / "run" / "locator" / "errors.csv").is_file()


def test_a_run_belongs_to_what_it_was_started_from(
    place: Path, box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other models in the box it is not continued, nor without them."""
    fit(place, tmp_path / "run", Budget(0.0), from_models=True)
    fit(place, tmp_path / "run", Budget(0.0), from_models=True)
    with pytest.raises(InputError, match="begun with another from_models; choose"):
        fit(place, tmp_path / "run", Budget(0.0))
    other = shutil.copytree(box, tmp_path / "other")
    content = read_json(other / "bundle.json") | {"metrics": {"other": 1}}
    content["fingerprint"] = digest({key: value for key, value in content.items() if key != "fingerprint"})
    (other / "bundle.json").write_text(json.dumps(content))
    monkeypatch.setattr(in_the_box, "BOX", other)
    with pytest.raises(InputError, match="begun with other starting weights; choose"):
        fit(place, tmp_path / "run", Budget(0.0), from_models=True)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"locate": {"channels": [8, 12, 16, 16, 24]}}, r"its networks have channels \(8, 12, 16, 16, 16\); set"),
        ({"grade": {"features": 32, "sequence": "none"}}, "its networks have features 16 and sequence gru; set"),
    ],
)
def test_models_of_another_architecture_are_refused(
    place: Path, box: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    """One sentence with the settings that differ, before the run is begun."""
    with pytest.raises(InputError, match=sentence):
        fit(place, tmp_path / "run", from_models=True, **changes)
    assert not (tmp_path / "run").exists()


def test_lumbar_locate_takes_the_boxs_locator(
    place: Path, box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the word models, or as any bundle by its path; with epochs it is trained on, if the settings are its own."""
    monkeypatch.chdir(tmp_path)
    words = ["locate", str(place / "competition"), "--cache", str(place / "cache")]
    for number, weights in enumerate(("models", str(box))):
        assert main([*words, "--out", f"{number}", "--weights", weights, "--epochs", "0"]) == 0
        assert "within_10_mm" in capsys.readouterr().out
    assert Path("0/points.csv").read_bytes() == Path("1/points.csv").read_bytes()
    tuned = [*words, "--out", "tuned", "--weights", "models", "--epochs", "1"]
    for refused in (tuned, ["grade", *words[1:], "--out", "graded", "--preset", "cpu"]):
        assert main(refused) == 2
        assert "its networks have channels (8, 12, 16, 16, 16) and pixel_mm 3.0" in capsys.readouterr().err


def test_kernels_take_it_from_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """As any other setting."""
    for name, starts in (("cpu", False), ("cpu-scratch", True)):
        monkeypatch.delenv("LUMBAR_CONFIG", raising=False)
        assert two_stage_config(name).from_models is not starts
        monkeypatch.setenv("LUMBAR_CONFIG", json.dumps({"two-stage": {"from_models": starts}}))
        assert two_stage_config(name).from_models is starts


def test_the_preset_for_a_cpu_starts_from_the_box() -> None:
    """Whose networks are of its architecture; so it needs fewer epochs than from random weights."""
    cpu, scratch = (preset(name) for name in ("cpu", "cpu-scratch"))
    assert box_for(cpu) == models_in_the_box()
    assert box_for(scratch) is None
    assert (cpu.locate.epochs, cpu.grade[0].epochs) < (scratch.locate.epochs, scratch.grade[0].epochs)


def test_the_baseline_has_no_models_to_start_from(capsys: pytest.CaptureFixture[str]) -> None:
    """The option is one of the two-stage recipe's settings."""
    assert main(["train", "x", "--cache", "c", "--out", "r", "--from-models"]) == 2
    assert "unrecognized options: --from-models" in capsys.readouterr().err


def test_without_models_a_sentence_says_so(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of training as of prediction."""
    monkeypatch.setattr(in_the_box, "BOX", tmp_path / "nothing")
    with pytest.raises(InputError, match="nothing: this copy of the package has come without its models"):
        fit(place, tmp_path / "run", from_models=True)
    assert main(["predict", str(place / "competition"), "--out", str(tmp_path / "s.csv")]) == 2
    assert "come without its models; give a bundle of lumbar export" in capsys.readouterr().err
