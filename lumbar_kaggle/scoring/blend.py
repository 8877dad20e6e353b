"""A blend: one prediction from several, fitted on out-of-fold predictions, kept as JSON, cross-fitted.

Nothing is believed that does not show on other folds. A step is fitted on all folds but one and looked at on that one,
in turn; it is kept where the loss of these held-out rows falls by more than its standard error. Cross-fitted
predictions repeat all of that, choices included, once per fold without any label of that fold."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_json
from lumbar_kaggle.core.settings import from_dict
from lumbar_kaggle.core.targets import SCORE_GROUPS
from lumbar_kaggle.scoring.metric import EPSILON, PARTS_OF, TARGETS_OF, Floats, Integers, as_table, on_grid, study_sums
from lumbar_kaggle.scoring.steps import STEPS, GroupBlend, apply_step, fit_step, plain_mean
from lumbar_kaggle.tables.folds import read_folds
from lumbar_kaggle.tables.submission import with_targets

LEAST_GAIN = 1e-5  # A step is not worth having for less, however sure: two equal files differ by their rounding.
FORMAT = 1  # raised when a model of an earlier format can no longer be read


@dataclass(frozen=True)
class Cells:
    """Predictions of some studies by several files, with labels and folds."""

    names: tuple[str, ...]  # of the files
    studies: tuple[str, ...]
    files: Floats  # [files, studies, 25, 3] probabilities; rows sum to 1, or are NaN where the file has no such row
    severity: Integers  # [studies, 25] labels 0, 1, 2; -1 where there is none
    fold: Integers  # [studies]

    def part(self, chosen: Integers) -> "Cells":
        """Return the studies at some places."""
        studies = tuple(self.studies[place] for place in chosen)
        return Cells(self.names, studies, self.files[:, chosen], self.severity[chosen], self.fold[chosen])


def gather(tables: Mapping[str, pd.DataFrame], labels: pd.DataFrame, folds: Path) -> Cells:
    """Join tables of out-of-fold predictions by name, as in `apply_blend`, with labels ``study_id, target, severity``
    and the file of the folds. Studies without a table are left out. Raises `InputError` where a row identifier is
    wrong, a study has no fold, or all are in one."""
    studies, files = _arrange(tables)
    fold = read_folds(folds).set_index("study_id")["fold"].reindex(studies)
    for name, probabilities in zip(tables, files, strict=True):
        lost = np.flatnonzero(fold.isna() & np.isfinite(probabilities).any(axis=(1, 2)))
        if len(lost):
            what = f"{len(lost)} of its studies have no fold, the first is {studies[lost[0]]}"
            raise InputError(f"{name}: {what}; give the folds.csv by which these predictions were made")
    if fold.nunique() < 2:
        raise InputError(f"{folds}: two folds or more are needed among the predicted studies; nothing can be held out")
    known = on_grid(labels[labels["study_id"].isin(studies)], studies, ("severity",))[..., 0]
    severity = np.nan_to_num(known, nan=-1).astype(np.int64)
    return Cells(tuple(tables), studies, files, severity, fold.to_numpy(dtype=np.int64))


def _arrange(tables: Mapping[str, pd.DataFrame]) -> tuple[tuple[str, ...], Floats]:
    """Return the studies of all tables, in order of appearance, and probabilities as in `Cells.files`."""
    keyed = [with_targets(table, name) for name, table in tables.items()]
    studies = tuple(dict.fromkeys(study for table in keyed for study in table["study_id"]))
    files = np.stack([on_grid(table, studies) for table in keyed])
    return studies, files / files.sum(axis=-1, keepdims=True)


@dataclass(frozen=True)
class Decision:
    """What became of a step for one score group."""

    step: str
    group: str
    kept: bool
    change: float  # of the group's loss on held-out folds, below 0 is better; the canal's with the any-severe one
    error: float  # standard error of that


@dataclass(frozen=True)
class BlendModel:
    """What turns several files of predictions into one."""

    files: tuple[str, ...]  # names of those it was fitted on, in the order in which `apply_blend` wants them
    groups: tuple[GroupBlend, ...] = (GroupBlend(), GroupBlend(), GroupBlend())  # in the order of `SCORE_GROUPS`
    decisions: tuple[Decision, ...] = ()

    def __post_init__(self) -> None:
        if len(self.groups) != len(SCORE_GROUPS):
            raise InputError(f"{len(self.groups)} score groups where {len(SCORE_GROUPS)} are needed")
        for group in self.groups:
            if group.weights is not None and len(group.weights) != len(self.files):
                raise InputError(f"{len(group.weights)} weights where there are {len(self.files)} files")


def apply_cells(model: BlendModel, files: Floats) -> Floats:
    """Return blended probabilities `[studies, 25, 3]` of files as in `Cells`; NaN where no file has the cell."""
    probabilities = plain_mean(files)
    for step, affected in STEPS.items():
        before, probabilities = probabilities, probabilities.copy()
        for group in affected:
            probabilities[:, TARGETS_OF[group]] = apply_step(step, model.groups[group], files, before, group)
    return probabilities


def apply_blend(model: BlendModel, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return every row that a table has, blended; probabilities sum to 1. Tables are in the order of
    `BlendModel.files`: ``row_id, normal_mild, moderate, severe``, unique rows in any order, each finite, non-negative,
    with a positive sum; one may lack rows. Raise where another number of them is given."""
    if len(tables) != len(model.files):
        fitted = f"the blend was fitted on {len(model.files)} files ({', '.join(model.files)})"
        raise InputError(f"{fitted} and is given {len(tables)}; give one table for each, in that order")
    studies, files = _arrange(dict(zip(model.files, tables, strict=True)))
    return as_table(studies, apply_cells(model, files))


