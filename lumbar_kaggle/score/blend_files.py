"""``lumbar blend``: files of out-of-fold predictions in, one file, a model and a table out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_csv
from lumbar_kaggle.core.targets import SCORE_GROUPS, split_row_id
from lumbar_kaggle.score.blend import BlendModel, save_blend
from lumbar_kaggle.score.cells import Cells, Floats, as_table, gather
from lumbar_kaggle.score.fitting import CERTAINTY, CrossFit, cross_fit
from lumbar_kaggle.score.losses import study_losses
from lumbar_kaggle.score.metric import (
    PARTS,
    RESAMPLES,
    confidence_interval,
    part_scores,
    resampled_scores,
    with_total,
)
from lumbar_kaggle.score.noise import Noise, find_noise
from lumbar_kaggle.score.steps import GroupBlend
from lumbar_kaggle.tables.reading import faults_of, read_labels, read_table
from lumbar_kaggle.tables.submission import read_predictions


@dataclass(frozen=True)
class Line:
    """One line of the table of scores, ``[5]`` each: `metric.PARTS` and their mean; NaN without rows.

    Attributes:
        name: file, or what was made of the files.
        value: scores, or differences of scores.
        interval: ``[2, 5]`` ends of the 95 % bootstrap intervals.
    """

    name: str
    value: Floats
    interval: Floats

    def cells(self) -> list[str]:
        """Return the line's texts: name and five values with their intervals."""
        spans = zip(self.value, *self.interval, strict=True)
        shown = [
            f"{value:.4f} ({low:.4f} to {high:.4f})" if np.isfinite(value) else "-"
            for value, low, high in spans
        ]
        return [self.name, *shown]


@dataclass(frozen=True)
class Blending:
    """Result of the command.

    Attributes:
        fit: the blend and its cross-fitted predictions.
        lines: files, plain mean, blend, and their difference.
        rows, studies: labelled rows with a prediction, and their studies.
        noise: contradicted labels, where they were asked for.
    """

    fit: CrossFit
    lines: tuple[Line, ...]
    rows: int
    studies: int
    noise: Noise | None

    def text(self) -> str:
        """Return what the command prints."""
        table = [["", *PARTS, "total"], *(line.cells() for line in self.lines)]
        lines = [
            *_aligned(table),
            f"rows: {self.rows} labelled ones of {self.studies} studies; a file's score is of those it has",
            f"intervals: 95 %, {RESAMPLES} bootstrap resamples of the studies, the same for all lines",
            "",
            *_aligned(_step_table(self.fit.fitted)),
            "change: of the loss on held-out folds, for spinal with any_severe_spinal; kept where it falls "
            "by more than its standard error",
            "",
            self.verdict(),
        ]
        return "\n".join([*lines, "", self.noise.text()] if self.noise else lines)

    def verdict(self) -> str:
        """Return in one sentence whether the blend or the plain mean is the result, and why."""
        found = f"better than the plain mean in {self.fit.certainty:.0%} of the resamples"
        if self.fit.kept:
            return f"The result is the blend: it is {found}."
        if self.fit.certainty >= CERTAINTY:
            return "The result is the plain mean: fitted on all folds, no step helps."
        return f"The result is the plain mean: the blend is {found}; it takes {CERTAINTY:.0%}."


def blend_files(
    files: Sequence[Path],
    labels: Path,
    folds: Path,
    out: Path,
    *,
    model: Path | None = None,
    noise: Path | None = None,
    noise_above: float = 0.8,
) -> Blending:
    """Blend files of out-of-fold predictions and write the cross-fitted result.

    Args:
        files: columns ``row_id, normal_mild, moderate, severe``; each may cover some conditions or rows only.
        labels: a label table with the columns of ``train.csv``.
        folds: columns ``study_id, fold``, by which the predictions were made.
        out: the result: ``row_id, fold, normal_mild, moderate, severe`` of every row that a file has.
        model: where to write the blend as JSON, if at all.
        noise: where to write the contradicted labels, if at all.
        noise_above: see `noise.find_noise`.

    Raises:
        InputError: a file is unreadable, named twice, without a labelled row, or has studies without a fold.
    """
    written = [path for path in (out, model, noise) if path is not None]
    _check_paths(files, [labels, folds], written)
    if not 0 < noise_above < 1:
        raise InputError(f"--noise-above is {noise_above:g}; it must lie between 0 and 1")
    cells = _read_cells(files, labels, folds)
    fit = cross_fit(cells)
    fold_of = dict(zip(cells.studies, cells.fold.tolist(), strict=True))
    table = as_table(cells.studies, fit.result)
    table.insert(1, "fold", [fold_of[split_row_id(identifier)[0]] for identifier in table["row_id"]])
    write_csv(out, table)
    if model is not None:
        save_blend(model, fit.model)
    found = find_noise(cells, fit.result, noise_above) if noise is not None else None
    if noise is not None and found is not None:
        write_csv(noise, found.table)
    scored = (cells.severity >= 0) & np.isfinite(fit.plain).all(axis=2)
    return Blending(fit, _lines(cells, fit), int(scored.sum()), int(scored.any(axis=1).sum()), found)


