"""Both recipes on a GPU for some minutes: speed, waiting, memory, resuming, and agreement with the CPU.

``make gpu`` makes phantom studies with all cores (a minute or two on 16), then takes at most eight minutes of
the GPU: the locator and the grader of the preset ``t4x2-single`` and one target of the baseline are trained
at full picture size for a few hundred steps each, stopped once and resumed, and some studies are predicted on
the GPU and on the CPU with the same weights. It prints a Markdown table, line by line, in which waiting for data
includes moving it and, for the baseline, its augmentation. Without a GPU it says so and ends with 0.

No network is needed, and nothing is downloaded. On a machine that has torch, torchvision, timm, numpy,
pandas, scipy, opencv, scikit-learn and safetensors, these wheels are still to be brought: fastai with all
that it requires but spacy (fastcore, fasttransform, fastprogress, fastdownload, plum-dispatch, matplotlib,
and what they require), pydicom, pylibjpeg, pylibjpeg-rle, pylibjpeg-openjpeg, pyjpegls, python-gdcm, jinja2,
filelock and tqdm.

``python -m tests.gpu.measure --device cpu --quick`` is the same at toy size, for a test of this script.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from PIL import Image

from lumbar_kaggle.baseline.recipe import BaselineConfig
from lumbar_kaggle.baseline.training import Job
from lumbar_kaggle.core.budget import Budget, OutOfTime, usable_cores
from lumbar_kaggle.core.settings import begin_run
from lumbar_kaggle.core.targets import TARGET_NAMES
from lumbar_kaggle.inference.base import study_rows
from lumbar_kaggle.inference.bundle import read_manifest
from lumbar_kaggle.inference.recipes import recipe, recipe_of_run
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.imaging import draw_middle_slices
from lumbar_kaggle.phantom.settings import STANDARD_SETS, PhantomSet
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.training.library_models import build_network
from lumbar_kaggle.two_stage.bundle import TwoStagePredictor
from lumbar_kaggle.two_stage.config import RUN_FILE, configure
from lumbar_kaggle.two_stage.fit import TwoStageRun
from tests.gpu.meter import HEADING, Figures, metered
from tests.support.clock import Clock

TARGET = "spinal_canal_stenosis_l4_l5"

SEED = 31_415


@dataclass(frozen=True)
class Size:
    """How much is trained.

    Attributes:
        patients: of the phantom; those of its test split are predicted.
        pictures: of the baseline's target.
        settings: changes of the two-stage preset.
        baseline: its configuration.
        stops: how often the budget is asked, about once a batch, before locator, grader and baseline are
            stopped.
        minutes: that each of them may take.
    """

    patients: PhantomSet
    pictures: int
    settings: dict[str, dict[str, object]]
    baseline: BaselineConfig
    stops: tuple[int, int, int]
    minutes: tuple[float, float, float] = (2.5, 2.5, 1.5)


FULL = Size(
    PhantomSet("", SEED, 80, 3),
    600,
    {"locate": {"folds": 2, "epochs": 8}, "grade": {"folds": 2, "epochs": 8, "weights": ("none", "none")}},
    BaselineConfig(targets=(TARGET,), weights="none", folds=2, long_epochs=6),
    (100, 100, 150),
)

QUICK = Size(
    replace(STANDARD_SETS["tiny"], seed=SEED, studies=6, test_studies=1),
    24,
    {
        "locate": {
            **{"folds": 2, "epochs": 2, "picture": (96, 80), "pixel_mm": 3.0, "slices": 2, "batch_size": 8},
            "channels": (4, 8, 8, 16, 16),
        },
        "grade": {
            **{"folds": 2, "epochs": 2, "batch_size": 4, "accumulate": 2, "sagittal_px": 24, "axial_px": 24},
            **{"slices": (3, 3, 3, 3), "features": 16, "workers": 0, "predict_turns": (0.0,)},
            **{"backbones": ("small_resnet", "small_resnet"), "weights": ("none", "none")},
        },
    },
    BaselineConfig(
        targets=(TARGET,),
        arch="test_efficientnet",
        weights="none",
        image_size=32,
        batch_size=8,
        folds=2,
        short_epochs=2,
        middle_epochs=2,
        long_epochs=2,
        lr_find_iterations=30,
    ),
    (3, 6, 34),
)


def train_twice(name: str, train: Callable[[Budget], bool], device: torch.device, stop: int, minutes: float) -> Figures:
    """Train until a budget has been asked `stop` times, then go on for some minutes at most."""
    figures = Figures(name)
    print(f"Training: {name}", file=sys.stderr, flush=True)
    with metered(figures, device):
        figures.resumed = not train(Budget(stop / 3600, clock=Clock())) and figures.steps > 0
        figures.finished = train(Budget(minutes / 60))
    return figures


def measure_two_stage(root: Path, size: Size, device: torch.device) -> Iterator[Figures]:
    """Train both stages, the second one's first fold; predict the test split on the device and on the CPU."""
    train, run, cache = read_competition(root, "train"), root / "run", root / "cache"
    config = configure({"preset": "t4x2-single", **size.settings})
    begin_run(run / RUN_FILE, config, data=train.identity())

    def locate(budget: Budget) -> bool:
        return TwoStageRun(train, run, config, budget, cache, processes=1).locate()

    def grade(budget: Budget) -> bool:
        return not TwoStageRun(train, run, config, budget, cache, processes=1).grade(folds=[0])

    located = train_twice("locator", locate, device, size.stops[0], size.minutes[0])
    yield located
    if not located.finished:
        return
    graded = train_twice("grader", grade, device, size.stops[1], size.minutes[1])
    if graded.finished:
        recipe_of_run(run).export(run, root / "bundle")
        graded.difference = _predict_both(root, device)
    yield graded


