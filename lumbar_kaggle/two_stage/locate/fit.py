"""Training the locator by folds, its out-of-fold points and their errors, and the use of a trained one."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, write_csv
from lumbar_kaggle.core.settings import begin_run
from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom.cache import Cache
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.tables.reading import as_numbers, read_table
from lumbar_kaggle.training.devices import spread, training_device
from lumbar_kaggle.two_stage.config import LocateConfig
from lumbar_kaggle.two_stage.grade.views import PLACES, RECESSES
from lumbar_kaggle.two_stage.locate.find import COLUMNS, locate_studies
from lumbar_kaggle.two_stage.locate.network import CHANNELS, Locator
from lumbar_kaggle.two_stage.locate.training import (
    CONFIG,
    Sample,
    load_networks,
    make_samples,
    read_config,
    train_network,
)
from lumbar_kaggle.two_stage.study import MarkedPoint, StudyVolumes, read_marked_studies, tell_unused

Floats = NDArray[np.float64]


def point_errors(located: pd.DataFrame, studies: Sequence[StudyVolumes]) -> pd.DataFrame:
    """Compare located points with the marked ones: sagittal on the same series, axial on whichever.

    Returns:
        One row per marked point: ``study_id, series_id, kind, place, level``, ``error_mm`` within the plane
        of the slices, ``depth_mm`` across them, ``relative`` (the error as part of the mean distance of
        marked neighbours), ``level_off`` (levels between the found point and the marked one nearest to it),
        ``found``.
    """
    series = located["series_id"].where(located["kind"] != "axial_t2", "")
    keys = zip(located["study_id"], series, located["place"], located["level"], strict=True)
    places = dict(zip(keys, located[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64), strict=True))
    rows: list[tuple[Any, ...]] = []
    for study in studies:
        axial = study.axial()
        judged = [(one.series_id, one.kind, PLACES[:3], [one]) for one in study.sagittal()]
        judged += [("", "axial_t2", PLACES[RECESSES], axial)] if axial else []
        for series_id, kind, names, volumes in judged:
            marked = study.marked(volumes)
            for place in names:
                points = marked[PLACES.index(place)]
                for level in np.flatnonzero(np.isfinite(points[:, 0])):
                    found = places.get((study.study_id, series_id, place, LEVELS[level]))
                    figures = _compare(points, int(level), found, volumes[0].normal)
                    rows.append((study.study_id, series_id, kind, place, LEVELS[level], *figures))
    key = ["study_id", "series_id", "kind", "place", "level"]
    return pd.DataFrame(rows, columns=[*key, "error_mm", "depth_mm", "relative", "level_off", "found"])


def _compare(
    marked: Floats, level: int, found: Floats | None, normal: Floats
) -> tuple[float, float, float, float, bool]:
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


def summary(errors: pd.DataFrame) -> pd.DataFrame:
    """Return the figures per series kind and place, and for all.

    Returns:
        Indexed by kind and place: ``points``, ``median_mm``, ``p95_mm``, ``p99_mm``, ``within_5_mm``,
        ``within_10_mm``, ``off_by_level`` (shares of the marked points), ``median_relative``,
        ``median_depth_mm``, ``not_found`` (share).
    """
    groups = [*errors.groupby(["kind", "place"]), (("all", ""), errors)]
    return pd.DataFrame({key: _figures(group) for key, group in groups}).T.rename_axis(["kind", "place"])


def _figures(group: pd.DataFrame) -> dict[str, float]:
    error = group["error_mm"]
    return {
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


log = logging.getLogger(__name__)


def train_locator(
    studies: Sequence[StudyVolumes],
    out: Path,
    config: LocateConfig,
    budget: Budget,
    start: Path | None = None,
    processes: int | None = None,
    folds: pd.DataFrame | None = None,
    *,
    data: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Train the networks fold by fold and return the out-of-fold points of all studies.

    Args:
        studies: with their marked points.
        out: run folder: ``locate.json``, ``folds.csv``, per fold ``sagittal-{k}.safetensors``,
            ``axial-{k}.safetensors`` and ``points-{k}.csv``, and ``points.csv`` of all folds.
        config, budget, start, processes, folds: see `run_locate`; of `folds`, studies without a row are
            left out.
        data: what the points are learned from, see `settings.tie`.

    Returns:
        As `find.locate_studies`.

    Raises:
        OutOfTime: the budget is spent; started again, it goes on at the epoch where it was.
        InputError: too few studies or no labelled point, or `out` was made with another configuration, or
            from other data.
    """
    begin_run(out / CONFIG, config, data=data)
    folds = _make_folds([one.study_id for one in studies], config) if folds is None else folds
    check_folds(out, folds)
    write_csv(out / "folds.csv", folds)
    fold_of = dict(zip(folds["study_id"].astype(str), folds["fold"], strict=True))
    studies = [one for one in studies if one.study_id in fold_of]
    made = [make_samples(one, config) for one in studies]
    samples = {name: [sample for mine in made for sample in mine[name]] for name in CHANNELS}
    if not any(samples.values()):
        raise InputError(f"{out}: no series of these studies has a labelled point to learn from")
    counts = ", ".join(f"{len(some)} {name} slices" for name, some in samples.items())
    log.info("Training the locator on %s of %d studies into %s", counts, len(folds), out)
    starts = {name: next(iter(load_networks(start, name)), None) if start else None for name in samples}
    task = _Task(studies, samples, fold_of, starts, out, config, budget)
    todo = [fold for fold in range(config.folds) if not _points_file(out, fold).is_file()]
    spread(_fit_fold, task, todo, processes)
    parts = [read_points(_points_file(out, fold)) for fold in range(config.folds)]
    points = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    write_csv(out / "points.csv", points)
    return points


