"""The second stage's network and training: symmetric, blind to missing labels, resumable, able to learn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from fastai.torch_core import to_float, to_half
from torch.nn import functional

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.scoring.metric import score, weighted_prior
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.tables.submission import prior_predictions
from lumbar_kaggle.training.encoders import build_encoder
from lumbar_kaggle.training.loop import MovingAverage
from lumbar_kaggle.two_stage.config import PRESETS, GradeConfig, Result, preset
from lumbar_kaggle.two_stage.grade.data import SWAPPED, Batch, augment, cut, drop_views, mirror, restyle
from lumbar_kaggle.two_stage.grade.fit import GraderRun, level_prior
from lumbar_kaggle.two_stage.grade.network import Graded, Grader, grade_loss, predict_batch, slice_loss
from lumbar_kaggle.two_stage.grade.views import VIEWS, window
from tests.dicom.test_preprocess import folder_bytes
from tests.support.clock import Clock
from tests.support.two_stage_studies import write_competition

TINY = GradeConfig(
    backbones=("small_resnet", "small_resnet"),
    sagittal_px=16,
    axial_px=16,
    slices=(3, 3, 3, 3),
    size_mm=(36.0, 36.0, 48.0, 30.0),
    margin_mm=4.0,
    features=16,
    dropout=0.0,
    folds=2,
    epochs=2,
    batch_size=8,
    ema=0.9,
    axial_for_canal=True,
    mirror=True,
    flip_predictions=True,
    mixup=0.3,
    accumulate=2,
)


def cached_batch(config: GradeConfig, count: int = 6, seed: int = 0) -> Batch:
    """A random batch as the loader gives it, with some absent slices, views and labels."""
    generator = torch.Generator().manual_seed(seed)
    images, present, slices = [], [], []
    for view in VIEWS:
        size = window(view, config)
        shape = (count, view.sides, size.cached_slices)
        images.append(torch.randint(0, 256, (*shape, size.cached_px, size.cached_px), generator=generator).byte())
        present.append(torch.ones(shape, dtype=torch.bool))
        slices.append(torch.randint(1, 4, shape[:2], generator=generator))
    present[3][0] = False
    present[1][1, 0, :2] = False
    level = torch.randint(0, 5, (count,), generator=generator)
    severity = torch.randint(-1, 3, (count, 5), generator=generator)
    weight = torch.rand(count, 5, 1, generator=generator)
    return {
        "images": images,
        "present": present,
        "slices": slices,
        "level": level,
        "severity": severity,
        "wanted": weight * (severity[..., None] == torch.arange(3)),
    }


def network_and_batch() -> tuple[Grader, Batch]:
    """A small untrained network whose parameters are all different, and a batch for it."""
    torch.manual_seed(1)
    network = Grader(TINY).eval()
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network, cut(cached_batch(TINY), TINY)


def tensors(batch: Batch) -> list[torch.Tensor]:
    """Every tensor of a batch."""
    rest = [batch["level"], batch["severity"], batch["wanted"]]
    return [*batch["images"], *batch["present"], *batch["slices"], *rest]


def test_exchanging_the_sides_exchanges_the_outputs() -> None:
    """Left and right share everything, to the last bit; and the two sides of the batch do differ."""
    network, batch = network_and_batch()
    exchanged: Batch = {
        **batch,
        "images": [image.flip(1) for image in batch["images"]],
        "present": [there.flip(1) for there in batch["present"]],
    }
    with torch.inference_mode():
        plain, swapped = network(batch), network(exchanged)
    assert torch.equal(swapped["logits"], plain["logits"][:, SWAPPED])
    for one, other in zip(plain["by_view"], swapped["by_view"], strict=True):
        assert torch.equal(other, one.flip(1))
    assert (plain["logits"][:, 1] - plain["logits"][:, 2]).abs().min() > 1e-4


def test_absent_slices_and_views_do_not_count() -> None:
    """What lies in the place of an absent slice changes nothing; attention is on present slices only."""
    network, batch = network_and_batch()
    changed: Batch = {
        **batch,
        "images": [
            torch.where(there[..., None, None], image, torch.full_like(image, 3.0))
            for image, there in zip(batch["images"], batch["present"], strict=True)
        ],
    }
    with torch.inference_mode():
        plain, other = network(batch), network(changed)
    torch.testing.assert_close(other["logits"], plain["logits"])
    for weights, there in zip(plain["attention"], batch["present"], strict=True):
        assert not weights[~there].any()
        sums = weights.sum(dim=2)
        torch.testing.assert_close(sums, there.any(dim=2).to(sums.dtype))


def test_a_network_without_any_view_gives_finite_grades() -> None:
    """Every series missing: the outputs are finite and depend on the level alone."""
    network, batch = network_and_batch()
    nothing = drop_views(batch, 1.0)
    with torch.inference_mode():
        logits = network(nothing)["logits"]
    assert torch.isfinite(logits).all()
    same = batch["level"] == batch["level"][0]
    torch.testing.assert_close(logits[same], logits[:1].expand_as(logits[same]))


def test_views_can_be_left_with_their_middle_slice() -> None:
    """All of them, or about the share that is asked for; slices that were absent stay so."""
    batch = cached_batch(TINY, count=64)
    full = {**batch, "present": [torch.ones_like(there) for there in batch["present"]]}
    for there in drop_views(full, 0.0, 1.0)["present"]:
        middle = there.shape[2] // 2
        assert there[:, :, middle].all()
        assert there.sum() == there[:, :, middle].sum()
    halved = torch.cat([there.sum(dim=2).flatten() for there in drop_views(full, 0.0, 0.5)["present"]])
    assert 0.35 < (halved == 1).float().mean() < 0.65
    assert not any(
        there.any() for there in drop_views({**full, "present": [~p for p in full["present"]]}, 0, 0.5)["present"]
    )


def test_missing_labels_do_not_reach_the_loss() -> None:
    """No gradient flows to outputs without a label, and their logits may be anything."""
    network, batch = network_and_batch()
    graded = network(batch)
    graded["logits"].retain_grad()
    loss = grade_loss(graded, batch, TINY)
    loss.backward()  # type: ignore[no-untyped-call]
    unknown = ~batch["wanted"].any(dim=2)
    assert unknown.any()
    assert graded["logits"].grad is not None
    assert not graded["logits"].grad[unknown].any()
    assert graded["logits"].grad[~unknown].any(dim=1).all()
    nothing: Batch = {**batch, "wanted": torch.zeros_like(batch["wanted"])}
    bare = grade_loss(graded, nothing, replace(TINY, slice_loss=0.0))
    assert bare.item() == 0.0


def test_the_loss_is_the_scores_own() -> None:
    """Weights 1, 2, 4 per label, label weights on top, conditions pooled over the sides; shares of severities count as
    as many labels."""
    generator = torch.Generator().manual_seed(3)
    network, batch = network_and_batch()
    logits = torch.randn(6, 5, 3, generator=generator)
    wanted = torch.rand(6, 5, 3, generator=generator)
    graded: Graded = {**network(batch), "logits": logits}
    config = replace(TINY, group_weights=(2.0, 1.0, 1.0), view_loss=0.0, slice_loss=0.0)
    loss = grade_loss(graded, {**batch, "wanted": wanted}, config)
    each = sum(
        functional.cross_entropy(logits.flatten(0, 1), torch.full((30,), k), reduction="none").view(6, 5)
        * wanted[..., k]
        * (1.0, 2.0, 4.0)[k]
        for k in range(3)
    )
    assert isinstance(each, torch.Tensor)
    expected = (2 * each[:, 0].mean() + each[:, 1:3].mean() + each[:, 3:5].mean()) / 4
    torch.testing.assert_close(loss, expected)


def test_the_slice_loss_asks_for_the_annotated_slice() -> None:
    """Cross-entropy over the present slices; views without a target, or with an absent one, are left out."""
    scores = torch.tensor([[[0.0, 1.0, 2.0], [0.5, 0.5, 0.5]], [[1.0, 0.0, -torch.inf], [0.0, 0.0, 0.0]]])
    at = torch.tensor([[2, -1], [2, -1]])
    expected = -torch.log_softmax(scores[0, 0], dim=0)[2] / 2
    nothing = torch.full((2, 1), -1)
    loss = slice_loss([scores, torch.zeros(2, 1, 3)], [at, nothing])
    torch.testing.assert_close(loss, expected)


def test_augmentation_without_strength_is_the_plain_cut() -> None:
    """Shift, turn, scale, contrast and noise of 0: the resampled crop is the middle of the cached one."""
    still = replace(
        TINY, shift_mm=0.0, turn_degrees=0.0, scale=0.0, contrast=0.0, noise=0.0, mirror=False, slice_shift=(1.0,)
    )
    batch = cached_batch(still)
    plain, moved = cut(batch, still), augment(batch, still)
    for one, other in zip(plain["images"], moved["images"], strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)
    for one, other in zip(plain["slices"], moved["slices"], strict=True):
        assert torch.equal(one, other)


def test_shifted_windows_take_their_target_along() -> None:
    """Each cached slice is marked by its brightness: the target stays on the same slice."""
    config = replace(TINY, slice_shift=(0.0, 1.0), mirror=False, contrast=0.0, noise=0.0)
    batch = cached_batch(config, 40)
    slices = batch["slices"]
    batch["images"] = [
        torch.arange(image.shape[2], dtype=torch.uint8).view(1, 1, -1, 1, 1).expand_as(image) * 10
        for image in batch["images"]
    ]
    batch["present"] = [torch.ones_like(there) for there in batch["present"]]
    moved = augment(batch, config)
    shifts = set()
    for image, before, after in zip(moved["images"], slices, moved["slices"], strict=True):
        light = image.mean(dim=(3, 4))
        # Standardised: 10 grey levels between neighbours, whatever the window.
        rank = light.argsort(dim=2)
        assert (rank == torch.arange(image.shape[2])).all()
        inside = after >= 0
        shifts |= set((before - after)[inside].tolist())
    assert shifts == {0, 2}


def test_mirroring_twice_is_the_identity_and_swaps_labels() -> None:
    """A mirrored patient has his left labels on the right; the rest of the batch stays as it is."""
    batch = cut(cached_batch(TINY), TINY)
    which = torch.tensor([True, False] * 3)
    once = mirror(batch, which)
    twice = mirror(once, which)
    for one, other in zip(tensors(batch), tensors(twice), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(once["severity"][0, SWAPPED], batch["severity"][0])
    assert torch.equal(once["severity"][1], batch["severity"][1])
    assert torch.equal(once["wanted"][0, SWAPPED], batch["wanted"][0])
    canal, foramen, middle, _ = once["images"]
    assert torch.equal(canal[0], batch["images"][0][0].flip(1))
    assert torch.equal(foramen[0, 0], batch["images"][1][0, 1])
    assert torch.equal(middle[0], batch["images"][2][0].flip(3))
    assert torch.equal(canal[1], batch["images"][0][1])


def test_restyled_crops_keep_what_is_brighter() -> None:
    """Slices of a crop get the same curve, gains and filter, so what is brighter in the same place stays so."""
    dark = torch.randint(0, 200, (20, 1, 16, 16), generator=torch.Generator().manual_seed(1)).float()
    pair = torch.cat([dark, dark + 50], dim=1)
    torch.testing.assert_close(restyle(pair, 0.0), pair)
    torch.manual_seed(0)
    styled = restyle(functional.avg_pool2d(pair, 3, stride=1, padding=1), 0.5)
    assert (styled[:, 1] > styled[:, 0]).float().mean() > 0.95
    assert (styled[1:, 0] - styled[:-1, 0]).abs().mean() > 5


def test_predictions_are_the_mean_over_turns() -> None:
    """Several turns give the mean of each alone; a turn by 90 degrees is the turned picture."""
    network, _ = network_and_batch()
    batch = cached_batch(TINY)
    plain = replace(TINY, flip_predictions=False)
    each = [predict_batch([network], batch, replace(plain, predict_turns=(turn,)))[0] for turn in (-9.0, 0.0, 9.0)]
    together = predict_batch([network], batch, replace(plain, predict_turns=(-9.0, 0.0, 9.0)))[0]
    torch.testing.assert_close(together, torch.stack(each).mean(dim=0))
    assert (each[0] - each[2]).abs().max() > 1e-4
    square = [cut(batch, TINY, turn)["images"][0] for turn in (0.0, 90.0)]
    torch.testing.assert_close(torch.rot90(square[0], 1, (3, 4)), square[1], atol=1e-3, rtol=1e-3)


def test_predictions_of_a_mirrored_patient_are_mirrored() -> None:
    """With the mean over the mirror image, the prediction is symmetric altogether."""
    network, _ = network_and_batch()
    batch = cached_batch(TINY)
    everyone = torch.ones(len(batch["level"]), dtype=torch.bool)
    plain = predict_batch([network], batch, TINY)[0]
    other = predict_batch([network], mirror(batch, everyone), TINY)[0]
    torch.testing.assert_close(other, plain[:, SWAPPED])
    alone = predict_batch([network], batch, replace(TINY, flip_predictions=False))[0]
    assert (alone - plain).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["small_resnet", "resnet18", "mobilenetv3_small_050", "convnext_atto"])
def test_encoders_of_both_libraries_take_one_channel(name: str) -> None:
    """By name from torchvision or timm: one feature vector per image."""
    encoder, features = build_encoder(name)
    with torch.inference_mode():
        assert encoder.eval()(torch.zeros(2, 1, 64, 64)).shape == (2, features)


def test_an_encoder_draws_its_own_first_weights_alone() -> None:
    """So that a seed gives a library's network the weights that it gives it elsewhere."""
    name, states = "mobilenetv3_small_050", []
    for build in (lambda: build_encoder(name)[0], lambda: timm.create_model(name, num_classes=0, in_chans=1)):
        torch.manual_seed(1)
        states.append(build().state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items() if "running" not in key)


