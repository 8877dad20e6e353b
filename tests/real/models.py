"""``make models DATA=…``: train the models in the box again, as a bundle; resumable at every step.

Four locators learn from phantom patients and from the real slices of DATA, each without a quarter of the real patients,
on which it is judged; in the box their mean counts. The grader learns from varied phantom patients alone, some of them
once more without one of their sagittal series, by the probabilities of their grades.
"""

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copyfile, rmtree

import numpy as np
import pandas as pd

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.files import write_json
from lumbar_kaggle.inference.recipes import recipe
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.settings import PhantomSet
from lumbar_kaggle.tables.competition import read_competition, read_marked
from lumbar_kaggle.tables.folds import make_folds
from lumbar_kaggle.tables.submission import read_soft_labels
from lumbar_kaggle.two_stage.config import LOCATOR, RUN_FILE, GradeConfig, LocateConfig, TwoStageConfig, network_file
from lumbar_kaggle.two_stage.grade.fit import GraderRun
from lumbar_kaggle.two_stage.locate.find import CHANNELS
from lumbar_kaggle.two_stage.locate.fit import LocatorRun
from tests.real.folders import write_real
from tests.real.mixing import Part, mix

SEED = 11_000_111  # of phantom patients that are in no standard set and no demo
OFFSET = 10_000_000_000  # between the identifiers of the parts of a folder
PLAIN, VARIED = "phantom", "phantom-varied"  # folders of patients, for the locators and for the grader

LOCATE = LocateConfig(epochs=14, slices=4, folds=4)
GRADE = GradeConfig(
    folds=10,
    epochs=12,
    fallback=True,
    view_dropout=0.15,
    slice_dropout=0.15,
    contrast=0.15,
    style=0.5,
    noise=0.2,
    scale=0.12,
    shift_mm=2.5,
)
NETWORKS = {"axial": 1}  # real slices are sagittal, so all axial networks would learn from the same patients
PROCESSES = 2  # that train locators beside each other, each with its share of the cores
PATIENTS, WITHOUT_T2, WITHOUT_T1, FOR_LOCATOR = 400, 200, 80, 160


def main(arguments: list[str] | None = None) -> int:
    """Train what is left to train, and write the bundle; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="copies of the two sets: folders mendeley and spider")
    parser.add_argument("out", type=Path, help="bundle to write")
    parser.add_argument("--folder", type=Path, default=Path("models-work"), help="for everything in between")
    given = parser.parse_args(arguments)
    work = given.folder
    real = write_real(given.data, work / "real")
    for name, varied in ((PLAIN, False), (VARIED, True)):
        write_set(work / name, PhantomSet("", SEED, PATIENTS, 1, varied=varied))
    locator, grader = train_locator(work, real), train_grader(work)
    run = gather(work / "run", locator, grader)
    rmtree(given.out, ignore_errors=True)
    print(recipe("two-stage").export(run, given.out).fingerprint)
    return 0


def train_locator(work: Path, real: list[Path]) -> Path:
    """Train the locators, each without a quarter of the real patients, and judge them on it; return the run folder."""
    parts = [Part(root, number * OFFSET) for number, root in enumerate(real)]
    folder = mix([*parts, Part(work / PLAIN, len(real) * OFFSET, FOR_LOCATOR)], work / "for-locator")
    cache = work / "cache-locator"
    recipe("two-stage").preprocess(folder, cache, pool_kind="processes", workers=2)
    competition = read_marked(folder)
    patients = [pd.read_csv(root / "patients.csv").assign(root=number) for number, root in enumerate(real)]
    table = pd.concat(patients, ignore_index=True)
    # Patients are split, never slices.
    patient = table.groupby(["root", "patient"]).ngroup().to_numpy()
    fold = np.random.default_rng(SEED).permutation(np.arange(patient.max() + 1) % LOCATE.folds)[patient]
    fold_of = dict(zip((table["study_id"] + table["root"] * OFFSET).astype(str), fold, strict=True))
    # Phantom patients are held out by no fold.
    rows = [(study, fold_of.get(study, LOCATE.folds)) for study in competition.studies]
    folds = pd.DataFrame(rows, columns=["study_id", "fold"])
    LocatorRun(competition, cache, work / "locator", LOCATE, Budget(), folds=folds, limits=NETWORKS).train(PROCESSES)
    return work / "locator"


def train_grader(work: Path) -> Path:
    """Train the grader on nine in ten varied patients, all folders of a patient in one fold; return its run folder."""
    source, cache, t1, t2 = work / VARIED, work / "cache-grader", ("Sagittal T1",), ("Sagittal T2/STIR",)
    parts = [Part(source, 0), Part(source, OFFSET, WITHOUT_T2, t2), Part(source, 2 * OFFSET, WITHOUT_T1, t1)]
    folder = mix(parts, work / "for-grader")
    recipe("two-stage").preprocess(folder, cache, pool_kind="processes", workers=2)
    competition = read_competition(folder, "train")
    number = competition.labels["study_id"].astype(np.int64)
    folds = make_folds(competition.labels[number < OFFSET], GRADE.folds, GRADE.seed)
    fold_of = dict(zip(folds["study_id"].astype(np.int64), folds["fold"], strict=True))
    rows = [(study, fold_of[int(study) % OFFSET]) for study in competition.studies]
    dealt = pd.DataFrame(rows, columns=["study_id", "fold"])
    soft = reader_rows(source, len(parts))
    GraderRun(competition, cache, None, work / "grader", GRADE, Budget(), folds=dealt, soft=soft).train([0])
    return work / "grader"


def reader_rows(phantom: Path, parts: int) -> pd.DataFrame:
    """Return how often the simulated reader would give each grade to each target, without the chance that is in his
    labels: soft labels for each of so many parts of a folder, `OFFSET` apart."""
    shares = read_soft_labels(phantom.with_name(f"{phantom.name}-truth") / "oracle.csv")
    copies = []
    for number in range(parts):
        study = (shares["study_id"].astype(np.int64) + number * OFFSET).astype(str)
        copies.append(shares.assign(study_id=study, row_id=study + "_" + shares["target"]))
    return pd.concat(copies, ignore_index=True)


def gather(run: Path, locator: Path, grader: Path) -> Path:
    """Put locator and grader into a run folder that can be exported."""
    grade = run / "grade-1"
    for folder in (run / LOCATOR, grade):
        folder.mkdir(parents=True, exist_ok=True)
    for plane in CHANNELS:
        for fold in range(NETWORKS.get(plane, LOCATE.folds)):
            copyfile(network_file(locator, plane, fold), network_file(run / LOCATOR, plane, fold))
    copyfile(network_file(grader, "fold", 0), network_file(grade, "fold", 0))
    for name in ("grade.json", "prior.csv"):
        copyfile(grader / name, grade / name)
    config = TwoStageConfig(replace(LOCATE, folds=GRADE.folds), (GRADE,))
    write_json(run / RUN_FILE, asdict(config))
    return run


if __name__ == "__main__":
    sys.exit(main())
