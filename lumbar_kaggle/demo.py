"""``lumbar demo``: the whole job on synthetic studies, from an empty folder to a report."""

import logging
from dataclasses import replace
from pathlib import Path

from lumbar_kaggle.baseline.config import BaselineConfig
from lumbar_kaggle.baseline.export import export
from lumbar_kaggle.baseline.run import fit
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import locked, write_text
from lumbar_kaggle.inference.predict import predict
from lumbar_kaggle.inference.recipes import recipe
from lumbar_kaggle.pages.report import write_report
from lumbar_kaggle.pages.study import write_study_page
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.settings import PhantomSet
from lumbar_kaggle.scoring.comparison import score_file
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.tables.submission import validate

log = logging.getLogger(__name__)

STUDIES, TEST_STUDIES, SEED = 60, 20, 1

CONFIG = BaselineConfig(
    arch="mobilenetv3_small_100",
    # Random weights: the demo must give the same figures with and without a network.
    weights="none",
    image_size=96,
    batch_size=16,
    folds=2,
    short_epochs=2,
    middle_epochs=2,
    long_epochs=3,
    lr_find_iterations=30,
    mixed_precision=False,
)
"""The baseline recipe at a size that two CPU cores train in minutes."""

REPORT_TARGETS = ("spinal_canal_stenosis",)
"""Targets that are trained by the report's protocol too, to show what it does to the accuracy."""


def run_demo(folder: Path) -> Path:
    """Run every stage into `folder`; stages that are already there are skipped.

    Returns:
        The report page.

    Raises:
        InputError: the folder holds something else, or another process is at work on it.
    """
    competition, cache, bundle = folder / "competition", folder / "cache", folder / "bundle"
    run, report_run, submission = folder / "run", folder / "run-report-protocol", folder / "submission.csv"
    with locked(folder):
        _title("1/7 Phantom studies")
        truths = write_set(competition, PhantomSet("", SEED, STUDIES, TEST_STUDIES))
        _title("2/7 Preprocessing")
        log.info(recipe("baseline").preprocess(competition, cache).sentence())
        _title("3/7 Training the baseline, and its canal targets once more by the report's protocol")
        train = read_competition(competition, "train")
        log.info(fit(train, cache, run, CONFIG, Budget()).sentence())
        comparison = replace(CONFIG, protocol="report", targets=REPORT_TARGETS)
        log.info(fit(train, cache, report_run, comparison, Budget()).sentence())
        _title("4/7 Export")
        log.info(f"Bundle {export(run, bundle).fingerprint}")
        _title("5/7 Inference over test_images")
        outcome = predict(competition, bundle, submission, Budget())
        log.info(f"{outcome.path}: {outcome.sentence()}")
        _title("6/7 Submission")
        faults = validate(submission, competition)
        if faults:
            raise InputError(f"{submission}: the submission is not valid: {faults[0]}")
        log.info(f"{submission}: valid")
        scores = score_file(submission, truths / "test.csv", competition / "train.csv").text()
        log.info(scores)
        write_text(folder / "score.txt", scores + "\n")
        _title("7/7 Pages")
        page, study_page = folder / "report.html", folder / "study.html"
        test = read_competition(competition, "test")
        shown = test.studies[:2]
        write_study_page(competition, shown[0], bundle, study_page)
        write_report(run, page, against=report_run, bundle=bundle, folder=competition, studies=shown, score_text=scores)
        log.info(f"Study page: {study_page.resolve()}")
        return page.resolve()


def _title(text: str) -> None:
    log.info("\n== %s", text)
