"""Phantom → bundle → submission, to some decimals: what no change of form may move.

The bundles hold networks of made-up weights, the same everywhere; what they compute differs in its last digits from
processor to processor. After a change that is meant to move the probabilities: ``python -m tests.test_golden``.
"""

import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

from lumbar_kaggle.baseline.images import CACHE_CONFIG
from lumbar_kaggle.baseline.recipe import BaselineConfig
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.targets import SCORE_GROUPS, SEVERITIES, TARGET_NAMES
from lumbar_kaggle.dicom.preprocess import VOLUMES
from lumbar_kaggle.inference.bundle import write_manifest
from lumbar_kaggle.inference.predict import predict
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.settings import STANDARD_SETS
from lumbar_kaggle.scoring.metric import PRIOR_SMOOTHING, weighted_prior
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.training.library_models import build_network
from lumbar_kaggle.two_stage.config import configure
from lumbar_kaggle.two_stage.grade.network import Grader
from lumbar_kaggle.two_stage.locate.find import CHANNELS, Locator
from tests.support.golden import assert_known, keep
from tests.support.two_stage_studies import SETTINGS

TWO_STAGE = configure(SETTINGS)
BASELINE = BaselineConfig(arch="resnet18", weights="none", image_size=64, folds=2)


def made_up(network: nn.Module, path: Path) -> None:
    """Write a network's weights file with numbers that depend on nothing but name and shape."""
    state = {}
    for name, tensor in network.state_dict().items():
        rng = np.random.default_rng(zlib.crc32(f"{path.name} {name}".encode()))
        values = rng.standard_normal(tensor.shape)
        if tensor.ndim > 1:
            values = values * np.sqrt(2 / np.prod(tensor.shape[1:]))
        elif "running_var" in name or name.endswith("weight"):
            values = 1 + 0.1 * np.abs(values)
        else:
            values = 0.1 * values
        state[name] = torch.as_tensor(values, dtype=tensor.dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(state, path)


def write_two_stage(bundle: Path, prior: pd.DataFrame) -> None:
    """A bundle of two locators per plane and one model of two folds."""
    names = {kind: [f"weights/{kind}-{fold}.safetensors" for fold in range(2)] for kind in CHANNELS}
    graders = [f"weights/grade-1-{fold}.safetensors" for fold in range(2)]
    (grade,) = TWO_STAGE.grade
    for kind, files in names.items():
        for file in files:
            made_up(Locator(TWO_STAGE.locate.channels, CHANNELS[kind]), bundle / file)
    for file in graders:
        made_up(Grader(grade), bundle / file)
    write_manifest(
        bundle,
        recipe="two-stage",
        config=asdict(TWO_STAGE),
        targets=list(TARGET_NAMES),
        contract=asdict(VOLUMES),
        prior=prior,
        metrics={},
        weights=[*names["sagittal"], *names["axial"], *graders],
        models={**names, "grade": [{"config": asdict(grade), "folds": graders}], "source": ""},
    )


def write_baseline(bundle: Path, prior: pd.DataFrame) -> None:
    """A bundle of two classifiers for each of the 25 targets, which share their weights' files."""
    files = [f"weights/fold-{fold}.safetensors" for fold in range(2)]
    for file in files:
        made_up(build_network(BASELINE.arch).model, bundle / file)
    write_manifest(
        bundle,
        recipe="baseline",
        config=asdict(BASELINE),
        targets=list(TARGET_NAMES),
        contract={**asdict(CACHE_CONFIG), "image_size": 64, "scale": "0 to 1, then mean and std"},
        prior=prior,
        metrics={},
        weights=files,
        models={
            "arch": BASELINE.arch,
            "folds": {name: [{"file": file} for file in files] for name in TARGET_NAMES},
            "calibration": {group: {"strength": 1.0, "mix": 0.1} for group in SCORE_GROUPS},
            "source": "",
        },
    )


BUNDLES = {"two-stage": write_two_stage, "baseline": write_baseline}


def submit(recipe: str, competition: Path, place: Path) -> pd.DataFrame:
    """Grade the tiny phantom's test studies with a recipe's made-up bundle."""
    bundle = place / recipe
    BUNDLES[recipe](bundle, weighted_prior(read_competition(competition, "train").labels, smoothing=PRIOR_SMOOTHING))
    outcome = predict(competition, bundle, place / f"{recipe}.csv", Budget())
    assert set(outcome.log["status"]) == {"graded"}
    return pd.read_csv(outcome.path)


WITHIN = {"baseline": 2e-5, "two-stage": 2e-3}
ELSEWHERE = {"baseline": {1.0: 2e-5}, "two-stage": {0.75: 2e-3, 0.9: 0.02}}
"""The two-stage recipe's made-up networks give flat maps, on which last digits choose the points."""


@pytest.mark.parametrize("recipe", sorted(BUNDLES))
def test_the_submission_is_the_known_one(recipe: str, tiny_set: Path, tmp_path: Path) -> None:
    """Row by row."""
    found = submit(recipe, tiny_set, tmp_path)
    assert_known(found, recipe, WITHIN[recipe], ELSEWHERE[recipe])
    assert found[list(SEVERITIES)].std().min() > 1e-3


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_set(place / "competition", STANDARD_SETS["tiny"], workers=1)
        for recipe in BUNDLES:
            keep(submit(recipe, place / "competition", place), recipe, 8)
