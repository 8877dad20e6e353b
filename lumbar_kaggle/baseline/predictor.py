"""A baseline bundle, ready to grade studies."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from lumbar_kaggle.baseline.calibration import calibrate
from lumbar_kaggle.baseline.config import BaselineConfig
from lumbar_kaggle.baseline.export import Fold, read_models
from lumbar_kaggle.baseline.images import middle_slice, rank_series, square
from lumbar_kaggle.core.settings import from_dict
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES, target
from lumbar_kaggle.dicom.series import UnreadableSeries
from lumbar_kaggle.inference.base import Explanation, HeatMap, Prediction, Slice, Study
from lumbar_kaggle.inference.bundle import MANIFEST, Manifest
from lumbar_kaggle.inference.heat import grad_cam
from lumbar_kaggle.training.devices import usable_devices
from lumbar_kaggle.training.encoders import build_network, load_weights

READERS = 8
"""Threads that read studies; they wait for the disk most of the time."""


class BaselinePredictor:
    """Grades studies with the classifiers of a bundle.

    One network is built per device; the weights of each target and fold are loaded into it in turn, so
    memory does not grow with their number. Several devices share the targets out, so that each reads
    only its part of the weights. See `inference.base.Predictor`.

    Args:
        bundle: its folder.
        manifest: its manifest.
        devices: where to compute; by default every GPU, or the CPU.
    """

    batch_size = 64

    def __init__(self, bundle: Path, manifest: Manifest, devices: Sequence[torch.device] | None = None) -> None:
        self.bundle, self.manifest = bundle, manifest
        devices = devices or usable_devices()
        self.device = devices[0]
        self.trained = read_models(bundle, manifest)
        size = {"image_size": manifest.input.get("image_size")}
        self.image_size = from_dict(size, BaselineConfig, f"{bundle / MANIFEST}, input").image_size
        self.network = build_network(self.trained.arch)
        self.model = self.network.model.to(self.device).eval()
        others = [build_network(self.trained.arch).model.to(device).eval() for device in devices[1:]]
        self.replicas = list(zip(devices, [self.model, *others], strict=True))
        self.prior = manifest.prior_table()
        # Damaged weights end the run now; later loads of the same files need no check.
        for fold in (fold for name in manifest.targets for fold in self.trained.folds[name]):
            load_weights(self.model, bundle / fold.file, "export the bundle again")

    def predict(self, studies: Sequence[Study]) -> list[Prediction]:
        """Grade some studies; one without a readable sagittal T1 series gives a reason."""
        with ThreadPoolExecutor(READERS) as pool:
            pictures = list(pool.map(_try_picture, studies))
        images = [picture for picture, _ in pictures if picture is not None]
        probabilities = np.full((len(studies), len(TARGET_NAMES), 3), np.nan)
        faults: list[str] = []
        if images:
            readable = [index for index, (picture, _) in enumerate(pictures) if picture is not None]
            probabilities[readable], faults = self._grade(np.stack(images))
        return [
            Prediction(grades, reason if picture is None else "; ".join([reason, *faults]).removeprefix("; "))
            for grades, (picture, reason) in zip(probabilities, pictures, strict=True)
        ]

    def grade(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Grade cached pictures ``[studies, 256, 256]``.

        Returns:
            ``[studies, 25, 3]`` calibrated, mean over folds; NaN for targets without a model, or with one
            whose weights give no numbers.
        """
        return self._grade(images)[0]

    def _grade(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], list[str]]:
        """Return what `grade` does, and what is wrong with the weights."""
        inputs = self.normalise(images)
        graded = np.full((len(images), len(TARGET_NAMES), 3), np.nan)
        faults = []
        with ThreadPoolExecutor(len(self.replicas)) as pool:
            shares = pool.map(lambda number: self._grade_share(number, inputs), range(len(self.replicas)))
            for part, wrong in shares:
                faults += wrong
                for name, probabilities in part.items():
                    graded[:, TARGET_NAMES.index(name)] = probabilities
        return graded, faults

    def _grade_share(self, number: int, inputs: torch.Tensor) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
        """Grade on device `number` its share of the targets: every n-th of them."""
        device, model = self.replicas[number]
        moved, graded, faults = inputs.to(device), {}, []
        for name in self.manifest.targets[number :: len(self.replicas)]:
            raw = [(fold, _softmax(model, moved)) for fold in self._load_folds(name, model)]
            wrong = [fold.file for fold, probabilities in raw if not np.isfinite(probabilities).all()]
            if wrong:
                faults.append(f"{name} keeps the prior, for {wrong[0]} gives no finite numbers")
                continue
            graded[name] = np.mean([self.calibrate(name, *one) for one in raw], axis=0)
        return graded, faults

    def explain(self, study: Study, targets: Sequence[str] | None = None) -> Explanation:
        """Grade one study and draw heat maps; see `explain_study`."""
        try:
            return explain_study(study, self, targets)
        except UnreadableSeries as error:
            nothing = np.full((len(TARGET_NAMES), len(SEVERITIES)), np.nan)
            return Explanation(study.study_id, nothing, (str(error),))

    def models(self, target_name: str) -> Iterator[tuple[Fold, nn.Sequential]]:
        """Yield each fold's manifest entry and the network holding its weights (the same object)."""
        for fold in self._load_folds(target_name, self.model):
            yield fold, self.model

    def _load_folds(self, target_name: str, model: nn.Sequential) -> Iterator[Fold]:
        for fold in self.trained.folds[target_name]:
            model.load_state_dict(safetensors.torch.load_file(self.bundle / fold.file))
            yield fold

    def normalise(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Turn pictures ``[studies, 256, 256]`` into the network's input ``[studies, 3, side, side]``.

        The same resampling as fastai's `Resize` on a square picture.
        """
        side = (self.image_size, self.image_size)
        resized = [np.asarray(Image.fromarray(image).resize(side, Image.Resampling.BILINEAR)) for image in images]
        gray = torch.from_numpy(np.stack(resized)).float().div(255)[:, None].expand(-1, 3, -1, -1)
        mean = torch.tensor(self.network.mean)[:, None, None]
        std = torch.tensor(self.network.std)[:, None, None]
        return ((gray - mean) / std).to(self.device)

    def calibrate(self, name: str, fold: Fold, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrate one fold's softmax ``[studies, 3]`` of a target; see `calibration.calibrate`."""
        seen = np.tile([index in fold.severities_seen for index in range(3)], (len(raw), 1))
        prior = np.tile(self.prior.loc[name, list(SEVERITIES)].to_numpy(dtype=np.float64), (len(raw), 1))
        return calibrate(raw, prior, seen, self.trained.calibration[target(name).score_group])


def _softmax(model: nn.Sequential, inputs: torch.Tensor) -> NDArray[np.float64]:
    with torch.inference_mode():
        probabilities: NDArray[np.float64] = model(inputs).softmax(dim=1).double().cpu().numpy()
    return probabilities


def study_slice(study: Study) -> tuple[NDArray[np.uint8], dict[str, object]]:
    """Read the slice of a study that the baseline looks at; see `images.middle_slice`.

    Raises:
        UnreadableSeries: no sagittal T1 series, or no usable slice in any.
    """
    reasons = []
    for row in rank_series(study.series).to_dict("records"):
        try:
            image, facts = middle_slice(Path(row["folder"]), row["files"], row["kind"])
        except UnreadableSeries as error:
            reasons.append(str(error))
            continue
        notes = "; ".join(filter(None, (*reasons, str(facts["notes"]))))
        return image, {**facts, "notes": notes, "series_id": row["series_id"]}
    raise UnreadableSeries("; ".join(reasons) or "no sagittal T1 series")


def _try_picture(study: Study) -> tuple[NDArray[np.uint8] | None, str]:
    try:
        image, facts = study_slice(study)
    except UnreadableSeries as error:
        return None, str(error)
    return square(image), f"series {facts['series_id']}: {facts['notes']}" if facts["notes"] else ""


def explain_study(study: Study, predictor: BaselinePredictor, targets: Iterable[str] | None = None) -> Explanation:
    """Grade one study and draw a heat map for each target asked for, by default every one of the bundle.

    Each heat map is the mean over the folds' models, enlarged to the original slice. Other targets are not
    graded.

    Raises:
        UnreadableSeries: the study has no usable slice.
    """
    image, facts = study_slice(study)
    inputs = predictor.normalise(square(image)[None])
    probabilities = np.full((len(TARGET_NAMES), len(SEVERITIES)), np.nan)
    heat_maps = []
    for name in targets or predictor.manifest.targets:
        graded, heat_map = _explain_target(predictor, name, inputs, image.shape)
        probabilities[TARGET_NAMES.index(name)] = graded
        heat_maps.append(heat_map)
    shown = Slice(image, facts)
    return Explanation(study.study_id, probabilities, slice=shown, heat_maps=tuple(heat_maps))


def _explain_target(
    predictor: BaselinePredictor, name: str, inputs: torch.Tensor, shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], HeatMap]:
    graded, raw, maps = [], [], []
    for fold, model in predictor.models(name):
        # The body's last output is the feature map that the head pools.
        logits, heat = grad_cam(model, model[0], inputs)
        softmax = logits.softmax(0)[None].double().cpu().numpy()
        graded.append(predictor.calibrate(name, fold, softmax)[0])
        raw.append(softmax[0])
        maps.append(heat)
    severity = int(np.mean(raw, axis=0).argmax())
    heat = np.mean(maps, axis=0)[severity]
    enlarged = cv2.resize(heat, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    heat_map = HeatMap(name, SEVERITIES[severity], np.clip(enlarged, 0, 1).astype(np.float32))
    return np.mean(graded, axis=0), heat_map
