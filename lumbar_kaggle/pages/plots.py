"""The charts of the pages: plain numbers in, an inline ``<svg>`` out."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from lumbar_kaggle.pages.render import fixed, percent, target_words
from lumbar_kaggle.pages.svg import Drawing, Scale, spanning
from lumbar_kaggle.targets import SCORE_GROUPS, SEVERITY_WORDS, condition_words, level_words, target

ROW = 15.0
HEADING = 22.0
LABEL = 40.0
"""Height of a target's row, of a condition's heading, and width of a level's name, in px."""

DEEPEST = 0.5
"""Opacity of a full confusion cell: ink stays legible on it, in light and in dark."""


def target_bars(
    names: Sequence[str],
    values: Sequence[float],
    *,
    title: str,
    digits: int,
    high: float | None = None,
    marks: Sequence[float] | None = None,
) -> Markup:
    """Draw one horizontal bar per target, with its number, in groups by condition.

    Args:
        names: targets, in the usual order.
        values: one number of 0 or more per target.
        title: what is shown, for screen readers.
        digits: decimals of the numbers.
        high: value of a full bar; by default the greatest.
        marks: a second number per target, shown as a stroke across its bar.
    """
    finite = [value for value in values if math.isfinite(value)]
    drawing = Drawing(280, _rows_height(names), title)
    scale = Scale(0, high or max(finite, default=0) or 1, LABEL, 236)
    for index, y in _target_rows(drawing, names):
        drawing.rect(LABEL, y + 2, 196, ROW - 4, "track")
        if math.isfinite(values[index]):
            drawing.rect(LABEL, y + 2, scale(values[index]) - LABEL, ROW - 4, "bar")
        if marks is not None and math.isfinite(marks[index]):
            drawing.line(scale(marks[index]), y + 0.5, scale(marks[index]), y + ROW - 0.5, "mark")
        drawing.text(280, y + 11, fixed(values[index], digits), anchor="end")
    return drawing.markup()


def paired_dots(names: Sequence[str], honest: Sequence[float], report: Sequence[float], title: str) -> Markup:
    """Draw two shares of 0 … 1 per target on one line: honest a disc, report a ring.

    Args:
        names: targets, in the usual order.
        honest, report: one share per target.
        title: what is shown, for screen readers.
    """
    height = _rows_height(names) + 18
    drawing = Drawing(460, height, title)
    known = [value for value in (*honest, *report) if math.isfinite(value)]
    # Down to a round fifth below the least value, so that differences near 1 stay visible.
    scale = Scale(
        math.floor(min(known, default=0) * 5 - 0.1) / 5 if min(known, default=0) > 0 else 0, 1, 48, 448
    )
    for tick, label in scale.ticks(5):
        drawing.line(scale(tick), HEADING - 4, scale(tick), height - 16, "gridline")
        drawing.text(scale(tick), height - 3, label, "faint", anchor="middle")
    for index, y in _target_rows(drawing, names):
        pair = honest[index], report[index]
        if not all(map(math.isfinite, pair)):
            continue
        first, second = scale(pair[0]), scale(pair[1])
        text = f"{target_words(names[index])}: honest {fixed(pair[0])}, report {fixed(pair[1])}"
        drawing.line(first, y + ROW / 2, second, y + ROW / 2, "link")
        drawing.circle(first, y + ROW / 2, 4, "honest", text)
        drawing.circle(second, y + ROW / 2, 4, "report", text)
    return drawing.markup()


