"""What a rehearsal did: printed as it goes, closed by a table, left as JSON and Markdown."""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from lumbar_kaggle import __version__
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_json, write_text

Result = TypeVar("Result")

NOT_COVERED = (
    "GPUs (sessions run on processors), the versions in Kaggle's image (make test-image), "
    "and Kaggle's own servers: queues, uploads, scoring"
)
"""What no rehearsal on this machine shows."""

PLAIN_COVERS_LESS = (
    "without bubblewrap or unshare the sessions are plain processes: inputs are not read-only, the network "
    "is not cut, the disk is not limited, and the inputs lie elsewhere than in /kaggle/input"
)


@dataclass(frozen=True)
class Step:
    """One line of the closing table.

    Attributes:
        name: what was done.
        seconds: how long it took; of a session that was there already, what it had taken.
        result: in a few words.
        again: whether an earlier rehearsal had done it.
        processor_seconds, peak_bytes, output_bytes: of a session; 0 elsewhere.
    """

    name: str
    seconds: float
    result: str
    again: bool = False
    processor_seconds: float = 0.0
    peak_bytes: int = 0
    output_bytes: int = 0


class Transcript:
    """Collects the steps.

    Args:
        folder: gets ``transcript.json`` and ``transcript.md``.
        settings: of the rehearsal, plain values.
        sandbox: the kind in use.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], sandbox: str) -> None:
        self.folder, self.settings, self.sandbox = folder, settings, sandbox
        self.steps: list[Step] = []
        self.checks: list[str] = []
        self.start = time.monotonic()
        print(f"Sandbox: {sandbox}. Not covered: {NOT_COVERED}.")
        if sandbox == "plain":
            print(f"Nor this: {PLAIN_COVERS_LESS}.")

    def do(self, name: str, work: Callable[[], Result], describe: Callable[[Result], str]) -> Result:
        """Do one step, print it with its time, and note it.

        Args:
            name: what is done.
            work: does it.
            describe: its result in a few words.
        """
        print(f"{name} ...", flush=True)
        start = time.monotonic()
        result = work()
        self.note(Step(name, time.monotonic() - start, describe(result)))
        return result

    def note(self, step: Step) -> None:
        """Note a step that is done, and print it."""
        self.steps.append(step)
        before = ", done before" if step.again else ""
        print(f"    {step.seconds:.1f} s{before}: {step.result}", flush=True)

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
            raise InputError(f"the rehearsal failed: not so: {sentence} {otherwise}".rstrip())
        self.checks.append(sentence)
        print(f"    checked: {sentence}", flush=True)

    def table(self) -> str:
        """Return the closing table."""
        width = max(
            len(name) for name in ("total, without what was done before", *(step.name for step in self.steps))
        )
        lines = [f"{'step':<{width}}  {'seconds':>8}  {'on cpu':>8}  {'memory':>8}  {'output':>8}  result"]
        for step in self.steps:
            memory, output = (_megabytes(size) for size in (step.peak_bytes, step.output_bytes))
            result = step.result + (" (done before)" if step.again else "")
            cpu = f"{step.processor_seconds:.1f}" if step.processor_seconds else ""
            figures = f"{step.seconds:>8.1f}  {cpu:>8}  {memory:>8}  {output:>8}"
            lines.append(f"{step.name:<{width}}  {figures}  {result}")
        fresh = sum(step.seconds for step in self.steps if not step.again)
        lines.append(f"{'total, without what was done before':<{width}}  {fresh:>8.1f}")
        return "\n".join(lines)

    def write(self, failure: str = "") -> Path:
        """Write both files; return the Markdown one.

        Args:
            failure: why the rehearsal ended early, or empty.
        """
        uncovered = [NOT_COVERED, *([PLAIN_COVERS_LESS] if self.sandbox == "plain" else [])]
        content = {
            "version": __version__,
            "python": platform.python_version(),
            "sandbox": self.sandbox,
            "not_covered": uncovered,
            "settings": self.settings,
            "steps": [asdict(step) for step in self.steps],
            "checks": self.checks,
            "failure": failure,
            "seconds": time.monotonic() - self.start,
        }
        write_json(self.folder / "transcript.json", content)
        lines = [
            f"# Rehearsal of lumbar_kaggle {__version__}",
            "",
            f"Python {platform.python_version()}, sandbox {self.sandbox}.",
            "",
            *([f"**Failed:** {failure}", ""] if failure else []),
            "```",
            self.table(),
            "```",
            "",
            "Checked:",
            "",
            *(f"* {sentence}" for sentence in self.checks),
            "",
            "Not covered:",
            "",
            *(f"* {sentence}" for sentence in uncovered),
        ]
        path = self.folder / "transcript.md"
        write_text(path, "\n".join(lines) + "\n")
        return path


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size else ""
