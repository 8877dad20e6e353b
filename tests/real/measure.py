"""``make real DATA=…``: what the models in the box make of real slices, as Markdown tables.

A disc counts as right when its level is right and its point lies within half a disc distance of the marked one.
Intervals are bootstraps over patients. On DATA that the locators have learned from the figures of discs are too good:
``--judged``, the working folder of `tests.real.models`, gives those of each patient by the one that has not seen him.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import show_messages
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, SEVERITIES
from lumbar_kaggle.inference.bundle import models_in_the_box
from lumbar_kaggle.inference.predict import predict
from lumbar_kaggle.inference.recipes import recipe
from lumbar_kaggle.scoring.metric import weighted_log_loss, weighted_prior
from lumbar_kaggle.tables.competition import read_competition, read_marked
from lumbar_kaggle.two_stage.config import LocateConfig
from lumbar_kaggle.two_stage.locate.fit import LocatorRun, read_points
from tests.real.folders import write_real
from tests.real.models import OFFSET

log = logging.getLogger(__name__)

RESAMPLES = 1000
EDGES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)  # of the classes of confidence


def judged_points(run: Path) -> pd.DataFrame:
    """Return the canal's marked points of a run of the locator: columns of ``errors.csv``, ``right`` and, 0 where not
    found, ``confidence``."""
    key = ["study_id", "series_id", "place", "level"]
    errors = pd.read_csv(run / "errors.csv", dtype={"study_id": str, "series_id": str})
    found = read_points(run / "points.csv")[[*key, "confidence"]]
    errors = errors[errors["place"] == "canal"].merge(found, on=key, how="left")
    right = errors["found"].astype(bool) & (errors["level_off"] == 0) & (errors["relative"] < 0.5)
    return errors.assign(right=right, confidence=errors["confidence"].fillna(0.0))


def with_interval(table: pd.DataFrame, figure: Callable[[pd.DataFrame], float]) -> str:
    """Return a figure of a table with a column ``patient``, and its interval over resampled patients."""
    groups = [part for _, part in table.groupby("patient")]
    rng, drawn = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        chosen = rng.integers(0, len(groups), len(groups))
        drawn.append(figure(pd.concat([groups[k] for k in chosen])))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return f"{figure(table):.3f} ({low:.3f} to {high:.3f})"


def disc_table(discs: pd.DataFrame) -> str:
    """Return the shares of right discs by ``set`` and ``kind``."""
    lines = [
        "| set | pictures | patients | discs right | level off | error / disc distance |",
        "|---|---|---|---|---|---|",
    ]
    for (name, kind), part in discs.groupby(["set", "kind"]):
        right, off = with_interval(part, lambda t: t["right"].mean()), (part["level_off"] > 0).mean()
        counts = f"{part['study_id'].nunique()} | {part['patient'].nunique()}"
        lines.append(f"| {name}, {kind} | {counts} | {right} | {off:.3f} | {part['relative'].median():.2f} |")
    return "\n".join(lines)


def calibration_table(discs: pd.DataFrame) -> str:
    """Return, per class of confidence, how many discs are said with it and which share of them is right."""
    classes = pd.cut(discs["confidence"], EDGES, include_lowest=True)
    figures = discs.groupby(classes, observed=True).agg(
        n=("right", "size"), said=("confidence", "mean"), right=("right", "mean")
    )
    lines = ["| confidence | discs | mean | right |", "|---|---|---|---|"]
    lines += [
        f"| {max(row.Index.left, 0):.2f} to {row.Index.right:.2f} | {row.n} | {row.said:.2f} | {row.right:.2f} |"
        for row in figures.itertuples()
    ]
    return "\n".join(lines)


def grade_table(folder: Path, submission: Path) -> str:
    """Return AUROC of the canal's grades against the marks of stenosis by level, and their loss beside the prior's."""
    rows = pd.read_csv(submission, index_col="row_id")
    competition = read_competition(folder, "train")
    kinds = competition.series.set_index("study_id")["kind"]
    patients = pd.read_csv(folder / "patients.csv", dtype=str).set_index("study_id")["patient"]
    marked = pd.read_csv(folder / "stenosis.csv", dtype={"study_id": str})
    marked["row_id"] = marked["study_id"] + f"_{CONDITIONS[0]}_" + marked["level"]
    marked = marked.join(rows, on="row_id").assign(
        kind=marked["study_id"].map(kinds), patient=marked["study_id"].map(patients)
    )
    marked["worse"] = marked["moderate"] + marked["severe"]
    labels = competition.labels[competition.labels["target"].str.startswith(CONDITIONS[0])]
    labels = labels.join(rows, on="row_id").assign(
        kind=labels["study_id"].map(kinds), patient=labels["study_id"].map(patients)
    )
    names = [level.replace("_", "/").upper() for level in LEVELS]
    lines = [f"| kind | {' | '.join(names)} | mean AUROC | loss | prior's loss |", "|---" * 9 + "|"]

    def auroc(table: pd.DataFrame) -> float:
        levels = [part for _, part in table.groupby("level") if part["stenosis"].nunique() == 2]
        return float(np.mean([roc_auc_score(part["stenosis"], part["worse"]) for part in levels]))

    def loss(table: pd.DataFrame) -> float:
        return weighted_log_loss(table[list(SEVERITIES)], table["severity"])

    for kind, part in marked.groupby("kind"):
        each = [f"{auroc(part[part['level'] == level]):.2f}" for level in LEVELS]
        graded = labels[labels["kind"] == kind]
        # The best constant answer, of these very labels.
        prior = weighted_prior(graded).loc[graded["target"]].to_numpy()
        constant = graded.assign(**dict(zip(SEVERITIES, prior.T, strict=True)))
        losses = [with_interval(table, loss) for table in (graded, constant)]
        lines.append(f"| {kind} | {' | '.join(each)} | {with_interval(part, auroc)} | {' | '.join(losses)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="copies of the sets: folders mendeley and spider, or one of them")
    parser.add_argument("--folder", type=Path, default=Path("real-work"), help="for everything in between")
    parser.add_argument("--bundle", type=Path, help="two-stage bundle in place of the models in the box")
    parser.add_argument("--judged", type=Path, help="folder of tests.real.models, for patients held out")
    given = parser.parse_args(arguments)
    show_messages()
    work, bundle = given.folder, given.bundle or models_in_the_box()
    discs, graded = [], ""
    real = write_real(given.data, work / "real")
    for number, root in enumerate(real):
        patients = pd.read_csv(root / "patients.csv").set_index("study_id")["patient"]
        if given.judged:
            points = judged_points(given.judged / "locator")
            numbers = points["study_id"].astype(np.int64)
            points = points[numbers // OFFSET == number].assign(study_id=numbers % OFFSET)
        else:
            cache, run = work / f"cache-{root.name}", work / f"locate-{root.name}"
            recipe("two-stage").preprocess(root, cache)
            LocatorRun(read_marked(root), cache, run, LocateConfig(epochs=0), Budget(), bundle).train()
            points = judged_points(run)
        patient = points["study_id"].astype(np.int64).map(patients)
        discs.append(points.assign(set=root.name, patient=patient))
        if (root / "stenosis.csv").is_file():
            outcome = predict(root / "train_images", bundle, work / f"{root.name}.csv", Budget())
            log.info("%s: %s", outcome.path, outcome.sentence())
            graded = grade_table(root, outcome.path)
    table = pd.concat(discs, ignore_index=True)
    print(f"\n{disc_table(table)}\n\n{calibration_table(table)}\n\n{graded}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
