"""The cache of crops, study by study and resumable, and the training samples read of it."""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from lumbar_kaggle.core.budget import Budget, usable_cores
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, digest, write_atomic
from lumbar_kaggle.core.targets import LEVELS, TARGET_NAMES
from lumbar_kaggle.dicom.cache import Cache, CacheConfig, Source
from lumbar_kaggle.two_stage.config import GradeConfig
from lumbar_kaggle.two_stage.grade.crops import CropFacts, StudyCrops, crop_shape, crop_study
from lumbar_kaggle.two_stage.grade.views import CELLS, PLACES, VIEWS, window
from lumbar_kaggle.two_stage.study import Studies

Floats = NDArray[np.float64]

UNKNOWN = -1
"""Label of a target that nobody graded, and slice target where no annotated slice is in the window."""


class Batch(TypedDict):
    """Levels of studies as the network and its loss take them; of one level without the first axis.

    The loader gives crops as they are cached, larger than what the network sees; `augment.cut` and
    `augment.augment` give those of its size.

    Attributes:
        images: per view ``[batch, sides, slices, px, px]``: uint8 as cached, then float, each crop
            standardised.
        present: per view ``[batch, sides, slices]`` bool, whether there is a slice.
        slices: per view ``[batch, sides]`` int64 place of the annotated slice, `UNKNOWN` for none.
        level: ``[batch]`` int64, 0 to 4.
        severity: ``[batch, 5]`` int64 in the order of `views.PLACES`, `UNKNOWN` where not graded; not there
            in prediction.
        weight: ``[batch, 5]`` float, how much each label counts; likewise.
    """

    images: list[torch.Tensor]
    present: list[torch.Tensor]
    slices: list[torch.Tensor]
    level: torch.Tensor
    severity: NotRequired[torch.Tensor]
    weight: NotRequired[torch.Tensor]


BATCH = 32
"""Studies that are committed together."""

MARKER = ".lumbar-crops"
"""Lies in a folder that `evict_other_crops` may remove."""

VERSION = 2
"""Raised when the same points and slices would give other crops."""


def crops_folder(scratch: Path, config: GradeConfig) -> Path:
    """Return a configuration's folder in scratch space; models of the same crops share it."""
    return scratch / digest(asdict(_settings(config)))


def evict_other_crops(folder: Path) -> None:
    """Mark a folder as one of crops, and remove those beside it that are so marked.

    So a session's space need be enough for one model's crops. What has no mark is somebody else's and stays.

    Args:
        folder: as from `crops_folder`; may not exist yet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    for other in folder.parent.iterdir():
        if other != folder and not other.is_symlink() and (other / MARKER).is_file():
            shutil.rmtree(other)


@alone_on("folder")
def cache_crops(
    studies: Studies,
    points: dict[str, Floats],
    annotated: dict[str, Floats],
    folder: Path,
    config: GradeConfig,
    budget: Budget,
) -> "CropSet":
    """Cut the crops of all studies that have points, or go on where an earlier call stopped.

    Args:
        studies: where their volumes come from; the crops are the same from the cache and from DICOM.
        points: per study ``[5 places, 5 levels, 3]`` LPS mm, NaN where not known.
        annotated: the same of the annotated points, for the slice attention's target.
        folder: where to; see `cache.Cache`.
        config: sizes and windows.
        budget: asked between batches.

    Raises:
        OutOfTime: the budget is spent; the next call goes on.
        InputError: the folder was made with other settings, or no study has a point.
    """
    cache = Cache(folder, "crops")
    cache.open(_settings(config))
    sources = [
        Source(study, "", "crops", "", 0, _fingerprint(series, points[study], annotated.get(study)))
        for study, series in studies.sources.items()
        if study in points
    ]
    if not sources:
        raise InputError(
            f"{folder}: no study has a point to crop around; give located points, or fill train_label_coordinates.csv"
        )
    batches = cache.plan(sources, BATCH)
    todo = [batch for batch in batches if cache.entries(batch) is None]
    with (
        ThreadPoolExecutor(usable_cores()) as pool,
        tqdm(total=sum(len(b.sources) for b in todo), unit="study", desc="crop", disable=not todo) as bar,
    ):
        for batch in todo:
            budget.check()
            target = cache.begin(batch)
            jobs = [
                pool.submit(_one, studies, name, points[name], annotated.get(name), target, config)
                for name in (source.study_id for source in batch.sources)
            ]
            cache.commit(batch, pd.concat([job.result() for job in jobs], ignore_index=True))
            bar.update(len(jobs))
    return CropSet(cache.folder, cache.finish(batches), config)


def _settings(config: GradeConfig) -> CacheConfig:
    windows = [list(asdict(window(view, config)).values()) for view in VIEWS]
    return CacheConfig(
        "crops", VERSION, {"windows": windows, "step": config.step_mm, "reach": config.reach_mm, "align": config.align}
    )


def _fingerprint(series: list[str], points: Floats, annotated: Floats | None) -> str:
    marks = [] if annotated is None else np.nan_to_num(annotated, nan=-1e6).round(3).tolist()
    return digest([series, np.nan_to_num(points, nan=-1e6).round(3).tolist(), marks])


def _one(
    studies: Studies, study: str, points: Floats, annotated: Floats | None, folder: Path, config: GradeConfig
) -> pd.DataFrame:
    crops = crop_study(studies.read(study).croppable(), points, config, annotated)
    name = f"{study}.npy"
    flat = np.concatenate([image.ravel() for image in crops.images])
    write_atomic(folder / name, lambda path: np.save(path, flat))
    return facts_table(study, crops).assign(file=name)


def facts_table(study: str, crops: StudyCrops) -> pd.DataFrame:
    """Return a row per crop: ``study_id`` and the fields of `crops.CropFacts`."""
    columns = list(CropFacts.__dataclass_fields__)
    table = pd.DataFrame([list(asdict(fact).values()) for fact in crops.facts], columns=columns)
    table.insert(0, "study_id", study)
    return table


class CropSet:
    """Cached crops of many studies, read level by level.

    Args:
        folder: of the cache.
        index: its table, see `facts_table`; all columns text.
        config: sizes and windows.
    """

    def __init__(self, folder: Path, index: pd.DataFrame, config: GradeConfig) -> None:
        self.folder = folder
        self.shapes = [crop_shape(view, config) for view in VIEWS]
        first = index.drop_duplicates("study_id")
        self.files = dict(zip(first["study_id"], first["file"], strict=True))
        numbers = index[["first", "last", "target"]].to_numpy().astype(np.int64)
        per_study = len(LEVELS) * sum(view.sides for view in VIEWS)
        self._facts = dict(zip(self.files, numbers.reshape(-1, per_study, 3), strict=True))

    def __contains__(self, study: str) -> bool:
        return study in self.files

    def level(self, study: str, level: int) -> Batch:
        """Return the crops of a level, 0 to 4."""
        flat = np.load(self.folder / self.files[study], mmap_mode="r")
        images, start = [], 0
        for shape in self.shapes:
            size = int(np.prod(shape[1:]))
            at = start + level * size
            images.append(np.array(flat[at : at + size]).reshape(shape[1:]))
            start += shape[0] * size
        return _level(images, self._facts[study], level)


def levels_of(crops: StudyCrops) -> list[tuple[Batch]]:
    """Return the five levels of a study's crops in memory, as the loader takes them."""
    facts = np.array([(fact.first, fact.last, fact.target) for fact in crops.facts])
    return [(_level([image[k] for image in crops.images], facts, k),) for k in range(len(LEVELS))]