@dataclass(frozen=True, eq=False)
class _Task:
    """What all folds share; see `train_locator`."""

    studies: Sequence[StudyVolumes]
    samples: dict[str, list[Sample]]
    fold_of: dict[str, int]
    starts: dict[str, Locator | None]
    out: Path
    config: LocateConfig
    budget: Budget


def _fit_fold(task: _Task, fold: int) -> None:
    """Train a fold's networks, and write the points that they find in the studies they have not seen."""
    networks: dict[str, list[Locator]] = {name: [] for name in task.samples}
    for name, some in task.samples.items():
        training = [sample for sample in some if task.fold_of[sample.study_id] != fold]
        # With few marks the held-out studies may have none: then the loss is that of the training.
        validation = [sample for sample in some if task.fold_of[sample.study_id] == fold] or training
        if training:
            parts, start = (training, validation), task.starts[name]
            network = train_network(name, fold, parts, task.out, task.config, task.budget, start)
            networks[name].append(network)
        elif some:
            log.info("Fold %d: all marked %s slices are of the studies that it holds out; no network", fold, name)
    held_out = [one for one in task.studies if task.fold_of[one.study_id] == fold]
    points = locate_studies(held_out, networks["sagittal"], networks["axial"], task.config)
    write_csv(_points_file(task.out, fold), points)


def _points_file(out: Path, fold: int) -> Path:
    return out / f"points-{fold}.csv"


def read_points(path: Path) -> pd.DataFrame:
    """Read a table of located points, columns `find.COLUMNS`.

    Raises:
        InputError: the file is missing or no such table.
    """
    table = read_table(path, COLUMNS)
    given = table[table["instance_number"] != ""]
    as_numbers(path, given, "instance_number")
    numbers = [int(float(text)) if text else None for text in table["instance_number"]]
    table = as_numbers(path, table, "slice", "row", "column", "x_mm", "y_mm", "z_mm", "confidence")
    table = table.assign(placed=table["placed"] == "True")
    return table.assign(instance_number=pd.array(numbers, dtype=object))


def check_folds(out: Path, folds: pd.DataFrame) -> None:
    """Check that a run folder's networks, if there are any, were trained by a fold table.

    Raises:
        InputError: by another, since the studies are others.
    """
    path = out / "folds.csv"
    tables = [read_table(path, ("study_id", "fold")), folds] if path.is_file() else []
    pairs = [zip(one["study_id"].astype(str), one["fold"].astype(int), strict=True) for one in tables]
    if len({frozenset(some) for some in pairs}) > 1:
        raise InputError(f"{path}: this locator was begun with other folds or studies; choose another --out")


