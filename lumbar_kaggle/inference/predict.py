"""Study folders × bundle → submission, whatever the studies are like.

The submission is complete from the first second: filled with the prior, then replaced study by study. A study that
cannot be graded keeps its prior rows and is named, with the reason, in ``submission-log.csv`` beside it. The submission
is rewritten now and then; ``submission-journal.jsonl`` only grows, by a line per graded study: a killed run loses none,
and what a run costs beyond the grading is proportional to the number of studies. ``submission-errors.txt`` tells what
went wrong that nobody foresaw."""

import json
import logging
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.cluster import AHEAD, ahead, on_cluster, open_pool
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, digest, shown, write_csv, write_text
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES
from lumbar_kaggle.dicom.cache import Source
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.inference.base import Prediction, Predictor, Study
from lumbar_kaggle.inference.bundle import Manifest, read_manifest
from lumbar_kaggle.inference.recipes import load_predictor
from lumbar_kaggle.tables.competition import SERIES_COLUMNS, Competition
from lumbar_kaggle.tables.submission import Submission

log = logging.getLogger(__name__)

GRADED, PRIOR = "graded", "prior"  # status in the log: rows replaced by the models, or left at the prior
OUT_OF_TIME = "the time budget was spent"

# The submission and its log are rewritten after so many seconds, and not before so many times the seconds that it took
# to write them: in between the journal has what was graded.
REST_S, REST = 30.0, 20
NOTHING = np.full((len(TARGET_NAMES), len(SEVERITIES)), np.nan)  # probabilities of a study that was not graded
SINGLY = 8  # so many studies are given to a predictor one by one after it failed


@dataclass(frozen=True)
class Outcome:
    """What a prediction run did."""

    path: Path  # the submission
    log: pd.DataFrame  # columns study_id, status, reason, seconds, source, bundle; one row per study

    @property
    def failed(self) -> bool:
        """Whether no study at all was graded, for other reasons than the time."""
        return bool(((self.log["status"] != GRADED) & (self.log["reason"] != OUT_OF_TIME)).all())

    def sentence(self) -> str:
        """Return one line on the result."""
        counts = Counter(self.log["status"])
        left = f", {counts[PRIOR]} left at the prior (see {log_path(self.path)})" if counts[PRIOR] else ""
        return f"{counts[GRADED]} studies graded{left}"


def log_path(submission: Path) -> Path:
    """Return the path of the log beside a submission."""
    return submission.with_name(f"{submission.stem}-log.csv")


class Result(NamedTuple):
    """What there is to say of one study."""

    study: Study
    prediction: Prediction
    missing: tuple[str, ...]  # a sentence each: what was left out, assumed or replaced, and why nothing was graded
    source: str  # fingerprint of the study's files


class Keeper(Protocol):
    """Writes what is said of each study in another form, beside the submission."""

    def has(self, study_id: str, source: str) -> bool:
        """Tell whether all that `keep` would write of a graded study is there, of this bundle and these files."""

    def keep(self, result: Result) -> Iterable[str]:
        """Write one study; what is graded is on the disk when this returns. Returned is a sentence for each part that
        cannot be written of this study. Raises OSError where nothing can be written at all."""


@alone_on("out", file=True)
def predict(
    root: Path,
    bundle: Path,
    out: Path,
    budget: Budget,
    *,
    strict: bool = True,
    keeper: Callable[[Manifest], Keeper] | None = None,
) -> Outcome:
    """Grade every study of a competition folder (its test split) or a folder of studies, and write a submission. A run
    that was interrupted goes on from what is in `out`; when the budget is spent, the remaining studies keep the prior.
    What is said of each study is given to the `keeper` as well. For `strict` see `studies.find_studies`. Raises
    `InputError` where there is no study, or no usable bundle, or `out` cannot be written."""
    if out.is_dir():
        raise InputError(f"{out}: a folder, where the submission is to be written; name a file in it")
    manifest = read_manifest(bundle)
    competition = find_studies(root, strict=strict)
    for fault in competition.faults:
        log.info(f"{fault}; the row is left out" if fault.serious else fault)
    run = Run(out, competition, manifest, keeper(manifest) if keeper else None)
    log.info(f"Grading {len(run.studies)} studies of {competition.root} into {out}")
    if done := len(run.studies) - len(run.left):
        log.info(f"{done} studies are already graded and are skipped")
    run.write()
    if run.left:
        predictor = _Elsewhere(bundle, manifest) if on_cluster() else load_predictor(bundle, manifest)
        for _ in tqdm(run.grade(predictor, budget), total=len(run.left), unit="study", desc="predict"):
            pass
    return Outcome(out, run.write())


