"""Study folders × bundle → submission, whatever the studies are like.

The submission is complete from the first second: filled with the prior, then replaced study by study.
A study that cannot be graded keeps its prior rows and is named, with the reason, in the log beside it.

Beside ``submission.csv`` lie ``submission-log.csv``, ``submission-journal.jsonl`` (see `journal`) and, where
something went wrong that nobody foresaw, ``submission-errors.txt``.
"""

import time
import traceback
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, locked, write_csv, write_text
from lumbar_kaggle.core.folders import shown
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES
from lumbar_kaggle.dicom.cache import Source
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.inference.base import Prediction, Predictor, Study
from lumbar_kaggle.inference.bundle import Manifest, read_manifest
from lumbar_kaggle.inference.journal import Graded, Journal, plain
from lumbar_kaggle.inference.recipes import load_predictor
from lumbar_kaggle.tables.competition import SERIES_COLUMNS, Competition
from lumbar_kaggle.tables.submission import Submission

GRADED, PRIOR = "graded", "prior"
"""Status in the log: rows replaced by the models, or left at the prior."""

OUT_OF_TIME = "the time budget was spent"

REST_S, REST = 30.0, 20
"""The submission and its log are rewritten after so many seconds, and not before so many times the seconds
that it took to write them: in between the journal has what was graded."""

SCANNERS = 16
"""Series whose files are looked at at once."""


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

    @property
    def failed(self) -> bool:
        """Whether no study at all was graded, for other reasons than the time."""
        return bool(((self.log["status"] != GRADED) & (self.log["reason"] != OUT_OF_TIME)).all())

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


def predict(root: Path, bundle: Path, out: Path, budget: Budget, *, strict: bool = True) -> Outcome:
    """Grade every study of a folder.

    Args:
        root: competition folder (its test split) or a folder of studies.
        bundle: exported models.
        out: the submission to write; a run that was interrupted goes on from it.
        budget: when it is spent, the remaining studies keep the prior.
        strict: see `studies.find_studies`.

    Raises:
        InputError: there is no study, or no usable bundle, or `out` cannot be written.
    """
    if out.is_dir():
        raise InputError(f"{out}: a folder, where the submission is to be written; name a file in it")
    manifest = read_manifest(bundle)
    competition = find_studies(root, strict=strict)
    for fault in competition.faults:
        print(f"{fault}; the row is left out" if fault.serious else fault)
    with locked(out, file=True):
        return _predict(competition, bundle, manifest, out, budget)


def _predict(
    competition: Competition, bundle: Path, manifest: Manifest, out: Path, budget: Budget
) -> Outcome:
    studies = _studies(competition)
    with ThreadPoolExecutor(SCANNERS) as pool:
        sources = dict(zip(competition.studies, pool.map(_fingerprint, studies), strict=True))
    submission = Submission(out, competition.studies, manifest.prior_table())
    journal = Journal(out.with_name(f"{out.stem}-journal.jsonl"))
    entries: dict[str, dict[str, object]] = {}
    # A submission that was deleted is wanted anew.
    for graded in journal.begin(manifest.fingerprint, sources, anew=not out.is_file()):
        submission.replace(graded.study_id, graded.array)
        entries[graded.study_id] = {"status": GRADED, "reason": graded.reason, "seconds": graded.seconds}
    already = len(entries)
    todo = [study for study in studies if study.study_id not in entries]
    print(f"Grading {len(studies)} studies of {competition.root} into {out}")
    if already:
        print(f"{already} studies are already graded and are skipped")
    files = _Files(submission, manifest.fingerprint, sources)
    files.write(entries)
    failures = _Failures(out.with_name(f"{out.stem}-errors.txt"))
    predictor = load_predictor(bundle, manifest) if todo else None
    with tqdm(total=len(todo), unit="study", desc="predict", disable=not todo) as progress:
        while todo and predictor is not None and budget.left_s() > 0:
            batch, todo = todo[: predictor.batch_size], todo[predictor.batch_size :]
            start = time.perf_counter()
            predictions = _grade(predictor, batch, failures)
            seconds = (time.perf_counter() - start) / len(batch)
            done = []
            for study, prediction in zip(batch, predictions, strict=True):
                name, source = study.study_id, sources[study.study_id]
                replaced = submission.replace(name, prediction.probabilities)
                status = GRADED if replaced else PRIOR
                reason = "; ".join(filter(None, (prediction.reason, competition.reasons(name))))
                entries[name] = {"status": status, "reason": reason, "seconds": seconds}
                if replaced:
                    kept = plain(prediction.probabilities)
                    done.append(Graded(name, source, manifest.fingerprint, reason, seconds, kept))
            journal.add(done)
            files.write_when_due(entries)
            progress.update(len(batch))
    for study in todo:
        entries[study.study_id] = {"status": PRIOR, "reason": OUT_OF_TIME, "seconds": 0.0}
    log = files.write({name: entries[name] for name in competition.studies})
    return Outcome(out, log, already)