@pytest.mark.parametrize(("name", "suffix"), [("resnet18", ".pth"), ("mobilenetv3_small_050", ".safetensors")])
def test_weights_of_colour_pictures_fit_one_channel(name: str, suffix: str, tmp_path: Path) -> None:
    """A three-channel classifier's file: a grey slice gives what the same slice in all colours gave."""
    torch.manual_seed(2)
    whole = torchvision.models.resnet18() if name == "resnet18" else timm.create_model(name, num_classes=7)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(whole.state_dict(), path)
    else:
        safetensors.torch.save_file(whole.state_dict(), path)
    encoder, _ = build_encoder(name, str(path))
    grey = torch.randn(2, 1, 64, 64)
    if name == "resnet18":
        whole.fc = torch.nn.Identity()
    else:
        whole.reset_classifier(0)
    with torch.inference_mode():
        expected = whole.eval()(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(encoder.eval()(grey), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="these weights do not fit"):
        build_encoder("small_resnet", str(path))
    with pytest.raises(InputError, match="no such file; weights are a file, a folder of such"):
        build_encoder(name, str(tmp_path / "nothing.pth"))


def test_weights_are_found_in_a_folder_by_the_models_name(tmp_path: Path) -> None:
    """The file of the right name is taken, safetensors first; an absent one is named with what to do."""
    for number, file in enumerate(("resnet18.pth", "resnet18.safetensors", "resnet34.safetensors")):
        torch.manual_seed(number)
        state = torchvision.models.resnet18().state_dict()
        path = tmp_path / file
        torch.save(state, path) if path.suffix == ".pth" else safetensors.torch.save_file(state, path)
    named, _ = build_encoder("resnet18", str(tmp_path / "resnet18.safetensors"))
    found, _ = build_encoder("resnet18", str(tmp_path))
    for one, other in zip(named.parameters(), found.parameters(), strict=True):
        assert torch.equal(one, other)
    (tmp_path / "resnet18.safetensors").unlink()
    other, _ = build_encoder("resnet18", str(tmp_path))
    assert not torch.equal(next(other.parameters()), next(found.parameters()))
    with pytest.raises(InputError, match=r"holds no weights of resnet50; put resnet50\.safetensors there"):
        build_encoder("resnet50", str(tmp_path))


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_weights_of_the_models_dataset_fit_the_encoders(name: str, tmp_path: Path) -> None:
    """What ``lumbar ship datasets --pretrained`` writes has all that an encoder needs, of either library."""
    from lumbar_kaggle.training.library_models import body_state, build_body

    torch.manual_seed(3)
    state = {key: value.contiguous() for key, value in body_state(build_body(name, 3), name).items()}
    safetensors.torch.save_file(state, tmp_path / f"{name}.safetensors")
    encoder, _ = build_encoder(name, str(tmp_path))
    last = [value for key, value in state.items() if value.dim() == 4][-1]
    assert any(value.shape == last.shape and torch.equal(value, last) for value in encoder.parameters())


def test_wrong_settings_are_refused() -> None:
    """One sentence each."""
    with pytest.raises(InputError, match="backbone 'resnet1' is no model of torchvision or timm and not small_resnet"):
        build_encoder("resnet1")
    with pytest.raises(InputError, match=r"slices are \(4, 5, 3, 3\); each must be odd"):
        GradeConfig(slices=(4, 5, 3, 3))
    with pytest.raises(InputError, match="slice_shift"):
        GradeConfig(slice_shift=(0.5, 0.3, 0.2), extra_slices=1)
    with pytest.raises(InputError, match="preset 'tpu' is unknown; known are cpu, cpu-scratch, t4x2-single"):
        preset("tpu")
    assert [len(preset(name).grade) for name in PRESETS] == [1, 1, 1, 3]


def test_the_average_forgets_its_first_weights() -> None:
    """After many steps at constant weights the average has them, although its decay is long."""
    average = MovingAverage(0.9)
    model = torch.nn.Linear(2, 1)

    class Fake:
        pass

    learner = Fake()
    learner.model = model  # type: ignore[attr-defined]
    average.learn = learner
    average.before_fit()
    first = average.average.module.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1.0
    average.after_step()
    assert ((average.average.module.weight.detach() - first) > 0.5).all()
    for _ in range(60):
        average.after_step()
    torch.testing.assert_close(average.average.module.weight.detach(), model.weight.detach(), atol=2e-3, rtol=0)


def test_the_network_starts_from_the_prior() -> None:
    """Before any training the heads' base is the prior of the level."""
    rows = pd.DataFrame(
        [("1", "spinal_canal_stenosis_l4_l5", 2), ("2", "spinal_canal_stenosis_l4_l5", 0)] * 3,
        columns=["study_id", "target", "severity"],
    )
    prior = level_prior(rows, weighted=True)
    # Three severe ones of weight 4 and three mild ones, half a row added to each grade.
    torch.testing.assert_close(prior[0, 3], torch.tensor([3.5, 1.0, 14.0], dtype=torch.float64) / 18.5)
    network = Grader(TINY, prior)
    torch.testing.assert_close(network.base.softmax(dim=2), prior.float())


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Competition, Path]:
    """Studies whose balls tell the grades, and their cache."""
    root = tmp_path_factory.mktemp("grading")
    return write_competition(root, 12), root