def _level(images: Sequence[NDArray[np.uint8]], facts: NDArray[np.int64], level: int) -> Batch:
    """Return a level of its images ``[sides, slices, px, px]`` and the study's facts ``[crops, 3]``."""
    present, targets, row = [], [], 0
    for image in images:
        sides, slices = image.shape[0], np.arange(image.shape[1])
        first, last, target_slice = facts[row + level * sides : row + (level + 1) * sides].T
        row += len(LEVELS) * sides
        present.append(torch.from_numpy((slices >= first[:, None]) & (slices <= last[:, None])))
        targets.append(torch.from_numpy(target_slice.copy()))
    pixels = [torch.from_numpy(image) for image in images]
    return {"images": pixels, "present": present, "slices": targets, "level": torch.tensor(level)}


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of one study.

    Attributes:
        severity: ``[5 levels, 5 places]`` int64 in the order of `views.PLACES`; `UNKNOWN` where not graded.
        weight: ``[5 levels, 5 places]`` float32, how much each label counts.
    """

    severity: NDArray[np.int64]
    weight: NDArray[np.float32]


def study_labels(rows: pd.DataFrame, weights: pd.DataFrame | None = None) -> dict[str, Labels]:
    """Return the labels of all studies.

    Args:
        rows: `competition.Competition.labels`.
        weights: columns ``row_id, weight``: how much each label counts; 1 where it has no row.

    Raises:
        InputError: a weight is negative or not a number, or a column is missing.
    """
    weight_of, shape = _weights(weights), (len(LEVELS), len(PLACES))
    cell_of = dict(zip(TARGET_NAMES, zip(*CELLS, strict=True), strict=True))
    labels: dict[str, Labels] = {}
    for study, mine in rows.groupby(rows["study_id"].astype(str), sort=False):
        one = Labels(np.full(shape, UNKNOWN, np.int64), np.ones(shape, np.float32))
        at = tuple(np.array([cell_of[name] for name in mine["target"]]).T)
        one.severity[at] = mine["severity"].astype(np.int64)
        one.weight[at] = mine["row_id"].map(weight_of).fillna(1.0)
        labels[str(study)] = one
    return labels


def _weights(table: pd.DataFrame | None) -> dict[str, float]:
    if table is None:
        return {}
    missing = {"row_id", "weight"} - set(table.columns)
    if missing:
        raise InputError(f"label weights: the column {sorted(missing)[0]} is missing")
    values = pd.to_numeric(table["weight"], errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(values) | (values < 0))
    if len(wrong):
        row = table.iloc[wrong[0]]
        raise InputError(f"label weights: {row['row_id']} has the weight {row['weight']!r}; give 0 or more")
    return dict(zip(table["row_id"].astype(str), values.tolist(), strict=True))


class Samples:
    """Levels of studies, as the loader asks for them: each item is a tuple of one `Batch`.

    Args:
        studies: whose levels.
        crops: of all of them.
        labels: of each study; None in prediction.
    """

    def __init__(self, studies: Sequence[str], crops: CropSet, labels: dict[str, Labels] | None = None) -> None:
        self.labels, self.crops = labels, crops
        self.items = [(study, level) for study in studies for level in range(len(LEVELS))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Batch]:
        study, level = self.items[index]
        batch = self.crops.level(study, level)
        if self.labels is not None:
            labels = self.labels[study]
            batch["severity"] = torch.from_numpy(labels.severity[level])
            batch["weight"] = torch.from_numpy(labels.weight[level])
        return (batch,)
