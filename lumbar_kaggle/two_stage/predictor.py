"""A two-stage bundle, ready to grade studies."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import LEVELS, TARGETS
from lumbar_kaggle.inference.base import Prediction, Study
from lumbar_kaggle.inference.bundle import MANIFEST, Manifest
from lumbar_kaggle.score.blend import BlendModel, apply_cells, load_blend
from lumbar_kaggle.training.devices import usable_devices
from lumbar_kaggle.two_stage.config import from_content
from lumbar_kaggle.two_stage.export import BLEND, GradeModel, Models, read_models
from lumbar_kaggle.two_stage.grade.config import GradeConfig
from lumbar_kaggle.two_stage.grade.cropping import FreshCrops
from lumbar_kaggle.two_stage.grade.fit import average_sides, to_targets
from lumbar_kaggle.two_stage.grade.network import Grader
from lumbar_kaggle.two_stage.grade.training import load_network, predict_studies
from lumbar_kaggle.two_stage.locate.axial import AXIAL_CHANNELS
from lumbar_kaggle.two_stage.locate.config import LocateConfig
from lumbar_kaggle.two_stage.locate.network import Locator
from lumbar_kaggle.two_stage.locate.points import CHANNELS
from lumbar_kaggle.two_stage.locate.training import load_network as load_locator
from lumbar_kaggle.two_stage.looking import Look, levels_seen, look
from lumbar_kaggle.two_stage.reading import Read, read_study

STUDIES_AT_ONCE = 8
"""Studies that each device is given in one call: only the first of them must be waited for."""


@dataclass(frozen=True, eq=False)
class Model:
    """One model of the second stage: its folds' networks."""

    config: GradeConfig
    networks: tuple[Grader, ...]


@dataclass(frozen=True, eq=False)
class Networks:
    """All networks of a bundle, on one device."""

    sagittal: tuple[Locator, ...]
    axial: tuple[Locator, ...]
    models: tuple[Model, ...]


class TwoStagePredictor:
    """Grades studies with the networks of a bundle. See `recipes.base.Predictor`.

    Every device has networks of its own and takes its share of the studies; while it grades one, the next is
    read. On a GPU the networks compute in 16-bit floats.

    Args:
        bundle: its folder.
        manifest: its manifest.
        devices: where to compute; by default every GPU, or the CPU.
    """

    def __init__(
        self, bundle: Path, manifest: Manifest, devices: Sequence[torch.device] | None = None
    ) -> None:
        self.manifest = manifest
        self.locate_config = from_content(manifest.config, f"{bundle / MANIFEST}, config").locate
        trained, devices = read_models(bundle, manifest), devices or usable_devices()
        self.replicas = [_load(bundle, trained, self.locate_config, device) for device in devices]
        self.models = self.replicas[0].models
        self.batch_size = STUDIES_AT_ONCE * len(self.replicas)
        names = tuple(str(number) for number in range(len(self.models)))
        self.blend = load_blend(bundle / BLEND) if BLEND in manifest.weights else BlendModel(names)
        if len(self.blend.files) != len(self.models):
            # Exported before all models were trained.
            self.blend = BlendModel(names)

    def predict(self, studies: Sequence[Study]) -> list[Prediction]:
        """Grade some studies; levels that no view shows are left to the prior, and the reason says so.

        Raises:
            InputError: the weights of a file give no numbers.
            Exception: a study has something that nobody thought of; the others are best given again without.
        """
        count = len(self.replicas)
        with ThreadPoolExecutor(count) as pool:
            shares = list(
                pool.map(lambda number: self._predict_share(number, studies[number::count]), range(count))
            )
        return [shares[index % count][index // count] for index in range(len(studies))]

    def _predict_share(self, number: int, studies: Sequence[Study]) -> list[Prediction]:
        """Grade studies on device `number`, and read each while the one before it is graded."""
        done = []
        with ThreadPoolExecutor(1) as reader:
            coming = [reader.submit(read_study, study) for study in studies[:1]]
            for index, study in enumerate(studies):
                coming += [reader.submit(read_study, after) for after in studies[index + 1 : index + 2]]
                seen = self.look(study, number, coming.pop(0).result())
                grades = self.grade(study.study_id, seen, number)
                done.append(Prediction(grades, "; ".join(seen.notes)))
        return done

    def look(self, study: Study, number: int = 0, read: Read | None = None) -> Look:
        """Return what the models are shown of a study.

        Args:
            study: with its series.
            number: of the device that looks.
            read: what `reading.read_study` gave of it; None: it is read here.
        """
        networks, configs = self.replicas[number], [model.config for model in self.models]
        return look(study, networks.sagittal, networks.axial, self.locate_config, configs, read)

    def grade(self, study_id: str, seen: Look, number: int = 0) -> NDArray[np.float64]:
        """Return the blended probabilities ``[25, 3]``; NaN for levels that no view shows."""
        each = []
        for model, crops in zip(self.replicas[number].models, seen.crops, strict=True):
            found = predict_studies(model.networks, [study_id], FreshCrops(study_id, crops), model.config)
            each.append(to_targets(found))
        blended: NDArray[np.float64] = apply_cells(self.blend, np.stack(each))[0]
        if not seen.sided:
            blended = average_sides(blended)
        shown = dict(zip(LEVELS, levels_seen(seen.crops[0]), strict=True))
        blended[[not shown[of.level] for of in TARGETS]] = np.nan
        return blended


def _load(bundle: Path, trained: Models, locate: LocateConfig, device: torch.device) -> Networks:
    sagittal, axial = (
        tuple(_watched(load_locator(bundle / name, locate, outputs, device), bundle / name) for name in names)
        for names, outputs in ((trained.sagittal, CHANNELS), (trained.axial, AXIAL_CHANNELS))
    )
    return Networks(sagittal, axial, tuple(_load_model(bundle, entry, device) for entry in trained.grade))


def _load_model(bundle: Path, entry: GradeModel, device: torch.device) -> Model:
    networks = (_watched(load_network(bundle / name, entry.config), bundle / name) for name in entry.folds)
    return Model(entry.config, tuple(network.to(device).eval() for network in networks))


Net = TypeVar("Net", bound=nn.Module)


def _watched(network: Net, file: Path) -> Net:
    """Let a network say when its weights give no numbers, and which file they are from."""

    def check(_module: nn.Module, _inputs: object, output: Any) -> None:
        values = output["logits"] if isinstance(output, dict) else output
        if not torch.isfinite(values).all():
            raise InputError(f"{file}: these weights give no finite numbers; train and export them again")

    network.register_forward_hook(check)
    return network