def _make_folds(studies: Sequence[str], config: LocateConfig) -> pd.DataFrame:
    names = sorted(set(studies))
    if len(names) < config.folds:
        raise InputError(f"{len(names)} studies cannot be split into {config.folds} folds; use fewer folds")
    fold = np.empty(len(names), dtype=np.int64)
    splitter = KFold(config.folds, shuffle=True, random_state=config.seed)
    for number, (_, held_out) in enumerate(splitter.split(names)):
        fold[held_out] = number
    return pd.DataFrame({"study_id": names, "fold": fold})


@dataclass(frozen=True)
class Located:
    """What a run found.

    Attributes:
        out: the run folder; ``points.csv`` and ``errors.csv`` are in it.
        figures: as from `summary`; None where no point is marked, or the budget ended the run.
        finished: whether the run came to its end.
    """

    out: Path
    figures: pd.DataFrame | None
    finished: bool

    def text(self) -> str:
        """Return what the command prints."""
        if not self.finished:
            return f"{self.out}: the time budget is spent; resumable: the same command goes on from here"
        if self.figures is None:
            return f"{self.out}/points.csv: located; no point is marked in this folder, so nothing is judged"
        shown = self.figures.assign(points=self.figures["points"].astype(int))
        shares = ("within_5_mm", "within_10_mm", "off_by_level", "not_found", "median_relative")
        formats = dict.fromkeys(shares, "{:.3f}".format)
        table = shown.to_string(float_format="{:.2f}".format, formatters=formats)
        return f"{table}\nerrors within the plane of the slices; every point in {self.out}/errors.csv"


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
    """Train by folds and judge the out-of-fold points; or, with no epochs, judge a trained locator's.

    Args:
        competition: its series and coordinates; grades are not needed, see `competition.read_marked`.
        cache: holds its volumes.
        out: run folder.
        config: what to train; ``epochs`` 0 trains nothing.
        budget: asked before each batch.
        weights: run folder of a locator to start from, or to use.
        processes: folds at once; see `devices.spread`.
        folds: columns ``study_id, fold``: by which to train; None: drawn from the folder's studies.

    Raises:
        InputError: a table or the cache is missing, or nothing is to be trained and there are no weights, or
            the run was begun with other settings or on other data, or another process is at work on it.
    """
    studies = [one for one in read_marked_studies(competition, cache) if one.sagittal() or one.axial()]
    tell_unused(competition, studies, is_learned, "sagittal or placed axial")
    try:
        if config.epochs == 0:
            if weights is None:
                raise InputError(f"{out}: nothing is to be trained, so a trained locator is needed: --weights")
            trained, device = read_config(weights), training_device()
            sagittal, axial = (load_networks(weights, plane, device) for plane in CHANNELS)
            if not sagittal:
                raise InputError(f"{weights}: no fold of this locator is finished; run lumbar locate with it as --out")
            points = locate_studies(studies, sagittal, axial, trained)
            write_csv(out / "points.csv", points)
        else:
            data = learned_from(competition, cache)
            points = train_locator(studies, out, config, budget, weights, processes, folds, data=data)
    except OutOfTime:
        return Located(out, None, False)
    errors = point_errors(points, studies)
    write_csv(out / "errors.csv", errors)
    figures = summary(errors) if len(errors) else None
    if figures is not None:
        write_csv(out / "figures.csv", figures.reset_index())
    return Located(out, figures, True)


def is_learned(study: StudyVolumes, mark: MarkedPoint) -> bool:
    """Whether the locator learns from a mark: recesses on axial slices, the other places on sagittal ones."""
    volume = study.volumes[mark.volume]
    slices = study.axial() if PLACES[mark.place] in PLACES[RECESSES] else study.sagittal()
    return any(one is volume for one in slices)


def learned_from(competition: Competition, cache: Path) -> dict[str, str]:
    """Return digests of what the points of a split are learned from, see `settings.tie`; grades are not.

    Raises:
        InputError: the cache of volumes is missing.
    """
    identity = competition.identity()
    del identity["labels"]
    return {**identity, "images": Cache(cache, "volumes").identity()}
