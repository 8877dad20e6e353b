"""What goes on in the background: one thread looks for studies, another grades them into the state folder."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError, system_sentence
from lumbar_kaggle.core.files import shown
from lumbar_kaggle.inference.base import Predictor
from lumbar_kaggle.inference.bundle import Manifest
from lumbar_kaggle.inference.predict import GRADED as REPLACED
from lumbar_kaggle.inference.predict import PRIOR, Run
from lumbar_kaggle.serve.watch import FolderOfStudies, Look
from lumbar_kaggle.serve.worklist import COPYING, FAILED, GRADED, WAITING, Row, WorkList
from lumbar_kaggle.tables.competition import SERIES_COLUMNS, Competition

log = logging.getLogger(__name__)

SCAN_S = 3.0  # between two looks at the folder, and at least so many times the seconds that a look takes:
REST = 10
QUIET_S = 10.0  # an entry has stopped changing when it is the same for so long,
OLD_S = 60.0  # or at the start when its newest change is older
PAUSE_S = 30.0  # before grading is tried again after something went wrong that was not a study's fault


class _Seen(NamedTuple):
    look: Look
    since_s: float  # by the monotonic clock
    settled: bool = False


class Background:
    """Keeps a work list up to date with a folder of studies until it is stopped. `load` gives the models, when they are
    first needed; `out` is the submission, whose journal an earlier run may have begun."""

    def __init__(
        self,
        folder: FolderOfStudies,
        worklist: WorkList,
        manifest: Manifest,
        load: Callable[[], Predictor],
        out: Path,
        *,
        scan_s: float = SCAN_S,
        quiet_s: float = QUIET_S,
    ) -> None:
        self.folder, self.worklist, self.manifest, self.out = folder, worklist, manifest, out
        self._load, self._scan_s, self._quiet_s = load, scan_s, quiet_s
        self._predictor: Predictor | None = None
        self._seen: dict[str, _Seen] = {}
        self._unread: dict[str, Look] = {}  # entries that have stopped changing
        self._troubles: dict[str, str] = {}
        self._stop, self._work = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._watch, self._grade)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, patience_s: float = 60.0) -> None:
        """End after the study that is being graded, which may take some seconds; what is graded is on the disk."""
        self._stop.set()
        self._work.set()
        for thread in filter(threading.Thread.is_alive, self._threads):
            thread.join(patience_s)

    def _watch(self) -> None:
        due = 0.0
        while not self._stop.is_set():
            begun = time.monotonic()
            if begun >= due:
                self._guarded("folder", self._scan)
                now = time.monotonic()
                due = now + max(self._scan_s, REST * (now - begun))
            elif self._unread:
                if not self._guarded("state folder", self._take):
                    self._stop.wait(self._scan_s)
            else:
                self._stop.wait(due - begun)

    def _grade(self) -> None:
        while self._work.wait() and not self._stop.wait(self._scan_s):  # what arrives together is graded together
            self._work.clear()
            if not self._guarded("grading", self._grade_waiting):
                self._stop.wait(PAUSE_S)
                self._work.set()

    def _guarded(self, what: str, work: Callable[[], object]) -> bool:
        """Do some work; what it raises is shown in the list until it succeeds."""
        try:
            work()
            self._troubles.pop(what, None)
        except Exception as error:
            if isinstance(error, InputError | OSError):
                self._troubles[what] = system_sentence(error) if isinstance(error, OSError) else str(error)
                log.info(self._troubles[what])
            else:
                self._troubles[what] = f"{type(error).__name__}: {error}"
                log.exception(f"The {what} cannot be gone on with; it is tried again")
        self.worklist.trouble = "; ".join(self._troubles.values())
        return what not in self._troubles

    def _scan(self) -> None:
        """List what there is now; what has stopped changing is to be read."""
        now, first = time.monotonic(), not self._seen
        looks = self.folder.looks()
        for entry in self._seen.keys() - looks.keys():
            del self._seen[entry]
            self._unread.pop(entry, None)
            self.worklist.put(entry, [])
        for entry, look in looks.items():
            seen = self._seen.get(entry)
            if not seen or look != seen.look:
                old = first and time.time() - look.changed_s > OLD_S
                seen = self._seen[entry] = _Seen(look, now - self._quiet_s if old else now)
                self._unread.pop(entry, None)
                self._list_unread(entry, look, COPYING)
            if not seen.settled and now - seen.since_s >= self._quiet_s:
                self._seen[entry] = seen._replace(settled=True)
                self._unread[entry] = look
                self._list_unread(entry, look, WAITING)

    def _list_unread(self, entry: str, look: Look, status: str) -> None:
        # Of what lies beside the folders it is not known whether it is a study.
        known = bool(entry) or self.folder.single
        self.worklist.put(entry, [self._row(entry, look, status)] if known else [])

    def _take(self) -> None:
        entry, look = next(iter(self._unread.items()))
        if not look.outside:
            self.folder.place(entry)  # what this raises is no fault of the study
        rows = self._read(entry, look)
        self.folder.check()
        self.worklist.put(entry, rows)
        del self._unread[entry]
        self._work.set()

    def _row(self, entry: str, look: Look, status: str, name: str = "", **more: Any) -> Row:
        listed = name or shown(entry) or self.folder.images.name
        return Row(listed, entry, status, look.state, look.changed_s, name=name, **more)

    def _read(self, entry: str, look: Look) -> list[Row]:
        """Return the rows of an entry's studies; of one without any, a row that says why."""
        if look.outside:
            reason = f"{shown(look.outside)} is a link that leads out of the folder; it is not followed"
            return [self._row(entry, look, FAILED, reason=reason)]
        try:
            found = self.folder.read(entry)
        except InputError:
            return [self._row(entry, look, FAILED, reason="it holds no DICOM file")] if entry else []
        except Exception as error:  # an odd study must not keep the others from being listed
            log.exception(f"{entry} cannot be read")
            return [self._row(entry, look, FAILED, reason=f"{type(error).__name__}: {error}")]
        series: dict[str, list[tuple[Any, ...]]] = {name: [] for name in found.studies}
        for name, *rest in found.series[list(SERIES_COLUMNS)].to_numpy().tolist():
            series[name].append(tuple(rest))
        return [
            self._row(entry, look, WAITING, name, series=tuple(rows), notes=tuple(found.notes.get(name, ())))
            for name, rows in series.items()
        ]

    def _grade_waiting(self) -> None:
        """Grade the studies that wait now; the others are in the submission with what they have."""
        rows = {row.study_id: row for row in self.worklist.rows() if row.name}
        if not any(row.status == WAITING for row in rows.values()):
            return
        series = [(row.study_id, *one) for row in rows.values() for one in row.series]
        table = pd.DataFrame(series, columns=list(SERIES_COLUMNS), dtype=object)
        notes = {name: row.notes for name, row in rows.items()}
        self.folder.check()  # of files that are not there the journal would keep nothing
        run = Run(self.out, Competition(self.folder.root, "test", tuple(rows), table, notes=notes), self.manifest)
        for name, row in rows.items():
            if row.status == WAITING and name in run.entries:  # by an earlier run
                self._settle(row, run)
            elif row.status == FAILED:  # it is not tried again before its files change
                run.entries[name] = {"status": PRIOR, "reason": row.reason, "seconds": row.seconds}
        run.left = [study for study in run.left if study.study_id not in run.entries]
        run.write()
        if run.left:
            self._predictor = self._predictor or self._load()
            with closing(run.grade(self._predictor, Budget())) as graded:
                for name in graded:
                    if run.entries[name]["reason"]:
                        self.folder.check()
                    self._settle(rows[name], run)
                    if self._stop.is_set():
                        break
            run.write()

    def _settle(self, row: Row, run: Run) -> None:
        entry = run.entries[row.study_id]
        status = GRADED if entry["status"] == REPLACED else FAILED
        known = run.probabilities[row.study_id] if status == GRADED else None
        told = {"reason": str(entry["reason"]), "seconds": float(str(entry["seconds"]))}
        self.worklist.settle(row, status=status, probabilities=known, **told)
