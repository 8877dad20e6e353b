"""Training the locator by folds, its out-of-fold points and their errors, and the use of a trained one."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, write_csv
from lumbar_kaggle.core.settings import begin_run, load_config
from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom.cache import Cache
from lumbar_kaggle.dicom.volume import Floats
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.tables.folds import open_folds
from lumbar_kaggle.tables.reading import as_numbers, read_table
from lumbar_kaggle.training.devices import spread
from lumbar_kaggle.two_stage.config import LocateConfig
from lumbar_kaggle.two_stage.locate.find import CHANNELS, COLUMNS, Locator, locate_studies
from lumbar_kaggle.two_stage.locate.training import CONFIG, SAMPLES, Sample, load_networks, train_network
from lumbar_kaggle.two_stage.study import PLACES, RECESSES, MarkedPoint, StudyVolumes, read_marked_studies, tell_unused

log = logging.getLogger(__name__)


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
    for key, group in [*errors.groupby(["kind", "place"]), (("all", ""), errors)]:
        error = group["error_mm"]
        figures[key] = {
            "points": float(len(group)),
            "median_mm": float(error.median()),
            "p95_mm": float(error.quantile(0.95)),
            "p99_mm": float(error.quantile(0.99)),
            "within_5_mm": float((error <= 5).mean()),
            "within_10_mm": float((error <= 10).mean()),
            "off_by_level": float((group["level_off"] > 0).mean()),
            "median_relative": float(group["relative"].median()),
            "median_depth_mm": float(group["depth_mm"].median()),
            "not_found": float((~group["found"].astype(bool)).mean()),
        }
    return pd.DataFrame(figures).T.rename_axis(["kind", "place"])


class Located(NamedTuple):
    """What a run came to: what the command prints, and whether it came to its end."""

    text: str
    finished: bool


@alone_on("out")
def run_locate(
    competition: Competition,
    cache: Path,
    out: Path,
    config: LocateConfig,
    budget: Budget,
    weights: Path | None = None,
    processes: int | None = None,
    folds: pd.DataFrame | None = None,
) -> Located:
    """Train by folds and judge the out-of-fold points; or, with no epochs, judge those of a trained locator.

    The run folder `out` gets ``locate.json``, ``folds.csv``, per fold ``sagittal-{k}.safetensors``,
    ``axial-{k}.safetensors`` and ``points-{k}.csv``, then ``points.csv``, ``errors.csv`` and ``figures.csv``.

    Args:
        competition, cache: coordinates and volumes; grades are not needed, see `competition.read_marked`.
        weights: run folder of a locator to start from, or to use.
        processes: folds at once; see `devices.spread`.
        folds: columns ``study_id, fold``: by which to train, studies without a row left out; None: drawn from all.

    Raises:
        InputError: a table or the cache is missing, nothing is to be trained and there are no weights, too few
            studies or no labelled point, or the run was begun with other settings or on other data.
    """
    studies = [one for one in read_marked_studies(competition, cache) if one.sagittal() or one.axial()]
    tell_unused(competition, studies, is_learned, "sagittal or placed axial")
    try:
        if config.epochs:
            begin_run(out / CONFIG, config, data=learned_from(competition, cache))
            points = _train(studies, out, config, budget, weights, processes, folds)
        elif weights is None:
            raise InputError(f"{out}: nothing is to be trained, so a trained locator is needed: --weights")
        else:
            sagittal, axial = (load_networks(weights, plane) for plane in CHANNELS)
            if not sagittal:
                raise InputError(f"{weights}: no fold of this locator is finished; run lumbar locate with it as --out")
            points = locate_studies(studies, sagittal, axial, load_config(weights / CONFIG, LocateConfig))
    except OutOfTime:
        return Located(f"{out}: the time budget is spent; resumable: the same command goes on from here", False)
    write_csv(out / "points.csv", points)
    errors = point_errors(points, studies)
    write_csv(out / "errors.csv", errors)
    if errors.empty:
        return Located(f"{out}/points.csv: located; no point is marked in this folder, so nothing is judged", True)
    figures = _summary(errors)
    write_csv(out / "figures.csv", figures.reset_index())
    shares = ("within_5_mm", "within_10_mm", "off_by_level", "not_found", "median_relative")
    formats = dict.fromkeys(shares, "{:.3f}".format)
    table = figures.astype({"points": int}).to_string(float_format="{:.2f}".format, formatters=formats)
    return Located(f"{table}\nerrors within the plane of the slices; every point in {out}/errors.csv", True)


def _train(
    studies: Sequence[StudyVolumes],
    out: Path,
    config: LocateConfig,
    budget: Budget,
    start: Path | None,
    processes: int | None,
    folds: pd.DataFrame | None,
) -> pd.DataFrame:
    """Train the networks fold by fold and return the out-of-fold points of all studies."""
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
    log.info("Training the locator on %s of %d studies into %s", counts, len(folds), out)
    files = [out / f"points-{fold}.csv" for fold in range(config.folds)]
    task = _Task(studies, samples, fold_of, start, files, config, budget)
    spread(_fit_fold, task, [fold for fold, file in enumerate(files) if not file.is_file()], processes)
    parts = [read_points(file) for file in files]
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


class _Task(NamedTuple):
    """What all folds share; per plane the samples, per fold the file of its points."""

    studies: Sequence[StudyVolumes]
    samples: dict[str, list[Sample]]
    fold_of: dict[str, int]
    start: Path | None
    files: list[Path]
    config: LocateConfig
    budget: Budget


def _fit_fold(task: _Task, fold: int) -> None:
    """Train a fold's networks, and write the points that they find in the studies they have not seen."""
    file = task.files[fold]
    networks: dict[str, list[Locator]] = {name: [] for name in task.samples}
    for name, some in task.samples.items():
        training = [sample for sample in some if task.fold_of[sample.study_id] != fold]
        # With few marks the held-out studies may have none: then the loss is that of the training.
        validation = [sample for sample in some if task.fold_of[sample.study_id] == fold] or training
        if training:
            parts = training, validation
            networks[name].append(train_network(name, fold, parts, file.parent, task.config, task.budget, task.start))
        elif some:
            log.info("Fold %d: all marked %s slices are of the studies that it holds out; no network", fold, name)
    held_out = [one for one in task.studies if task.fold_of[one.study_id] == fold]
    write_csv(file, locate_studies(held_out, networks["sagittal"], networks["axial"], task.config))


def read_points(path: Path) -> pd.DataFrame:
    """Read a table of located points, columns `find.COLUMNS`; InputError: it is missing or no such table."""
    table = read_table(path, COLUMNS)
    as_numbers(path, table[table["instance_number"] != ""], "instance_number")
    numbers = [int(float(text)) if text else None for text in table["instance_number"]]
    table = as_numbers(path, table, "slice", "row", "column", "x_mm", "y_mm", "z_mm", "confidence")
    return table.assign(placed=table["placed"] == "True", instance_number=pd.array(numbers, dtype=object))


def is_learned(study: StudyVolumes, mark: MarkedPoint) -> bool:
    """Whether the locator learns from a mark: recesses on axial slices, the other places on sagittal ones."""
    slices = study.axial() if mark.place >= RECESSES.start else study.sagittal()
    return study.volumes[mark.volume] in slices


def learned_from(competition: Competition, cache: Path) -> dict[str, str]:
    """Return digests of what the points of a split are learned from, see `settings.tie`; grades are not. Raises
    InputError: the cache of volumes is missing."""
    identity = {name: value for name, value in competition.identity().items() if name != "labels"}
    return {**identity, "images": Cache(cache, "volumes").identity()}
