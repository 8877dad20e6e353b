"""Study folders × bundle → submission, whatever the studies are like.

The submission is complete from the first second: filled with the prior, then replaced study by study.
A study that cannot be graded keeps its prior rows and is named, with the reason, in the log beside it.
"""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from lumbar_kaggle.budget import Budget
from lumbar_kaggle.bundle import Manifest, read_manifest
from lumbar_kaggle.cache import Source
from lumbar_kaggle.competition import SERIES_COLUMNS, Competition
from lumbar_kaggle.errors import InputError
from lumbar_kaggle.files import digest, write_csv
from lumbar_kaggle.recipes.base import Prediction, Predictor, Study
from lumbar_kaggle.studies import find_studies
from lumbar_kaggle.submission import Submission, read_predictions
from lumbar_kaggle.targets import SEVERITIES, TARGET_NAMES, row_id

GRADED, PRIOR = "graded", "prior"
"""Status in the log: rows replaced by the models, or left at the prior."""


@dataclass(frozen=True)
class Outcome:
    """What a prediction run did.

    Attributes:
        path: the submission.
        log: columns ``study_id, status, reason, seconds, source, bundle``; one row per study.
        already: studies that an earlier, interrupted run had graded.
    """

    path: Path
    log: pd.DataFrame
    already: int

    def sentence(self) -> str:
        """Return one line on the result."""
        counts = Counter(self.log["status"])
        text = f"{counts[GRADED]} studies graded"
        if counts[PRIOR]:
            text += f", {counts[PRIOR]} left at the prior (see {log_path(self.path)})"
        return text


def log_path(submission: Path) -> Path:
    """Return the path of the log beside a submission."""
    return submission.with_name(f"{submission.stem}-log.csv")


def load_predictor(bundle: Path, manifest: Manifest) -> Predictor:
    """Return the predictor of a bundle.

    Raises:
        InputError: the bundle is of a recipe that this version does not know.
    """
    if manifest.recipe == "baseline":
        from lumbar_kaggle.recipes.baseline.predictor import BaselinePredictor

        return BaselinePredictor(bundle, manifest)
    if manifest.recipe == "two-stage":
        from lumbar_kaggle.recipes.two_stage.predictor import TwoStagePredictor

        return TwoStagePredictor(bundle, manifest)
    raise InputError(
        f"{bundle}: made by recipe {manifest.recipe!r}, which this version does not know; update it"
    )


def predict(root: Path, bundle: Path, out: Path, budget: Budget, *, strict: bool = True) -> Outcome:
    """Grade every study of a folder.

    Args:
        root: competition folder (its test split) or a folder of studies.
        bundle: exported models.
        out: the submission to write; a run that was interrupted goes on from it.
        budget: when it is spent, the remaining studies keep the prior.
        strict: see `studies.find_studies`.

    Raises:
        InputError: there is no study, or no usable bundle.
    """
    manifest = read_manifest(bundle)
    competition = find_studies(root, strict=strict)
    for fault in competition.faults:
        print(f"{fault}; the row is left out" if fault.serious else fault)
    studies = _studies(competition)
    sources = {study.study_id: _fingerprint(study) for study in studies}
    submission = Submission(out, competition.studies, manifest.prior_table())
    entries = _take_up(out, submission, manifest.fingerprint, sources)
    already = len(entries)
    todo = [study for study in studies if study.study_id not in entries]
    print(f"Grading {len(studies)} studies of {root} into {out}")
    if already:
        print(f"{already} studies are already graded and are skipped")
    submission.write()
    predictor = load_predictor(bundle, manifest) if todo else None
    with tqdm(total=len(todo), unit="study", desc="predict", disable=not todo) as progress:
        while todo and predictor is not None and budget.left_s() > 0:
            batch, todo = todo[: predictor.batch_size], todo[predictor.batch_size :]
            start = time.perf_counter()
            predictions = _grade(predictor, batch)
            seconds = (time.perf_counter() - start) / len(batch)
            for study, prediction in zip(batch, predictions, strict=True):
                replaced = submission.replace(study.study_id, prediction.probabilities)
                status = GRADED if replaced else PRIOR
                reasons = (prediction.reason, competition.reasons(study.study_id))
                reason = "; ".join(filter(None, reasons))
                entries[study.study_id] = {"status": status, "reason": reason, "seconds": seconds}
            # The submission before its log: a kill in between only repeats the batch.
            submission.write()
            _write_log(out, entries, sources, manifest.fingerprint)
            progress.update(len(batch))
    for study in todo:
        entries[study.study_id] = {"status": PRIOR, "reason": "the time budget was spent", "seconds": 0.0}
    log = _write_log(
        out, {name: entries[name] for name in competition.studies}, sources, manifest.fingerprint
    )
    return Outcome(out, log, already)


def study_rows(competition: Competition, study_id: str) -> Study:
    """Return one study with its series.

    Raises:
        InputError: there is no such study.
    """
    if study_id not in competition.studies:
        raise InputError(
            f"{competition.root}: holds no study {study_id}; the first is {competition.studies[0]}"
        )
    return Study(study_id, competition.series[competition.series["study_id"] == study_id])


def _studies(competition: Competition) -> list[Study]:
    groups = dict(list(competition.series.groupby("study_id")))
    nothing = competition.series.iloc[:0]
    return [Study(name, groups.get(name, nothing)) for name in competition.studies]


def _grade(predictor: Predictor, batch: list[Study]) -> list[Prediction]:
    """Grade a batch; where it fails, study by study, so that one odd study costs no other its rows.

    Nothing is known of the studies of a scoring run, which shows no traceback either: what a study
    raised becomes its reason in the log.
    """
    try:
        return predictor.predict(batch)
    except Exception as error:
        if len(batch) > 1:
            return [prediction for study in batch for prediction in _grade(predictor, [study])]
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(f"study {batch[0].study_id} cannot be graded ({reason})")
        return [Prediction(np.full((len(TARGET_NAMES), len(SEVERITIES)), np.nan), reason)]


def _fingerprint(study: Study) -> str:
    rows = study.series[list(SERIES_COLUMNS)].to_numpy()
    return digest([Source.scan(*row).fingerprint for row in rows])


def _take_up(
    out: Path, submission: Submission, bundle: str, sources: dict[str, str]
) -> dict[str, dict[str, object]]:
    """Take over the graded rows of an earlier run with the same bundle on the same files."""
    if not (out.is_file() and log_path(out).is_file()):
        return {}
    log = pd.read_csv(log_path(out), dtype={"study_id": str}, keep_default_na=False)
    same_files = log["source"] == log["study_id"].map(sources)
    done = log[(log["bundle"] == bundle) & (log["status"] == GRADED) & same_files]
    if done.empty:
        return {}
    before = read_predictions(out).set_index("row_id")
    for study in done["study_id"]:
        rows = [row_id(study, name) for name in TARGET_NAMES]
        submission.replace(study, before.reindex(rows)[list(SEVERITIES)].to_numpy(dtype=float))
    return {
        row["study_id"]: {name: row[name] for name in ("status", "reason", "seconds")}
        for row in done.to_dict("records")
    }


def _write_log(
    out: Path, entries: dict[str, dict[str, object]], sources: dict[str, str], bundle: str
) -> pd.DataFrame:
    log = pd.DataFrame(
        [
            {"study_id": name, **entry, "source": sources[name], "bundle": bundle}
            for name, entry in entries.items()
        ],
        columns=["study_id", "status", "reason", "seconds", "source", "bundle"],
    )
    write_csv(log_path(out), log)
    return log
