"""What a rehearsal checks and says: told as it goes, closed by a table, left as JSON and Markdown."""

import logging
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from lumbar_kaggle import __version__
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_json, write_text
from lumbar_kaggle.inference.predict import log_path
from lumbar_kaggle.kaggle.rehearsal.hidden import LEFT_OUT, HiddenSet
from lumbar_kaggle.kaggle.rehearsal.play import Played
from lumbar_kaggle.scoring.comparison import score_file
from lumbar_kaggle.tables.submission import validate

log = logging.getLogger(__name__)
Result = TypeVar("Result")

NOT_COVERED = (
    "GPUs (sessions run on processors), the versions in Kaggle's image (make test-image), "
    "and Kaggle's own servers: queues, uploads, scoring"
)
"""What no rehearsal on this machine shows."""

PLAIN_COVERS_LESS = (
    "without bubblewrap the sessions are plain processes: inputs are not read-only, the network is not cut, "
    "and the inputs lie elsewhere than in /kaggle/input"
)


class Transcript:
    """What a rehearsal did: told as it goes, closed by a table, left as JSON and Markdown.

    Args:
        folder: gets ``transcript.json`` and ``transcript.md``.
        settings: of the rehearsal, plain values.
        sandbox: the kind in use.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], sandbox: str) -> None:
        self.folder, self.settings, self.sandbox = folder, settings, sandbox
        self.steps: list[dict[str, Any]] = []
        self.checks: list[str] = []
        self.not_covered = [NOT_COVERED, *([PLAIN_COVERS_LESS] if sandbox == "plain" else [])]
        log.info("Sandbox: %s. Not covered: %s.", sandbox, "; ".join(self.not_covered))

    def do(self, name: str, work: Callable[[], Result], result: str = "") -> Result:
        """Do one step, tell it with its time, and note it."""
        log.info("%s ...", name)
        start = time.monotonic()
        made = work()
        self.note(name, time.monotonic() - start, result)
        return made

    def note(self, name: str, seconds: float, result: str, played: Played | None = None) -> None:
        """Note a step that is done, with a session's figures where it was one, and tell it."""
        again = played is not None and played.again
        step = {"name": name, "seconds": seconds, "result": result, "again": again}
        for figure in ("processor_seconds", "peak_bytes", "output_bytes"):
            step[figure] = getattr(played, figure, 0)
        self.steps.append(step)
        log.info("    %.1f s%s: %s", seconds, ", done before" if again else "", result)

    def check(self, sentence: str, holds: bool, otherwise: str = "") -> None:
        """Note a check that holds.

        Args:
            sentence: what was checked.
            holds: the outcome.
            otherwise: what is wrong when it does not hold.

        Raises:
            InputError: it does not hold.
        """
        if not holds:
            raise InputError(f"the rehearsal failed: expected: {sentence} {otherwise}".rstrip())
        self.checks.append(sentence)
        log.info("    checked: %s", sentence)

    def table(self) -> str:
        """Return the closing table."""
        steps = pd.DataFrame(self.steps)
        shown = pd.DataFrame(
            {
                "step": steps["name"],
                "seconds": steps["seconds"].map("{:.1f}".format),
                "on cpu": steps["processor_seconds"].map(lambda s: f"{s:.1f}" if s else ""),
                "memory": steps["peak_bytes"].map(_megabytes),
                "output": steps["output_bytes"].map(_megabytes),
                "result": steps["result"] + steps["again"].map({True: " (done before)", False: ""}),
            }
        )
        fresh = sum(step["seconds"] for step in self.steps if not step["again"])
        return f"{shown.to_string(index=False)}\ntotal, without what was done before: {fresh:.1f} s"

    def write(self, failure: str = "") -> Path:
        """Write both files; return the Markdown one.

        Args:
            failure: why the rehearsal ended early, or empty.
        """
        python = platform.python_version()
        content: dict[str, Any] = {
            "version": __version__,
            "python": python,
            "sandbox": self.sandbox,
            "failure": failure,
        }
        content |= {"not_covered": self.not_covered, "settings": self.settings}
        write_json(self.folder / "transcript.json", {**content, "steps": self.steps, "checks": self.checks})
        head = f"# Rehearsal of lumbar_kaggle {__version__}\n\nPython {python}, sandbox {self.sandbox}."
        failed = f"\n\n**Failed:** {failure}" if failure else ""
        table = f"\n\n```\n{self.table() if self.steps else ''}\n```"
        checked, uncovered = ("".join(f"\n* {one}" for one in part) for part in (self.checks, self.not_covered))
        path = self.folder / "transcript.md"
        write_text(path, f"{head}{failed}{table}\n\nChecked:\n{checked}\n\nNot covered:\n{uncovered}\n")
        return path


def check_submission(transcript: Transcript, played: Played, competition: Path, truth: Path) -> None:
    """Check that a session's submission is complete and valid, and score it.

    Args:
        transcript: gets the check and the score.
        played: the inference session.
        competition: the folder that it read.
        truth: label table of the test studies.

    Raises:
        InputError: the submission is missing or has a fault.
    """
    path, name = played.output / "submission.csv", played.folder.name
    faults = validate(path, competition)
    transcript.check(f"{name}: the submission is complete and valid", not faults, str(*faults[:1]))
    scoring = score_file(path, truth, competition / "train.csv")
    totals = [score.total for score in (scoring.score, scoring.prior)]
    words = [f"{total:.4f}" if total is not None else "none" for total in totals]
    transcript.note(f"{name}: score", 0.0, f"{words[0]}, the prior's {words[1]}")


def check_hidden(transcript: Transcript, played: Played, hidden: HiddenSet) -> None:
    """Check that each odd study came out as it must, and that the log tells why.

    Raises:
        InputError: one did not.
    """
    table = pd.read_csv(
        log_path(played.output / "submission.csv"), dtype={"study_id": str}, keep_default_na=False
    ).set_index("study_id")
    for odd in hidden.odd:
        if odd.outcome == LEFT_OUT:
            told = odd.study_id in played.log and odd.study_id not in table.index
            found = "no word of it in the session's log"
        else:
            status, reason = table.loc[odd.study_id, ["status", "reason"]]
            told = status == odd.outcome and (bool(reason) or not odd.noted)
            found = f"status {status!r}, reason {reason!r}"
        sentence = f"{odd.what}: {odd.outcome}{', with the reason in the log' if odd.noted else ''}"
        transcript.check(sentence, told, f"(study {odd.study_id}: {found})")
    sound = table[~table.index.isin([odd.study_id for odd in hidden.odd])]
    transcript.check(f"all {len(sound)} sound studies are graded", bool((sound["status"] == "graded").all()))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size else ""
