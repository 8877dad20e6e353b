"""Training the locator by folds, its out-of-fold points and their errors, and the use of a trained one."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.learner import Learner
from tqdm import tqdm

from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.cluster import AHEAD, ahead, on_cluster, open_pool
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import locked, write_csv
from lumbar_kaggle.core.settings import begin_run, load_config
from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom.cache import Cache
from lumbar_kaggle.dicom.volume import Floats
from lumbar_kaggle.inference.bundle import MANIFEST, read_manifest
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.tables.folds import derive_seed, open_folds
from lumbar_kaggle.tables.reading import as_numbers, read_table
from lumbar_kaggle.training import group
from lumbar_kaggle.training.devices import spread, training_device
from lumbar_kaggle.training.loop import make_learner, train_file, write_network
from lumbar_kaggle.two_stage.config import LocateConfig, Result, network_file
from lumbar_kaggle.two_stage.locate.find import CHANNELS, COLUMNS, Locator, load_locator, locate_studies
from lumbar_kaggle.two_stage.locate.training import SAMPLES, PrepareSlices, Sample, loss
from lumbar_kaggle.two_stage.start import LOCATOR_SHAPE, check_fits, identity, parse_models
from lumbar_kaggle.two_stage.study import PLACES, RECESSES, StudyVolumes, read_marked_studies, tell_unused

log = logging.getLogger(__name__)

CONFIG = "locate.json"  # the configuration in a run folder


def point_errors(located: pd.DataFrame, studies: Sequence[StudyVolumes]) -> pd.DataFrame:
    """Compare located points with the marked ones: sagittal on the same series, axial on whichever. Returns one row per
    marked point: ``study_id, series_id, kind, place, level``, ``error_mm`` within the plane of the slices, ``depth_mm``
    across them, ``relative`` (the error as part of the mean distance of marked neighbours), ``level_off`` (levels
    between the found point and the marked one nearest to it), ``found``."""
    series = located["series_id"].where(located["kind"] != "axial_t2", "")
    keys = zip(located["study_id"], series, located["place"], located["level"], strict=True)
    places = dict(zip(keys, located[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64), strict=True))
    rows: list[tuple[Any, ...]] = []
    for study in studies:
        judged = [(one.series_id, one.kind, [one]) for one in study.sagittal()] + [("", "axial_t2", study.axial())]
        for series_id, kind, volumes in judged:
            marked = study.marked(volumes)
            for place, level in np.argwhere(np.isfinite(marked[..., 0])):
                if (kind == "axial_t2") == (place >= RECESSES.start):
                    names = PLACES[place], LEVELS[level]
                    found = places.get((study.study_id, series_id, *names))
                    figures = _compare(marked[place], int(level), found, volumes[0].normal)
                    rows.append((study.study_id, series_id, kind, *names, *figures))
    key = ["study_id", "series_id", "kind", "place", "level"]
    return pd.DataFrame(rows, columns=[*key, "error_mm", "depth_mm", "relative", "level_off", "found"])


def _compare(marked: Floats, level: int, found: Floats | None, normal: Floats) -> tuple[float, ...]:
    """Return the figures of one level of a place's marked points ``[5, 3]``; see `point_errors`."""
    if found is None:
        return (np.nan, np.nan, np.nan, np.nan, False)
    offset = found - marked
    depth = float(np.abs(offset[level] @ normal))
    error = float(np.sqrt(max(offset[level] @ offset[level] - depth**2, 0.0)))
    steps = np.linalg.norm(np.diff(marked, axis=0), axis=1)
    step = float(np.nanmean(steps)) if np.isfinite(steps).any() else np.nan
    nearest = int(np.nanargmin(np.linalg.norm(offset, axis=1)))
    return (error, depth, error / step, float(abs(nearest - level)), True)


