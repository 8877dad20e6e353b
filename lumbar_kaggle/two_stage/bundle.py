"""A two-stage bundle: written from a run, networks of both stages in 16 bits and the blend; then ready to grade."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from lumbar_kaggle.core.cluster import ahead
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, digest, read_csv, read_json, sha256_file
from lumbar_kaggle.core.settings import load_config
from lumbar_kaggle.core.targets import LEVELS, SERIES_KINDS, SEVERITIES, TARGET_NAMES, TARGETS
from lumbar_kaggle.dicom.preprocess import VOLUMES
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.inference.base import Explanation, Findings, Prediction, Study
from lumbar_kaggle.inference.bundle import Manifest, open_bundle, write_manifest
from lumbar_kaggle.inference.networks import Net, ready
from lumbar_kaggle.scoring.blend import BlendModel, apply_cells, load_blend, save_blend
from lumbar_kaggle.training.devices import usable_devices
from lumbar_kaggle.training.weights import export_weights
from lumbar_kaggle.two_stage.config import LOCATOR, RERUN, RUN_FILE, GradeConfig, TwoStageConfig, network_file
from lumbar_kaggle.two_stage.findings import located_points, used_view
from lumbar_kaggle.two_stage.grade.data import levels_of
from lumbar_kaggle.two_stage.grade.network import Grader, average_sides, load_network, predict_levels
from lumbar_kaggle.two_stage.grade.views import Crop, crop_settings, crop_study
from lumbar_kaggle.two_stage.locate.find import CHANNELS, Locator, load_locator, locate_studies
from lumbar_kaggle.two_stage.start import Models, parse_models
from lumbar_kaggle.two_stage.study import StudyVolumes, read_study, to_points, unsided

log = logging.getLogger(__name__)

BLEND = "weights/blend.json"
LANES = 4  # studies that a CPU grades side by side at most: two small networks are done sooner than one by two threads
TOLD = 0.1  # share of the prior in an answer from which on the notes tell it


@alone_on("bundle", file=True)
def export(run: Path, bundle: Path) -> Manifest:
    """Write the bundle of a run's finished folds; without a blend, the models' plain mean is what counts. The manifest
    comes last, so an interrupted export is no bundle. Raises InputError: no fold of one of the stages is finished, or
    `bundle` is a folder with other content."""
    config, blend = load_config(run / RUN_FILE, TwoStageConfig), run / "blend.json"
    found = _finished(run, config)
    graders = [group for group in found if group not in CHANNELS]
    files = {name: paths for group in found.values() for name, paths in group.items()}
    settings = [run / group / "grade.json" for group in graders]
    sources = [*sum(files.values(), ()), *settings, *([blend] if blend.is_file() else [])]
    source = digest([sha256_file(path) for path in sources])
    if before := open_bundle(bundle, source):
        return before
    log.info("Exporting %d networks into %s", len(files), bundle)
    for name, paths in files.items():
        if len(paths) > 1:
            log.info("%s: the mean of the weights of %d folds, all trained on from the same", name, len(paths))
        export_weights(bundle / name, *paths)
    if blend.is_file():
        save_blend(bundle / BLEND, load_blend(blend))
    pairs = zip(graders, settings, strict=True)
    models = [{"config": read_json(path), "folds": list(found[group])} for group, path in pairs]
    figures, metrics = run / LOCATOR / "figures.csv", {}
    if figures.is_file():
        table = read_csv(figures, ("kind",), RERUN, keep_default_na=False)
        (overall,) = table[table["kind"] == "all"].to_dict("records")
        metrics["locator"] = {name: float(overall[name]) for name in ("median_mm", "within_10_mm", "off_by_level")}
    return write_manifest(
        bundle,
        recipe="two-stage",
        config=asdict(config),
        targets=list(TARGET_NAMES),
        contract=asdict(VOLUMES),
        prior=read_csv(run / graders[0] / "prior.csv", SEVERITIES, RERUN, index_col="target"),
        metrics=metrics,
        weights=[*files, *([BLEND] if blend.is_file() else [])],
        models={**{plane: list(found.get(plane, ())) for plane in CHANNELS}, "grade": models, "source": source},
    )


def _finished(run: Path, config: TwoStageConfig) -> dict[str, dict[str, tuple[Path, ...]]]:
    """Return the networks that are trained, by plane and model: name in the bundle → files of the run, of which it has
    the mean. Locators that were trained on from one network find together what the mean of their weights finds, in a
    fraction of the time; graders so joined lose a little (docs/performance.md)."""
    groups = [(plane, run / LOCATOR, plane, config.locate.folds) for plane in CHANNELS]
    groups += [(folder.name, folder, "fold", model.folds) for _, folder, model in config.models(run)]
    there: dict[str, dict[str, tuple[Path, ...]]] = {}
    for group, folder, name, count in groups:
        files = {f"weights/{group}-{k}.safetensors": (network_file(folder, name, k),) for k in range(count)}
        there[group] = {name: paths for name, paths in files.items() if paths[0].is_file()}
        if config.from_models and config.locate.epochs and group in CHANNELS and len(there[group]) > 1:
            there[group] = {f"weights/{group}-mean.safetensors": sum(there[group].values(), ())}
    for stage, wanted in (("locator", {"sagittal"}), ("second stage", set(there) - set(CHANNELS))):
        if not any(there[group] for group in wanted):
            raise InputError(f"{run}: no fold of the {stage} is finished; run lumbar train again to go on")
    return {group: names for group, names in there.items() if names}


class Model(NamedTuple):
    """One model of the second stage: its folds' networks."""

    config: GradeConfig
    networks: tuple[Grader, ...]