def read_folds(path: Path) -> dict[str, int]:
    """Read a table of folds, columns ``study_id, fold``.

    Returns:
        study → fold.

    Raises:
        InputError: the file is unreadable, a fold is no whole number, a study is there twice, or one fold.
    """
    table = read_table(path, ("study_id", "fold"))
    wrong = table[~table["fold"].str.fullmatch(r"\d+")]
    twice = table[table["study_id"].duplicated()]
    faults = faults_of(path, wrong, "fold is {fold!r}; it must be a whole number", True)
    faults += faults_of(path, twice, "study {study_id} stands here a second time; keep one row", True)
    if faults:
        raise InputError(str(faults[0]))
    if table["fold"].nunique() < 2:
        raise InputError(f"{path}: two folds or more are needed; nothing can be held out otherwise")
    return dict(zip(table["study_id"], table["fold"].astype(int).tolist(), strict=True))


def _read_cells(files: Sequence[Path], labels: Path, folds: Path) -> Cells:
    known, faults = read_labels(labels)
    if faults:
        raise InputError(str(faults[0]))
    tables: dict[str, pd.DataFrame] = {}
    for path in files:
        table = tables[str(path)] = read_predictions(path)
        if not table["row_id"].isin(known["row_id"]).any():
            raise InputError(
                f"{path}: none of its {len(table)} rows has a label in {labels}; give predictions of "
                "its studies"
            )
    cells = gather(tables, known, read_folds(folds))
    if len(np.unique(cells.fold)) < 2:
        raise InputError(
            f"{folds}: all predicted studies are in one fold, and nothing can be held out; give the "
            "predictions of two folds or more"
        )
    return replace(cells, names=_short_names(files))


def _short_names(files: Sequence[Path]) -> tuple[str, ...]:
    """Return file names without folders, where these tell the files apart."""
    names = tuple(path.name for path in files)
    return names if len(set(names)) == len(names) else tuple(map(str, files))


def _check_paths(files: Sequence[Path], tables: Sequence[Path], written: Sequence[Path]) -> None:
    """Raise where a file would be overwritten that is read, or one is named twice."""
    seen: set[Path] = set()
    for path in [*files, *tables, *written]:
        if path.resolve() in seen:
            raise InputError(f"{path}: named twice among what is read and written; name another file")
        seen.add(path.resolve())


def _lines(cells: Cells, fit: CrossFit) -> tuple[Line, ...]:
    """Return the scores of the files, the plain mean and the blend, and the difference of the last two."""
    values = [*cells.files, fit.plain, fit.blended]
    sums = np.stack([study_losses(value, cells.severity) for value in values])
    value, draws = with_total(part_scores(sums.sum(axis=1))), with_total(resampled_scores(sums))
    names = [*cells.names, "plain mean", "blend, cross-fitted"]
    lines = [_line(*each) for each in zip(names, value, draws, strict=True)]
    return (*lines, _line("blend - plain mean", value[-1] - value[-2], draws[-1] - draws[-2]))


def _line(name: str, value: Floats, draws: Floats) -> Line:
    return Line(name, value, confidence_interval(value, draws))


def _step_table(model: BlendModel) -> list[list[str]]:
    table = [["step", "condition", "kept", "change", "error", "setting"]]
    for decision in model.decisions:
        settings = model.groups[SCORE_GROUPS.index(decision.group)]
        table.append(
            [
                decision.step,
                decision.group,
                "yes" if decision.kept else "no",
                f"{decision.change:+.5f}",
                f"{decision.error:.5f}",
                _setting(decision.step, settings) if decision.kept else "-",
            ]
        )
    return table


def _setting(step: str, settings: GroupBlend) -> str:
    """Return what a step was set to."""
    if step == "weights" and settings.weights is not None:
        return " ".join(f"{weight:.2f}" for weight in settings.weights)
    if step == "stacking" and settings.stack is not None:
        return f"share {settings.share:g}"
    values = {"temperature": settings.temperature, "any severe": settings.worst_scale}
    return f"{values[step]:.3f}" if values.get(step, 1.0) != 1.0 else "-"


def _aligned(table: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table]