def train(studies: tuple[Competition, Path], out: Path, config: GradeConfig, budget: Budget) -> Result:
    """Fit on the annotated points."""
    return GraderRun(*studies, None, out, config, budget).train()


def test_a_stopped_run_ends_with_the_same_bytes(studies: tuple[Competition, Path], tmp_path: Path) -> None:
    """Stopped again and again, between crops and between batches: the same files as at one go."""
    whole = train(studies, tmp_path / "whole", TINY, Budget())
    assert whole.finished
    stops = 0
    while True:
        result = train(studies, tmp_path / "cut", TINY, Budget(6.5 / 3600, clock=Clock()))
        if result.finished:
            break
        assert "resumable" in result.text
        stops += 1
        assert stops < 20
    assert stops >= 3
    assert folder_bytes(tmp_path / "cut") == folder_bytes(tmp_path / "whole")
    with pytest.raises(InputError, match="begun with another lr; choose another --out folder"):
        train(studies, tmp_path / "cut", replace(TINY, lr=0.1), Budget())


def test_a_run_killed_before_its_predictions_ends_with_the_same_bytes(
    studies: tuple[Competition, Path], tmp_path: Path
) -> None:
    """The weights are there, what they predict is not: the second run predicts as the first would have."""
    config = replace(TINY, epochs=1)
    train(studies, tmp_path, config, Budget())
    whole = folder_bytes(tmp_path)
    for name in ("fold-0-predictions.csv", "fold-1-predictions.csv", "oof.csv"):
        (tmp_path / name).unlink()
    train(studies, tmp_path, config, Budget())
    assert folder_bytes(tmp_path) == whole


