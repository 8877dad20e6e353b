"""``lumbar blend``: out-of-fold predictions in; one table, a model, scores, contradicted labels out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_csv
from lumbar_kaggle.core.targets import SCORE_GROUPS, SEVERITIES
from lumbar_kaggle.scoring.blend import BlendModel, Cells, cross_fitted, fit_blend, gather, save_blend
from lumbar_kaggle.scoring.comparison import interval_texts, read_labelled
from lumbar_kaggle.scoring.metric import NAMES, RESAMPLES, TARGETS_OF, Floats, as_table, resampled_scores
from lumbar_kaggle.scoring.steps import NUMBERS, GroupBlend, plain_mean
from lumbar_kaggle.tables.reading import read_labels

CERTAINTY = 0.9  # A blend is used when at least this share of the resamples finds it better than the plain mean.
NOISE_ABOVE = 0.8  # A label is contradicted when its probability is less than 1 minus this.
SUGGESTED_WEIGHT = 0.3  # Of a contradicted label in a retraining: it still counts, since many of them are right.


@dataclass(frozen=True)
class Blending:
    """Several tables of predictions made into one, and what it says of rows whose labels it has not seen."""

    cells: Cells
    fitted: BlendModel  # of all folds, whatever came of it
    plain: Floats  # [studies, 25, 3] the plain mean
    blended: Floats  # [studies, 25, 3] the cross-fitted blend
    scores: dict[str, Floats]  # `metric.resampled_scores` of the files, the plain mean, the blend, and their difference
    certainty: float  # share of the bootstrap resamples in which the blend is better than the plain mean
    kept: bool  # whether the blend is the result, and not the plain mean
    above: float  # see `find_noise`

    @property
    def model(self) -> BlendModel:
        """The blend to use: the fitted one, or the plain mean."""
        return self.fitted if self.kept else BlendModel(self.fitted.files)

    @property
    def result(self) -> Floats:
        """Cross-fitted `[studies, 25, 3]` probabilities of the model."""
        return self.blended if self.kept else self.plain

    def write(self, out: Path, model: Path | None = None, noise: Path | None = None) -> None:
        """Write the result as ``row_id, fold`` and `SEVERITIES`; on demand the model as JSON, `find_noise`'s table."""
        table = as_table(self.cells.studies, self.result)
        table.insert(1, "fold", np.repeat(self.cells.fold, np.isfinite(self.result).all(axis=2).sum(axis=1)))
        write_csv(out, table)
        if model is not None:
            save_blend(model, self.model)
        if noise is not None:
            write_csv(noise, find_noise(self.cells, self.result, self.above)[0])

    def text(self, *, noise: bool = False) -> str:
        """Return what the command prints, with or without the contradicted labels."""
        scored = (self.cells.severity >= 0) & np.isfinite(self.plain).all(axis=2)
        studies = scored.any(axis=1).sum()
        scores = (
            f"{self.score_table().to_string()}\n"
            f"rows: {scored.sum()} labelled ones of {studies} studies; a file's score is of those it has\n"
            f"intervals: 95 %, {RESAMPLES} bootstrap resamples of the studies, the same for all lines"
        )
        steps = (
            f"{self.step_table().to_string()}\n"
            "change: of the loss on held-out folds, for spinal with any_severe_spinal; "
            "kept where it falls by more than its standard error"
        )
        found = f"better than the plain mean in {self.certainty:.0%} of the resamples"
        verdict = f"The result is the plain mean: the blend is {found}; it takes {CERTAINTY:.0%}."
        if self.kept:
            verdict = f"The result is the blend: it is {found}."
        elif self.certainty >= CERTAINTY:
            verdict = "The result is the plain mean: fitted on all folds, no step helps."
        contradicted = [find_noise(self.cells, self.result, self.above)[1]] if noise else []
        return "\n\n".join([scores, steps, verdict, *contradicted])

    def score_table(self) -> pd.DataFrame:
        """Return the scores with their intervals as texts, a dash where there are none: columns `NAMES`."""
        shown = {}
        for name, scores in self.scores.items():
            both = zip(scores[0], interval_texts(scores), strict=True)
            shown[name] = ["-" if span == "-" else f"{value:.4f} ({span})" for value, span in both]
        return pd.DataFrame.from_dict(shown, orient="index", columns=list(NAMES))

    def step_table(self) -> pd.DataFrame:
        """Return what became of each step, as texts."""
        lines = {}
        for one in self.fitted.decisions:
            settings, setting = self.fitted.groups[SCORE_GROUPS.index(one.group)], "-"
            if one.kept and one.step == "weights":
                setting = " ".join(f"{weight:.2f}" for weight in settings.weights or ())
            elif one.kept and one.step == "stacking":
                setting = f"share {settings.share:g}"
            elif one.kept:
                setting = f"{getattr(settings, NUMBERS[one.step][0]):.3f}"
            kept = "yes" if one.kept else "no"
            lines[f"{one.step:<13}{one.group}"] = [kept, f"{one.change:+.5f}", f"{one.error:.5f}", setting]
        table = pd.DataFrame.from_dict(lines, orient="index", columns=["kept", "change", "error", "setting"])
        return table.rename_axis(columns=f"{'step':<13}condition")


