"""A fitted blend: plain numbers, kept as JSON, applied to any predictions of the same files."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_json
from lumbar_kaggle.core.settings import from_dict
from lumbar_kaggle.core.targets import SCORE_GROUPS
from lumbar_kaggle.score.cells import TARGETS_OF, Floats, arrange, as_table
from lumbar_kaggle.score.steps import STEPS, GroupBlend, plain_mean

FORMAT = 1
"""Raised when a model of an earlier format can no longer be read."""


@dataclass(frozen=True)
class Decision:
    """What became of a step for one score group.

    Attributes:
        step, group: names.
        kept: whether it is part of the blend.
        change: of the group's loss on held-out folds, below 0 is better; for the canal of its own loss
            plus the any-severe one.
        error: standard error of that.
    """

    step: str
    group: str
    kept: bool
    change: float
    error: float


@dataclass(frozen=True)
class BlendModel:
    """What turns several files of predictions into one.

    Attributes:
        files: names of those it was fitted on, in the order in which `apply_blend` wants them.
        groups: settings in the order of `targets.SCORE_GROUPS`; all at their default: the plain mean.
        decisions: which steps were tried, and what they were worth.
    """

    files: tuple[str, ...]
    groups: tuple[GroupBlend, ...] = (GroupBlend(), GroupBlend(), GroupBlend())
    decisions: tuple[Decision, ...] = ()

    def __post_init__(self) -> None:
        if len(self.groups) != len(SCORE_GROUPS):
            raise InputError(f"{len(self.groups)} score groups where {len(SCORE_GROUPS)} are needed")
        for group in self.groups:
            if group.weights is not None and len(group.weights) != len(self.files):
                raise InputError(f"{len(group.weights)} weights where there are {len(self.files)} files")

    @property
    def is_plain_mean(self) -> bool:
        """Whether nothing but the mean of the files is left."""
        return all(group == GroupBlend() for group in self.groups)


def apply_cells(model: BlendModel, files: Floats) -> Floats:
    """Return blended probabilities ``[studies, 25, 3]``; rows sum to 1, NaN where no file has the cell.

    Args:
        model: the blend.
        files: ``[files, studies, 25, 3]``, NaN where a file lacks the cell.
    """
    probabilities = plain_mean(files)
    for step in STEPS:
        before, probabilities = probabilities, probabilities.copy()
        for group in step.groups:
            probabilities[:, TARGETS_OF[group]] = step.apply(model.groups[group], files, before, group)
    return probabilities


def apply_blend(model: BlendModel, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Blend new predictions.

    Args:
        model: the blend.
        tables: one for each of `BlendModel.files`, in that order: columns ``row_id, normal_mild, moderate,
            severe``, unique rows, each finite, non-negative, with a positive sum. A table may lack rows.

    Returns:
        The same columns: every row that a table has, probabilities sum to 1.

    Raises:
        InputError: another number of tables than the model was fitted on, or a wrong row identifier.
    """
    if len(tables) != len(model.files):
        raise InputError(
            f"the blend was fitted on {len(model.files)} files ({', '.join(model.files)}) and is given "
            f"{len(tables)}; give one table for each, in that order"
        )
    studies, files = arrange(dict(zip(model.files, tables, strict=True)))
    return as_table(studies, apply_cells(model, files))


def save_blend(path: Path, model: BlendModel) -> None:
    """Write a blend as JSON, atomically."""
    write_json(path, {"format": FORMAT, **asdict(model)})


def load_blend(path: Path) -> BlendModel:
    """Read what `save_blend` wrote.

    Raises:
        InputError: the file is missing, or no blend of this format; the file is named.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a blend of format {FORMAT}; write it again with lumbar blend --model")
    values = {name: value for name, value in content.items() if name != "format"}
    return from_dict(
        values, BlendModel, f"{path}: not a complete blend; write it again with lumbar blend --model"
    )
