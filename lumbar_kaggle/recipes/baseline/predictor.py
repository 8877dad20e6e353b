"""A baseline bundle, ready to grade studies."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from lumbar_kaggle.bundle import Manifest
from lumbar_kaggle.recipes.base import Prediction, Study
from lumbar_kaggle.recipes.baseline.calibration import Calibration, calibrate
from lumbar_kaggle.recipes.baseline.images import choose_series, middle_slice, square
from lumbar_kaggle.recipes.baseline.network import build_network
from lumbar_kaggle.targets import SEVERITIES, TARGET_NAMES, target
from lumbar_kaggle.volume import UnreadableSeries

READERS = 8
"""Threads that read studies; they wait for the disk most of the time."""


class BaselinePredictor:
    """Grades studies with the classifiers of a bundle.

    One network is built; the weights of each target and fold are loaded into it in turn, so memory
    does not grow with their number. See `recipes.base.Predictor`.
    """

    batch_size = 64

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        self.bundle, self.manifest = bundle, manifest
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = build_network(manifest.models["arch"])
        self.model = self.network.model.to(self.device).eval()
        self.image_size = int(manifest.input["image_size"])
        self.prior = manifest.prior_table()

    def predict(self, studies: Sequence[Study]) -> list[Prediction]:
        """Grade some studies; one without a readable sagittal T1 series gives a reason."""
        with ThreadPoolExecutor(READERS) as pool:
            pictures = list(pool.map(_try_picture, studies))
        images = [picture for picture, _ in pictures if picture is not None]
        probabilities = np.full((len(studies), len(TARGET_NAMES), 3), np.nan)
        if images:
            readable = [index for index, (picture, _) in enumerate(pictures) if picture is not None]
            probabilities[readable] = self.grade(np.stack(images))
        return [
            Prediction(grades, reason) for grades, (_, reason) in zip(probabilities, pictures, strict=True)
        ]

    def grade(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Grade cached pictures.

        Args:
            images: ``[studies, 256, 256]``.

        Returns:
            ``[studies, 25, 3]`` calibrated, mean over folds; NaN for targets without a model.
        """
        inputs = self.normalise(images)
        graded = np.full((len(images), len(TARGET_NAMES), 3), np.nan)
        for index, name in enumerate(TARGET_NAMES):
            if name in self.manifest.targets:
                folds = [self.calibrate(name, fold, self._softmax(inputs)) for fold, _ in self.models(name)]
                graded[:, index] = np.mean(folds, axis=0)
        return graded

    def models(self, target_name: str) -> Iterator[tuple[dict[str, Any], nn.Sequential]]:
        """Yield each fold's manifest entry and the network holding its weights (the same object)."""
        for fold in self.manifest.models["folds"][target_name]:
            # Half precision in the file, full precision in the network: load_state_dict converts.
            self.model.load_state_dict(safetensors.torch.load_file(self.bundle / fold["file"]))
            yield fold, self.model

    def normalise(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Turn pictures ``[studies, 256, 256]`` into the network's input ``[studies, 3, side, side]``.

        The same resampling as fastai's `Resize` on a square picture.
        """
        side = (self.image_size, self.image_size)
        resized = [
            np.asarray(Image.fromarray(image).resize(side, Image.Resampling.BILINEAR)) for image in images
        ]
        gray = torch.from_numpy(np.stack(resized)).float().div(255)[:, None].expand(-1, 3, -1, -1)
        mean = torch.tensor(self.network.mean)[:, None, None]
        std = torch.tensor(self.network.std)[:, None, None]
        return ((gray - mean) / std).to(self.device)

    def calibrate(self, name: str, fold: dict[str, Any], raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrate one fold's softmax ``[studies, 3]`` of a target; see `calibration.calibrate`."""
        seen = np.tile([index in fold["severities_seen"] for index in range(3)], (len(raw), 1))
        prior = np.tile(self.prior.loc[name, list(SEVERITIES)].to_numpy(dtype=np.float64), (len(raw), 1))
        trust = Calibration(**self.manifest.models["calibration"][target(name).score_group])
        return calibrate(raw, prior, seen, trust)

    def _softmax(self, inputs: torch.Tensor) -> NDArray[np.float64]:
        with torch.inference_mode():
            probabilities: NDArray[np.float64] = self.model(inputs).softmax(dim=1).double().cpu().numpy()
        return probabilities


def study_slice(study: Study) -> tuple[NDArray[np.uint8], dict[str, object]]:
    """Read the slice of a study that the baseline looks at; see `images.middle_slice`.

    Raises:
        UnreadableSeries: no sagittal T1 series, or no usable slice in it.
    """
    chosen = choose_series(study.series)
    if chosen.empty:
        raise UnreadableSeries("no sagittal T1 series")
    image, facts = middle_slice(Path(chosen["folder"].iloc[0]))
    return image, {**facts, "series_id": chosen["series_id"].iloc[0]}


def _try_picture(study: Study) -> tuple[NDArray[np.uint8] | None, str]:
    try:
        return square(study_slice(study)[0]), ""
    except UnreadableSeries as error:
        return None, str(error)
