"""``lumbar evaluate``: one or two files of predictions against the labels, per condition, side, level and group of
studies, as one tree of plain values: what the JSON file holds and the page shows. Its keys are in docs/evaluation.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lumbar_kaggle import __version__
from lumbar_kaggle.core.files import sha256_file
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, SCORE_GROUPS, SEVERITIES, TARGET_NAMES, TARGETS
from lumbar_kaggle.scoring import figures, metric
from lumbar_kaggle.scoring.comparison import read_labelled
from lumbar_kaggle.scoring.figures import BINS, CALIBRATIONS, EDGES, OUTCOMES, SENSITIVITY, SHARES, Rows
from lumbar_kaggle.scoring.metric import NAMES, Booleans, Floats, Integers
from lumbar_kaggle.tables.reading import read_labels

FORMAT = "evaluation-1"  # raised when a key changes its meaning or goes
LEAST_STUDIES = 10  # fewer with a finding, or without it, say too little: no figure is given
ERRORS = 20  # of the failures sheet

Tree = dict[str, Any]

# Part of the 25 targets → `[25]` whether each is in it.
SCOPES: dict[str, Booleans] = {
    "all": np.ones(len(TARGETS), dtype=bool),
    **{name: np.array([of.score_group == name for of in TARGETS]) for name in SCORE_GROUPS},
    **{name: np.array([of.side == name for of in TARGETS]) for name in ("left", "right")},
    **{name: np.array([of.condition == name for of in TARGETS]) for name in CONDITIONS},
    **{name: np.array([of.level == name for of in TARGETS]) for name in LEVELS},
    **{name: np.array([of.name == name for of in TARGETS]) for name in TARGET_NAMES},
}
GROUP_SCOPES = ("all", *SCORE_GROUPS)  # of a group of studies: in more parts nearly all would be too small


@dataclass(frozen=True)
class Cells:
    """The rows that have a label and a prediction in every file."""

    studies: tuple[str, ...]
    probabilities: tuple[Floats, ...]  # of each file `[studies, 25, 3]`, rows sum to 1; NaN where there is no row
    severity: Integers  # [studies, 25]; -1 there

    def rows(self, scope: Booleans, studies: Booleans) -> list[Rows]:
        """Return the rows of some targets `[25]` and studies `[studies]`, by each file."""
        there = (self.severity >= 0) & scope & studies[:, None]
        study, _ = np.nonzero(there)
        return [Rows(study, values[there], self.severity[there]) for values in self.probabilities]


def evaluate_files(
    predictions: Path, truth: Path, against: Path | None = None, groups: Mapping[str, "pd.Series[Any]"] | None = None
) -> Tree:
    """Evaluate a file of predictions, and where another is given, the difference of both on their common rows.

    The truth has the columns of ``train.csv``. `groups` are named variables: of each study, by its identifier, the
    group it is in, as an ordered categorical, see `subgroups`. Intervals are 95 % percentiles over `draw_studies`, the
    same for all parts and both files. Raises `InputError` where a file cannot be used or they have no row in common."""
    labels = read_labels(truth)
    first, common = read_labelled(predictions, labels, str(truth))
    tables = [first]
    if against is not None:
        other, common = read_labelled(against, common, f"{truth} and a row in {predictions}")
        tables.append(other)
    arrays = [metric.to_arrays(table, common) for table in tables]
    raw = [values for _, values, _ in arrays]
    scaled = tuple(values / values.sum(axis=2, keepdims=True) for values in raw)
    cells = Cells(arrays[0][0], scaled, arrays[0][2])
    drawn = metric.draw_studies(len(cells.studies))
    everyone = np.ones(len(cells.studies), dtype=bool)
    return {
        "format": FORMAT,
        "version": __version__,
        "predictions": _identity(predictions),
        "against": None if against is None else _identity(against),
        "truth": _identity(truth),
        "method": {
            "resamples": len(drawn),
            "interval": 0.95,
            "least_studies": LEAST_STUDIES,
            "sensitivity": SENSITIVITY,
            "bins": BINS,
        },
        "counts": _counts(tables, labels, common, raw),
        "score": _score(raw, cells, everyone, drawn),
        "scopes": {name: _part(cells.rows(scope, everyone), drawn) for name, scope in SCOPES.items()},
        "subgroups": {
            name: _variable(of.reindex(pd.Index(cells.studies)), raw, cells, drawn)
            for name, of in (groups or {}).items()
        },
        "failures": _failures(cells),
    }


def _identity(path: Path) -> Tree:
    return {"file": path.name, "sha256": sha256_file(path)}


def _counts(tables: list[pd.DataFrame], labels: pd.DataFrame, common: pd.DataFrame, raw: list[Floats]) -> Tree:
    """Return what was evaluated and what was not, and why; lists have an entry for each file."""
    labelled = [table["row_id"].isin(labels["row_id"]) for table in tables]
    shared = [table["row_id"].isin(common["row_id"]) for table in tables]
    studies = common["study_id"].nunique()
    return {
        "studies": studies,
        "rows": len(common),
        "unpredicted_rows": len(labels) - len(common),
        "unpredicted_studies": labels["study_id"].nunique() - studies,
        "unlabelled_rows": [int((~known).sum()) for known in labelled],
        "unshared_rows": [int((known & ~both).sum()) for known, both in zip(labelled, shared, strict=True)],
        "rescaled_rows": [int((np.abs(values.sum(axis=2) - 1) > 1e-6).sum()) for values in raw],
    }


def _few(studies: int) -> str:
    return f"too few: {studies} {'study' if studies == 1 else 'studies'} where {LEAST_STUDIES} are needed"


def _figure(value: float, draws: Floats, reason: str) -> Tree:
    """Return a value with its interval, or why there is none."""
    if not reason and not np.isfinite(value):
        reason = "not defined: severities are missing"
    if reason:
        return {"value": None, "low": None, "high": None, "reason": reason}
    low, high = np.quantile(draws[np.isfinite(draws)], [0.025, 0.975])
    return {"value": round(float(value), 6), "low": round(float(low), 6), "high": round(float(high), 6)}


def _beside(values: list[dict[str, float]], draws: list[figures.Draws], reasons: Mapping[str, str]) -> Tree:
    """Return the figures of one file, or of both files and the difference, by name."""
    made = [
        {name: _figure(value, each[name], reasons.get(name, "")) for name, value in one.items()}
        for one, each in zip(values, draws, strict=True)
    ]
    if len(made) == 1:
        return {"figures": made[0]}
    apart = {
        name: _figure(value - values[1][name], draws[0][name] - draws[1][name], reasons.get(name, ""))
        for name, value in values[0].items()
    }
    return {"figures": made[0], "against": made[1], "difference": apart}


def _score(raw: list[Floats], cells: Cells, chosen: Booleans, drawn: Floats) -> Tree:
    """Return the official score and its parts, over some of the studies. Raw are the probabilities as they were given:
    the any-severe term reads them so."""
    few = "" if chosen.sum() >= LEAST_STUDIES else _few(int(chosen.sum()))
    scores = metric.resampled_scores([one[chosen] for one in raw], cells.severity[chosen], drawn[:, chosen])
    missing = {
        name: few or "no rows" for name, value in zip(NAMES, scores[0, 0], strict=True) if few or np.isnan(value)
    }
    values = [dict(zip(NAMES, one[0].tolist(), strict=True)) for one in scores]
    return _beside(values, [dict(zip(NAMES, one[1:].T, strict=True)) for one in scores], missing)


def _part(files: list[Rows], drawn: Floats) -> Tree:
    """Return what is said of some rows, by one file or two."""
    rows = files[0]
    studies = rows.studies(np.ones_like(rows.severity, dtype=bool))
    counts: Tree = {"studies": studies, "rows": len(rows.study)}
    counts["severities"] = np.bincount(rows.severity, minlength=3).tolist()
    if studies < LEAST_STUDIES:
        return counts | {"reason": _few(studies)}
    reasons: dict[str, str] = {}
    for outcome in OUTCOMES:
        has, lacks = rows.studies_with(outcome)
        if min(has, lacks) < LEAST_STUDIES:
            told = f"{has} studies have it and {lacks} a row without it"
            why = f"too few: {told}; {LEAST_STUDIES} of each are needed"
            reasons |= {f"{outcome}_{name}": why for name in figures.CURVE}
    for severity, names in enumerate(SHARES.values()):
        if (having := rows.studies(rows.severity == severity)) < LEAST_STUDIES:
            reasons |= dict.fromkeys(names, _few(having))
    draws = [figures.resampled(one, drawn) for one in files]
    made = counts | _beside([figures.figures(one) for one in files], draws, reasons)
    first = {
        "thresholds": {
            outcome: None if f"{outcome}_auroc" in reasons else figures.thresholds(rows, outcome)
            for outcome in OUTCOMES
        },
        "confusion": metric.confusion(rows.probabilities, rows.severity).tolist(),
        "calibration": {
            outcome: {one: _bins(rows, outcome, one, drawn) for one in CALIBRATIONS} for outcome in OUTCOMES
        },
    }
    return made | first


def _bins(rows: Rows, outcome: str, calibration: str, drawn: Floats) -> list[Tree]:
    """Return the calibration curve: of each bin with rows its edges, their mean probability, and the share of them with
    the outcome."""
    drawn = np.concatenate([np.ones_like(drawn[:1]), drawn])
    counts, expected, seen = figures.calibration_sums(rows, outcome, calibration, drawn)
    with np.errstate(invalid="ignore"):
        predicted, observed = expected[0] / counts[0], seen / counts
    places = figures.bins(rows.chance(outcome, calibration))
    studies = [rows.studies(places == k) for k in range(BINS)]
    few = [_few(count) if count < LEAST_STUDIES else "" for count in studies]
    return [
        {
            "from": round(float(EDGES[k]), 6),
            "to": round(float(EDGES[k + 1]), 6),
            "rows": int(counts[0, k]),
            "predicted": round(float(predicted[k]), 6),
            "observed": _figure(observed[0, k], observed[1:, k], few[k]),
        }
        for k in np.flatnonzero(counts[0])
    ]


def _variable(of: "pd.Series[Any]", raw: list[Floats], cells: Cells, drawn: Floats) -> Tree:
    """Return the figures of each group of one variable, and how many studies are in none."""
    parts = {}
    for name in of.cat.categories:
        chosen = (of == name).to_numpy(dtype=bool)
        if chosen.any():
            scopes = {scope: _part(cells.rows(SCOPES[scope], chosen), drawn) for scope in GROUP_SCOPES}
            parts[str(name)] = {
                "studies": int(chosen.sum()),
                "score": _score(raw, cells, chosen, drawn),
                "scopes": scopes,
            }
    return {"unknown": int(of.isna().sum()), "groups": parts}


def _failures(cells: Cells) -> list[Tree]:
    """Return the first file's most confident errors: where the most probable severity is not the label, those with the
    greatest probability of it."""
    first = np.nan_to_num(cells.probabilities[0])
    predicted, sure = first.argmax(axis=2), first.max(axis=2)
    wrong = (cells.severity >= 0) & (predicted != cells.severity)
    places = np.argwhere(wrong)[np.argsort(-sure[wrong], kind="stable")[:ERRORS]]
    return [
        {
            "study_id": cells.studies[study],
            "target": TARGET_NAMES[target],
            "label": SEVERITIES[cells.severity[study, target]],
            "predicted": SEVERITIES[predicted[study, target]],
            "probabilities": first[study, target].round(6).tolist(),
        }
        for study, target in places.tolist()
    ]