def study_rows(competition: Competition, study_id: str) -> Study:
    """Return one study with its series.

    Raises:
        InputError: there is no such study.
    """
    study_id = shown(study_id)
    if study_id not in competition.studies:
        raise InputError(
            f"{competition.root}: holds no study {study_id}; the first is {competition.studies[0]}"
        )
    return Study(study_id, competition.series[competition.series["study_id"] == study_id])


def _studies(competition: Competition) -> list[Study]:
    groups = dict(list(competition.series.groupby("study_id")))
    nothing = competition.series.iloc[:0]
    return [Study(name, groups.get(name, nothing)) for name in competition.studies]


def _grade(predictor: Predictor, batch: list[Study], failures: "_Failures") -> list[Prediction]:
    """Grade a batch; where it fails, study by study, so that one odd study costs no other its rows.

    Nothing is known of the studies of a scoring run, which shows no traceback either: what a study
    raised becomes its reason in the log.
    """
    try:
        return predictor.predict(batch)
    except Exception as error:
        if len(batch) > 1:
            return [prediction for study in batch for prediction in _grade(predictor, [study], failures)]
        reason = failures.note(batch[0].study_id, error)
        print(f"study {batch[0].study_id} cannot be graded ({reason})")
        return [Prediction(np.full((len(TARGET_NAMES), len(SEVERITIES)), np.nan), reason)]


class _Failures:
    """Keeps the traceback of the first failure of each kind in a file.

    Args:
        path: the file; that of an earlier run is removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: dict[tuple[str, str, int | None], str] = {}
        path.unlink(missing_ok=True)

    def note(self, study_id: str, error: Exception) -> str:
        """Return the reason for the log: kind and text of the error, and where its traceback is."""
        name, (*_, place) = type(error).__name__, traceback.extract_tb(error.__traceback__)
        kind = name, place.filename, place.lineno
        if kind not in self.seen:
            self.seen[kind] = f"study {study_id}\n{''.join(traceback.format_exception(error))}"
            write_text(self.path, "\n".join(self.seen.values()))
        return f"{name}: {' '.join(str(error).split())} (traceback in {self.path.name})"


def _fingerprint(study: Study) -> str:
    rows = study.series[list(SERIES_COLUMNS)].to_numpy()
    return digest([Source.scan(*row).fingerprint for row in rows])


class _Files:
    """The submission and its log, rewritten together.

    Args:
        submission: written as it is.
        bundle: fingerprint of the bundle.
        sources: per study the fingerprint of its files.
    """

    def __init__(self, submission: Submission, bundle: str, sources: Mapping[str, str]) -> None:
        self.submission, self.bundle, self.sources = submission, bundle, sources
        self.due_s = 0.0

    def write_when_due(self, entries: Mapping[str, Mapping[str, object]]) -> None:
        """Write unless that was done a short while ago."""
        if time.monotonic() >= self.due_s:
            self.write(entries)

    def write(self, entries: Mapping[str, Mapping[str, object]]) -> pd.DataFrame:
        """Write both and return the log."""
        start = time.monotonic()
        log = pd.DataFrame(
            [
                {"study_id": name, **entry, "source": self.sources[name], "bundle": self.bundle}
                for name, entry in entries.items()
            ],
            columns=["study_id", "status", "reason", "seconds", "source", "bundle"],
        )
        self.submission.write()
        write_csv(log_path(self.submission.path), log)
        now = time.monotonic()
        self.due_s = now + max(REST_S, REST * (now - start))
        return log
