"""A two-stage bundle, ready to grade studies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lumbar_kaggle.blend.model import BlendModel, apply_cells, load_blend
from lumbar_kaggle.bundle import MANIFEST, Manifest
from lumbar_kaggle.recipes.base import Prediction, Study
from lumbar_kaggle.recipes.two_stage.config import from_content
from lumbar_kaggle.recipes.two_stage.export import BLEND, GradeModel, read_models
from lumbar_kaggle.recipes.two_stage.grading.config import GradeConfig
from lumbar_kaggle.recipes.two_stage.grading.cropping import FreshCrops
from lumbar_kaggle.recipes.two_stage.grading.fit import average_sides, to_targets
from lumbar_kaggle.recipes.two_stage.grading.network import Grader
from lumbar_kaggle.recipes.two_stage.grading.training import predict_studies
from lumbar_kaggle.recipes.two_stage.locating.axial import AXIAL_CHANNELS
from lumbar_kaggle.recipes.two_stage.locating.points import CHANNELS
from lumbar_kaggle.recipes.two_stage.locating.training import load_network
from lumbar_kaggle.recipes.two_stage.looking import Look, levels_seen, look
from lumbar_kaggle.recipes.weights import load_weights
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
        config = from_content(manifest.config, f"{bundle / MANIFEST}, config")
        trained = read_models(bundle, manifest)
        self.locate_config = config.locate
        self.sagittal, self.axial = (
            [load_network(bundle / name, config.locate, outputs).to(device) for name in names]
            for names, outputs in ((trained.sagittal, CHANNELS), (trained.axial, AXIAL_CHANNELS))
        )
        self.models = tuple(_load_model(bundle, entry, device) for entry in trained.grade)
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


def _load_model(bundle: Path, entry: GradeModel, device: torch.device) -> Model:
    networks = []
    for name in entry.folds:
        network = Grader(entry.config)
        load_weights(network, bundle / name, "export the bundle again")
        networks.append(network.to(device).eval())
    return Model(entry.config, tuple(networks))