def _measured(root: Path, size: Size, device: torch.device) -> Iterator[Figures]:
    yield from measure_two_stage(root, size, device)
    yield measure_baseline(root, size, device)


def _predict_both(root: Path, device: torch.device) -> float:
    test, manifest = read_competition(root, "test"), read_manifest(root / "bundle")
    studies = [study_rows(test, name) for name in test.studies]
    found = []
    for place in (device, torch.device("cpu")):
        predictor = TwoStagePredictor(root / "bundle", manifest, [place])
        start = time.perf_counter()
        found.append(np.stack([one.probabilities for one in predictor.predict(studies)]))
        each = (time.perf_counter() - start) / len(studies)
        print(
            f"{len(studies)} studies on {place.type}: {each:.2f} s each, reading included", file=sys.stderr, flush=True
        )
    # Levels that no view shows are NaN on both.
    np.testing.assert_array_equal(*(np.isnan(one) for one in found))
    return float(np.nan_to_num(np.abs(found[0] - found[1])).max())


def measure_baseline(root: Path, size: Size, device: torch.device) -> Figures:
    """Train one target by the report's procedure; predict ten pictures on the device and on the CPU."""
    rows = _draw_pictures(root / "pictures", size)

    def train(budget: Budget) -> bool:
        try:
            Job(TARGET, rows, root / "target", size.baseline, budget, lambda _: None).train()
        except OutOfTime:
            return False
        return True

    figures = train_twice("baseline, one target", train, device, size.stops[2], size.minutes[2])
    if figures.finished:
        network = build_network(size.baseline.arch)
        (weights,) = root.glob("target/*/fold-0/weights.safetensors")
        network.model.load_state_dict(safetensors.torch.load_file(weights))
        side = size.baseline.image_size
        pictures = np.stack([np.asarray(Image.open(path)) for path in rows["image"][:10]])
        grey = torch.from_numpy(pictures).float().div(255)[:, None].expand(-1, 3, side, side)
        mean, std = (torch.tensor(values)[:, None, None] for values in (network.mean, network.std))
        found = []
        for place in (device, torch.device("cpu")):
            model = network.model.to(place).eval()
            with torch.inference_mode():
                found.append(model(((grey - mean) / std).to(place)).softmax(1).cpu())
        figures.difference = float((found[0] - found[1]).abs().max())
    return figures


def _draw_pictures(folder: Path, size: Size) -> pd.DataFrame:
    """Draw middle slices of phantom patients; return the rows of a `Job`."""
    folder.mkdir(parents=True, exist_ok=True)
    images, severities = draw_middle_slices(SEED, size.pictures, size.baseline.image_size)
    paths = [folder / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    numbers = np.arange(len(images))
    return pd.DataFrame(
        {
            "row_id": [f"{number}_{TARGET}" for number in numbers],
            "study_id": numbers.astype(str),
            "severity": severities[:, TARGET_NAMES.index(TARGET)],
            "image": [str(path) for path in paths],
            "fold": numbers % size.baseline.folds,
        }
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table; return the exit code."""
    parser = argparse.ArgumentParser(description="Train and predict on a GPU for some minutes, and measure it.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="toy size")
    parser.add_argument("--folder", type=Path, help="for data and runs; default: a temporary one")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("No GPU is to be seen here, so nothing is measured; run make gpu on a machine with one.")
        return 0
    device, size = torch.device(given.device), QUICK if given.quick else FULL
    with tempfile.TemporaryDirectory() as scratch:
        root = given.folder or Path(scratch)
        write_set(root, size.patients)
        recipe("two-stage").preprocess(root, root / "cache", pool_kind="processes", workers=usable_cores())
        start, rows = time.perf_counter(), []
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        print(f"\n{name}, torch {torch.__version__}, {usable_cores()} cores\n\n{HEADING}", flush=True)
        for one in _measured(root, size, device):
            print(one.row(), flush=True)
            rows.append(one)
        print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes")
    return 0 if all(one.finished for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
