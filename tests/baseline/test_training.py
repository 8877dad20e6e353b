"""Training the baseline: the report's steps, and that a run may be stopped anywhere."""

import json
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image

from lumbar_kaggle.baseline.bundle import BaselinePredictor, export
from lumbar_kaggle.baseline.images import cached_images
from lumbar_kaggle.baseline.recipe import BaselineConfig, expand_targets
from lumbar_kaggle.baseline.run import Run, fit
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json
from lumbar_kaggle.inference.recipes import recipe
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.training.library_models import build_body, build_network, load_pretrained
from tests.conftest import SMALL
from tests.dicom.test_preprocess import folder_bytes
from tests.support.clock import Clock

ONE = replace(SMALL, targets=("spinal_canal_stenosis_l3_l4",))


def train(competition: Path, cache: Path, run: Path, config: BaselineConfig, budget: Budget) -> Run:
    """Fit on the training split of a folder."""
    return fit(read_competition(competition, "train"), cache, run, config, budget)


def lasting(folder: Path) -> dict[str, bytes]:
    """A run's files without the seconds that it took."""
    content = folder_bytes(folder)
    for name in list(content):
        if name.endswith(("record.json", "target.json")):
            value = json.loads(content[name])
            for record in [value, *value.get("folds", [])] if isinstance(value.get("folds"), list) else [value]:
                record.pop("seconds_per_epoch", None)
            content[name] = json.dumps(value).encode()
        if name == "summary.csv":
            del content[name]
    return content


