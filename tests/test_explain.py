"""Grad-CAM: against its definition, and on a study."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lumbar_kaggle.bundle import read_manifest
from lumbar_kaggle.explain.baseline import explain_study
from lumbar_kaggle.explain.heat import grad_cam
from lumbar_kaggle.inference import study_rows
from lumbar_kaggle.recipes.baseline.network import build_network
from lumbar_kaggle.recipes.baseline.predictor import BaselinePredictor
from lumbar_kaggle.studies import find_studies
from lumbar_kaggle.volume import UnreadableSeries


def test_linear_head_after_average_pooling_gives_class_activation() -> None:
    """There Grad-CAM equals the class activation map: channels weighted by the head's own weights."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    model = nn.Sequential(body, head).eval()
    inputs = torch.randn(1, 3, 12, 10)
    features = body(inputs)[0]
    expected = torch.einsum("c,chw->hw", head[2].weight[1], features).clamp(min=0)
    expected = (expected / expected.max()).detach().numpy()
    np.testing.assert_allclose(grad_cam(model, body, inputs)[1][1], expected, atol=1e-5)


def test_heat_lies_where_the_evidence_is() -> None:
    """A network that looks at one channel's bright spot shows that spot."""
    body = nn.Conv2d(3, 1, 1, bias=False)
    nn.init.ones_(body.weight)
    head = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(1, 3, bias=False))
    nn.init.ones_(head[2].weight)
    inputs = torch.zeros(1, 3, 8, 8)
    inputs[..., 6, 2] = 5.0
    heat = grad_cam(nn.Sequential(body, head).eval(), body, inputs)[1][0]
    assert np.unravel_index(heat.argmax(), heat.shape) == (6, 2)
    assert heat.max() == 1.0


@pytest.mark.parametrize("arch", ["resnet18", "mobilenetv3_small_050"])
def test_real_architectures_give_a_map(arch: str) -> None:
    """Bodies of both libraries: finite, 0 … 1, the feature map's shape; no hook stays behind."""
    model = build_network(arch).model.eval()
    logits, heat = grad_cam(model, model[0], torch.randn(1, 3, 64, 64))
    assert logits.shape == (3,)
    assert heat.shape == (3, 2, 2)
    assert np.isfinite(heat).all()
    assert heat.min() >= 0
    assert heat.max() <= 1
    assert not model[0]._forward_hooks


def test_a_study_is_explained_on_its_own_slice(competition: Path, bundle: Path) -> None:
    """Heat maps have the slice's size, one per model of the bundle; probabilities are the predictor's."""
    studies = find_studies(competition)
    predictor = BaselinePredictor(bundle, read_manifest(bundle))
    study = study_rows(studies, studies.studies[0])
    explanation = explain_study(study, predictor)
    assert explanation.image.shape == (64, 64)
    assert len(explanation.heat_maps) == 2
    for heat_map in explanation.heat_maps:
        assert heat_map.heat.shape == explanation.image.shape
        assert 0 <= heat_map.heat.min() <= heat_map.heat.max() <= 1
    (prediction,) = predictor.predict([study])
    assert np.isfinite(explanation.probabilities).all(axis=1).sum() == 2
    np.testing.assert_allclose(explanation.probabilities, prediction.probabilities, atol=1e-6)


def test_a_study_without_a_slice_says_why(competition: Path, bundle: Path) -> None:
    """No sagittal T1 series: the reason, not a picture."""
    studies = find_studies(competition)
    study = study_rows(studies, studies.studies[0])
    with pytest.raises(UnreadableSeries, match="no sagittal T1 series"):
        explain_study(
            study._replace(series=study.series.iloc[:0]), BaselinePredictor(bundle, read_manifest(bundle))
        )