class _Elsewhere:
    """A bundle's predictor on the workers of the scheduler in force, see `core.cluster`."""

    batch_size: int | None = None

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        self._grade = partial(_grade_there, bundle, manifest.fingerprint)

    def predict(self, studies: Sequence[Study]) -> Iterator[Prediction]:
        """Grade some studies, as `base.Predictor` says; some are begun before they are asked for."""
        with open_pool(1) as pool:
            yield from ahead(pool, self._grade, studies, AHEAD)


@lru_cache(maxsize=1)
def _predictor(bundle: Path, fingerprint: str) -> Predictor:
    """Return the predictor of a worker, which keeps it from study to study."""
    return load_predictor(bundle, read_manifest(bundle))


def _grade_there(bundle: Path, fingerprint: str, study: Study) -> Prediction:
    (prediction,) = _predictor(bundle, fingerprint).predict([study])
    return prediction


class _Graded(NamedTuple):
    """A line of the journal."""

    study_id: str
    source: str  # fingerprint of the study's files
    bundle: str  # fingerprint of the bundle that graded it
    reason: str  # what was missing, or empty
    seconds: float  # that it took
    probabilities: list[list[float | None]]  # [25][3] in the order of `targets.TARGETS`; None: the prior is kept

    @classmethod
    def parse(cls, line: bytes) -> "_Graded | None":
        """Return the study of a line; None where it is damaged, as the last one of a killed run may be."""
        try:
            graded = cls(**json.loads(line))
            shape = np.array(graded.probabilities, dtype=np.float64).shape
        except (TypeError, ValueError):
            return None
        return graded if shape == (len(TARGET_NAMES), len(SEVERITIES)) else None

    def line(self) -> str:
        return json.dumps(self._asdict()) + "\n"


