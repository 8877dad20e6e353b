"""What has been sent, and what becomes of it: runs, logs, outputs, the submission.

``dist/state.json`` says what the server has taken; by it an unfinished chain goes on where it stopped.
"""

import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_json
from lumbar_kaggle.kaggle.checks import check_owner
from lumbar_kaggle.kaggle.client import UNSEEN, Kaggle, KernelRun, connect
from lumbar_kaggle.kaggle.kernels import COMPETITION, find_kernel

log = logging.getLogger(__name__)

LOG_LINES = 25
"""Lines of a failed run's log that are shown."""

UNSEEN_S = 600.0
"""How long a kernel may stay unseen after its push."""

SUBMISSION = "submission.csv"


@dataclass(frozen=True)
class Sent:
    """One dataset or kernel that the server has taken.

    Attributes:
        content: fingerprint of what was sent.
        slug: the last part of its real address.
        version: its number.
        ready: whether a dataset's version is known to be ready; kernels are taken when they are sent.
    """

    content: str
    slug: str
    version: int
    ready: bool = True


class State:
    """The state file of one ``dist`` folder.

    Args:
        out: the folder.
        owner: the account.

    Raises:
        InputError: it is another account's.
    """

    def __init__(self, out: Path, owner: str) -> None:
        self.path, self.owner = out / "state.json", owner
        content: dict[str, Any] = read_json(self.path) if self.path.is_file() else {}
        if content.get("owner", owner).lower() != owner.lower():
            raise InputError(
                f"{self.path}: this folder was sent to {content['owner']}, not {owner}; choose another --out"
            )
        self.datasets = {name: Sent(**entry) for name, entry in content.get("datasets", {}).items()}
        self.kernels = {name: Sent(**entry) for name, entry in content.get("kernels", {}).items()}

    def write(self) -> None:
        """Keep what `datasets` and `kernels` hold."""
        parts = {"datasets": self.datasets, "kernels": self.kernels}
        plain = {key: {name: asdict(sent) for name, sent in part.items()} for key, part in parts.items()}
        write_json(self.path, {"owner": self.owner, **plain})

    def record_ready(self, slug: str, version: int) -> None:
        """Note that a dataset's version is ready."""
        self.datasets[slug] = replace(self.datasets[slug], version=version, ready=True)
        self.write()

    def kernel(self, name: str) -> Sent:
        """Return a pushed kernel.

        Raises:
            InputError: it has not been pushed from here.
        """
        if name not in self.kernels:
            raise InputError(f"{self.path}: kernel {name} has not been pushed; run lumbar ship kernels first")
        return self.kernels[name]


@dataclass(frozen=True)
class Plan:
    """Where things go, and how.

    Attributes:
        owner: the account.
        out: the ``dist`` folder.
        dry: tell what would be sent, send nothing.
        poll_s: seconds between two questions to the server.
    """

    owner: str
    out: Path
    dry: bool = False
    poll_s: float = 20.0

    def __post_init__(self) -> None:
        check_owner(self.owner)

    def connect(self) -> Kaggle:
        """Sign in; see `client.connect`."""
        return connect(self.owner)

    def state(self) -> State:
        """Return what has been sent before."""
        return State(self.out, self.owner)


def show_status(plan: Plan, names: Sequence[str] = ()) -> None:
    """Tell the state of pushed kernels, a line each.

    Raises:
        InputError: none has been pushed, or one that is named has not.
    """
    kaggle, state = plan.connect(), plan.state()
    for name in _pushed(state, names):
        sent = state.kernel(name)
        run = kaggle.run(sent.slug, sent.version)
        log.info("%s", f"{name} version {sent.version}: {run.status} {run.failure}".rstrip())