def _summary(errors: pd.DataFrame) -> pd.DataFrame:
    """Return the figures per series kind and place, and for all: distances, and shares of the marked points."""
    figures = {}
    for key, some in [*errors.groupby(["kind", "place"]), (("all", ""), errors)]:
        error = some["error_mm"]
        figures[key] = {
            "points": float(len(some)),
            "median_mm": float(error.median()),
            "p95_mm": float(error.quantile(0.95)),
            "p99_mm": float(error.quantile(0.99)),
            "within_5_mm": float((error <= 5).mean()),
            "within_10_mm": float((error <= 10).mean()),
            "off_by_level": float((some["level_off"] > 0).mean()),
            "median_relative": float(some["relative"].median()),
            "median_depth_mm": float(some["depth_mm"].median()),
            "not_found": float((~some["found"].astype(bool)).mean()),
        }
    return pd.DataFrame(figures).T.rename_axis(["kind", "place"])


@dataclass(frozen=True, eq=False)
class LocatorRun:
    """The first stage, trained by folds and judged out of fold; or, with no epochs, a trained locator that is judged.
    The run folder gets ``locate.json``, ``folds.csv``, per fold ``sagittal-{k}.safetensors``, ``axial-{k}.safetensors``
    and ``points-{k}.csv``, then ``points.csv``, ``errors.csv`` and ``figures.csv``."""

    competition: Competition  # grades are not needed, see `competition.read_marked`
    cache: Path  # of the volumes
    out: Path
    config: LocateConfig
    budget: Budget
    weights: Path | None = None  # trained locator to start from, or to use: a run folder, or a bundle
    folds: pd.DataFrame | None = None  # columns ``study_id, fold``, studies without a row are left out; None: drawn
    alike: bool = False  # train all folds on from the same network of the weights, so that they can be averaged
    # Planes of which so many of the first folds have a network, where the others would learn from the same studies.
    limits: Mapping[str, int] = field(default_factory=dict)

    def train(self, processes: int | None = None) -> Result:
        """Train, or go on, and judge; for `processes` see `devices.spread`. Raises InputError: a table or the cache is
        missing, nothing is to be trained and there are no weights, too few studies or no labelled point, or the run was
        begun with other settings or on other data."""
        out, config, weights = self.out, self.config, self.weights
        if weights is None and not config.epochs:
            needed = "a trained locator is needed: --weights, or --from-models"
            raise InputError(f"{out}: nothing is to be trained, so {needed}")
        studies = [one for one in read_marked_studies(self.competition, self.cache) if one.sagittal() or one.axial()]
        tell_unused(self.competition, learned_marks(studies), "sagittal or placed axial")
        with locked(out):
            try:
                if weights is not None and not config.epochs and self.folds is None:
                    points = _locate_with(weights, studies)
                else:
                    if weights is not None:
                        check_fits(weights, load_networks(weights)[0], config, LOCATOR_SHAPE)
                    data = learned_from(self.competition, self.cache) | identity(weights)
                    begin_run(out / CONFIG, config, data=data)
                    points = self._train(studies, processes)
            except OutOfTime:
                return Result(f"{out}: the time budget is spent; resumable: the same command goes on from here", False)
            write_csv(out / "points.csv", points)
            errors = point_errors(points, studies)
            write_csv(out / "errors.csv", errors)
            if errors.empty:
                why = "no point is marked in this folder, so nothing is judged"
                return Result(f"{out}/points.csv: located; {why}", True)
            figures = _summary(errors)
            write_csv(out / "figures.csv", figures.reset_index())
        shares = ("within_5_mm", "within_10_mm", "off_by_level", "not_found", "median_relative")
        formats = dict.fromkeys(shares, "{:.3f}".format)
        table = figures.astype({"points": int}).to_string(float_format="{:.2f}".format, formatters=formats)
        return Result(f"{table}\nerrors within the plane of the slices; every point in {out}/errors.csv", True)

    def _train(self, studies: Sequence[StudyVolumes], processes: int | None) -> pd.DataFrame:
        """Train the networks fold by fold and return the out-of-fold points of all studies."""
        out, config, folds = self.out, self.config, self.folds
        if folds is None:
            # Grades may be missing: then every study is like the others.
            ungraded = pd.DataFrame({"study_id": sorted(one.study_id for one in studies), "target": "", "severity": 0})
            folds = open_folds(out / "folds.csv", ungraded, config.folds, config.seed)
        else:
            write_csv(out / "folds.csv", folds)
        fold_of = dict(zip(folds["study_id"].astype(str), folds["fold"], strict=True))
        studies = [one for one in studies if one.study_id in fold_of]
        samples = {name: [sample for one in studies for sample in make(one, config)] for name, make in SAMPLES.items()}
        if not any(samples.values()):
            raise InputError(f"{out}: no series of these studies has a labelled point to learn from")
        counts = ", ".join(f"{len(some)} {name} slices" for name, some in samples.items())
        doing = "Training the locator on" if config.epochs else "Taking a trained locator as it is; marked are"
        log.info("%s %s of %d studies into %s", doing, counts, len(folds), out)
        files = [out / f"points-{fold}.csv" for fold in range(config.folds)]
        todo = [fold for fold, file in enumerate(files) if not file.is_file()]
        spread(_fit_fold, (self, studies, samples, fold_of), todo, processes)
        parts = [read_points(file) for file in files]
        return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def _locate_with(weights: Path, studies: Sequence[StudyVolumes]) -> pd.DataFrame:
    """Return what a trained locator finds; with a scheduler in force its workers look, study by study."""
    if on_cluster():
        with open_pool(1) as pool:
            found = ahead(pool, partial(_locate_there, weights), studies, AHEAD)
            parts: list[pd.DataFrame] = list(tqdm(found, total=len(studies), unit="study", desc="locate"))
            return pd.concat(parts, ignore_index=True)
    settings, networks = load_networks(weights)
    if not networks["sagittal"]:
        raise InputError(f"{weights}: no fold of this locator is finished; run lumbar locate with it as --out")
    return locate_studies(studies, networks["sagittal"], networks["axial"], settings)


