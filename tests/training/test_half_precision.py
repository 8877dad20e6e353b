"""Every training loop in 16 bits: it steps, leaves out what overflows, and resumes with its gradient scaler.

The machine needs no GPU: torch's autocast and gradient scaler work on the CPU too.
"""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from fastai.callback import fp16
from fastai.callback import schedule as _schedule  # noqa: F401 — gives Learner its fit_one_cycle
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from torch.amp import GradScaler

from lumbar_kaggle.baseline.run import fit as fit_baseline
from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.training import devices
from lumbar_kaggle.training.loop import (
    Checkpoint,
    MovingAverage,
    SeedEpochs,
    learner_state,
    read_checkpoint,
    restore_learner,
)
from lumbar_kaggle.training.pretraining import pretrain
from lumbar_kaggle.two_stage.config import LocateConfig
from lumbar_kaggle.two_stage.grade.data import drop_views
from lumbar_kaggle.two_stage.grade.fit import GraderRun
from lumbar_kaggle.two_stage.grade.network import grade_loss
from lumbar_kaggle.two_stage.locate import fit
from lumbar_kaggle.two_stage.locate.find import Locator
from lumbar_kaggle.two_stage.locate.training import Sample
from tests.baseline.test_training import ONE, lasting
from tests.support.clock import Clock
from tests.support.two_stage_studies import write_competition
from tests.training.test_pretraining import TINY as TINY_BODY
from tests.two_stage.test_grading import TINY as TINY_GRADER
from tests.two_stage.test_grading import network_and_batch


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on the CPU as on a GPU; the first step overflows, so that the scale must be learned and kept."""
    large = {"init_scale": 2.0**30, "backoff_factor": 2.0**-16}
    monkeypatch.setattr(devices, "HALF", ("cpu",))
    monkeypatch.setattr(fp16, "autocast", lambda _, dtype: torch.autocast("cpu", dtype))
    monkeypatch.setattr(fp16, "GradScaler", lambda _, **options: GradScaler("cpu", **(large | options)))


def lines_learner(folder: Path) -> Learner:
    """A learner of a straight line, 16 pairs of numbers in batches of 4."""
    torch.manual_seed(0)
    pairs = [(torch.tensor([x]), torch.tensor([2 * x])) for x in torch.linspace(-1, 1, 16).tolist()]
    loaders = DataLoaders(DataLoader(pairs, bs=4, shuffle=True), DataLoader(pairs, bs=4), device=devices.CPU)
    model = torch.nn.Linear(1, 1)
    return Learner(loaders, model, loss_func=torch.nn.functional.mse_loss, path=folder, model_dir=".")


@pytest.mark.usefixtures("half")
def test_steps_that_overflow_do_not_count_for_the_average(tmp_path: Path) -> None:
    """Gradients beyond 16 bits: neither the weights nor their average move."""
    learner = lines_learner(tmp_path).to_fp16(init_scale=2.0**120, backoff_factor=0.5)
    average = MovingAverage(0.5)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1, 0.1, cbs=[average])
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert average.steps == 0


@pytest.mark.usefixtures("half")
def test_the_gradient_scale_is_resumed(tmp_path: Path) -> None:
    """The scale that a training has come to is in its checkpoint, and is taken up."""
    learner = lines_learner(tmp_path).to_fp16()
    callbacks = [SeedEpochs(1), Checkpoint(tmp_path / "checkpoint.pt", "lines")]
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(4, 0.1, cbs=callbacks)
    # Kaggle may unpack an archive into a folder.
    assert not zipfile.is_zipfile(tmp_path / "checkpoint.pt")
    state = read_checkpoint(tmp_path / "checkpoint.pt")
    assert state is not None
    assert state["scaler"]["scale"] < 2.0**30
    other = lines_learner(tmp_path)
    other.create_opt()
    other.scaler = GradScaler("cpu", init_scale=2.0**30)
    restore_learner(other, state)
    assert other.scaler.get_scale() == state["scaler"]["scale"]


def test_absent_slices_and_views_are_safe_in_16_bits() -> None:
    """Their scores are masked with numbers that 16 bits do not hold: losses and gradients stay finite."""
    network, batch = network_and_batch()
    for given in (batch, drop_views(batch, 1.0)):
        network.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = grade_loss(network(given), given, TINY_GRADER)
        loss.backward()
        found = [one.grad for one in network.parameters() if one.grad is not None]
        assert torch.isfinite(loss)
        assert found
        assert all(torch.isfinite(gradient).all() for gradient in found)


def test_what_is_resumed_goes_to_the_models_device(tmp_path: Path) -> None:
    """The optimiser's moments lie where the weights are, wherever the loaders would put a batch."""
    learner = lines_learner(tmp_path)
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1, 0.1)
    state = learner_state(learner)
    other = lines_learner(tmp_path)
    other.create_opt()
    other.dls.device = torch.device("meta")
    restore_learner(other, state)
    moments = [value for one in other.opt.state_dict()["state"] for value in one.values()]
    assert {value.device for value in moments if torch.is_tensor(value)} == {devices.CPU}