class Networks(NamedTuple):
    """All networks of a bundle, on one device."""

    sagittal: tuple[Locator, ...]
    axial: tuple[Locator, ...]
    models: tuple[Model, ...]


class CroppedStudy(NamedTuple):
    """What the models of the second stage are given of a study: `crops`, one entry per model. They are cut from
    `volumes` around `points`, the located ones, columns `find.COLUMNS`. `notes` tell what was missing or had to be
    replaced, `sided` whether the left foramina can be told from the right ones."""

    volumes: tuple[Volume, ...]
    points: pd.DataFrame
    crops: tuple[list[Crop], ...]
    notes: tuple[str, ...]
    sided: bool = True

    def findings(self) -> Findings:
        """Return what a prediction from it rests on."""
        views = tuple(map(used_view, zip(*self.crops, strict=True)))
        return Findings(located_points(self.volumes, self.points, sided=self.sided), views, self.notes)


class TwoStagePredictor:
    """Grades studies with the networks of a bundle; see `inference.base.Predictor`. Every device, by default every GPU
    or the CPU, has networks of its own and takes the next study when it is free; meanwhile the one after that is read.
    By default a CPU takes up to `LANES` at once, each with its share of torch's threads. On a GPU the networks compute
    in 16-bit floats."""

    batch_size: int | None = None

    def __init__(self, bundle: Path, manifest: Manifest, devices: Sequence[torch.device] | None = None) -> None:
        config, trained = parse_models(bundle, manifest)
        self.config = config.locate
        chosen = devices or usable_devices()
        self.replicas = [self._load(bundle, trained, device) for device in chosen]
        if not devices and chosen[0].type == "cpu":
            # Grading changes nothing in the networks, so that one copy serves all lanes.
            self.replicas *= min(LANES, torch.get_num_threads())
        # A study's, also where there are fewer studies than lanes: last digits depend on threads, and no study's may
        # depend on how many others are asked for, as after a run that was cut.
        self.threads = max(1, torch.get_num_threads() // len(self.replicas))
        self.models = self.replicas[0].models
        blend = load_blend(bundle / BLEND) if BLEND in manifest.weights else None
        # A bundle that was exported before all models were trained has a blend of others, or none.
        fits = blend is not None and len(blend.files) == len(self.models)
        self.blend = blend if blend and fits else BlendModel(tuple(map(str, range(len(self.models)))))

    def _load(self, bundle: Path, trained: Models, device: torch.device) -> Networks:
        def load(read: Callable[..., Net], names: Sequence[str], *how: object) -> tuple[Net, ...]:
            return tuple(ready(read(bundle / name, *how), device, bundle / name) for name in names)

        return Networks(
            load(load_locator, trained.sagittal, self.config, CHANNELS["sagittal"]),
            load(load_locator, trained.axial, self.config, CHANNELS["axial"]),
            tuple(Model(one.config.unmoved(), load(load_network, one.folds, one.config)) for one in trained.grade),
        )

    def predict(self, studies: Sequence[Study]) -> Iterator[Prediction]:
        """Grade some studies; levels that no view shows are left to the prior, and the reason says so. Raises
        InputError: the weights of a file give no numbers. Raises Exception: a study has something that nobody thought
        of; the others are best given again without."""
        free = SimpleQueue[int]()
        for number in range(len(self.replicas)):
            free.put(number)

        def grade(study: StudyVolumes) -> Prediction:
            number = free.get()
            try:
                cropped = self.crop(study, number)
                probabilities, notes = self.grade(cropped, number)
                return Prediction(probabilities, "; ".join(notes), cropped._replace(notes=notes).findings())
            finally:
                free.put(number)

        count, begin = len(self.replicas), partial(torch.set_num_threads, self.threads)
        lanes = ThreadPoolExecutor(count, initializer=begin)
        with _threads_restored(), ThreadPoolExecutor(count) as readers, lanes as graders:
            yield from ahead(graders, grade, ahead(readers, read_study, studies, count), count)

    def explain(self, study: Study, targets: Sequence[str] | None = None) -> Explanation:
        """Grade one study and show what of it was looked at, all targets of it."""
        from lumbar_kaggle.two_stage.pages import explain_study

        with _threads_restored():
            torch.set_num_threads(self.threads)
            return explain_study(study, self)

    def crop(self, study: StudyVolumes, number: int = 0) -> CroppedStudy:
        """Find a study's points on device `number` and cut its crops, by the functions of the training."""
        networks = self.replicas[number]
        points = locate_studies([study], networks.sagittal, networks.axial, self.config)
        volumes, places = study.croppable(), to_points(points).get(study.study_id, study.marked([]))
        # Models that are given the same crops share them, so that each is resampled once.
        settings = [repr(crop_settings(model.config)) for model in self.models]
        configs = dict(zip(settings, (model.config for model in self.models), strict=True))
        cut = {name: crop_study(volumes, places, config) for name, config in configs.items()}
        crops = tuple(cut[name] for name in settings)
        sided = study.study_id not in unsided(points)
        notes = _notes(study, crops[0], sided=sided)
        return CroppedStudy(tuple(volumes), points, crops, notes, sided)

    def grade(self, cropped: CroppedStudy, number: int = 0) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """Return the blended probabilities ``[25, 3]``, NaN for levels that no view shows; and the study's notes, with
        one that says how much of the answer is the prior's, where the networks have seen no such pictures."""
        pairs = zip(self.replicas[number].models, cropped.crops, strict=True)
        each = [predict_levels(model.networks, [levels_of(crops)], model.config) for model, crops in pairs]
        blended: NDArray[np.float64] = apply_cells(self.blend, np.stack([found for found, _ in each]))[0]
        share, notes = np.mean([of for _, of in each], axis=0)[0], cropped.notes
        if share.max() > TOLD:
            parts = "canal {:.0%}, foramina {:.0%}, recesses {:.0%}".format(*share)
            notes = *notes, f"pictures unlike those of the training: the prior's share of the answer is {parts}"
        if not cropped.sided:
            blended = average_sides(blended)
        shown = {LEVELS[crop.level] for crop in cropped.crops[0] if not crop.reason}
        blended[[of.level not in shown for of in TARGETS]] = np.nan
        return blended, notes


@contextmanager
def _threads_restored() -> Iterator[None]:
    """Leave torch with as many threads as it has now, in those that begin later too."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _notes(study: StudyVolumes, crops: Sequence[Crop], *, sided: bool) -> tuple[str, ...]:
    """Say what could not be read, what the headers lack and, per view, how many crops have no picture."""
    there = {one.kind for one in study.volumes}
    notes = [*study.notes, *(f"no readable {kind} series" for kind in SERIES_KINDS if kind not in there)]
    for series in sorted({one.series_id for one in study.volumes}):
        mine = [one for one in study.volumes if one.series_id == series]
        if not all(one.placed for one in mine):
            notes.append(f"series {series}: no position in the headers, assumed")
        if not all(one.measured for one in mine):
            notes.append(f"series {series}: no plausible pixel spacing in the headers, spacing assumed")
    if not sided:
        notes.append("the side of the foramina is not known: both get the mean of the two")
    stand_ins = Counter(
        (one.view, one.volume.kind) for one in crops if one.volume and one.volume.kind != one.view.kinds[0]
    )
    for (view, kind), count in stand_ins.items():
        notes.append(f"{view.kinds[0]}: {count} crops of the {view.name} are cut from {kind} instead")
    whole, missing = (Counter(one.view.name for one in some) for some in (crops, [one for one in crops if one.reason]))
    return *notes, *(f"{view}: {count} of {whole[view]} crops without a picture" for view, count in missing.items())