def _locate_there(weights: Path, study: StudyVolumes) -> pd.DataFrame:
    settings, networks = _kept_networks(weights)
    return locate_studies([study], networks["sagittal"], networks["axial"], settings)


def load_networks(folder: Path) -> tuple[LocateConfig, dict[str, list[Locator]]]:
    """Return the settings of a trained locator, a bundle's or a run's, and its networks called ``sagittal`` and
    ``axial``, those there are, on the training's device. InputError: the folder holds no locator."""
    if (folder / MANIFEST).is_file():
        whole, models = parse_models(folder, read_manifest(folder))
        config, names = whole.locate, {"sagittal": [*models.sagittal], "axial": models.axial}
    elif (folder / CONFIG).is_file():
        config = load_config(folder / CONFIG, LocateConfig)
        names = {name: [network_file(folder, name, fold).name for fold in range(config.folds)] for name in CHANNELS}
    else:
        raise InputError(f"{folder}: holds no locator; give a folder that lumbar locate or lumbar export wrote")
    files = {name: [path for file in some if (path := folder / file).is_file()] for name, some in names.items()}
    device = training_device()
    return config, {
        name: [load_locator(file, config, CHANNELS[name]).to(device) for file in some] for name, some in files.items()
    }


@lru_cache(maxsize=1)
def _kept_networks(weights: Path) -> tuple[LocateConfig, dict[str, list[Locator]]]:
    """Return the networks of a worker, which keeps them from study to study."""
    return load_networks(weights)


# Of each plane the samples, of each study the fold that holds it out.
Shared = tuple[LocatorRun, Sequence[StudyVolumes], dict[str, list[Sample]], dict[str, int]]


