"""A blend: one prediction from several, fitted on out-of-fold predictions, kept as JSON, cross-fitted.

Nothing is believed that does not show on other folds. A step is fitted on all folds but one and looked at on
that one, in turn; it is kept where the loss of these held-out rows falls by more than its standard error.
Cross-fitted predictions repeat all of that, choices included, once per fold without any label of that fold.
One thing alone all folds decide together: whether the blend or the plain mean is used in the end.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_json
from lumbar_kaggle.core.settings import from_dict
from lumbar_kaggle.core.targets import SCORE_GROUPS
from lumbar_kaggle.scoring.cells import Cells, arrange, as_table
from lumbar_kaggle.scoring.metric import EPSILON, TARGETS_OF, Booleans, Floats, Integers, resampled_scores, study_sums
from lumbar_kaggle.scoring.steps import STEPS, GroupBlend, apply_step, fit_step, parts_of, plain_mean

CERTAINTY = 0.9
"""A blend is used when at least this share of the bootstrap resamples finds it better than the plain mean."""

LEAST_GAIN = 1e-5
"""A step is not worth having for less, however sure: two equal files differ by their rounding."""

FORMAT = 1
"""Raised when a model of an earlier format can no longer be read."""

_INNER = 4  # folds that are made where only one is left to fit on


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

    The files' are ``[files, studies, 25, 3]``, NaN where a file lacks the cell.
    """
    probabilities = plain_mean(files)
    for step, affected in STEPS.items():
        before, probabilities = probabilities, probabilities.copy()
        for group in affected:
            probabilities[:, TARGETS_OF[group]] = apply_step(step, model.groups[group], files, before, group)
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
    return from_dict(values, BlendModel, f"{path}: not a complete blend; write it again with lumbar blend --model")


@dataclass(frozen=True)
class CrossFit:
    """The blend, and what it says of rows whose labels it has not seen.

    Attributes:
        fitted: the blend of all folds, whatever came of it.
        plain, blended: ``[studies, 25, 3]`` the plain mean, and the cross-fitted blend.
        certainty: share of the bootstrap resamples in which the blend is better than the plain mean.
        kept: whether that is enough.
    """

    fitted: BlendModel
    plain: Floats
    blended: Floats
    certainty: float
    kept: bool

    @property
    def model(self) -> BlendModel:
        """The blend to use: the fitted one, or the plain mean."""
        return self.fitted if self.kept else BlendModel(self.fitted.files)

    @property
    def result(self) -> Floats:
        """Cross-fitted ``[studies, 25, 3]`` probabilities of the model: the blend's, or the plain mean's."""
        return self.blended if self.kept else self.plain


@dataclass(frozen=True)
class _View:
    """A choice of studies to fit on, and where the steps kept so far have brought all studies."""

    train: Booleans  # [studies]
    probabilities: Floats  # [studies, 25, 3]
    groups: tuple[GroupBlend, ...]


def fit_blend(cells: Cells) -> BlendModel:
    """Fit a blend on all given studies; steps that do not help on held-out folds are left out."""
    # Steps are chosen by the given folds or, where that is a single one, by studies in turn.
    inner = cells.fold if len(np.unique(cells.fold)) > 1 else np.arange(len(cells.fold)) % _INNER
    start = plain_mean(cells.files)
    groups = (GroupBlend(),) * len(SCORE_GROUPS)
    # The last view fits on everything: its settings become the model's.
    masks = [inner != fold for fold in np.unique(inner)] + [np.ones(len(inner), dtype=bool)]
    views = [_View(mask, start, groups) for mask in masks]
    decisions = []
    for step, affected in STEPS.items():
        # Groups are tried from the same state: a stack reads the other groups as they were before it.
        tried = {group: _try(step, views, cells, group) for group in affected}
        for group, outcome in tried.items():
            if outcome is not None:
                decisions.append(outcome[0])
                views = [
                    _with_group(view, blend, after, group)
                    for view, (blend, after) in zip(views, outcome[1], strict=True)
                ]
    return BlendModel(cells.names, views[-1].groups, tuple(decisions))