def test_a_loss_that_is_no_number_ends_the_training(studies: tuple[Competition, Path], tmp_path: Path) -> None:
    """Labels that count without end: one sentence, and no weights are left behind."""
    weights = studies[0].labels[["row_id"]].assign(weight=1e38)
    sentence = r"fold-0\.checkpoint\.pt: in epoch 1 .* no finite number; train with"
    with pytest.raises(InputError, match=sentence):
        GraderRun(*studies, None, tmp_path, TINY, Budget(), weights).train()
    assert not list(tmp_path.glob("fold-0*"))


def test_every_labelled_row_is_predicted_out_of_fold(studies: tuple[Competition, Path], tmp_path: Path) -> None:
    """Located points of half the studies only: the others are graded by the prior; weights are accepted."""
    competition, cache = studies
    names = competition.studies[::2]
    from tests.support.two_stage_studies import place_points

    rows = [
        (study, place, level, *place_points()[p, k].tolist(), 0.9)
        for study in names
        for p, place in enumerate(("canal", "left foramen", "right foramen", "left recess", "right recess"))
        for k, level in enumerate(("l1_l2", "l2_l3", "l3_l4", "l4_l5", "l5_s1"))
    ]
    located = pd.DataFrame(rows, columns=["study_id", "place", "level", "x_mm", "y_mm", "z_mm", "confidence"])
    weights = competition.labels[["row_id"]].head(20).assign(weight=0.3)
    config = replace(TINY, epochs=1)
    GraderRun(competition, cache, located, tmp_path, config, Budget(), weights).train()
    oof = pd.read_csv(tmp_path / "oof.csv")
    assert oof["row_id"].tolist() == competition.labels["row_id"].tolist()
    folds = pd.read_csv(tmp_path / "folds.csv", dtype={"study_id": str}).set_index("study_id")["fold"]
    study = oof["row_id"].str.split("_").str[0]
    assert (oof["fold"].to_numpy() == folds[study].to_numpy()).all()
    np.testing.assert_allclose(oof[["normal_mild", "moderate", "severe"]].sum(axis=1), 1)
    target = oof["row_id"].str.split("_", n=1).str[1]
    without = oof[~study.isin(names)].assign(target=target)
    assert (without.groupby(["fold", "target"])["severe"].nunique() == 1).all()


def test_it_learns_what_is_visible(tmp_path: Path) -> None:
    """Grades shown by the size of a ball: far better than the prior on studies it has not seen."""
    competition = write_competition(tmp_path, 32, seed=5)
    config = replace(TINY, epochs=6, mixup=0.0, accumulate=1, lr=5e-3)
    GraderRun(competition, tmp_path, None, tmp_path / "run", config, Budget()).train()
    mine = score(pd.read_csv(tmp_path / "run" / "oof.csv"), competition.labels)
    prior = score(prior_predictions(weighted_prior(competition.labels), competition.labels), competition.labels)
    for part in ("spinal", "foraminal", "subarticular"):
        assert mine.parts[part] < 0.6 * prior.parts[part], (part, mine.parts, prior.parts)


def test_the_result_can_be_taken_apart() -> None:
    """Shapes as documented; and fastai, which converts results tensor by tensor, can rebuild it."""
    network, batch = network_and_batch()
    with torch.inference_mode():
        graded = to_float(to_half(network(batch)))
    assert graded["logits"].shape == (6, 5, 3)
    assert [tuple(part.shape) for part in graded["by_view"]] == [(6, view.sides, 3) for view in VIEWS]
