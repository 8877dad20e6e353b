"""A two-stage bundle, ready to grade studies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from lumbar_kaggle.blend.model import BlendModel, apply_cells, load_blend
from lumbar_kaggle.bundle import Manifest
from lumbar_kaggle.config import from_dict
from lumbar_kaggle.recipes.base import Prediction, Study
from lumbar_kaggle.recipes.two_stage.export import BLEND
from lumbar_kaggle.recipes.two_stage.grading.config import GradeConfig
from lumbar_kaggle.recipes.two_stage.grading.cropping import FreshCrops
from lumbar_kaggle.recipes.two_stage.grading.fit import average_sides, to_targets
from lumbar_kaggle.recipes.two_stage.grading.network import Grader
from lumbar_kaggle.recipes.two_stage.grading.training import predict_studies
from lumbar_kaggle.recipes.two_stage.locating.axial import AXIAL_CHANNELS
from lumbar_kaggle.recipes.two_stage.locating.config import LocateConfig
from lumbar_kaggle.recipes.two_stage.locating.points import CHANNELS
from lumbar_kaggle.recipes.two_stage.locating.training import load_network
from lumbar_kaggle.recipes.two_stage.looking import Look, levels_seen, look
from lumbar_kaggle.targets import LEVELS, TARGETS


@dataclass(frozen=True, eq=False)
class Model:
    """One model of the second stage: its folds' networks."""

    config: GradeConfig
    networks: tuple[Grader, ...]


class TwoStagePredictor:
    """Grades studies with the networks of a bundle, one study at a time. See `recipes.base.Predictor`.

    Args:
        bundle: its folder.
        manifest: its manifest.
    """

    batch_size = 1

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.locate_config = from_dict(manifest.config["locate"], LocateConfig, str(bundle))
        self.sagittal, self.axial = (
            [
                load_network(bundle / name, self.locate_config, outputs).to(device)
                for name in manifest.models[plane]
            ]
            for plane, outputs in (("sagittal", CHANNELS), ("axial", AXIAL_CHANNELS))
        )
        self.models = tuple(
            _load_model(bundle, entry["config"], entry["folds"], device) for entry in manifest.models["grade"]
        )
        names = tuple(str(number) for number in range(len(self.models)))
        self.blend = load_blend(bundle / BLEND) if BLEND in manifest.weights else BlendModel(names)
        if len(self.blend.files) != len(self.models):
            # Exported before all models were trained.
            self.blend = BlendModel(names)

    def predict(self, studies: Sequence[Study]) -> list[Prediction]:
        """Grade some studies; levels that no view shows are left to the prior, and the reason says so."""
        return [self._predict(study) for study in studies]

    def look(self, study: Study) -> Look:
        """Return what the models are shown of a study."""
        configs = [model.config for model in self.models]
        return look(study, self.sagittal, self.axial, self.locate_config, configs)

    def grade(self, study_id: str, seen: Look) -> NDArray[np.float64]:
        """Return the blended probabilities ``[25, 3]``; NaN for levels that no view shows."""
        each = []
        for model, crops in zip(self.models, seen.crops, strict=True):
            found = predict_studies(model.networks, [study_id], FreshCrops(study_id, crops), model.config)
            each.append(to_targets(found))
        blended: NDArray[np.float64] = apply_cells(self.blend, np.stack(each))[0]
        if not seen.sided:
            blended = average_sides(blended)
        shown = dict(zip(LEVELS, levels_seen(seen.crops[0]), strict=True))
        blended[[not shown[of.level] for of in TARGETS]] = np.nan
        return blended

    def _predict(self, study: Study) -> Prediction:
        seen = self.look(study)
        return Prediction(self.grade(study.study_id, seen), "; ".join(seen.notes))


def _load_model(bundle: Path, config: dict[str, object], files: Sequence[str], device: torch.device) -> Model:
    # Bundles of earlier versions have a setting of the training that is no more.
    known = {name: value for name, value in config.items() if name != "annotated_share"}
    settings = from_dict(known, GradeConfig, str(bundle))
    networks = []
    for name in files:
        network = Grader(settings)
        # Half precision in the file, full precision in the network: load_state_dict converts.
        network.load_state_dict(safetensors.torch.load_file(bundle / name))
        networks.append(network.to(device).eval())
    return Model(settings, tuple(networks))
