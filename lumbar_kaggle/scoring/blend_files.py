"""``lumbar blend``: out-of-fold predictions in; one table, a model, scores, contradicted labels out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_csv
from lumbar_kaggle.core.targets import SCORE_GROUPS, SEVERITIES, TARGET_NAMES, row_id, split_row_id
from lumbar_kaggle.scoring.blend import CERTAINTY, BlendModel, CrossFit, cross_fit, save_blend
from lumbar_kaggle.scoring.cells import Cells, as_table, gather
from lumbar_kaggle.scoring.comparison import interval_texts, labels_from, read_scored
from lumbar_kaggle.scoring.metric import (
    NAMES,
    RESAMPLES,
    TARGETS_OF,
    Estimate,
    Floats,
    part_scores,
    resampled_scores,
    study_sums,
    with_total,
)
from lumbar_kaggle.tables.folds import read_folds

SUGGESTED_WEIGHT = 0.3
"""Of a contradicted label in a retraining: it still counts, since many of them are right."""

NOISE_ABOVE = 0.8
"""A label is contradicted when its probability is less than 1 minus this."""


@dataclass(frozen=True)
class Blending:
    """Several tables of predictions made into one.

    Attributes:
        table: cross-fitted result, every row that a file has: ``row_id, fold`` and `SEVERITIES`.
        fit: the blend and its cross-fitted predictions; ``fit.model`` is the one to keep.
        scores: of the files, the plain mean, the blend, and the difference of the last two.
        rows, studies: labelled rows with a prediction, and their studies.
        noise: contradicted labels, where they were asked for; see `find_noise`.
    """

    table: pd.DataFrame
    fit: CrossFit
    scores: dict[str, Estimate]
    rows: int
    studies: int
    noise: "Noise | None"

    def text(self) -> str:
        """Return what the command prints."""
        lines = [
            self.score_table().to_string(),
            f"rows: {self.rows} labelled ones of {self.studies} studies; a file's score is of those it has",
            f"intervals: 95 %, {RESAMPLES} bootstrap resamples of the studies, the same for all lines",
            "",
            _step_table(self.fit.fitted).to_string(),
            "change: of the loss on held-out folds, for spinal with any_severe_spinal; kept where it falls "
            "by more than its standard error",
            "",
            self.verdict(),
        ]
        return "\n".join([*lines, "", self.noise.text()] if self.noise else lines)

    def score_table(self) -> pd.DataFrame:
        """Return the scores with their intervals as texts, a dash where there are none: lines by `NAMES`."""
        shown = [
            [
                "-" if span == "-" else f"{value:.4f} ({span})"
                for value, span in zip(line.value, interval_texts(line), strict=True)
            ]
            for line in self.scores.values()
        ]
        return pd.DataFrame(shown, index=list(self.scores), columns=list(NAMES))

    def verdict(self) -> str:
        """Return in one sentence whether the blend or the plain mean is the result, and why."""
        found = f"better than the plain mean in {self.fit.certainty:.0%} of the resamples"
        if self.fit.kept:
            return f"The result is the blend: it is {found}."
        if self.fit.certainty >= CERTAINTY:
            return "The result is the plain mean: fitted on all folds, no step helps."
        return f"The result is the plain mean: the blend is {found}; it takes {CERTAINTY:.0%}."


@dataclass(frozen=True)
class Noise:
    """Labels that the predictions contradict: candidates for an error of the reader.

    Attributes:
        table: ``row_id, label, probability, most_probable, weight``, most contradicted first: severity names,
            the predicted probability of the label, and the suggested weight; other rows have weight 1.
        above: a label is contradicted when it differs from its probability by more than this.
        labelled, contradicted: rows per score group.
    """

    table: pd.DataFrame
    above: float
    labelled: dict[str, int]
    contradicted: dict[str, int]

    def text(self) -> str:
        """Return what the command prints."""
        lines = [f"labels that the result contradicts by more than {self.above:g}:"]
        for group, rows in self.labelled.items():
            if rows:
                found = self.contradicted[group]
                lines.append(f"{group:<20}{found:>7} of {rows:>6}{found / rows:>8.1%}")
        return "\n".join(lines)


def blend(
    tables: Mapping[str, pd.DataFrame],
    labels: pd.DataFrame,
    folds: Mapping[str, int],
    *,
    noise_above: float | None = None,
    source: str = "folds",
) -> Blending:
    """Blend tables of out-of-fold predictions.

    Args:
        tables: name → columns ``row_id, normal_mild, moderate, severe``; unique rows, each finite,
            non-negative, with a positive sum; each may cover some conditions or rows only.
        labels: columns ``study_id, target, severity``, labelled rows only (`reading.label_rows`).
        folds: study → fold, by which the predictions were made.
        noise_above: see `find_noise`; None: contradicted labels are not looked for.
        source: of the folds, for a sentence about them.

    Raises:
        InputError: a row identifier is wrong, a study has no fold, or all studies are in one.
    """
    cells = gather(tables, labels, folds)
    if len(np.unique(cells.fold)) < 2:
        raise InputError(
            f"{source}: all predicted studies are in one fold, and nothing can be held out; give the "
            "predictions of two folds or more"
        )
    fit = cross_fit(cells)
    table = as_table(cells.studies, fit.result)
    table.insert(1, "fold", [folds[split_row_id(identifier)[0]] for identifier in table["row_id"]])
    scored = (cells.severity >= 0) & np.isfinite(fit.plain).all(axis=2)
    noise = None if noise_above is None else find_noise(cells, fit.result, noise_above)
    return Blending(table, fit, _scores(cells, fit), int(scored.sum()), int(scored.any(axis=1).sum()), noise)


def blend_files(
    files: Sequence[Path],
    labels: Path,
    folds: Path,
    out: Path,
    *,
    model: Path | None = None,
    noise: Path | None = None,
    noise_above: float = NOISE_ABOVE,
) -> Blending:
    """Blend files of out-of-fold predictions and write the cross-fitted result.

    Args:
        files, noise_above: see `blend`.
        labels: a label table with the columns of ``train.csv``.
        folds: columns ``study_id, fold``, by which the predictions were made.
        out: the result, see `Blending.table`.
        model, noise: where to write the blend as JSON, and the contradicted labels, if at all.

    Raises:
        InputError: a file is unreadable, named twice, without a labelled row, or has studies without a fold.
    """
    paths = [*files, labels, folds, *(path for path in (out, model, noise) if path is not None)]
    for number, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:number]]:
            raise InputError(f"{path}: named twice among what is read and written; name another file")
    if not 0 < noise_above < 1:
        raise InputError(f"--noise-above is {noise_above:g}; it must lie between 0 and 1")
    known = labels_from(labels)
    names = [path.name for path in files]
    # Without folders, where that tells the files apart.
    shown = dict(zip(files, names if len(set(names)) == len(names) else map(str, files), strict=True))
    tables = {shown[path]: read_scored(path, known, labels) for path in files}
    blended = blend(
        tables, known, fold_of_studies(folds), noise_above=noise_above if noise else None, source=str(folds)
    )
    write_csv(out, blended.table)
    if model is not None:
        save_blend(model, blended.fit.model)
    if noise is not None and blended.noise is not None:
        write_csv(noise, blended.noise.table)
    return blended


def fold_of_studies(path: Path) -> dict[str, int]:
    """Read a table of folds, see `folds.read_folds`, as study → fold.

    Raises:
        InputError: the file is unreadable or faulty, or has one fold only.
    """
    table = read_folds(path)
    if table["fold"].nunique() < 2:
        raise InputError(f"{path}: two folds or more are needed; nothing can be held out otherwise")
    return dict(zip(table["study_id"], table["fold"].tolist(), strict=True))


def find_noise(cells: Cells, probabilities: Floats, above: float) -> Noise:
    """Find the labels whose probability is less than ``1 - above``.

    Args:
        cells: with the labels.
        probabilities: ``[studies, 25, 3]`` predictions that have not seen the labels they are held against.
        above: 0 to 1. Probabilities are taken as they are, that is, of predictions made for the
            score: raised by the sample weights for moderate and severe.
    """
    scored = (cells.severity >= 0) & np.isfinite(probabilities).all(axis=2)
    grade = np.where(scored, cells.severity, 0)
    given = np.where(scored, np.take_along_axis(probabilities, grade[..., None], axis=2)[..., 0], 1.0)
    contradicted = 1.0 - given > above
    study, target = np.nonzero(contradicted)
    names = np.asarray(SEVERITIES)
    table = pd.DataFrame(
        {
            "row_id": [row_id(cells.studies[s], TARGET_NAMES[t]) for s, t in zip(study, target, strict=True)],
            "label": names[grade[study, target]],
            "probability": given[study, target],
            "most_probable": names[probabilities[study, target].argmax(axis=1)],
            "weight": SUGGESTED_WEIGHT,
        }
    )
    labelled, wrong = (
        {group: int(marked[:, at].sum()) for group, at in zip(SCORE_GROUPS, TARGETS_OF, strict=True)}
        for marked in (scored, contradicted)
    )
    table = table.sort_values("probability", kind="stable", ignore_index=True)
    return Noise(table, above, labelled, wrong)


def _scores(cells: Cells, fit: CrossFit) -> dict[str, Estimate]:
    """Return the scores of the files, the plain mean and the blend, and the difference of the last two."""
    sums = np.stack([study_sums(one, cells.severity) for one in (*cells.files, fit.plain, fit.blended)])
    value, draws = with_total(part_scores(sums.sum(axis=1))), with_total(resampled_scores(sums))
    names = [*cells.names, "plain mean", "blend, cross-fitted"]
    scores = {name: Estimate.of(*each) for name, *each in zip(names, value, draws, strict=True)}
    return scores | {"blend - plain mean": Estimate.of(value[-1] - value[-2], draws[-1] - draws[-2])}


def _step_table(model: BlendModel) -> pd.DataFrame:
    """Return what became of each step, as texts."""
    lines = {}
    for decision in model.decisions:
        lines[decision.step, decision.group] = {
            "kept": "yes" if decision.kept else "no",
            "change": f"{decision.change:+.5f}",
            "error": f"{decision.error:.5f}",
            "setting": _setting(model, decision.step, decision.group) if decision.kept else "-",
        }
    table = pd.DataFrame.from_dict(lines, orient="index")
    table.index = pd.Index([f"{step:<13}{group}" for step, group in lines])
    return table.rename_axis(columns=f"{'step':<13}condition")


def _setting(model: BlendModel, step: str, group: str) -> str:
    """Return what a step was set to."""
    settings = model.groups[SCORE_GROUPS.index(group)]
    if step == "weights" and settings.weights is not None:
        return " ".join(f"{weight:.2f}" for weight in settings.weights)
    if step == "stacking" and settings.stack is not None:
        return f"share {settings.share:g}"
    values = {"temperature": settings.temperature, "any severe": settings.worst_scale}
    return f"{values[step]:.3f}" if values.get(step, 1.0) != 1.0 else "-"