@pytest.fixture(scope="module")
def whole(competition: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of `ONE`."""
    folder = tmp_path_factory.mktemp("one") / "whole"
    train(competition, cache, folder, ONE, Budget())
    return folder


def test_what_a_run_leaves(run: Path) -> None:
    """Per target and fold: history, predictions, weights; over the run: OOF, calibration, table, folds."""
    for result in Run(run).records:
        assert result["stage"] in ("short", "long")
        for record in result["folds"]:
            folder = Run(run).fold_folder(result, record["fold"])
            names = {path.name for path in folder.iterdir()}
            assert names == {"history.csv", "predictions.csv", "weights.safetensors", "record.json"}
            assert record["best_epoch"] <= record["epochs_run"] <= record["epochs_planned"]
            assert record["best_accuracy"] >= record["latest_accuracy"]
    oof = pd.read_csv(run / "oof.csv")
    assert len(oof) == 2 * 24
    assert oof["row_id"].is_unique
    np.testing.assert_allclose(oof[["normal_mild", "moderate", "severe"]].sum(axis=1), 1)
    summary = pd.read_csv(run / "summary.csv")
    assert summary["label"].tolist() == list(SMALL.targets)
    assert set(summary["convergence_rate"]) <= {"fast", "moderate", "slow"}


def test_each_row_is_predicted_by_a_model_that_never_saw_its_study(run: Path) -> None:
    """The fold of every out-of-fold row is the fold of its study."""
    folds = pd.read_csv(run / "folds.csv", dtype={"study_id": str}).set_index("study_id")["fold"]
    oof = pd.read_csv(run / "oof.csv")
    study = oof["row_id"].str.split("_").str[0]
    assert (oof["fold"].to_numpy() == folds[study].to_numpy()).all()


def test_the_finder_is_recorded_beside_the_rate_used(run: Path) -> None:
    """Its valley is what the report's table shows; the rate used is the configured one here."""
    rates = Run(run).records[0]["lr"]
    assert set(rates) == {"valley", "used"}
    assert rates["used"] == SMALL.lr
    assert 1e-7 <= rates["valley"] <= 10


def test_the_valley_is_used_unless_a_rate_is_given(competition: Path, cache: Path, tmp_path: Path) -> None:
    """Without ``lr`` the valley's suggestion trains the folds."""
    train(competition, cache, tmp_path, replace(ONE, lr=None, short_epochs=1, long_epochs=1), Budget())
    (result,) = Run(tmp_path).records
    assert result["lr"]["used"] == result["lr"]["valley"]
    assert {record["lr"] for record in result["folds"]} == {result["lr"]["valley"]}


def losses(run: Path) -> pd.DataFrame:
    """Per fold, the log loss of the stored predictions beside the history's last and least ones."""
    predictions, history = Run(run).predictions, Run(run).histories
    rows = []
    for fold, part in predictions.groupby("fold"):
        probabilities = part[["normal_mild", "moderate", "severe"]].to_numpy()
        loss = -np.log(probabilities[np.arange(len(part)), part["truth"]]).mean()
        valid = history[history["fold"] == fold]["valid_loss"]
        rows.append((loss, valid.iloc[-1], valid.min()))
    return pd.DataFrame(rows, columns=["stored", "last", "least"])


def test_the_fold_that_is_reported_chooses_no_epoch(competition: Path, cache: Path, tmp_path: Path) -> None:
    """With steps so large that the loss rises again: all epochs are trained, and the last one is kept."""
    train(competition, cache, tmp_path, replace(ONE, lr=0.01, short_epochs=6, long_epochs=6), Budget())
    found = losses(tmp_path)
    assert (found["last"] > found["least"] * 1.01).any()
    np.testing.assert_allclose(found["stored"], found["last"], rtol=1e-4)
    assert {record["epochs_run"] for record in Run(tmp_path).records[0]["folds"]} == {6}


def test_the_reports_protocol_stops_early_and_keeps_the_best_epoch(
    competition: Path, cache: Path, tmp_path: Path
) -> None:
    """Its loss stops improving: three epochs later the run ends, with the weights of the least loss."""
    config = replace(ONE, protocol="report", lr=0.1, short_epochs=12, long_epochs=12, patience=3)
    train(competition, cache, tmp_path, config, Budget())
    found = losses(tmp_path)
    np.testing.assert_allclose(found["stored"], found["least"], rtol=1e-4)
    records = [read_json(path) for path in tmp_path.glob("targets/*/*/*/record.json")]
    for record in records:
        assert record["epochs_run"] == min(12, record["best_epoch"] + 3)
    assert min(record["epochs_run"] for record in records) < 12


@pytest.mark.parametrize(
    ("accuracy", "epochs"), [(0.96, None), (0.9501, None), (0.95, 5), (0.91, 5), (0.9099, 10), (0.3, 10)]
)
def test_the_reports_rule(accuracy: float, epochs: int | None) -> None:
    """Above 0.95 the short run is kept, from 0.91 five more epochs' run, below it ten."""
    assert BaselineConfig().epochs_after_short_run(accuracy) == epochs


def test_a_run_stopped_by_its_budget_ends_with_the_same_weights(
    competition: Path, cache: Path, whole: Path, tmp_path: Path
) -> None:
    """Stopped again and again, between any two batches: the finished run equals an uninterrupted one."""
    stops = 0
    while True:
        # The first session has time for the finder's 30 batches, the others for little more than an epoch.
        seconds = 5 if stops else 45
        result = train(competition, cache, tmp_path / "cut", ONE, Budget(seconds / 3600, clock=Clock()))
        if not result.unfinished:
            break
        assert "resumable" in result.sentence()
        stops += 1
        assert stops < 60
    assert stops >= 3
    assert lasting(tmp_path / "cut") == lasting(whole)


def test_a_killed_run_ends_with_the_same_weights(competition: Path, cache: Path, whole: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of the second fold, then once more: the same bytes as the uninterrupted run."""
    options = []
    for name, value in asdict(ONE).items():
        word = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{word}" if value else f"--no-{word}")
        else:
            options += [f"--{word}", *map(str, value if isinstance(value, tuple) else [value])]
    command = [sys.executable, "-m", "lumbar_kaggle", "train", str(competition), "--cache", str(cache)]
    command += ["--out", str(tmp_path / "killed"), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "killed" / "targets" / ONE.targets[0] / "short/fold-1/checkpoint.pt"
    while process.poll() is None and not checkpoint.is_file():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert checkpoint.is_file()
    train(competition, cache, tmp_path / "killed", ONE, Budget())
    assert lasting(tmp_path / "killed") == lasting(whole)


def test_the_head_phase_is_resumed_too(competition: Path, cache: Path, tmp_path: Path) -> None:
    """With pretrained weights there are two phases; a stop in either changes nothing."""
    weights = tmp_path / "body.safetensors"
    torch.manual_seed(0)
    body = build_network(ONE.arch).model[0].model
    safetensors.torch.save_file(body.state_dict(), weights)
    config = replace(ONE, weights=str(weights), folds=2, short_epochs=2, long_epochs=1)
    train(competition, cache, tmp_path / "whole", config, Budget())
    for session in range(40):
        budget = Budget((5 if session else 45) / 3600, clock=Clock())
        if not train(competition, cache, tmp_path / "cut", config, budget).unfinished:
            break
    assert session >= 2
    assert lasting(tmp_path / "cut") == lasting(tmp_path / "whole")
    assert Run(tmp_path / "cut").records[0]["folds"][0]["pretrained"] is True


def test_of_a_frozen_body_only_the_heads_are_trained(competition: Path, cache: Path, tmp_path: Path) -> None:
    """The bundle has the body once, as the weights' file had it; what training saw of it is what prediction sees."""
    weights, bundle = tmp_path / "body.safetensors", tmp_path / "bundle"
    torch.manual_seed(0)
    body = build_network(ONE.arch).model[0].model.state_dict()
    safetensors.torch.save_file(body, weights)
    config = replace(ONE, weights=str(weights), frozen=True, short_epochs=1, long_epochs=2)
    trained = train(competition, cache, tmp_path / "run", config, Budget())
    predictor = BaselinePredictor(bundle, export(tmp_path / "run", bundle))
    shared = predictor.network.model[0].model.state_dict()
    for name, value in body.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-3, atol=1e-6)
    pictures = cached_images(cache).assign(row_id=lambda one: one["study_id"] + "_" + ONE.targets[0])
    rows = trained.predictions.merge(pictures, on="row_id")
    for (_, network), (_, part) in zip(predictor.models(ONE.targets[0]), rows.groupby("fold"), strict=True):
        inputs = predictor.normalise(np.stack([np.asarray(Image.open(path)) for path in part["image"]]))
        with torch.inference_mode():
            found = network(inputs).softmax(1).numpy()
        np.testing.assert_allclose(found, part[["normal_mild", "moderate", "severe"]], atol=0.01)
    graded, faults = predictor.grade(np.asarray(Image.open(pictures["image"][0]))[None])
    assert np.isfinite(graded).all(axis=2).sum() == 1
    assert not faults


def test_a_frozen_body_must_be_pretrained(competition: Path, cache: Path, tmp_path: Path) -> None:
    """Random features are none to learn from."""
    with pytest.raises(InputError, match="frozen is true, so only the heads are trained; give weights"):
        train(competition, cache, tmp_path / "run", replace(ONE, frozen=True), Budget())


def test_a_preset_of_the_baseline_can_be_changed() -> None:
    """Its settings are the preset's but for what is given; an unknown one is named with those that there are."""
    config = recipe("baseline").configure({"preset": "cpu", "folds": 3})
    assert (config.frozen, config.arch, config.folds) == (True, "tf_efficientnet_lite0", 3)
    with pytest.raises(InputError, match="preset 'gpu' is unknown to the recipe baseline; baseline has cpu"):
        recipe("baseline").configure({"preset": "gpu"})


def test_finished_targets_are_not_trained_again(
    competition: Path, cache: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same call on a finished run says so and changes no byte."""
    caplog.set_level("INFO", logger="lumbar_kaggle")
    before = folder_bytes(run)
    train(competition, cache, run, SMALL, Budget())
    assert "2 targets are already there and are skipped" in caplog.text
    assert folder_bytes(run) == before


def test_another_configuration_needs_another_folder(competition: Path, cache: Path, run: Path) -> None:
    """A run folder belongs to one configuration; the setting that differs is named."""
    with pytest.raises(InputError, match=r"config\.json: this run was begun with another seed; choose another"):
        train(competition, cache, run, replace(SMALL, seed=1), Budget())


def test_the_report_protocol_is_not_exported(competition: Path, cache: Path, tmp_path: Path) -> None:
    """A run by the report's protocol is for comparison: it has no OOF, and no bundle can be made of it."""
    config = replace(ONE, protocol="report", short_epochs=1, long_epochs=1)
    train(competition, cache, tmp_path / "run", config, Budget())
    assert not (tmp_path / "run" / "oof.csv").exists()
    rows = Run(tmp_path / "run").predictions
    assert rows["row_id"].duplicated().any()
    with pytest.raises(InputError, match="trained by the report's protocol"):
        export(tmp_path / "run", tmp_path / "bundle")


def test_the_network_learns_what_is_visible(tmp_path: Path) -> None:
    """On discs of three sizes the canal's classifier separates severe from normal/mild."""
    from lumbar_kaggle.scoring.metric import evaluate
    from tests.support.small_competition import write_small_competition

    root = write_small_competition(tmp_path / "competition", 40, 1, alike=True)
    recipe("baseline").preprocess(root, tmp_path / "cache")
    config = replace(ONE, arch="test_resnet", image_size=64, batch_size=8, short_epochs=1, long_epochs=6)
    train(root, tmp_path / "cache", tmp_path / "run", config, Budget())
    rows = Run(tmp_path / "run").predictions
    figures = evaluate(rows[["normal_mild", "moderate", "severe"]].to_numpy(), rows["truth"].to_numpy())
    assert figures["auc_severe"] > 0.8, figures


@pytest.mark.parametrize(
    ("arch", "suffix"), [("resnet18", ".pth"), ("resnet18", ".safetensors"), ("mobilenetv3_small_050", ".pth")]
)
def test_pretrained_weights_from_a_file_reach_the_body(tmp_path: Path, arch: str, suffix: str) -> None:
    """A whole model's file, classifier included, fills the body of torchvision and timm networks."""
    import timm

    torch.manual_seed(1)
    whole = torchvision.models.resnet18() if arch == "resnet18" else timm.create_model(arch, num_classes=7)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(whole.state_dict(), path)
    else:
        safetensors.torch.save_file(whole.state_dict(), path)
    network = build_network(arch)
    assert load_pretrained(network.model[0], arch, str(path)) == str(path)
    inputs = torch.randn(1, 3, 64, 64)
    whole.eval(), network.model.eval()
    if arch == "resnet18":
        expected = torch.nn.Sequential(*list(whole.children())[:-2])(inputs)
    else:
        expected = whole.forward_features(inputs)
    torch.testing.assert_close(network.model[0](inputs), expected)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Another model's file, a missing file and a damaged one each give one sentence."""
    network = build_network("resnet18")
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), tmp_path / "other.pth")
    with pytest.raises(InputError, match="no weights of resnet18"):
        load_pretrained(network.model[0], "resnet18", str(tmp_path / "other.pth"))
    with pytest.raises(InputError, match="no such file; --weights takes a file, auto or none"):
        load_pretrained(network.model[0], "resnet18", str(tmp_path / "none.pth"))
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(InputError, match="no readable weights"):
        load_pretrained(network.model[0], "resnet18", str(tmp_path / "bad.pth"))


def test_no_hub_and_no_file_warns_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``auto`` and no way to the hub there is one clear warning, and training starts from random."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # A closed local port: the same refusal as a machine without a network, and as quick.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert load_pretrained(build_body("resnet18", 3), "resnet18", "auto") == ""
    messages = [str(warning.message) for warning in caught]
    assert any("no pretrained weights for resnet18" in text and "--weights none" in text for text in messages)


def test_unknown_names_are_refused() -> None:
    """A model or target that does not exist is named, with what is near it."""
    with pytest.raises(InputError, match=r"arch 'resnet33' is no model .*resnet34"):
        build_network("resnet33")
    with pytest.raises(InputError, match="target 'spine' is unknown"):
        expand_targets(("spine",))


@pytest.mark.parametrize(
    "arch", ["resnet34", "convnext_nano", "tf_efficientnetv2_b0", "densenet121", "mobilenetv3_small_100"]
)
def test_architectures_of_both_libraries_work(arch: str) -> None:
    """Names of torchvision and timm alike give three logits per image."""
    model = build_network(arch).model.eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
