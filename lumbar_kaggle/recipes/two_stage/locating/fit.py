"""Training the locator by folds, its out-of-fold points, and the use of a trained one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import KFold
from tqdm import tqdm

from lumbar_kaggle.budget import Budget
from lumbar_kaggle.config import load_config, save_config
from lumbar_kaggle.errors import InputError
from lumbar_kaggle.files import write_csv
from lumbar_kaggle.recipes.devices import CPU, training_device
from lumbar_kaggle.recipes.spread import spread
from lumbar_kaggle.recipes.two_stage.locating.axial import (
    AXIAL_CHANNELS,
    AxialStudy,
    locate_axial,
    make_axial_samples,
)
from lumbar_kaggle.recipes.two_stage.locating.config import LocateConfig
from lumbar_kaggle.recipes.two_stage.locating.find import COLUMNS, locate, study_points
from lumbar_kaggle.recipes.two_stage.locating.network import Locator
from lumbar_kaggle.recipes.two_stage.locating.points import CHANNELS, Series
from lumbar_kaggle.recipes.two_stage.locating.samples import Sample, make_samples
from lumbar_kaggle.recipes.two_stage.locating.training import load_network, network_file, train_network
from lumbar_kaggle.tables import read_table

CONFIG = "locate.json"


def fit(
    series: Sequence[Series],
    axial: Sequence[AxialStudy],
    out: Path,
    config: LocateConfig,
    budget: Budget,
    start: Path | None = None,
    processes: int | None = None,
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
        processes: folds at once; see `spread.spread`.

    Returns:
        As `find.locate`.

    Raises:
        InputError: too few studies or no labelled point, or `out` was made with another configuration.
    """
    _open(out, config)
    folds = _make_folds([one.study_id for one in series] + [one.study_id for one in axial], config)
    write_csv(out / "folds.csv", folds)
    samples = {
        "sagittal": [sample for one in series for sample in make_samples(one, config)],
        "axial": [sample for one in axial for sample in make_axial_samples(one, config)],
    }
    if not any(samples.values()):
        raise InputError(f"{out}: no series of these studies has a labelled point to learn from")
    counts = ", ".join(f"{len(some)} {name} slices" for name, some in samples.items())
    print(f"Training the locator on {counts} of {len(folds)} studies into {out}")
    starts = {name: _first(start, name) for name in samples}
    task = _Task(series, axial, samples, dict(folds.to_numpy().tolist()), starts, out, config, budget)
    todo = [fold for fold in range(config.folds) if not _points_file(out, fold).is_file()]
    spread(_fit_fold, task, todo, processes)
    parts = [read_points(_points_file(out, fold)) for fold in range(config.folds)]
    points = pd.concat([part for part in parts if len(part)], ignore_index=True)
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
    networks = {
        name: train_network(
            name,
            fold,
            _split(some, task.fold_of, fold),
            task.out,
            task.config,
            task.budget,
            task.starts[name],
        )
        for name, some in task.samples.items()
        if some
    }
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
    kinds = dict.fromkeys(("slice", "row", "column", "x_mm", "y_mm", "z_mm", "confidence"), float)
    numbers = [int(text) if text else None for text in table["instance_number"]]
    table = table.astype(kinds).assign(placed=table["placed"] == "True")
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
    """Return what the fold trains on and validates on; few samples may leave nothing to validate on."""

    def part(keep: Callable[[int], bool]) -> list[Sample]:
        return [sample for sample in samples if keep(fold_of[sample.study_id])]

    training, validation = part(lambda other: other != fold), part(lambda other: other == fold)
    return training or validation, validation or training


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


def _open(out: Path, config: LocateConfig) -> None:
    path = out / CONFIG
    if path.is_file() and load_config(path, LocateConfig) != config:
        raise InputError(f"{path}: this locator was made with other settings; choose another --out")
    save_config(path, config)


def _make_folds(studies: Sequence[str], config: LocateConfig) -> pd.DataFrame:
    names = sorted(set(studies))
    if len(names) < config.folds:
        raise InputError(f"{len(names)} studies cannot be split into {config.folds} folds; use fewer folds")
    fold = np.empty(len(names), dtype=np.int64)
    splitter = KFold(config.folds, shuffle=True, random_state=config.seed)
    for number, (_, held_out) in enumerate(splitter.split(names)):
        fold[held_out] = number
    return pd.DataFrame({"study_id": names, "fold": fold})
