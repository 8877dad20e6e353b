"""What the two-stage recipe's prediction takes beside its networks, and these beside what they took: `make benchmark`.

The networks' share is measured by giving them again, and nothing else, what they were given."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.inference.base import study_rows
from lumbar_kaggle.inference.bundle import models_in_the_box, read_manifest
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.settings import PhantomSet
from lumbar_kaggle.two_stage.bundle import Networks, TwoStagePredictor
from lumbar_kaggle.two_stage.grade.network import load_network
from lumbar_kaggle.two_stage.locate.find import CHANNELS, load_locator
from lumbar_kaggle.two_stage.start import parse_models
from tests.support.measuring import row

STUDIES, ROUNDS = 8, 3

Calls = list[tuple[torch.nn.Module, Any]]


def as_it_was(networks: Networks, calls: Calls) -> Calls:
    """Return what the same studies took from the networks as they are trained, 16 pictures at once."""
    box = models_in_the_box()
    config, models = parse_models(box, read_manifest(box))

    def given(*asked: torch.nn.Module) -> list[Any]:
        return [inputs for network, inputs in calls if network in asked]

    made: Calls = []
    for plane, names in (("sagittal", models.sagittal), ("axial", models.axial)):
        asked = getattr(networks, plane)
        pictures = torch.split(torch.cat(given(asked[0])).contiguous(), 16)
        plain = [load_locator(box / name, config.locate, CHANNELS[plane]).eval() for name in names]
        made += [(network, batch) for batch in pictures for network in plain]
    for model, of_model in zip(models.grade, networks.models, strict=True):
        for name, network in zip(model.folds, of_model.networks, strict=True):
            plain_grader = load_network(box / name, model.config).eval()
            made += [(plain_grader, batch) for batch in given(network)]
    return made


def test_prediction(tmp_path: Path) -> None:
    """Three ratios of one run; the models in the box, on the CPU."""
    write_set(tmp_path / "studies", PhantomSet("", 5, 1, STUDIES), workers=1)
    found, box = find_studies(tmp_path / "studies"), models_in_the_box()
    studies = [study_rows(found, name) for name in found.studies]
    predictor = TwoStagePredictor(box, read_manifest(box), [torch.device("cpu")])
    (networks,) = predictor.replicas
    graders = [network for model in networks.models for network in model.networks]
    calls: Calls = []
    handles = [
        network.register_forward_pre_hook(lambda module, inputs: calls.append((module, inputs[0])))
        for network in (*networks.sagittal, *networks.axial, *graders)
    ]
    list(predictor.predict(studies))
    for handle in handles:
        handle.remove()
    before = as_it_was(networks, calls)

    def replay(some: Calls) -> None:
        with torch.inference_mode():
            for network, inputs in some:
                network(inputs)

    ways: dict[str, Callable[[], object]] = {
        "total": lambda: list(predictor.predict(studies)),
        "forward": lambda: replay(calls),
        "one locator": lambda: replay([call for call in calls if call[0] not in networks.sagittal[1:]]),
        "before": lambda: replay(before),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, work in ways.items():
            start = time.perf_counter()
            work()
            seconds[name].append((time.perf_counter() - start) / STUDIES)
    total, forward, one, plain = (float(np.median(seconds[name])) for name in ways)
    row("two-stage prediction, models in the box, one thread / its networks alone", "s", total, forward)
    row("its networks / the same as trained, 16 pictures at once", "s", forward, plain)
    row("with one locator, as bundles of runs from these models have / the same", "s", one, plain)
