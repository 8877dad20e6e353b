"""Training the locator by folds, its out-of-fold points, and the use of a trained one."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import KFold

from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, write_csv
from lumbar_kaggle.core.settings import begin_run
from lumbar_kaggle.dicom.cache import Cache
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.tables.reading import as_numbers, read_table
from lumbar_kaggle.training.devices import spread, training_device
from lumbar_kaggle.two_stage.grade.views import PLACES, RECESSES
from lumbar_kaggle.two_stage.locate.config import LocateConfig
from lumbar_kaggle.two_stage.locate.find import COLUMNS, locate_studies
from lumbar_kaggle.two_stage.locate.judging import point_errors, summary
from lumbar_kaggle.two_stage.locate.network import CHANNELS, Locator
from lumbar_kaggle.two_stage.locate.samples import Sample, make_samples
from lumbar_kaggle.two_stage.locate.training import CONFIG, load_networks, read_config, train_network
from lumbar_kaggle.two_stage.study import MarkedPoint, StudyVolumes, read_marked_studies, tell_unused

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
        config: what to train.
        budget: `budget.OutOfTime` ends the run; started again, it goes on at the epoch where it was.
        start: run folder whose networks the training starts from.
        processes: folds at once; see `devices.spread`.
        folds: columns ``study_id, fold``; studies without a row are left out. None: drawn from all of them.
        data: what the points are learned from, see `config.tie`.

    Returns:
        As `find.locate_studies`.

    Raises:
        InputError: too few studies or no labelled point, or `out` was made with another configuration, or
            from other data.
    """
    begin_run(out / CONFIG, config, data=data)
    if folds is None:
        folds = _make_folds([one.study_id for one in studies], config)
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
    starts = {name: _first(start, name) for name in samples}
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
    networks = {}
    for name, some in task.samples.items():
        parts = _split(some, task.fold_of, fold)
        if parts[0]:
            start = task.starts[name]
            networks[name] = train_network(name, fold, parts, task.out, task.config, task.budget, start)
        elif some:
            log.info(
                "Fold %d: all marked %s slices are of the studies that it holds out; no network", fold, name
            )
    points = locate_studies(
        [one for one in task.studies if task.fold_of[one.study_id] == fold],
        [networks["sagittal"]] if "sagittal" in networks else [],
        [networks["axial"]] if "axial" in networks else [],
        task.config,
    )
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


def apply(studies: Sequence[StudyVolumes], run: Path) -> pd.DataFrame:
    """Return the points that a trained run's networks find together, as `find.locate_studies`.

    Raises:
        InputError: the folder holds no trained locator.
    """
    config = read_config(run)
    sagittal, across = (load_networks(run, name, training_device()) for name in ("sagittal", "axial"))
    if not sagittal:
        raise InputError(f"{run}: no fold of this locator is finished; run lumbar locate with it as --out")
    return locate_studies(studies, sagittal, across, config)


def _first(run: Path | None, name: str) -> Locator | None:
    networks = load_networks(run, name) if run is not None else []
    return networks[0] if networks else None


def _split(samples: list[Sample], fold_of: dict[str, int], fold: int) -> tuple[list[Sample], list[Sample]]:
    """Return what the fold trains on, and what its loss is told of.

    With few marks the held-out studies may have none: then the loss is that of the training. There may be
    none but theirs: then nothing can be trained.
    """

    def part(keep: Callable[[int], bool]) -> list[Sample]:
        return [sample for sample in samples if keep(fold_of[sample.study_id])]

    training, validation = part(lambda other: other != fold), part(lambda other: other == fold)
    return training, validation or training


def check_folds(out: Path, folds: pd.DataFrame) -> None:
    """Check that a run folder's networks, if there are any, were trained by a fold table.

    Raises:
        InputError: by another, since the studies are others.
    """
    path = out / "folds.csv"
    if path.is_file():
        before, now = (
            dict(zip(one["study_id"].astype(str), one["fold"].astype(int), strict=True))
            for one in (read_table(path, ("study_id", "fold")), folds)
        )
        if before != now:
            raise InputError(
                f"{path}: this locator was begun with other folds or studies; choose another --out"
            )


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
        figures: as from `judging.summary`; None where no point is marked, or the budget ended the run.
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
        cache: holds its volumes, see ``lumbar preprocess --kind volumes``.
        out: run folder.
        config: what to train; ``epochs`` 0 trains nothing.
        budget: time for training.
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
                raise InputError(
                    f"{out}: nothing is to be trained, so a trained locator is needed: --weights"
                )
            points = apply(studies, weights)
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
    """Return digests of what the points of a split are learned from, see `config.tie`; grades are not.

    Raises:
        InputError: the cache of volumes is missing.
    """
    identity = competition.identity()
    del identity["labels"]
    return {**identity, "images": Cache(cache, "volumes").identity()}
