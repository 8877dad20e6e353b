"""Weights from phantom slices: what is drawn, and that the file fits where it is meant to go."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.phantom.imaging import draw_middle_slices
from lumbar_kaggle.training.library_models import body_state, build_network, load_pretrained
from lumbar_kaggle.training.pretraining import PretrainConfig, pretrain

TINY = PretrainConfig(
    arch="test_efficientnet", weights="none", patients=24, image_size=32, batch_size=8, epochs=2, seed=3
)


def test_slices_are_windowed_squares_with_their_labels() -> None:
    """The same seed draws the same patients, one process or two; severities are 0, 1, 2."""
    images, severities = draw_middle_slices(5, 8, 48, workers=1)
    again, _ = draw_middle_slices(5, 8, 48, workers=2)
    assert images.dtype == np.uint8
    assert images.shape[1:] == (48, 48)
    assert severities.shape == (len(images), 25)
    assert set(np.unique(severities)) <= {0, 1, 2}
    assert images.min() < 20
    assert images.max() > 235
    np.testing.assert_array_equal(images, again)


@pytest.mark.parametrize("arch", ["resnet18", "test_efficientnet"])
def test_a_bodys_weights_come_back_where_they_were(arch: str, tmp_path: Path) -> None:
    """Saved under the whole model's names and loaded again, the body gives the same features."""
    torch.manual_seed(2)
    first, second = build_network(arch), build_network(arch)
    path = tmp_path / "body.safetensors"
    state = {name: value.clone() for name, value in body_state(first.model[0], arch).items()}
    safetensors.torch.save_file(state, path)
    load_pretrained(second.model[0], arch, str(path))
    inputs = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(second.model[0].eval()(inputs), first.model[0].eval()(inputs))


def test_pretraining_writes_weights_that_training_takes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The file names its configuration, fits the architecture, and belongs to one configuration."""
    out = tmp_path / "body.safetensors"
    loss = pretrain(out, TINY)
    assert 0 < loss < 10
    assert {path.name for path in tmp_path.iterdir()} == {"body.safetensors", "body.json"}
    with safetensors.safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["config"])["patients"] == 24
    network = build_network(TINY.arch)
    assert load_pretrained(network.model[0], TINY.arch, str(out)) == str(out)
    with pytest.raises(InputError, match=r"body\.json: these weights were made with other settings"):
        pretrain(out, replace(TINY, seed=4))
    with pytest.raises(InputError, match="patients is 5; it must be 20 or more"):
        PretrainConfig(patients=5)