def _fit_fold(shared: Shared, fold: int) -> None:
    """Train a fold's networks, and write the points that they find in the studies they have not seen."""
    run, studies, samples, fold_of = shared
    networks: dict[str, list[Locator]] = {name: [] for name in samples}
    outputs: dict[str, int] = {}
    for name, some in samples.items():
        training = [sample for sample in some if fold_of[sample.study_id] != fold]
        # With few marks the held-out studies may have none: then the loss is that of the training.
        validation = [sample for sample in some if fold_of[sample.study_id] == fold] or training
        if fold >= run.limits.get(name, run.config.folds):
            log.info("Fold %d: has no %s network of its own", fold, name)
        elif training:
            outputs[name] = train_network(run, name, fold, training, validation)
        elif some:
            log.info("Fold %d: all marked %s slices are of the studies that it holds out; no network", fold, name)
    if not group.leads():
        return
    networks |= {name: [trained_network(run, name, fold, count)] for name, count in outputs.items()}
    held_out = [one for one in studies if fold_of[one.study_id] == fold]
    points = locate_studies(held_out, networks["sagittal"], networks["axial"], run.config)
    write_csv(run.out / f"points-{fold}.csv", points)


def trained_network(run: LocatorRun, name: str, fold: int, outputs: int) -> Locator:
    """Return a fold's trained network on the training's device, read again as a resumed run has it: the order of the
    weights in memory shows in the last digits of the points."""
    return load_locator(network_file(run.out, name, fold), run.config, outputs).to(training_device())


def train_network(
    run: LocatorRun, name: str, fold: int, training: Sequence[Sample], validation: Sequence[Sample]
) -> int:
    """Train one fold's network, or take it up where it was, into its file; return how many outputs it has. `name` is
    ``sagittal`` or ``axial``, samples are not empty. With no epochs the network of the run's weights is taken as it is;
    InputError: they have none of that name."""
    config, outputs, file = run.config, len(training[0].state), network_file(run.out, name, fold)

    def first() -> Locator:
        network = Locator(config.channels, outputs)
        if run.weights is not None:
            _, networks = load_networks(run.weights)
            if networks[name]:
                # Fold k from fold k: where both are dealt out alike, it has not seen what is held out either.
                number = 0 if run.alike and config.epochs else fold % len(networks[name])
                network.load_state_dict(networks[name][number].state_dict())
            elif not config.epochs:
                remedy = "train one, with epochs above 0"
                raise InputError(f"{run.weights}: has no {name} network to take as it is; {remedy}")
        return network

    def make(fresh: bool) -> Learner:
        network = first() if fresh else Locator(config.channels, outputs)
        network.to(memory_format=torch.channels_last)  # a third faster on a CPU
        numbers = [(number,) for number in range(len(training) + len(validation))]
        parts, prepare = (numbers[: len(training)], numbers[len(training) :]), PrepareSlices([*training, *validation])
        return make_learner(network, parts, loss, run.out, config, cbs=[prepare])

    if not config.epochs:
        if group.leads():
            write_network(file, first().state_dict(), config)
    elif not file.is_file():
        seed, title = derive_seed(config.seed, name, str(fold)), f"train {name} fold {fold + 1}/{config.folds}"
        train_file(file, make, config, seed=seed, title=title, phase=name, budget=run.budget)
    return outputs


def read_points(path: Path) -> pd.DataFrame:
    """Read a table of located points, columns `find.COLUMNS`; InputError: it is missing or no such table."""
    table = read_table(path, COLUMNS)
    as_numbers(path, table[table["instance_number"] != ""], "instance_number")
    numbers = [int(float(text)) if text else None for text in table["instance_number"]]
    table = as_numbers(path, table, "slice", "row", "column", "x_mm", "y_mm", "z_mm", "confidence")
    return table.assign(placed=table["placed"] == "True", instance_number=pd.array(numbers, dtype=object))


def learned_marks(studies: Sequence[StudyVolumes]) -> Iterator[Floats]:
    """Yield the marks that the locator learns from: recesses on axial slices, the other places on sagittal ones."""
    for study in studies:
        for volume, marks in zip(study.volumes, study.marks, strict=True):
            if volume in study.axial():
                yield marks[RECESSES]
            elif volume in study.sagittal():
                yield marks[: RECESSES.start]


def learned_from(competition: Competition, cache: Path) -> dict[str, str]:
    """Return digests of what the points of a split are learned from, see `settings.tie`; grades are not. Raises
    InputError: the cache of volumes is missing."""
    identity = {name: value for name, value in competition.identity().items() if name != "labels"}
    return {**identity, "images": Cache(cache, "volumes").identity()}
