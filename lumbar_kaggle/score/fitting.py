"""Fitting a blend on out-of-fold predictions: nothing is believed that does not show on other folds.

A step is fitted on all folds but one and looked at on that one, in turn; it is kept where the loss of these
held-out rows falls by more than its standard error. Cross-fitted predictions repeat all of that, choices
included, once per fold without any label of that fold. One thing alone all folds decide together: whether
the blend or the plain mean is used in the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lumbar_kaggle.core.targets import SCORE_GROUPS
from lumbar_kaggle.score.blend import BlendModel, Decision, apply_cells
from lumbar_kaggle.score.cells import TARGETS_OF, Booleans, Cells, Floats, Integers
from lumbar_kaggle.score.losses import change, parts_of, study_losses
from lumbar_kaggle.score.metric import resampled_scores
from lumbar_kaggle.score.steps import STEPS, GroupBlend, Step, plain_mean

CERTAINTY = 0.9
"""A blend is used when at least this share of the bootstrap resamples finds it better than the plain mean."""

LEAST_GAIN = 1e-5
"""A step is not worth having for less, however sure: two equal files differ by their rounding."""

_INNER = 4  # folds that are made where only one is left to fit on


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
    """A choice of studies to fit on, and where the steps kept so far have brought all studies.

    Attributes:
        train: ``[studies]``.
        probabilities: ``[studies, 25, 3]``.
        groups: settings so far.
    """

    train: Booleans
    probabilities: Floats
    groups: tuple[GroupBlend, ...]


def fit_blend(cells: Cells) -> BlendModel:
    """Fit a blend on all given studies; steps that do not help on held-out folds are left out.

    Args:
        cells: out-of-fold predictions, labels and folds, as from `cells.gather`.
    """
    inner = _inner_folds(cells.fold)
    start = plain_mean(cells.files)
    groups = (GroupBlend(),) * len(SCORE_GROUPS)
    # The last view fits on everything: its settings become the model's.
    masks = [inner != fold for fold in np.unique(inner)] + [np.ones(len(inner), dtype=bool)]
    views = [_View(mask, start, groups) for mask in masks]
    decisions = []
    for step in STEPS:
        # Groups are tried from the same state: a stack reads the other groups as they were before it.
        tried = {group: _try(step, views, cells, group) for group in step.groups}
        for group, outcome in tried.items():
            if outcome is not None:
                decisions.append(outcome[0])
                views = [
                    _with_group(view, blend, after, group)
                    for view, (blend, after) in zip(views, outcome[1], strict=True)
                ]
    return BlendModel(cells.names, views[-1].groups, tuple(decisions))


def cross_fit(cells: Cells) -> CrossFit:
    """Fit a blend, and judge it against the plain mean on rows whose labels it has not seen.

    Args:
        cells: as in `fit_blend`; two folds or more.
    """
    plain, blended = plain_mean(cells.files), cross_fitted(cells)
    model = fit_blend(cells)
    sums = np.stack([study_losses(values, cells.severity) for values in (blended, plain)])
    parts = np.flatnonzero(sums[0, :, :, 1].sum(axis=0) > 0)
    draws = resampled_scores(sums)[..., parts].mean(axis=-1)
    certainty = float((draws[0] < draws[1]).mean())
    kept = certainty >= CERTAINTY and not model.is_plain_mean
    return CrossFit(
        fitted=model,
        plain=plain,
        blended=blended,
        certainty=certainty,
        kept=kept,
    )


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
    step: Step, views: Sequence[_View], cells: Cells, group: int
) -> tuple[Decision, list[tuple[GroupBlend, Floats]]] | None:
    """Fit a step in every view; return what is kept of it: per view settings and ``[studies, cells, 3]``.

    None where the step has nothing to do: a single file to weigh, or no labelled cell to fit on.
    """
    if not all(_labelled(view, cells.severity, group) for view in views):
        return None
    variants = [_fit(step, view, cells, group) for view in views]
    kept = [(view.groups[group], view.probabilities[:, TARGETS_OF[group]]) for view in views]
    best = old = _held_out(kept, views, cells, group)
    decision = None
    for candidate in zip(*variants, strict=True):
        after = [
            (blend, step.apply(blend, cells.files, view.probabilities, group))
            for blend, view in zip(candidate, views, strict=True)
        ]
        new = _held_out(after, views, cells, group)
        better, error = change(new, best, parts_of(group))
        if better < -max(error, LEAST_GAIN):
            kept, best = after, new
            decision = _decision(step, group, True, *change(new, old, parts_of(group)))
        elif decision is None:
            decision = _decision(step, group, False, better, error)
    return None if decision is None else (decision, kept)


def _fit(step: Step, view: _View, cells: Cells, group: int) -> list[GroupBlend]:
    train = view.train
    return step.fit(
        view.groups[group], cells.files[:, train], view.probabilities[train], cells.severity[train], group
    )


def _decision(step: Step, group: int, kept: bool, moved: float, error: float) -> Decision:
    return Decision(step.name, SCORE_GROUPS[group], kept, moved, error)


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
    return study_losses(probabilities, cells.severity)


def _with_group(view: _View, blend: GroupBlend, values: Floats, group: int) -> _View:
    probabilities = view.probabilities.copy()
    probabilities[:, TARGETS_OF[group]] = values
    groups = (*view.groups[:group], blend, *view.groups[group + 1 :])
    return _View(view.train, probabilities, groups)


def _inner_folds(fold: Integers) -> Integers:
    """Return folds to choose steps by: those given, or, where that is a single one, studies by turns."""
    if len(np.unique(fold)) > 1:
        return fold
    return np.arange(len(fold), dtype=np.int64) % _INNER