def save_blend(path: Path, model: BlendModel) -> None:
    """Write a blend as JSON, atomically."""
    write_json(path, {"format": FORMAT, **asdict(model)})


def load_blend(path: Path) -> BlendModel:
    """Read what `save_blend` wrote; raise where it is missing, or no blend of this format."""
    content = read_json(path)
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise InputError(f"{path}: not a blend of format {FORMAT}; write it again with lumbar blend --model")
    return from_dict(content, BlendModel, f"{path}: not a complete blend; write it again with lumbar blend --model")


def cross_fitted(cells: Cells) -> Floats:
    """Return `[studies, 25, 3]` where the rows of each fold come from a blend, chosen steps too, of the other folds."""
    blended = np.full((*cells.severity.shape, 3), np.nan)
    for fold in np.unique(cells.fold):
        model = fit_blend(cells.part(np.flatnonzero(cells.fold != fold)))
        held = np.flatnonzero(cells.fold == fold)
        blended[held] = apply_cells(model, cells.files[:, held])
    return blended


@dataclass
class _View:
    """A choice of studies to fit on, and where the steps kept so far have brought all studies."""

    train: Integers  # places of studies
    probabilities: Floats  # [studies, 25, 3]
    groups: list[GroupBlend]


_Outcome = tuple[GroupBlend, Floats]  # a score group's settings and probabilities `[studies, cells, 3]`, in one view


def fit_blend(cells: Cells) -> BlendModel:
    """Fit a blend on all given studies; steps that do not help on held-out folds are left out."""
    # Steps are chosen by the given folds or, where that is a single one, by studies in turn.
    inner = cells.fold if len(np.unique(cells.fold)) > 1 else np.arange(len(cells.fold)) % 4
    # The last view, without a fold of that number, fits on everything: its settings become the model's.
    views = [
        _View(np.flatnonzero(inner != fold), plain_mean(cells.files), [GroupBlend()] * len(SCORE_GROUPS))
        for fold in (*np.unique(inner), -1)
    ]
    decisions = []
    for step, affected in STEPS.items():
        # Groups are tried from the same state: a stack reads the other groups as they were before it.
        tried = {group: _try(step, views, cells, group) for group in affected}
        for group, (made, kept) in tried.items():
            decisions += made
            for view, (settings, after) in zip(views, kept, strict=True):
                view.groups[group], view.probabilities[:, TARGETS_OF[group]] = settings, after
    return BlendModel(cells.names, tuple(views[-1].groups), tuple(decisions))


def _try(step: str, views: Sequence[_View], cells: Cells, group: int) -> tuple[list[Decision], list[_Outcome]]:
    """Fit a step in every view; return what is decided, if there is anything to do, and what then holds in each."""
    targets, parts = TARGETS_OF[group], PARTS_OF[group]
    kept = [(view.groups[group], view.probabilities[:, targets]) for view in views]
    known = np.isfinite(kept[0][1]).all(axis=2) & (cells.severity[:, targets] >= 0)
    if not all(known[view.train].any() for view in views):
        return [], kept
    variants = []
    for view in views:
        seen = cells.part(view.train)
        before = view.probabilities[view.train]
        variants.append(fit_step(step, view.groups[group], seen.files, before, seen.severity, group))
    best = old = _held_out(kept, views, cells, group)
    decisions: list[Decision] = []
    for candidate in zip(*variants, strict=True):
        after = [
            (settings, apply_step(step, settings, cells.files, view.probabilities, group))
            for settings, view in zip(candidate, views, strict=True)
        ]
        new = _held_out(after, views, cells, group)
        better, error = change(new, best, parts)
        if better < -max(error, LEAST_GAIN):
            kept, best = after, new
            decisions = [Decision(step, SCORE_GROUPS[group], True, *change(new, old, parts))]
        elif not decisions:
            decisions = [Decision(step, SCORE_GROUPS[group], False, better, error)]
    return decisions, kept


def _held_out(outcomes: Sequence[_Outcome], views: Sequence[_View], cells: Cells, group: int) -> Floats:
    """Return `[studies, 4, 2]` losses, each study as the view sees it that was not fitted on it."""
    probabilities = np.full((*cells.severity.shape, 3), np.nan)
    for (_, values), view in zip(outcomes, views, strict=True):
        held = np.setdiff1d(np.arange(len(values)), view.train)
        probabilities[np.ix_(held, TARGETS_OF[group])] = values[held]
    return study_sums(probabilities, cells.severity)


def change(new: Floats, old: Floats, parts: Sequence[int]) -> tuple[float, float]:
    """Return by how much the sum of some of `metric.PARTS` changes, and the standard error of that over studies. Both
    are `[studies, 4, 2]` as from `metric.study_sums`, of the same rows. A part is a ratio of two sums over studies; the
    error is that of its linearisation (delta method). Parts without a row count as unchanged."""
    difference, weight = (new - old)[..., 0], old[..., 1]
    total = np.maximum(weight.sum(axis=0), EPSILON)
    ratio = difference.sum(axis=0) / total
    influence = (difference - weight * ratio) / total
    chosen = list(parts)
    return float(ratio[chosen].sum()), float(np.sqrt((influence[:, chosen].sum(axis=1) ** 2).sum()))