def follow(kaggle: Kaggle, state: State, names: Sequence[str] = (), *, poll_s: float) -> None:
    """Wait for runs, one after the other.

    Args:
        kaggle: the connection.
        state: what has been pushed.
        names: which kernels; by default all that were pushed.
        poll_s: seconds between two questions.

    Raises:
        InputError: a run ended otherwise than complete; the end of its log has been shown.
    """
    for name in _pushed(state, names):
        sent = state.kernel(name)
        run = _wait_end(kaggle, name, sent, poll_s)
        lines = kaggle.log(sent.slug, sent.version)[-LOG_LINES:]
        if run.status != "complete":
            log.info("%s", "\n".join(lines))
            reason = f" ({run.failure})" if run.failure else ""
            raise InputError(f"kernel {name}: its run ended as {run.status}{reason}; its log's end is above")
        if any(line.startswith("resumable") for line in lines):
            log.info("%s: stopped by its limit; go on with lumbar ship kernels %s --resume", name, name)


def _pushed(state: State, names: Sequence[str]) -> list[str]:
    if not names and not state.kernels:
        raise InputError(f"{state.path}: no kernel has been pushed; run lumbar ship kernels first")
    return list(names or state.kernels)


def _wait_end(kaggle: Kaggle, name: str, sent: Sent, poll_s: float) -> KernelRun:
    start, last = time.monotonic(), ""
    with tqdm(bar_format="{desc}, {elapsed}", disable=not sys.stderr.isatty(), leave=False) as line:
        while True:
            run = kaggle.run(sent.slug, sent.version)
            text = f"{name} version {sent.version}: {run.status}"
            if text != last:
                log.info("%s", text)
            last = text
            if run.ended:
                return run
            if run.status == UNSEEN and time.monotonic() - start > UNSEEN_S:
                raise InputError(f"kernel {name}: Kaggle does not show it; check --owner, and its address {sent.slug}")
            line.set_description_str(text)
            time.sleep(poll_s)


def fetch_output(plan: Plan, name: str, folder: Path, *, start: str = "") -> list[Path]:
    """Download a kernel's output; what is already there in full is not fetched again.

    Args:
        plan: see `Plan`.
        name: the kernel.
        folder: where to; the output's own folders are kept.
        start: only files whose path starts so, for example ``bundle/``.

    Returns:
        The files, and the log last.

    Raises:
        InputError: the run is not over, a file's name leads out of the folder, or a download fails.
    """
    kaggle, sent = plan.connect(), plan.state().kernel(name)
    run = kaggle.run(sent.slug, sent.version)
    if not run.ended:
        raise InputError(f"kernel {name}: its run is {run.status}; there is no output before it has ended")
    return kaggle.fetch(sent.slug, sent.version, folder, start)


def submit(plan: Plan, message: str = "") -> str:
    """Hand in the pushed inference kernel's version.

    Args:
        plan: see `Plan`.
        message: shown beside the submission; by default the kernel's version.

    Returns:
        One line on what the server answered.

    Raises:
        InputError: the run is not complete, left no submission, or the submission is refused.
    """
    sent = plan.state().kernel("inference")
    text = message or f"{find_kernel('inference').slug} version {sent.version}"
    if plan.dry:
        return f"nothing was sent; it would be {SUBMISSION} of {sent.slug} version {sent.version}: {text}"
    kaggle = plan.connect()
    run = kaggle.run(sent.slug, sent.version)
    if run.status != "complete":
        raise InputError(
            f"kernel inference: the run of version {sent.version} is {run.status}, not complete; "
            "follow it with lumbar ship status --follow, then submit"
        )
    with tempfile.TemporaryDirectory() as folder:
        found = kaggle.fetch(sent.slug, sent.version, Path(folder), SUBMISSION)
    if SUBMISSION not in [path.name for path in found]:
        raise InputError(f"kernel inference: its output holds no {SUBMISSION}; look into its log")
    number, answer = kaggle.submit(COMPETITION, sent.slug, sent.version, SUBMISSION, text)
    if not number and "success" not in answer.lower():
        raise InputError(f"submission to {COMPETITION}: not taken ({answer or 'no reason given'})")
    return f"Submission {number or ''} of version {sent.version}: {answer}"
