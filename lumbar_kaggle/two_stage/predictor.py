"""A two-stage bundle, ready to grade studies."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.settings import from_dict
from lumbar_kaggle.core.targets import SERIES_KINDS, TARGETS
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.inference.base import Explanation, Prediction, Study
from lumbar_kaggle.inference.bundle import MANIFEST, Manifest
from lumbar_kaggle.scoring.blend import BlendModel, apply_cells, load_blend
from lumbar_kaggle.training.devices import usable_devices
from lumbar_kaggle.two_stage.config import GradeConfig, LocateConfig, TwoStageConfig
from lumbar_kaggle.two_stage.export import BLEND, GradeModel, Models, read_models
from lumbar_kaggle.two_stage.grade.crops import CropFacts, StudyCrops, crop_study
from lumbar_kaggle.two_stage.grade.data import levels_of
from lumbar_kaggle.two_stage.grade.fit import average_sides, to_targets
from lumbar_kaggle.two_stage.grade.network import Grader
from lumbar_kaggle.two_stage.grade.places import to_points, unsided
from lumbar_kaggle.two_stage.grade.training import load_network, predict_levels
from lumbar_kaggle.two_stage.locate.find import locate_studies
from lumbar_kaggle.two_stage.locate.network import CHANNELS, Locator
from lumbar_kaggle.two_stage.locate.training import load_network as load_locator
from lumbar_kaggle.two_stage.study import StudyVolumes, empty_points, read_study

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


@dataclass(frozen=True, eq=False)
class CroppedStudy:
    """What the models of the second stage are given of a study.

    Attributes:
        volumes: that crops are cut from.
        points: the located ones, columns `find.COLUMNS`.
        crops: one entry per model.
        notes: what was missing or had to be replaced, for the log.
        sided: whether the left foramina can be told from the right ones.
    """

    volumes: tuple[Volume, ...]
    points: pd.DataFrame
    crops: tuple[StudyCrops, ...]
    notes: tuple[str, ...]
    sided: bool = True


class TwoStagePredictor:
    """Grades studies with the networks of a bundle. See `recipes.base.Predictor`.

    Every device has networks of its own and takes its share of the studies; while it grades one, the next is
    read. On a GPU the networks compute in 16-bit floats.

    Args:
        bundle: its folder.
        manifest: its manifest.
        devices: where to compute; by default every GPU, or the CPU.
    """

    def __init__(self, bundle: Path, manifest: Manifest, devices: Sequence[torch.device] | None = None) -> None:
        self.manifest = manifest
        self.locate_config = from_dict(manifest.config, TwoStageConfig, f"{bundle / MANIFEST}, config").locate
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
            shares = list(pool.map(lambda number: self._predict_share(number, studies[number::count]), range(count)))
        return [shares[index % count][index // count] for index in range(len(studies))]

    def _predict_share(self, number: int, studies: Sequence[Study]) -> list[Prediction]:
        """Grade studies on device `number`, and read each while the one before it is graded."""
        done = []
        with ThreadPoolExecutor(1) as reader:
            coming = [reader.submit(read_study, study) for study in studies[:1]]
            for index in range(len(studies)):
                coming += [reader.submit(read_study, after) for after in studies[index + 1 : index + 2]]
                cropped = self.crop(coming.pop(0).result(), number)
                grades = self.grade(cropped, number)
                done.append(Prediction(grades, "; ".join(cropped.notes)))
        return done

    def explain(self, study: Study, targets: Sequence[str] | None = None) -> Explanation:
        """Grade one study and show what of it was looked at, all targets of it."""
        from lumbar_kaggle.two_stage.explain import explain_study

        return explain_study(study, self)

    def crop(self, study: StudyVolumes, number: int = 0) -> CroppedStudy:
        """Find a study's points on device `number` and cut its crops, by the functions of the training."""
        networks = self.replicas[number]
        points = locate_studies([study], networks.sagittal, networks.axial, self.locate_config, quiet=True)
        volumes, places = study.croppable(), to_points(points).get(study.study_id, empty_points())
        crops = tuple(crop_study(volumes, places, model.config) for model in self.models)
        sided = study.study_id not in unsided(points)
        notes = [*study.notes, *_replacements(study.volumes)]
        if not sided:
            notes.append("the side of the foramina is not known: both get the mean of the two")
        notes += _missing_crops(crops[0].facts if crops else ())
        return CroppedStudy(tuple(volumes), points, crops, tuple(notes), sided)

    def grade(self, cropped: CroppedStudy, number: int = 0) -> NDArray[np.float64]:
        """Return the blended probabilities ``[25, 3]``; NaN for levels that no view shows."""
        each = []
        for model, crops in zip(self.replicas[number].models, cropped.crops, strict=True):
            found = predict_levels(model.networks, levels_of(crops), model.config)
            each.append(to_targets(found))
        blended: NDArray[np.float64] = apply_cells(self.blend, np.stack(each))[0]
        if not cropped.sided:
            blended = average_sides(blended)
        shown = {fact.level for fact in cropped.crops[0].facts if not fact.reason}
        blended[[of.level not in shown for of in TARGETS]] = np.nan
        return blended


def _replacements(volumes: Sequence[Volume]) -> list[str]:
    """Say which kinds are missing, and of which series the headers lack a place or a spacing."""
    there = {one.kind for one in volumes}
    notes = [f"no readable {kind} series" for kind in SERIES_KINDS if kind not in there]
    for series in sorted({one.series_id for one in volumes}):
        mine = [one for one in volumes if one.series_id == series]
        if not all(one.placed for one in mine):
            notes.append(f"series {series}: no position in the headers, assumed")
        if not all(one.measured for one in mine):
            notes.append(f"series {series}: no plausible pixel spacing in the headers, spacing assumed")
    return notes


def _missing_crops(facts: Sequence[CropFacts]) -> list[str]:
    """Say per view how many crops have no picture; the same for all models, or nearly so."""
    whole, missing = Counter(fact.view for fact in facts), Counter(fact.view for fact in facts if fact.reason)
    return [f"{view}: {count} of {whole[view]} crops without a picture" for view, count in missing.items()]


def _load(bundle: Path, trained: Models, locate: LocateConfig, device: torch.device) -> Networks:
    sagittal, axial = (
        tuple(_watched(load_locator(bundle / file, locate, CHANNELS[plane], device), bundle / file) for file in files)
        for plane, files in (("sagittal", trained.sagittal), ("axial", trained.axial))
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
