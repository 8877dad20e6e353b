"""Training the locator by folds, its out-of-fold points, and the use of a trained one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import KFold
from tqdm import tqdm

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_csv
from lumbar_kaggle.core.settings import begin_run, load_config
from lumbar_kaggle.tables.reading import as_numbers, read_table
from lumbar_kaggle.training.devices import CPU, spread, training_device
from lumbar_kaggle.two_stage.locate.axial import (
    AXIAL_CHANNELS,
    AxialStudy,
    locate_axial,
    make_axial_samples,
)
from lumbar_kaggle.two_stage.locate.config import LocateConfig
from lumbar_kaggle.two_stage.locate.find import COLUMNS, locate, study_points
from lumbar_kaggle.two_stage.locate.network import Locator
from lumbar_kaggle.two_stage.locate.points import CHANNELS, Series
from lumbar_kaggle.two_stage.locate.samples import Sample, make_samples
from lumbar_kaggle.two_stage.locate.training import load_network, network_file, train_network

CONFIG = "locate.json"


def fit(
    series: Sequence[Series],
    axial: Sequence[AxialStudy],
    out: Path,
    config: LocateConfig,
    budget: Budget,
    start: Path | None = None,
    processes: int | None = None,
    folds: pd.DataFrame | None = None,
    *,
    data: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Train the networks fold by fold and return the out-of-fold points of all series.

    Args:
        series: sagittal series with their labelled points.
        axial: the studies' axial stacks with theirs; may be empty.
        out: run folder: ``locate.json``, ``folds.csv``, per fold ``sagittal-{k}.safetensors``,
            ``axial-{k}.safetensors`` and ``points-{k}.csv``, and ``points.csv`` of all folds.
        config: what to train.
        budget: `budget.OutOfTime` ends the run; started again, it goes on at the epoch where it was.
        start: run folder whose networks the training starts from.
        processes: folds at once; see `devices.spread`.
        folds: columns ``study_id, fold``; studies without a row are left out. None: drawn from all of them.
        data: what the points are learned from, see `config.tie`.

    Returns:
        As `find.locate`.

    Raises:
        InputError: too few studies or no labelled point, or `out` was made with another configuration, or
            from other data.
    """
    begin_run(out / CONFIG, config, data=data)
    if folds is None:
        folds = _make_folds([one.study_id for one in series] + [one.study_id for one in axial], config)
    check_folds(out, folds)
    write_csv(out / "folds.csv", folds)
    fold_of = dict(zip(folds["study_id"].astype(str), folds["fold"], strict=True))
    series = [one for one in series if one.study_id in fold_of]
    axial = [one for one in axial if one.study_id in fold_of]
    samples = {
        "sagittal": [sample for one in series for sample in make_samples(one, config)],
        "axial": [sample for one in axial for sample in make_axial_samples(one, config)],
    }
    if not any(samples.values()):
        raise InputError(f"{out}: no series of these studies has a labelled point to learn from")
    counts = ", ".join(f"{len(some)} {name} slices" for name, some in samples.items())
    print(f"Training the locator on {counts} of {len(folds)} studies into {out}")
    starts = {name: _first(start, name) for name in samples}
    task = _Task(series, axial, samples, fold_of, starts, out, config, budget)
    todo = [fold for fold in range(config.folds) if not _points_file(out, fold).is_file()]
    spread(_fit_fold, task, todo, processes)
    parts = [read_points(_points_file(out, fold)) for fold in range(config.folds)]
    points = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    write_csv(out / "points.csv", points)
    return points


@dataclass(frozen=True, eq=False)
class _Task:
    """What all folds share; see `fit`."""

    series: Sequence[Series]
    axial: Sequence[AxialStudy]
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
            print(f"Fold {fold}: all marked {name} slices are of the studies that it holds out; no network")
    points = locate_all(
        [one for one in task.series if task.fold_of[one.study_id] == fold],
        [one for one in task.axial if task.fold_of[one.study_id] == fold],
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


def apply(series: Sequence[Series], axial: Sequence[AxialStudy], run: Path) -> pd.DataFrame:
    """Return the points that a trained run's networks find together, as `locating.locate`.

    Raises:
        InputError: the folder holds no trained locator.
    """
    config = read_config(run)
    sagittal, across = (load_networks(run, name, training_device()) for name in ("sagittal", "axial"))
    if not sagittal:
        raise InputError(f"{run}: no fold of this locator is finished; run lumbar locate with it as --out")
    return locate_all(series, axial, sagittal, across, config)


def read_config(run: Path) -> LocateConfig:
    """Return the configuration of a run.

    Raises:
        InputError: the folder holds no locator.
    """
    if not (run / CONFIG).is_file():
        raise InputError(f"{run}: holds no locator; give a folder that lumbar locate wrote")
    return load_config(run / CONFIG, LocateConfig)


def load_networks(run: Path, name: str, device: torch.device = CPU) -> list[Locator]:
    """Return the finished folds' networks called ``sagittal`` or ``axial``, on a device; none is no error."""
    config = read_config(run)
    outputs = CHANNELS if name == "sagittal" else AXIAL_CHANNELS
    files = [network_file(run, name, fold) for fold in range(config.folds)]
    return [load_network(file, config, outputs, device) for file in files if file.is_file()]


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


def locate_all(
    series: Sequence[Series],
    axial: Sequence[AxialStudy],
    sagittal: list[Locator],
    across: list[Locator],
    config: LocateConfig,
    *,
    quiet: bool = False,
) -> pd.DataFrame:
    """Return the points that networks find in some series and studies, as `find.locate`.

    Args:
        series, axial: their labelled points are not looked at.
        sagittal, across: networks for the two planes, on the device that computes; none: nothing is found.
        config: of the networks.
        quiet: without progress bars.
    """
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    if sagittal:
        parts += [
            locate(one, sagittal, config) for one in tqdm(series, unit="series", desc="locate", disable=quiet)
        ]
    found = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    if across:
        centres = study_points(found)
        bar = tqdm(axial, unit="study", desc="locate axial", disable=quiet)
        more = [locate_axial(one, centres.get(one.study_id), across, config) for one in bar]
        found = pd.concat([found, *(part for part in more if len(part))], ignore_index=True)
    return found


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
