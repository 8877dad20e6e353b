"""``lumbar demo``: the whole job on synthetic studies, from an empty folder to a report."""

import logging
from pathlib import Path

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, write_text
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

SETTINGS = {
    "arch": "mobilenetv3_small_100",
    # Random weights: the demo must give the same figures with and without a network.
    "weights": "none",
    "image_size": 96,
    "batch_size": 16,
    "folds": 2,
    "short_epochs": 2,
    "middle_epochs": 2,
    "long_epochs": 3,
    "lr_find_iterations": 30,
    "mixed_precision": False,
}
"""The baseline recipe at a size that two CPU cores train in minutes."""

REPORT = {"protocol": "report", "targets": ["spinal_canal_stenosis"]}
"""Targets that are trained by the report's protocol too, to show what it does to the accuracy."""


@alone_on("folder")
def run_demo(folder: Path) -> Path:
    """Run every stage into `folder` and return the report page; stages that are already there are skipped.

    Raises:
        InputError: the folder holds something else, or another process is at work on it.
    """
    competition, cache, bundle = folder / "competition", folder / "cache", folder / "bundle"
    run, report_run, submission = folder / "run", folder / "run-report-protocol", folder / "submission.csv"
    baseline = recipe("baseline")
    log.info("\n== 1/7 Phantom studies")
    truths = write_set(competition, PhantomSet("", SEED, STUDIES, TEST_STUDIES))
    log.info("\n== 2/7 Preprocessing")
    log.info(baseline.preprocess(competition, cache).sentence())
    log.info("\n== 3/7 Training the baseline, and its canal targets once more by the report's protocol")
    for out, changes in ((run, SETTINGS), (report_run, SETTINGS | REPORT)):
        log.info(baseline.fit(competition, cache, out, Budget(), baseline.configure(changes)))
    log.info("\n== 4/7 Export")
    log.info(f"Bundle {baseline.export(run, bundle).fingerprint}")
    log.info("\n== 5/7 Inference over test_images")
    outcome = predict(competition, bundle, submission, Budget())
    log.info(f"{outcome.path}: {outcome.sentence()}")
    log.info("\n== 6/7 Submission")
    faults = validate(submission, competition)
    if faults:
        raise InputError(f"{submission}: the submission is not valid: {faults[0]}")
    log.info(f"{submission}: valid")
    scores = score_file(submission, truths / "test.csv", competition / "train.csv").text()
    log.info(scores)
    write_text(folder / "score.txt", scores + "\n")
    log.info("\n== 7/7 Pages")
    page, study_page = folder / "report.html", folder / "study.html"
    shown = read_competition(competition, "test").studies[:2]
    write_study_page(competition, shown[0], bundle, study_page)
    write_report(run, page, against=report_run, bundle=bundle, folder=competition, studies=shown, score_text=scores)
    log.info(f"Study page: {study_page.resolve()}")
    return page.resolve()