class Run:
    """What a run has graded so far (`entries`: its rows of the log; `probabilities` ``[25, 3]`` in the order of
    `targets.TARGETS`, NaN where the prior is kept), and the submission, log and journal that hold it. Studies that the
    journal has of the same bundle and the same files are graded already, unless the submission was deleted: then it is
    wanted anew. What the submission or its log say does not count: another run may have begun them anew. The others are
    `left`, and so are those of which the keeper lacks something. Lines of studies that are not asked for now are kept
    for when they are."""

    def __init__(self, out: Path, competition: Competition, manifest: Manifest, keeper: Keeper | None = None) -> None:
        self.out, self.competition, self.bundle, self.keeper = out, competition, manifest.fingerprint, keeper
        groups, nothing = dict(list(competition.series.groupby("study_id"))), competition.series.iloc[:0]
        self.studies = [Study(name, groups.get(name, nothing)) for name in competition.studies]
        with ThreadPoolExecutor(16) as pool:  # a slow mount is waited for side by side
            self.sources = dict(zip(competition.studies, pool.map(_fingerprint, self.studies), strict=True))
        self.submission = Submission(out, competition.studies, manifest.prior_table())
        self.journal = out.with_name(f"{out.stem}-journal.jsonl")
        self.errors = out.with_name(f"{out.stem}-errors.txt")
        self.seen_errors: dict[tuple[str, str, int | None], str] = {}
        self.due_s = 0.0
        lines = self.journal.read_bytes().splitlines() if out.is_file() and self.journal.is_file() else []
        kept = {
            one.study_id: one
            for one in map(_Graded.parse, lines)
            if one and (one.bundle, one.source) == (self.bundle, self.sources.get(one.study_id, one.source))
        }
        write_text(self.journal, "".join(one.line() for one in kept.values()))
        self.entries: dict[str, dict[str, object]] = {}
        self.probabilities: dict[str, NDArray[np.float64]] = {}
        for name, one in kept.items():
            if name not in self.sources:
                continue
            self.probabilities[name] = np.array(one.probabilities, dtype=np.float64)
            self.submission.replace(name, self.probabilities[name])
            self.entries[name] = {"status": GRADED, "reason": one.reason, "seconds": one.seconds}
        done = {name for name in self.entries if keeper is None or keeper.has(name, self.sources[name])}
        self.left = [study for study in self.studies if study.study_id not in done]

    def grade(self, predictor: "Predictor | _Elsewhere", budget: Budget) -> Generator[str, None, None]:
        """Grade the studies that are left, as far as the time suffices; yield each one's identifier when it is done."""
        self.errors.unlink(missing_ok=True)
        found = self._predict(predictor, self.left)
        for study in self.left:
            if budget.left_s() <= 0:
                break
            start = time.perf_counter()
            prediction = next(found)
            self._add(study, prediction, time.perf_counter() - start)
            yield study.study_id
        for study in self.left:
            if study.study_id not in self.entries:
                self.entries[study.study_id] = {"status": PRIOR, "reason": OUT_OF_TIME, "seconds": 0.0}
                self._keep(study, Prediction(NOTHING, OUT_OF_TIME))

    def _predict(self, predictor: "Predictor | _Elsewhere", studies: Sequence[Study]) -> Iterator[Prediction]:
        """Yield what a predictor says of each study. Where it fails, the next ones are given to it one by one, so that
        an odd study costs no other its rows. Nothing is known of the studies of a scoring run: whatever one raises
        becomes its reason in the log."""
        done = singly = 0
        while done < len(studies):
            batch = studies[done:][: 1 if done < singly else predictor.batch_size]
            try:
                for _, prediction in zip(batch, predictor.predict(batch), strict=True):
                    done += 1
                    yield prediction
            except Exception as error:
                if len(batch) > 1:
                    singly = done + SINGLY
                else:
                    reason = self._note(studies[done].study_id, error)
                    log.info(f"study {studies[done].study_id} cannot be graded ({reason})")
                    done += 1
                    yield Prediction(NOTHING, reason)

    def _note(self, study_id: str, error: Exception) -> str:
        """Return the reason for the log; the first traceback of each kind of failure goes into a file."""
        name, (*_, place) = type(error).__name__, traceback.extract_tb(error.__traceback__)
        kind = name, place.filename, place.lineno
        if kind not in self.seen_errors:
            self.seen_errors[kind] = f"study {study_id}\n{''.join(traceback.format_exception(error))}"
            write_text(self.errors, "\n".join(self.seen_errors.values()))
        return f"{name}: {' '.join(str(error).split())} (traceback in {self.errors.name})"

    def _keep(self, study: Study, prediction: Prediction) -> list[str]:
        """Give a study to the keeper, if there is one; return what of it cannot be kept."""
        if self.keeper is None:
            return []
        own = prediction.findings.missing or tuple(filter(None, [prediction.reason]))
        # Reports travel: files are named from the folder of the studies on.
        notes = *own, *self.competition.notes.get(study.study_id, ())
        missing = tuple(shown(note.replace(f"{self.competition.root}/", "")) for note in notes)
        try:
            return list(self.keeper.keep(Result(study, prediction, missing, self.sources[study.study_id])))
        except OSError:  # a full disk is none of the study's faults
            raise
        except Exception as error:
            return [f"no report: {self._note(study.study_id, error)}"]

    def _add(self, study: Study, prediction: Prediction, seconds: float) -> None:
        """Take in a graded study; it is on the disk when this returns."""
        name, probabilities = study.study_id, prediction.probabilities
        graded = self.submission.replace(name, probabilities) > 0
        if not graded and name in self.entries:  # it was graded by an earlier run; only its report is still missing
            return
        self.probabilities[name] = probabilities
        # Before the journal's line: a study of which that is there is not graded again.
        told = self._keep(study, prediction)
        reason = "; ".join(filter(None, (prediction.reason, self.competition.reasons(name), *told)))
        self.entries[name] = {"status": GRADED if graded else PRIOR, "reason": reason, "seconds": seconds}
        # What was missing may have been there before, as where a mount was lost meanwhile.
        if graded and not (prediction.reason and _fingerprint(study) != self.sources[name]):
            kept = [[v if np.isfinite(v) else None for v in row] for row in probabilities.tolist()]
            line = _Graded(name, self.sources[name], self.bundle, reason, seconds, kept).line()
            with self.journal.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        if time.monotonic() >= self.due_s:
            self.write()

    def write(self) -> pd.DataFrame:
        """Write the submission and its log, and return the log."""
        start = time.monotonic()
        rows = [
            {"study_id": name, **self.entries[name], "source": self.sources[name], "bundle": self.bundle}
            for name in self.competition.studies
            if name in self.entries
        ]
        table = pd.DataFrame(rows, columns=["study_id", "status", "reason", "seconds", "source", "bundle"])
        self.submission.write()
        write_csv(log_path(self.out), table)
        now = time.monotonic()
        self.due_s = now + max(REST_S, REST * (now - start))
        return table


def _fingerprint(study: Study) -> str:
    return digest([Source.scan(*row).fingerprint() for row in study.series[list(SERIES_COLUMNS)].to_numpy()])
