"""Training samples: one level of one study each, its crops and labels as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import LEVELS, target
from lumbar_kaggle.two_stage.grade.cropping import CropSet, FreshCrops, Level
from lumbar_kaggle.two_stage.grade.views import PLACE_OF_CONDITION, PLACES

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


def crops_batch(crops: Level, level: int) -> Batch:
    """Return a level's crops as tensors."""
    return {
        "images": [torch.from_numpy(part) for part in crops.images],
        "present": [torch.from_numpy(part) for part in crops.present],
        "slices": [torch.from_numpy(part) for part in crops.targets],
        "level": torch.tensor(level),
    }


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
    weight_of = _weights(weights)
    labels: dict[str, Labels] = {}
    for row in rows.itertuples():
        study = str(row.study_id)
        if study not in labels:
            shape = (len(LEVELS), len(PLACES))
            labels[study] = Labels(np.full(shape, UNKNOWN, np.int64), np.ones(shape, np.float32))
        of = target(str(row.target))
        at = LEVELS.index(of.level), PLACES.index(PLACE_OF_CONDITION[of.condition])
        labels[study].severity[at] = int(str(row.severity))
        labels[study].weight[at] = weight_of.get(str(row.row_id), 1.0)
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

    def __init__(
        self, studies: Sequence[str], crops: CropSet | FreshCrops, labels: dict[str, Labels] | None = None
    ) -> None:
        self.labels, self.crops = labels, crops
        self.items = [(study, level) for study in studies for level in range(len(LEVELS))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Batch]:
        study, level = self.items[index]
        batch = crops_batch(self.crops.level(study, level), level)
        if self.labels is not None:
            labels = self.labels[study]
            batch["severity"] = torch.from_numpy(labels.severity[level])
            batch["weight"] = torch.from_numpy(labels.weight[level])
        return (batch,)