def cross_fit(cells: Cells) -> CrossFit:
    """Fit a blend, and judge it against the plain mean on rows whose labels it has not seen."""
    plain, blended = plain_mean(cells.files), cross_fitted(cells)
    model = fit_blend(cells)
    sums = np.stack([study_sums(values, cells.severity) for values in (blended, plain)])
    parts = np.flatnonzero(sums[0, :, :, 1].sum(axis=0) > 0)
    draws = resampled_scores(sums)[..., parts].mean(axis=-1)
    certainty = float((draws[0] < draws[1]).mean())
    kept = certainty >= CERTAINTY and not model.is_plain_mean
    return CrossFit(model, plain, blended, certainty, kept)


def cross_fitted(cells: Cells) -> Floats:
    """Return ``[studies, 25, 3]`` where the rows of each fold come from a blend of the other folds.

    No label of a fold has any influence on the rows of that fold, not through the choice of steps either.
    """
    blended = np.full((*cells.severity.shape, 3), np.nan)
    for fold in np.unique(cells.fold):
        held = cells.fold == fold
        blended[held] = apply_cells(fit_blend(cells.part(~held)), cells.files[:, held])
    return blended


def _try(
    step: str, views: Sequence[_View], cells: Cells, group: int
) -> tuple[Decision, list[tuple[GroupBlend, Floats]]] | None:
    """Fit a step in every view; return what is kept of it: per view settings and ``[studies, cells, 3]``.

    None where the step has nothing to do: a single file to weigh, or no labelled cell to fit on.
    """
    if not all(_labelled(view, cells.severity, group) for view in views):
        return None
    variants = []
    for view in views:
        files, severity = cells.files[:, view.train], cells.severity[view.train]
        before = view.probabilities[view.train]
        variants.append(fit_step(step, view.groups[group], files, before, severity, group))
    kept = [(view.groups[group], view.probabilities[:, TARGETS_OF[group]]) for view in views]
    best = old = _held_out(kept, views, cells, group)
    decision = None
    for candidate in zip(*variants, strict=True):
        after = [
            (blend, apply_step(step, blend, cells.files, view.probabilities, group))
            for blend, view in zip(candidate, views, strict=True)
        ]
        new = _held_out(after, views, cells, group)
        better, error = change(new, best, parts_of(group))
        if better < -max(error, LEAST_GAIN):
            kept, best = after, new
            decision = Decision(step, SCORE_GROUPS[group], True, *change(new, old, parts_of(group)))
        elif decision is None:
            decision = Decision(step, SCORE_GROUPS[group], False, better, error)
    return None if decision is None else (decision, kept)


def _labelled(view: _View, severity: Integers, group: int) -> bool:
    """Whether a view has a predicted cell of the group with a label to fit on."""
    targets = TARGETS_OF[group]
    there = np.isfinite(view.probabilities[view.train][:, targets]).all(axis=2)
    return bool((there & (severity[view.train][:, targets] >= 0)).any())


def _held_out(
    outcomes: Sequence[tuple[GroupBlend, Floats]], views: Sequence[_View], cells: Cells, group: int
) -> Floats:
    """Return ``[studies, 4, 2]`` losses, each study as the view sees it that was not fitted on it."""
    probabilities = np.full((*cells.severity.shape, 3), np.nan)
    for (_, values), view in zip(outcomes, views, strict=True):
        held = np.flatnonzero(~view.train)
        probabilities[np.ix_(held, TARGETS_OF[group])] = values[held]
    return study_sums(probabilities, cells.severity)


def _with_group(view: _View, blend: GroupBlend, values: Floats, group: int) -> _View:
    probabilities = view.probabilities.copy()
    probabilities[:, TARGETS_OF[group]] = values
    groups = (*view.groups[:group], blend, *view.groups[group + 1 :])
    return _View(view.train, probabilities, groups)


def change(new: Floats, old: Floats, parts: Sequence[int]) -> tuple[float, float]:
    """Return by how much the sum of some parts changes, and the standard error of that over studies.

    A part is a ratio of two sums over studies; the error is that of its linearisation (delta method).

    Args:
        new, old: ``[studies, 4, 2]`` as from `metric.study_sums`, of the same rows.
        parts: places in `metric.PARTS`; those without a row count as unchanged.
    """
    difference, weight = (new - old)[..., 0], old[..., 1]
    total = np.maximum(weight.sum(axis=0), EPSILON)
    ratio = difference.sum(axis=0) / total
    influence = (difference - weight * ratio) / total
    chosen = list(parts)
    return float(ratio[chosen].sum()), float(np.sqrt((influence[:, chosen].sum(axis=1) ** 2).sum()))
