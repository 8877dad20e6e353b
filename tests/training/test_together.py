"""Several processes that train one network: the weights of one process, one writer, one moment at which they stop."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed import run as torchrun

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import SEVERITIES
from lumbar_kaggle.tables.submission import read_predictions
from lumbar_kaggle.training import group
from lumbar_kaggle.training.devices import shares
from lumbar_kaggle.training.loop import make_learner, train_file
from lumbar_kaggle.training.together import NormsOfAll
from lumbar_kaggle.two_stage.config import LocateConfig
from lumbar_kaggle.two_stage.grade.fit import Accumulate
from lumbar_kaggle.two_stage.locate.fit import LocatorRun, train_network
from lumbar_kaggle.two_stage.locate.training import Sample
from tests.support.clock import Clock

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Settings:
    """Of the little network's training. Batches of 7 do not divide by two, and no step is taken after every one."""

    batch_size: int = 7
    epochs: int = 4
    lr: float = 0.05
    ema: float = 0.9


class Blobs:
    """Pictures with a number each, always the same; some count more than others."""

    def __init__(self, count: int) -> None:
        drawn = torch.Generator().manual_seed(count)
        self.pictures = torch.randn(count, 3, 8, 8, generator=drawn, dtype=torch.float64)
        self.numbers = self.pictures.mean(dim=(1, 2, 3)) * 20
        self.weights = torch.rand(count, generator=drawn, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self.pictures[index], (self.numbers[index], self.weights[index])


class Shake(Callback):  # type: ignore[misc]
    """Noise on every batch, drawn anew: where two processes drew differently, it would show."""

    order = -5

    def before_batch(self) -> None:
        if self.training:
            self.learn.xb = (self.xb[0] + torch.randn_like(self.xb[0]) * 0.3,)


def weighted_loss(found: Tensor, wanted: tuple[Tensor, Tensor]) -> Tensor:
    """Divides by the weights of the whole batch, which is not the mean of what its halves would give."""
    numbers, weights = wanted
    # Gradients stay in double precision; fastai's average of the losses is in single.
    return (((found[:, 0] - numbers).square() * weights).sum() / weights.sum()).float()


def train_blobs(file: Path, hours: float | None) -> None:
    """Train a network with batch norms, for so long, by a clock that moves on whenever it is asked."""

    def make(_fresh: bool) -> Any:
        # Without biases where a norm follows: their gradient is nothing but rounding, which Adam makes large.
        body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
        head = nn.Sequential(nn.Linear(54, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        network = nn.Sequential(body, head).double()
        parts, callbacks = (Blobs(40), Blobs(15)), [Shake(), Accumulate(14)]
        return make_learner(network, parts, weighted_loss, file.parent, Settings(), cbs=callbacks)

    # The processes' clocks differ: the earlier one ends the work of both.
    late = (1 + group.rank()) if hours else 1.0
    budget = Budget(None if hours is None else hours * late, clock=Clock())
    train_file(file, make, Settings(), seed=3, title="blobs", history=file.with_suffix(".csv"), budget=budget, ema=0.9)


def train_locator(out: Path) -> None:
    """Train a locator on drawn slices."""
    drawn = np.random.default_rng(0)
    samples = [
        Sample(str(k), drawn.integers(0, 256, (64, 64)).astype(np.uint8), drawn.uniform(4, 60, (3, 2)), np.ones(3, int))
        for k in range(16)
    ]
    config = LocateConfig(epochs=3, batch_size=5, lr=1e-4, picture=(64, 64), channels=(4, 4, 8, 8, 8))
    nothing: Any = None  # neither tables nor a cache are looked at
    run = LocatorRun(nothing, nothing, out, config, Budget())
    train_network(run, "sagittal", 0, samples[:11], samples[11:])


def distance(*files: Path) -> float:
    """How far two networks lie apart, as part of how far the first one lies from nothing."""
    one, other = (torch.cat([part.double().flatten() for part in load_file(file).values()]) for file in files)
    return float((one - other).norm() / one.norm())


def train_and_tell(folder: Path, hours: float | None) -> None:
    """Train in a group until the budget ends, go on to the end, and tell what this process has seen."""
    file = folder / "blobs.safetensors"
    with NormsOfAll():  # torch's own is less exact on a CPU: gradients of the locator, channels last, are 8 % off
        train_locator(folder)
    if hours is not None:
        with pytest.raises(OutOfTime):
            train_blobs(file, hours)
        done = file.with_suffix(".checkpoint.pt")
        seen = {"epochs": len(torch.load(done)["seconds"]), "inode": done.stat().st_ino}
        (folder / f"rank-{group.rank()}.json").write_text(json.dumps(seen))
    train_blobs(file, None)
    if hours is not None:
        raise InputError(f"no more than {group.size()}")


def test_two_processes_come_to_the_weights_of_one(tmp_path: Path) -> None:
    """Batch norms, a loss that divides by the batch's weights, noise, summed gradients and the moving average; stopped
    by one of the two clocks, both at the same batch, and resumed from the one checkpoint. What they raise comes back.
    """
    alone, both = tmp_path / "alone", tmp_path / "both"
    for folder in (alone, both):
        folder.mkdir()
    train_and_tell(alone, None)
    with pytest.raises(InputError, match="no more than 2"):
        group.train_together(train_and_tell, both, 12 / 3600, 2)
    seen = [json.loads((both / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert seen[0] == seen[1]
    assert seen[0]["epochs"] == 2
    for name, value in load_file(alone / "blobs.safetensors").items():
        torch.testing.assert_close(load_file(both / "blobs.safetensors")[name], value, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(*(pd.read_csv(folder / "blobs.csv") for folder in (alone, both)), rtol=1e-6)
    assert distance(*(folder / "sagittal-0.safetensors" for folder in (alone, both))) < 0.02
    made = {"blobs.safetensors", "blobs.csv", "sagittal-0.safetensors", "rank-0.json", "rank-1.json"}
    assert {path.name for path in both.iterdir()} == made


def test_the_grader_trains_under_torchrun(
    two_stage: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command as it is, in two processes, comes to the weights of one; the first of them says so and writes."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    # Where parts of a batch draw for themselves, and where a pass of rounding errors would decide, nothing is compared.
    settings = {**json.loads((two_stage / "settings.json").read_text())["grade"], "dropout": 0.0, "lr": 1e-4}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if name != "slices"]
    options += ["--slices", *map(str, settings["slices"])]
    folders = str(two_stage / "competition"), "--cache", str(two_stage / "cache")
    words = ["grade", *folders, "--only-folds", "0", *options, "--out"]
    torchrun.main(["--standalone", "--nproc-per-node=2", "-m", "lumbar_kaggle", *words, str(tmp_path / "both")])
    assert capfd.readouterr().out.count("all that were asked for") == 1
    with NormsOfAll():
        assert main([*words, str(tmp_path / "alone")]) == 0
    made = [{path.name for path in (tmp_path / name).rglob("*")} for name in ("alone", "both")]
    assert made[0] == made[1]
    assert distance(*(tmp_path / name / "fold-0.safetensors" for name in ("alone", "both"))) < 0.02
    tables = [read_predictions(tmp_path / name / "fold-0-predictions.csv") for name in ("alone", "both")]
    np.testing.assert_allclose(*(table[list(SEVERITIES)] for table in tables), atol=1e-3)


@pytest.mark.parametrize(
    ("items", "devices", "idle_before", "idle_after"),
    [(5, 2, 1, 0), (4, 2, 0, 0), (5, 4, 3, 0), (6, 4, 2, 0), (7, 4, 1, 1), (1, 8, 7, 0)],
)
def test_the_last_round_leaves_no_device_without_work(
    items: int, devices: int, idle_before: int, idle_after: int
) -> None:
    """Rounds in which a device has nothing to do: a fold to each, and with those left over the devices together."""
    assert -items % devices == idle_before
    alone, several = shares(items, devices)
    assert -(alone + (items - alone) * several) % devices == idle_after
