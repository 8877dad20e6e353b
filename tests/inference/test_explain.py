"""Heat maps: against their definitions, and on a study."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from lumbar_kaggle.baseline.bundle import BaselinePredictor
from lumbar_kaggle.core.targets import LEVELS, target
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.inference.base import ExplainedCrop, MissingCrop, study_rows
from lumbar_kaggle.inference.bundle import read_manifest
from lumbar_kaggle.inference.heat import captured, elementwise, fine_map, grad_cam
from lumbar_kaggle.training.encoders import build_encoder
from lumbar_kaggle.training.library_models import build_network
from lumbar_kaggle.two_stage.bundle import Model
from lumbar_kaggle.two_stage.config import GradeConfig
from lumbar_kaggle.two_stage.grade.data import Batch
from lumbar_kaggle.two_stage.grade.network import Grader
from lumbar_kaggle.two_stage.grade.views import VIEWS, crop_study
from lumbar_kaggle.two_stage.pages import attend, crop_corners, where_looked
from lumbar_kaggle.two_stage.study import PLACE_OF_CONDITION, PLACES
from tests.support.two_stage_studies import AXIAL, SAGITTAL, ball, make_stack, place_points, rotated


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
    """Heat maps in the network's cells, one per model of the bundle; probabilities are the predictor's."""
    studies = find_studies(competition)
    predictor = BaselinePredictor(bundle, read_manifest(bundle))
    study = study_rows(studies, studies.studies[0])
    explanation = predictor.explain(study)
    assert explanation.slice.image.shape == (64, 64)
    assert len(explanation.heat_maps) == 2
    for heat_map in explanation.heat_maps:
        assert heat_map.heat.ndim == 2
        assert 0 <= heat_map.heat.min() <= heat_map.heat.max() <= 1
    (prediction,) = predictor.predict([study])
    assert np.isfinite(explanation.probabilities).all(axis=1).sum() == 2
    np.testing.assert_allclose(explanation.probabilities, prediction.probabilities, atol=1e-6)


def test_a_study_without_a_slice_says_why(competition: Path, bundle: Path) -> None:
    """No sagittal T1 series: the reason, not a picture."""
    studies = find_studies(competition)
    study = study_rows(studies, studies.studies[0])
    predictor = BaselinePredictor(bundle, read_manifest(bundle))
    explanation = predictor.explain(study._replace(series=study.series.iloc[:0]))
    assert (explanation.slice, explanation.notes) == (None, ("no sagittal T1 series",))


TINY = GradeConfig(sagittal_px=32, axial_px=32, slices=(5, 3, 3, 3), features=16, axial_for_canal=True)

VIEW_SIDES = [(number, side) for number, view in enumerate(VIEWS) for side in range(view.sides)]


def stacks_of(scene: object, degrees: float = 0.0) -> list[Volume]:
    """A fine stack of each kind, turned in its plane."""
    sizes = {"sagittal": ((220, 80), 4.5, 15), "axial": ((100, 100), 4.0, 45)}
    stacks = []
    for kind, orientation, axis in (
        ("sagittal_t1", SAGITTAL, (1, 0, 0)),
        ("sagittal_t2", SAGITTAL, (1, 0, 0)),
        ("axial_t2", AXIAL, (0, 0, 1)),
    ):
        shape, step, slices = sizes[kind.split("_")[0]]
        turned = rotated(orientation, axis, degrees)
        options = {"slices": slices, "step": step, "shape": shape, "series_id": "7", "kind": kind}
        stacks.append(make_stack(scene, turned, spacing=(0.9, 0.95), **options))
    return stacks


@pytest.mark.parametrize("degrees", [0.0, 17.0, 180.0])
@pytest.mark.parametrize(("number", "side"), VIEW_SIDES)
def test_heat_returns_to_where_the_crop_was_cut(number: int, side: int, degrees: float) -> None:
    """A crop laid back like a heat map covers its slice: turned, mirrored and aligned crops alike."""
    points, level = place_points() + np.array([1.0, 0.5, -0.5]), 2
    # Leaning, so that the crops are turned to run along the spine.
    points[..., 1] += 0.2 * points[..., 2]
    spots = [ball(points[p, level] + shift, 5.0) for p in range(5) for shift in ((1, 7, -2), (-3, -6, 3))]
    crops = crop_study(stacks_of(lambda places: sum(spot(places) for spot in spots), degrees), points, TINY)
    one = next(crop for crop in crops if (crop.view, crop.level, crop.side) == (VIEWS[number], level, side))
    stack = one.volume
    assert stack is not None
    middle = one.size.cached_slices // 2
    index, inside = int(one.indices[middle]), slice(one.size.margin_px, one.size.margin_px + one.size.px)
    crop = one.image[middle, inside, inside].astype(np.float32) / 255
    row, column, distance = stack.to_slice(index, crop_corners(one, stack, index))
    assert np.abs(distance).max() < 1e-6
    edges = np.array([[0, 0], [one.size.px, 0], [one.size.px, one.size.px]]) - 0.5
    laid = cv2.getAffineTransform(edges.astype(np.float32), np.column_stack([column, row])[:3].astype(np.float32))
    shape = stack.images[index].shape[::-1]
    covered = cv2.warpAffine(np.ones_like(crop), laid, shape) > 0.999
    original = stack.images[index][covered] / 255
    assert original.max() > 0.5
    plain, turned = (cv2.warpAffine(np.ascontiguousarray(part), laid, shape) for part in (crop, crop[:, ::-1]))
    assert np.abs(plain[covered] - original).max() < 0.12
    assert np.abs(turned[covered] - original).max() > 0.3


@pytest.mark.parametrize("degrees", [0.0, 17.0, 180.0])
def test_the_middle_of_the_corners_is_the_located_point(degrees: float) -> None:
    """Seen along the slices' normal, since a slice next to it may be the nearest."""
    for one in crop_study(stacks_of(ball((0, 0, 0)), degrees), place_points(), TINY):
        assert one.volume is not None
        corners = crop_corners(one, one.volume, int(one.indices[len(one.indices) // 2]))
        row, column, _ = one.volume.to_slice(0, np.stack([corners.mean(axis=0), one.point]))
        assert row[0] == pytest.approx(row[1], abs=1e-6)
        assert column[0] == pytest.approx(column[1], abs=1e-6)


def grader(config: GradeConfig = TINY, seed: int = 0) -> Grader:
    """A network of random weights."""
    torch.manual_seed(seed)
    return Grader(config).eval()


def random_inputs(config: GradeConfig = TINY) -> Batch:
    """Noise in every view of one level; the canal's first slice is absent."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(1, view.sides, config.slices[k]) for k, view in enumerate(VIEWS)]
    images = [torch.randn(*shape, 32, 32, generator=generator) for shape in shapes]
    present = [torch.ones(shape, dtype=torch.bool) for shape in shapes]
    present[0][..., 0] = False
    return {"images": images, "present": present, "slices": [], "level": torch.tensor([3])}


RANDOM = [(seed, severity) for seed in range(4) for severity in range(3)]
"""Random weights speak for some severities only; among these there is one for each view."""


def test_each_view_gets_the_heat_of_its_own_slices() -> None:
    """Exchanging the sides' pictures exchanges attention and heat of the sides, and nothing else."""
    inputs = random_inputs()
    swapped: Batch = {**inputs, "images": [image.flip(1) for image in inputs["images"]]}
    spoken, apart = np.zeros(len(VIEW_SIDES)), 0.0
    for seed, severity in RANDOM:
        network = grader(seed=seed)
        plain, turned = (attend(network, shown, [severity] * 5) for shown in (inputs, swapped))
        for here, there in enumerate([0, 2, 1, 3, 5, 4]):
            np.testing.assert_allclose(plain[here].attention, turned[there].attention, atol=1e-6)
            np.testing.assert_allclose(plain[here].heat, turned[there].heat, rtol=1e-3, atol=1e-6)
        for seen, (number, _) in zip(plain, VIEW_SIDES, strict=True):
            assert seen.attention.sum() == pytest.approx(1)
            assert seen.heat.shape[0] == TINY.slices[number]
        assert plain[0].attention[0] == 0
        spoken += [seen.heat.max() for seen in plain]
        apart += np.abs(plain[1].heat - plain[2].heat).max() + np.abs(plain[4].heat - plain[5].heat).max()
    assert (spoken > 0).all()
    assert apart > 0.1 * spoken.sum()


def test_a_view_that_its_grade_does_not_read_has_no_heat() -> None:
    """Without the axial views in the canal's head nothing of the axial middle counts."""
    config = GradeConfig(sagittal_px=32, axial_px=32, slices=(5, 3, 3, 3), features=16, axial_for_canal=False)
    each = [attend(grader(config, seed), random_inputs(), [severity] * 5) for seed, severity in RANDOM]
    spoken = [any(seen[k].heat.any() for seen in each) for k in range(len(VIEW_SIDES))]
    assert spoken == [True, True, True, False, True, True]


def test_where_a_model_looked_at_a_study() -> None:
    """Attention sums to 1 over the slices that exist; missing views say why."""
    points = place_points()
    points[2, 4] = np.nan
    stacks = stacks_of(ball(points[0, 2]))[1:]
    crops = crop_study([one for one in stacks if one.kind == "sagittal_t2"], points, TINY)
    chosen: NDArray[np.int64] = np.arange(25).reshape(5, 5) % 3
    model = Model(TINY, (grader(seed=1), grader(seed=2)))
    found = list(where_looked(model, crops, chosen))
    assert [one.level for one in found[:: len(VIEW_SIDES)]] == list(LEVELS)
    assert [one.place for one in found[:6]] == [
        *("canal", "left foramen", "right foramen"),
        *("axial middle", "left recess", "right recess"),
    ]
    for one in found:
        if isinstance(one, MissingCrop):
            assert one.reason == (
                "the point was not found"
                if (one.place, one.level) == ("right foramen", "l5_s1")
                else "no axial_t2 slice within 6 mm of the point"
            )
    seen = [one for one in found if isinstance(one, ExplainedCrop)]
    assert len(seen) == 14
    for one in seen:
        assert sum(one.attention) == pytest.approx(1)
        assert len(one.positions) == len(one.attention) == TINY.slices[0 if one.place == "canal" else 1]
        assert one.heat.shape == (len(one.positions), 4, 4)
        assert one.heat.min() >= 0
        assert one.heat.max() in (0, 1)
        assert target(one.target).level == one.level
        assert one.place == PLACE_OF_CONDITION[target(one.target).condition]
        assert one.severity == chosen[LEVELS.index(one.level), PLACES.index(one.place)]


def test_a_view_that_its_grade_does_not_read_is_not_shown() -> None:
    """The axial middle of a canal that is graded without it."""
    config = replace(TINY, axial_for_canal=False)
    crops = crop_study(stacks_of(ball((0, 0, 0))), place_points(), config)
    found = list(where_looked(Model(config, (grader(config),)), crops, np.zeros((5, 5), dtype=np.int64)))
    missing = [one for one in found if isinstance(one, MissingCrop)]
    assert [(one.place, one.reason) for one in missing] == [("axial middle", "the grade is not read from it")] * 5


@pytest.mark.parametrize("name", ["small_resnet", "resnet18", "convnext_atto", "mobilenetv3_small_050"])
def test_the_fine_feature_map_is_found(name: str) -> None:
    """Of encoders of all three sources; the last one where a cell may be as coarse; all that follows comes from it."""
    torch.manual_seed(0)
    encoder = build_encoder(name)[0].eval()
    inputs = torch.randn(2, 1, 64, 64)
    for stride, cells in ((8, 8), (1000, 4 if name == "small_resnet" else 2)):
        with captured([fine_map(encoder, inputs, stride)]) as outputs:
            described = encoder(inputs)
        _, features = outputs[0]
        assert features.shape[2:] == (cells, cells)
        mixed = (described * torch.linspace(1, 2, described.shape[1])).sum()
        assert torch.autograd.grad(mixed, features)[0].abs().sum() > 0
    if "resnet" in name:
        np.testing.assert_allclose(features.mean(dim=(2, 3)).detach(), described.detach(), atol=1e-5)


def test_after_average_pooling_the_elementwise_heat_is_the_logit_itself() -> None:
    """Where a linear head follows, each cell is what it adds to the logit; what speaks against it is left out."""
    torch.manual_seed(0)
    features, head = torch.randn(1, 6, 5, 4, requires_grad=True), nn.Linear(6, 1, bias=False)
    logit = head(features.mean(dim=(2, 3)))[0, 0]
    (gradient,) = torch.autograd.grad(logit, features)
    added = (features.detach()[0] * head.weight.detach()[0, :, None, None]).sum(dim=0) / 20
    assert float(added.sum()) == pytest.approx(float(logit.detach()), abs=1e-6)
    np.testing.assert_allclose(elementwise(features, gradient)[0], added.clamp(min=0), atol=1e-7)


def test_an_encoder_without_a_map_is_refused() -> None:
    with pytest.raises(ValueError, match="no feature map"):
        fine_map(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), torch.zeros(1, 1, 8, 8))
