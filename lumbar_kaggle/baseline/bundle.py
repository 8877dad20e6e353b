"""A run → a bundle (the kept folds' weights in 16 bits, the calibration, the prior) → its predictor."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from lumbar_kaggle.baseline.images import CACHE_CONFIG, resize, square, study_slice
from lumbar_kaggle.baseline.recipe import NAME, BaselineConfig
from lumbar_kaggle.baseline.run import BODY, RERUN, Calibration, Run, calibrate
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, digest, read_csv, read_json
from lumbar_kaggle.core.settings import Validated, from_dict, option
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES, target
from lumbar_kaggle.dicom.series import UnreadableSeries
from lumbar_kaggle.inference.base import (
    Explanation,
    Findings,
    Floats,
    HeatMap,
    Prediction,
    Slice,
    SliceName,
    Study,
    UsedView,
)
from lumbar_kaggle.inference.bundle import MANIFEST, Manifest, open_bundle, write_manifest
from lumbar_kaggle.inference.heat import grad_cam
from lumbar_kaggle.training.devices import device_of, training_device
from lumbar_kaggle.training.library_models import build_network, load_pretrained
from lumbar_kaggle.training.weights import export_weights, load_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fold(Validated):
    """One classifier of a bundle: its weight file, and the severities its training part held."""

    file: str
    severities_seen: tuple[int, ...] = option((0, 1, 2), "of its training part", least=0, most=2)


@dataclass(frozen=True)
class Models:
    """`bundle.Manifest.models` of this recipe."""

    arch: str  # of all networks
    folds: dict[str, list[Fold]]  # per target its classifiers
    calibration: dict[str, Calibration]  # per score group
    body: str = ""  # weight file of the body that all share; without it, each classifier's file holds its own
    source: str = ""  # digest of the run; see `bundle.open_bundle`


@alone_on("bundle", file=True)
def export(run: Path, bundle: Path) -> Manifest:
    """Write the bundle of a run's finished targets; one that was already made from the same is left as it is. Weights
    are rounded to 16 bits, half the size at no measurable cost in the probabilities. The manifest comes last, so an
    interrupted export is no bundle. Raises `InputError` where no target is finished, the run is by the report's
    protocol, or the folder has other content."""
    trained = Run(run)
    if trained.config.protocol != "honest":
        raise InputError(f"{run}: trained by the report's protocol, which is for comparison; export an honest run")
    trained.check_finished()
    config, calibration = asdict(trained.config), read_json(run / "calibration.json")
    prior = read_csv(run / "prior.csv", SEVERITIES, RERUN, index_col="target")
    # Without how long training took: the same models make the same bundle, resumed or not, on any day.
    timeless = [
        {**one, "folds": [{k: v for k, v in fold.items() if k != "seconds_per_epoch"} for fold in one["folds"]]}
        for one in trained.records
    ]
    source = digest([timeless, calibration, prior.to_numpy().tolist(), config])
    before = open_bundle(bundle, source)
    if before is not None:
        return before
    log.info("Exporting %d targets into %s", len(trained.records), bundle)
    folds: dict[str, list[dict[str, Any]]] = {name: [] for name in trained.targets}
    for record in tqdm(trained.records, unit="target"):
        name = record["target"]
        for one in record["folds"]:
            file = f"weights/{name}-fold-{one['fold']}.safetensors"
            export_weights(bundle / file, trained.fold_folder(record, one["fold"]) / "weights.safetensors")
            folds[name].append({"file": file, "severities_seen": one["severities_seen"]})
    files = [fold["file"] for entries in folds.values() for fold in entries]
    models = {"arch": config["arch"], "folds": folds, "calibration": calibration, "source": source}
    if trained.config.frozen:
        models["body"] = "weights/body.safetensors"
        export_weights(bundle / models["body"], run / BODY)
        files.append(models["body"])
    return write_manifest(
        bundle,
        recipe=NAME,
        config=config,
        targets=trained.targets,
        contract={**asdict(CACHE_CONFIG), "image_size": config["image_size"], "scale": "0 to 1, then mean and std"},
        prior=prior,
        metrics=trained.summary.set_index("label")[["accuracy", "folds"]].to_dict("index"),
        weights=files,
        models=models,
    )


class BaselinePredictor:
    """Grades studies with the classifiers of a bundle; see `inference.base.Predictor`. One network is built, on a GPU
    where there is one; the weights of each target and fold are loaded into it in turn, so memory does not grow with
    their number."""

    batch_size = 64

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        self.bundle, self.manifest = bundle, manifest
        path = bundle / MANIFEST
        self.trained = from_dict(manifest.models, Models, f"{path}, models")
        size = {"image_size": manifest.input.get("image_size")}
        self.image_size = from_dict(size, BaselineConfig, f"{path}, input").image_size
        self.network = build_network(self.trained.arch)
        self.network.model.to(training_device()).eval()
        if self.trained.body:
            manifest.check_files(bundle, [self.trained.body])
            load_pretrained(self.network.model[0], self.trained.arch, str(bundle / self.trained.body))
        # What the file of one classifier holds.
        self.own = self.network.model[1] if self.trained.body else self.network.model
        self.prior = manifest.prior_table()
        for name in manifest.targets:
            files = [fold.file for fold in self.trained.folds.get(name, [])]
            if not files or target(name).score_group not in self.trained.calibration:
                lacking = "calibration" if files else "fold"
                raise InputError(f"{path}, models: target {name} has no {lacking}; export it again")
            manifest.check_files(bundle, files)
            for file in files:  # damaged weights end the run now; later loads of the same files need no check
                load_weights(self.own, bundle / file, "export the bundle again")

    def predict(self, studies: Sequence[Study]) -> list[Prediction]:
        """Grade some studies; one without a readable sagittal T1 series gives a reason."""
        with ThreadPoolExecutor(8) as pool:  # its threads wait for the disk most of the time
            pictures = list(pool.map(_try_picture, studies))
        probabilities, faults = np.full((len(studies), len(TARGET_NAMES), 3), np.nan), list[str]()
        images = [picture for picture, _, _ in pictures if picture is not None]
        if images:
            readable = [picture is not None for picture, _, _ in pictures]
            probabilities[readable], faults = self.grade(np.stack(images))
        found = []
        for grades, (picture, reason, seen) in zip(probabilities, pictures, strict=True):
            notes = tuple(filter(None, (reason, *(faults if picture is not None else ()))))
            view = UsedView("middle slice", tuple(self.manifest.targets), *seen)
            found.append(Prediction(grades, "; ".join(notes), Findings((), (view,), notes)))
        return found

    def grade(self, images: NDArray[np.uint8]) -> tuple[Floats, list[str]]:
        """Grade cached pictures ``[studies, 256, 256]``; return what is wrong with the weights, too. Probabilities are
        ``[studies, 25, 3]`` calibrated, the mean over folds; NaN where no model gives numbers."""
        inputs, faults = self.normalise(images), []
        graded = np.full((len(images), len(TARGET_NAMES), 3), np.nan)
        with torch.inference_mode():
            given = self.network.model[0](inputs) if self.trained.body else inputs
        for name in self.manifest.targets:
            with torch.inference_mode():
                raw = [(fold, _softmax(self.own(given))) for fold, _ in self.models(name)]
            wrong = [fold.file for fold, probabilities in raw if not np.isfinite(probabilities).all()]
            if wrong:
                faults.append(f"{name} keeps the prior, for {wrong[0]} gives no finite numbers")
                continue
            graded[:, TARGET_NAMES.index(name)] = np.mean([self.calibrate(name, *one) for one in raw], axis=0)
        return graded, faults

    def models(self, name: str) -> Iterator[tuple[Fold, nn.Sequential]]:
        """Yield each fold of a target and the network, always the same, with its weights."""
        for fold in self.trained.folds[name]:
            self.own.load_state_dict(safetensors.torch.load_file(self.bundle / fold.file))
            yield fold, self.network.model

    def normalise(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Turn pictures ``[studies, 256, 256]`` into the network's input ``[studies, 3, side, side]``."""
        resized = np.stack([resize(image, self.image_size) for image in images])
        return self.network.inputs(resized).to(device_of(self.network.model))

    def calibrate(self, name: str, fold: Fold, raw: Floats) -> Floats:
        """Calibrate one fold's softmax ``[studies, 3]`` of a target; see `run.calibrate`."""
        seen, prior = np.isin([[0, 1, 2]], fold.severities_seen), self.prior.loc[[name]].to_numpy(dtype=np.float64)
        return calibrate(raw, prior, seen, self.trained.calibration[target(name).score_group])

    def explain(self, study: Study, targets: Sequence[str] | None = None) -> Explanation:
        """Grade the targets asked for and draw their heat maps over the slice, each the mean over the folds."""
        probabilities = np.full((len(TARGET_NAMES), 3), np.nan)
        try:
            image, facts = study_slice(study)
        except UnreadableSeries as error:
            return Explanation(study.study_id, probabilities, (str(error),))
        inputs, heat_maps = self.normalise(square(image)[None]), []
        for name in targets or self.manifest.targets:
            graded, raw, maps = [], [], []
            for fold, model in self.models(name):
                # The body's last output is the feature map that the head pools.
                logits, heat = grad_cam(model, model[0], inputs)
                raw.append(_softmax(logits[None]))
                graded.append(self.calibrate(name, fold, raw[-1]))
                maps.append(heat)
            probabilities[TARGET_NAMES.index(name)] = np.mean(graded, axis=0)[0]
            severity = int(np.mean(raw, axis=0).argmax())
            heat_maps.append(HeatMap(name, SEVERITIES[severity], np.mean(maps, axis=0)[severity]))
        return Explanation(study.study_id, probabilities, slice=Slice(image, facts), heat_maps=tuple(heat_maps))


def _softmax(logits: torch.Tensor) -> Floats:
    return np.asarray(logits.softmax(dim=1).double().cpu())


def _try_picture(study: Study) -> tuple[NDArray[np.uint8] | None, str, tuple[Any, ...]]:
    """Return the square picture of a study, what was odd, and the series and slice that it is; or None, and why there
    is none. The last are the further fields of `UsedView`."""
    try:
        image, facts = study_slice(study)
    except UnreadableSeries as error:
        return None, str(error), ("", (), str(error))
    number: Any = facts["instance_number"]
    said = f"series {facts['series_id']}: {facts['notes']}" if facts["notes"] else ""
    return square(image), said, (facts["series_id"], (SliceName(number, None),))