def accuracy_scatter(names: Sequence[str], latest: Sequence[float], best: Sequence[float]) -> Markup:
    """Draw latest (x) against best (y) accuracy, one mark per target, its shape by score group."""
    drawing = Drawing(280, 290, "Latest against best accuracy of each target")
    both = [*latest, *best]
    across, up = spanning(both, 40, 272), spanning(both, 236, 10)
    for tick, label in across.ticks(5):
        drawing.line(across(tick), 10, across(tick), 236, "gridline")
        drawing.text(across(tick), 250, label, "faint", anchor="middle")
        drawing.line(40, up(tick), 272, up(tick), "gridline")
        drawing.text(35, up(tick) + 3.5, label, "faint", anchor="end")
    drawing.line(40, 236, 272, 10, "link")
    for name, x, y in zip(names, latest, best, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            shape = SCORE_GROUPS.index(target(name).score_group)
            text = f"{target_words(name)}: latest {fixed(x)}, best {fixed(y)}"
            drawing.marker(across(x), up(y), shape, "point", text)
    drawing.text(156, 266, "latest accuracy →", "faint", anchor="middle")
    drawing.text(4, 8, "best ↑", "faint")
    for index, group in enumerate(SCORE_GROUPS):
        drawing.marker(46 + index * 80, 281, index, "point")
        drawing.text(54 + index * 80, 285, group)
    return drawing.markup()


def loss_curves(history: pd.DataFrame, title: str) -> Markup:
    """Draw the losses of one target's folds over the epochs.

    Thin lines are the folds' validation losses, the thick one their mean over the epochs that every
    fold reached (a mean over fewer folds would jump where one stopped early), the dashed one the
    mean training loss; the dot is the least mean validation loss.

    Args:
        history: columns ``fold, epoch, train_loss, valid_loss``.
        title: what is shown, for screen readers.
    """
    drawing = Drawing(220, 118, title)
    valid = history.pivot(index="epoch", columns="fold", values="valid_loss")
    training = history.pivot(index="epoch", columns="fold", values="train_loss")
    reached = int(history.groupby("fold")["epoch"].max().min())
    mean, training_mean = valid.loc[:reached].mean(axis=1), training.loc[:reached].mean(axis=1)
    longest = int(history["epoch"].max())
    across = Scale(1, max(longest, 2), 32, 212)
    up = spanning([*valid.to_numpy().ravel(), *training_mean], 96, 8)
    for tick, label in up.ticks(4):
        drawing.line(32, up(tick), 214, up(tick), "gridline")
        drawing.text(28, up(tick) + 3.5, label, "faint", anchor="end")
    for epoch in _whole_ticks(longest):
        drawing.text(across(epoch), 110, str(epoch), "faint", anchor="middle")
    for fold in valid.columns:
        drawing.path(_points(valid[fold], across, up), "fold")
    drawing.path(_points(training_mean, across, up), "training")
    drawing.path(_points(mean, across, up), "mean")
    if mean.notna().any():
        best = int(mean.index[int(np.nanargmin(mean.to_numpy()))])
        drawing.circle(across(best), up(float(mean[best])), 3, "best", f"epoch {best}: {mean[best]:.3f}")
    return drawing.markup()


def confusion_cells(matrix: NDArray[np.int64], title: str) -> Markup:
    """Draw a confusion matrix: counts, and the share of each true severity's row as depth.

    Args:
        matrix: ``[3 true, 3 most probable]`` counts.
        title: what is shown, for screen readers.
    """
    drawing = Drawing(220, 140, title)
    totals = matrix.sum(axis=1)
    drawing.text(139, 9, "most probable", "faint", anchor="middle")
    for index, word in enumerate(SEVERITY_WORDS):
        short = word.split("/")[0]
        top = 30 + index * 37
        drawing.text(61 + index * 53 + 25.5, 25, short, "small", anchor="middle")
        drawing.text(54, top + 15, short, "small", anchor="end")
        drawing.text(54, top + 28, f"n={totals[index]}", "faint", anchor="end")
        for column in range(3):
            left, share = 61 + column * 53, math.nan
            drawing.rect(left, top, 51, 35, "track")
            if totals[index]:
                share = matrix[index, column] / totals[index]
                drawing.rect(left, top, 51, 35, "bar", opacity=DEEPEST * share)
            drawing.text(left + 25.5, top + 15, str(matrix[index, column]), "strong", anchor="middle")
            drawing.text(left + 25.5, top + 28, percent(share), "small", anchor="middle")
    return drawing.markup()


def attention_bars(
    instances: Sequence[int | None], attention: Sequence[float], pictured: int, title: str
) -> Markup:
    """Draw the weight of each slice of a window as an upright bar over its instance number.

    Args:
        instances: instance numbers, in the order of the window; None where not given.
        attention: weights of 0 … 1; the greatest fills the height.
        pictured: which slice is shown elsewhere; its bar is the coloured one.
        title: what is shown, for screen readers.
    """
    drawing = Drawing(210, 62, title)
    step = min(210 / len(instances), 42)
    start, full = (210 - step * len(instances)) / 2, 34.0
    for index, (number, weight) in enumerate(zip(instances, attention, strict=True)):
        left, height = start + index * step, full * weight / max(*attention, 1e-9)
        kind = "bar" if index == pictured else "other"
        drawing.rect(left + 2, 12 + full - height, step - 4, height, kind)
        drawing.text(left + step / 2, 9 + full - height, percent(weight), "faint", anchor="middle")
        name = "–" if number is None else str(number)
        drawing.text(left + step / 2, 59, name, "strong" if index == pictured else "", anchor="middle")
    return drawing.markup()


def _rows_height(names: Sequence[str]) -> float:
    return ROW * len(names) + HEADING * len({target(name).condition for name in names})


def _target_rows(drawing: Drawing, names: Sequence[str]) -> Iterator[tuple[int, float]]:
    """Write conditions and levels down the left side; yield each target's index and upper edge."""
    y, condition = 0.0, ""
    for index, name in enumerate(names):
        place = target(name)
        if place.condition != condition:
            condition = place.condition
            drawing.text(0, y + 15, condition_words(condition), "strong")
            y += HEADING
        drawing.text(0, y + 11, level_words(place.level))
        yield index, y
        y += ROW


def _points(losses: "pd.Series[float]", across: Scale, up: Scale) -> list[tuple[float, float]]:
    return [(across(float(epoch)), up(float(loss))) for epoch, loss in zip(losses.index, losses, strict=True)]


def _whole_ticks(longest: int) -> list[int]:
    step = max(1, math.ceil(longest / 6))
    return list(range(1, longest + 1, step))
