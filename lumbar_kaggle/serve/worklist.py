"""The work list: a row per study with the worst grade of each condition, and the tables that are made of it."""

import io
import json
import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain, count
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.files import natural
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, SAMPLE_ORDER, SEVERITIES, TARGET_NAMES
from lumbar_kaggle.pages.render import in_words
from lumbar_kaggle.tables.competition import submission_rows

COPYING, WAITING, GRADED, FAILED = "copying", "waiting", "graded", "failed"
STATUSES = (COPYING, WAITING, GRADED, FAILED)
_IN_SAMPLE = [TARGET_NAMES.index(name) for name in SAMPLE_ORDER]


@dataclass(frozen=True, eq=False)
class Row:
    """One study as it is known now."""

    study_id: str  # in the list, where no two have the same
    entry: str  # of the folder of studies that it came with
    status: str  # one of `STATUSES`
    state: str  # digest of the entry's files
    changed_s: float  # of the newest change of these, in seconds since 1970
    name: str = ""  # in its entry, whose studies have names of their own; "" until it has been read
    reason: str = ""  # why it failed, or what was missing in it
    series: tuple[tuple[Any, ...], ...] = ()  # rows of `Competition.series` without the study
    notes: tuple[str, ...] = ()  # on the series, see `Competition.notes`
    seconds: float = 0.0  # that grading took
    probabilities: NDArray[np.float64] | None = None  # [25, 3] by `targets.TARGETS`; NaN where no model could tell
    version: int = 0  # of the list, when the row came to it

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The row as JSON has it."""
        when = datetime.fromtimestamp(self.changed_s, UTC)
        changed = when.isoformat(timespec="seconds") if self.changed_s else ""  # it has no files
        told = {"study": self.study_id, "status": self.status, "reason": in_words(self.reason), "changed": changed}
        return {**told, "readable": bool(self.name), "worst": worst(self.probabilities)}


def worst(probabilities: NDArray[np.float64] | None) -> dict[str, dict[str, Any] | None]:
    """Return the worst grade of each condition, of probabilities ``[25, 3]`` in the order of `targets.TARGETS`. A grade
    of a level is its most probable severity; of levels with the same, that with the greatest expected severity (0 …
    2) is named. None: no level is graded."""
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(CONDITIONS)
    if probabilities is None:
        return found
    for condition, levels in zip(CONDITIONS, probabilities.reshape(len(CONDITIONS), len(LEVELS), -1), strict=True):
        grades = [
            (int(shares.argmax()), float(shares @ range(len(SEVERITIES))), float(shares.max()), level)
            for level, shares in zip(LEVELS, levels, strict=True)
            if np.isfinite(shares).all()
        ]
        if grades:
            severity, expected, probability, level = max(grades, key=lambda one: one[:2])
            numbers = {"probability": round(probability, 4), "expected": round(expected, 4)}
            found[condition] = {"severity": SEVERITIES[severity], "level": level, **numbers}
    return found


@dataclass
class WorkList:
    """All rows, by study; threads may add to it while others read. Every change has a number, so that a reader can ask
    for what came after."""

    about: Mapping[str, str] = field(default_factory=dict)  # what it was made with, for those who take it away
    trouble: str = ""  # why grading stands still
    _rows: dict[str, Row] = field(default_factory=dict)
    _of: dict[str, list[str]] = field(default_factory=dict)  # the studies of each entry
    _gone: dict[str, int] = field(default_factory=dict)
    _version: int = 0
    _name: str = field(default_factory=lambda: secrets.token_hex(4))  # versions of another run mean nothing
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def rows(self) -> list[Row]:
        """Return the rows as they are now, in the order in which they came."""
        with self._lock:
            return list(self._rows.values())

    def _in_order(self) -> list[Row]:
        return sorted(self.rows(), key=lambda row: (natural(row.study_id), row.study_id))

    def get(self, study_id: str) -> Row | None:
        """Return the row of a study, if there is one."""
        return self._rows.get(study_id)

    def put(self, entry: str, rows: Iterable[Row]) -> None:
        """Replace all rows of an entry; a name that another entry has already gets a number."""
        with self._lock:
            self._version += 1
            before = self._of.pop(entry, [])
            for name in before:
                del self._rows[name]
            for row in rows:
                choices = chain([row.study_id], (f"{row.study_id}-{number}" for number in count(2)))
                name = next(one for one in choices if one not in self._rows)
                self._rows[name] = replace(row, study_id=name, version=self._version)
                self._of.setdefault(entry, []).append(name)
                self._gone.pop(name, None)
            self._gone |= dict.fromkeys(set(before) - self._rows.keys(), self._version)

    def settle(self, row: Row, **what: Any) -> None:
        """Change a row, unless it is not the one in the list any more: the study has changed meanwhile."""
        with self._lock:
            if self._rows.get(row.study_id) is row:
                self._version += 1
                self._rows[row.study_id] = replace(row, **what, version=self._version)

    def news(self, since: str = "") -> dict[str, Any]:
        """Return what changed after the ``cursor`` of an earlier answer, or all: rows, and studies that are gone; with
        it, counts of each status and the seconds that are left."""
        with self._lock:
            rows, gone, version, trouble = list(self._rows.values()), dict(self._gone), self._version, self.trouble
        name, _, number = since.partition("-")
        after = int(number[:18]) if name == self._name and number.isdecimal() else None
        counts = Counter(row.status for row in rows)
        took = [row.seconds for row in rows if row.status == GRADED]
        return {
            **self.about,
            "cursor": f"{self._name}-{version}",
            "whole": after is None,
            "counts": {status: counts[status] for status in STATUSES},
            "left_s": round(counts[WAITING] * float(np.mean(took))) if took else None,
            "trouble": trouble,
            "gone": [study_id for study_id, when in gone.items() if after is not None and when > after],
            "studies": [row.facts for row in rows if after is None or row.version > after],
        }

    def json(self, since: str = "") -> str:
        """Return `news` as JSON."""
        return json.dumps(self.news(since), ensure_ascii=False)

    def csv(self) -> str:
        """Return the list as a table: a row per study, three columns per condition."""
        lines = []
        for row in self._in_order():
            facts = row.facts
            line: dict[str, Any] = {name: _plain(facts[name]) for name in ("study", "status", "reason", "changed")}
            for condition, grade in facts["worst"].items():
                shown = grade or dict.fromkeys(("severity", "level", "probability"))
                line |= {condition: shown["severity"], f"{condition}_level": shown["level"]}
                line[f"{condition}_probability"] = shown["probability"]
            lines.append(line)
        return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")

    def submission(self, prior: pd.DataFrame) -> str:
        """Return the competition's submission for all studies that have been read; the `metric.weighted_prior` stands
        where nothing is graded."""
        rows = [row for row in self._in_order() if row.name]
        values = prior.loc[list(TARGET_NAMES), list(SEVERITIES)].to_numpy(dtype=np.float64)
        nothing = np.full(values.shape, np.nan)
        each = [nothing if row.probabilities is None else row.probabilities for row in rows]
        known = [np.where(np.isfinite(one).all(axis=1, keepdims=True), one, values)[_IN_SAMPLE] for one in each]
        table = submission_rows(row.study_id for row in rows)[["row_id"]]
        table[list(SEVERITIES)] = np.concatenate([*known, np.empty((0, len(SEVERITIES)))])
        written = io.StringIO()
        table.to_csv(written, index=False, lineterminator="\n")
        return written.getvalue()


def _plain(text: str) -> str:
    """Return a text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