def locator_run(out: Path, config: LocateConfig, budget: Budget) -> fit.LocatorRun:
    """A run that trains a network on samples at hand: neither tables nor a cache are looked at."""
    nothing: Any = None
    return fit.LocatorRun(nothing, nothing, out, config, budget)


def test_networks_come_to_the_device_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A locator that is trained already is used where it would have been trained, not on the CPU."""
    config = LocateConfig(folds=2, channels=(2, 4, 4, 8, 8))
    safetensors.torch.save_file(Locator(config.channels, 3).state_dict(), tmp_path / "sagittal-0.safetensors")
    monkeypatch.setattr(fit, "training_device", lambda: torch.device("meta"))
    network = fit.trained_network(locator_run(tmp_path, config, Budget()), "sagittal", 0, 3)
    assert devices.device_of(network).type == "meta"


class Draws:
    """Samples drawn from NumPy's global generator, as training samples are."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.rand(1), torch.tensor([np.random.random()], dtype=torch.float32)  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
def test_what_loaders_draw_is_the_epochs_own(workers: int, tmp_path: Path) -> None:
    """In this process or in theirs: an epoch drawn again draws the same, and every item its own."""
    learner = lines_learner(tmp_path)
    learner.dls.loaders[0] = DataLoader(Draws(), bs=4, shuffle=True, num_workers=workers, device=devices.CPU)
    seeds = SeedEpochs(7)
    seeds.learn = learner
    drawn = []
    for epoch in (0, 1, 1):
        learner.epoch = epoch
        seeds.before_epoch()
        drawn.append(torch.cat([torch.cat(batch, dim=1) for batch in learner.dls.train]))
    assert torch.equal(drawn[1], drawn[2])
    assert len(torch.unique(torch.cat(drawn[:2]))) == 4 * 8


def cut_and_whole(train: Callable[[Path, Budget], bool], folder: Path, seconds: float) -> None:
    """Train at one go and in pieces of so many seconds; the checkpoints hold the scaler's state."""
    assert train(folder / "whole", Budget())
    stops, scales = 0, set()
    while not train(folder / "cut", Budget(seconds / 3600, clock=Clock())):
        stops += 1
        scales |= {read_checkpoint(path)["scaler"]["scale"] for path in folder.glob("cut/**/*checkpoint.pt")}
        assert stops < 40
    assert scales
    assert max(scales) < 2.0**30
    assert lasting(folder / "cut") == lasting(folder / "whole")


@pytest.mark.usefixtures("half")
def test_the_grader_trains_and_resumes(tmp_path: Path) -> None:
    """With mixup, gradients added up and the moving average."""
    competition = write_competition(tmp_path / "studies", 12)

    def train(out: Path, budget: Budget) -> bool:
        return GraderRun(competition, tmp_path / "studies", None, out, TINY_GRADER, budget).train().finished

    cut_and_whole(train, tmp_path, 5.5)


@pytest.mark.usefixtures("half")
def test_the_locator_trains_and_resumes(tmp_path: Path) -> None:
    """Both halves of the samples in turn."""
    rng = np.random.default_rng(0)
    samples = [
        Sample(str(k), rng.integers(0, 256, (32, 32)).astype(np.uint8), rng.uniform(4, 28, (3, 2)), np.ones(3, int))
        for k in range(16)
    ]
    config = LocateConfig(folds=2, epochs=3, batch_size=4, picture=(32, 32), channels=(2, 4, 4, 8, 8))

    def train(out: Path, budget: Budget) -> bool:
        out.mkdir(exist_ok=True)
        try:
            fit.train_network(locator_run(out, config, budget), "sagittal", 0, samples[:8], samples[8:])
        except OutOfTime:
            return False
        return True

    cut_and_whole(train, tmp_path, 3.5)


@pytest.mark.usefixtures("half")
def test_the_baseline_trains_and_resumes(competition: Path, cache: Path, tmp_path: Path) -> None:
    """The finder's run and both folds."""
    config = replace(ONE, mixed_precision=True, short_epochs=3, long_epochs=2)

    def train(out: Path, budget: Budget) -> bool:
        if not out.exists() and budget.left_s() < 60:
            budget = Budget(35 / 3600, clock=Clock())  # time for the finder's 30 batches
        return not fit_baseline(read_competition(competition, "train"), cache, out, config, budget).unfinished

    cut_and_whole(train, tmp_path, 5.5)


@pytest.mark.usefixtures("half")
def test_pretraining_trains(tmp_path: Path) -> None:
    """It is short and has no time budget."""
    assert 0 < pretrain(tmp_path / "body.safetensors", TINY_BODY) < 10