def cross_fit(cells: Cells, above: float = NOISE_ABOVE) -> Blending:
    """Fit a blend, and judge it against the plain mean: one thing that all folds decide together."""
    plain, blended = plain_mean(cells.files), cross_fitted(cells)
    scores = resampled_scores([*cells.files, plain, blended], cells.severity)
    parts = scores[-2:, :, :-1]
    parts = parts[..., np.isfinite(parts[0, 0])].mean(axis=-1)[:, 1:]
    certainty = float((parts[1] < parts[0]).mean())
    named = dict(zip((*cells.names, "plain mean", "blend, cross-fitted"), scores, strict=True))
    named["blend - plain mean"] = scores[-1] - scores[-2]
    fitted = fit_blend(cells)
    kept = certainty >= CERTAINTY and set(fitted.groups) != {GroupBlend()}
    return Blending(cells, fitted, plain, blended, named, certainty, kept, above)


def blend_files(
    files: Sequence[Path], labels: Path, folds: Path, out: Path, model: Path | None, noise: Path | None, above: float
) -> Blending:
    """Blend files of out-of-fold predictions and write the cross-fitted result, see `Blending.write`. Labels have the
    columns of ``train.csv``; for `above` see `find_noise`. Raises `InputError` where a file is unreadable, named twice,
    without a labelled row, or has studies without a fold."""
    paths = [*files, labels, folds, *(path for path in (out, model, noise) if path is not None)]
    for number, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:number]]:
            raise InputError(f"{path}: named twice among what is read and written; name another file")
    if not 0 < above < 1:
        raise InputError(f"--noise-above is {above:g}; it must lie between 0 and 1")
    known = read_labels(labels)
    # Without folders, where that tells the files apart.
    apart = len({path.name for path in files}) == len(files)
    tables = {path.name if apart else str(path): read_labelled(path, known, str(labels))[0] for path in files}
    blended = cross_fit(gather(tables, known, folds), above)
    blended.write(out, model, noise)
    return blended


def find_noise(cells: Cells, probabilities: Floats, above: float) -> tuple[pd.DataFrame, str]:
    """Find the labels whose probability is less than ``1 - above``: candidates for an error of the reader.
    Probabilities `[studies, 25, 3]` have not seen the labels they are held against. They are taken as they are, that
    is, of predictions made for the score: raised by the sample weights for moderate and severe. Returns columns
    ``row_id, label, probability, most_probable, weight``, most contradicted first: severity names, the predicted
    probability of the label, and the suggested weight (other rows have 1); and their counts in words."""
    scored = (cells.severity >= 0) & np.isfinite(probabilities).all(axis=2)
    given = np.take_along_axis(probabilities, np.maximum(cells.severity, 0)[..., None], axis=2)[..., 0]
    wrong = scored & (1.0 - given > above)
    names = np.asarray(SEVERITIES)
    columns = {
        "label": names[cells.severity[wrong]],
        "probability": given[wrong],
        "most_probable": names[probabilities[wrong].argmax(axis=1)],
        "weight": SUGGESTED_WEIGHT,
    }
    table = as_table(cells.studies, np.where(wrong[..., None], probabilities, np.nan))[["row_id"]].assign(**columns)
    lines = [f"labels that the result contradicts by more than {above:g}:"]
    for group, at in zip(SCORE_GROUPS, TARGETS_OF, strict=True):
        found, rows = wrong[:, at].sum(), scored[:, at].sum()
        if rows:
            lines.append(f"{group:<20}{found:>7} of {rows:>6}{found / rows:>8.1%}")
    return table.sort_values("probability", kind="stable", ignore_index=True), "\n".join(lines)
