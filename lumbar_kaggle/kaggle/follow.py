"""What becomes of a pushed kernel: its run, its log, its output, its submission."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_atomic, write_text
from lumbar_kaggle.kaggle.client import UNSEEN, Kaggle, Session
from lumbar_kaggle.kaggle.kernels import COMPETITION, find_kernel
from lumbar_kaggle.kaggle.state import Sent, State

LOG_LINES = 25
"""Lines of a failed run's log that are shown."""

UNSEEN_S = 600.0
"""How long a kernel may stay unseen after its push."""

SUBMISSION = "submission.csv"


def show_status(kaggle: Kaggle, state: State, names: Sequence[str] = ()) -> None:
    """Print one line per pushed kernel.

    Raises:
        InputError: none has been pushed, or one that is named has not.
    """
    for name in _pushed(state, names):
        sent = state.kernel(name)
        session = kaggle.session(sent.slug, sent.version)
        print(f"{name} version {sent.version}: {session.status} {session.failure}".rstrip())


def follow(kaggle: Kaggle, state: State, names: Sequence[str] = (), *, poll_s: float) -> None:
    """Wait for runs, one after the other, on one line each.

    Args:
        kaggle: the connection.
        state: what has been pushed.
        names: which kernels; by default all that were pushed.
        poll_s: seconds between two questions.

    Raises:
        InputError: a run ended otherwise than complete; the end of its log has been printed.
    """
    for name in _pushed(state, names):
        sent = state.kernel(name)
        session = _wait_end(kaggle, name, sent, poll_s)
        log = read_log(kaggle, sent.slug, sent.version)
        if session.status != "complete":
            print("\n".join(log[-LOG_LINES:]))
            reason = f" ({session.failure})" if session.failure else ""
            raise InputError(
                f"kernel {name}: its run ended as {session.status}{reason}; its log's end is above"
            )
        if any(line.startswith("resumable") for line in log[-LOG_LINES:]):
            print(f"{name}: stopped by its limit; go on with lumbar ship kernels {name} --resume")


def _pushed(state: State, names: Sequence[str]) -> list[str]:
    if not names and not state.kernels:
        raise InputError(f"{state.path}: no kernel has been pushed; run lumbar ship kernels first")
    return list(names or state.kernels)


def _wait_end(kaggle: Kaggle, name: str, sent: Sent, poll_s: float) -> Session:
    line, start = _Line(), time.monotonic()
    while True:
        session, seconds = kaggle.session(sent.slug, sent.version), time.monotonic() - start
        text = f"{name} version {sent.version}: {session.status}"
        if session.ended:
            line.end(text)
            return session
        if session.status == UNSEEN and seconds > UNSEEN_S:
            raise InputError(
                f"kernel {name}: Kaggle does not show it; check --owner, and its address {sent.slug}"
            )
        line.show(text, seconds)
        time.sleep(poll_s)


def read_log(kaggle: Kaggle, slug: str, version: int = 0) -> list[str]:
    """Return the lines of a run's log; the server keeps it as JSON, or as text."""
    text = next(kaggle.output_pages(slug, version)).log or ""
    try:
        text = "".join(str(entry.get("data", "")) for entry in json.loads(text))
    except (json.JSONDecodeError, AttributeError, TypeError):
        return text.splitlines()
    return text.splitlines()


def fetch_output(kaggle: Kaggle, state: State, name: str, folder: Path, *, start: str = "") -> list[Path]:
    """Download a kernel's output; what is already there in full is not fetched again.

    Args:
        kaggle: the connection.
        state: what has been pushed.
        name: the kernel.
        folder: where to; the output's own folders are kept.
        start: only files whose path starts so, for example ``bundle/``.

    Returns:
        The files, and the log last.

    Raises:
        InputError: the run is not over, a file's name leads out of the folder, or a download fails.
    """
    sent = state.kernel(name)
    session = kaggle.session(sent.slug, sent.version)
    if not session.ended:
        raise InputError(
            f"kernel {name}: its run is {session.status}; there is no output before it has ended"
        )
    fetched: list[Path] = []
    log = folder / f"{sent.slug}.log"
    for page in kaggle.output_pages(sent.slug, sent.version):
        if page.log:
            write_text(log, page.log)
        for file in page.files or []:
            if file.file_name.startswith(start):
                fetched.append(_download(file.url, _inside(folder, file.file_name)))
    return [*fetched, *([log] if log.is_file() else [])]


def submit(kaggle: Kaggle, state: State, message: str = "") -> str:
    """Hand in the pushed inference kernel's version.

    Args:
        kaggle: the connection.
        state: what has been pushed.
        message: shown beside the submission; by default the kernel's version.

    Returns:
        One line on what the server answered.

    Raises:
        InputError: the run is not complete, left no submission, or the submission is refused.
    """
    sent = state.kernel("inference")
    if not state.dry:
        _check_submittable(kaggle, sent)
    text = message or f"{find_kernel('inference').slug} version {sent.version}"
    number, answer = kaggle.submit(COMPETITION, sent.slug, sent.version, SUBMISSION, text)
    if state.dry:
        return "nothing was sent"
    if not number and "success" not in answer.lower():
        raise InputError(f"submission to {COMPETITION}: not taken ({answer or 'no reason given'})")
    return f"Submission {number or ''} of version {sent.version}: {answer}"


def _check_submittable(kaggle: Kaggle, sent: Sent) -> None:
    session = kaggle.session(sent.slug, sent.version)
    if session.status != "complete":
        raise InputError(
            f"kernel inference: the run of version {sent.version} is {session.status}, not complete; "
            "follow it with lumbar ship status --follow, then submit"
        )
    names = [file.file_name for page in kaggle.output_pages(sent.slug, sent.version) for file in page.files]
    if SUBMISSION not in names:
        raise InputError(f"kernel inference: its output holds no {SUBMISSION}; look into its log")


def _inside(folder: Path, name: str) -> Path:
    """Return the path of an output's file; its name comes from elsewhere and may not lead out."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"output file {name!r} would lie outside {folder}; it is not fetched")
    return path


def _download(url: str, path: Path) -> Path:
    import requests

    try:
        with requests.get(url, stream=True, timeout=300) as response:
            response.raise_for_status()
            size = int(response.headers.get("Content-Length", -1))
            if path.is_file() and path.stat().st_size == size:
                return path
            write_atomic(path, lambda temporary: _receive(response, temporary, size))
    except requests.exceptions.RequestException as error:
        raise InputError(
            f"{path.name}: cannot be fetched ({type(error).__name__}); run the same command again, it goes on"
        ) from None
    return path


def _receive(response: Any, path: Path, size: int) -> None:
    with path.open("wb") as file:
        for chunk in response.iter_content(1 << 20):
            file.write(chunk)
    if size not in (-1, path.stat().st_size):
        raise InputError(
            f"{path.name}: only {path.stat().st_size} of {size} bytes arrived; run the command again"
        )


class _Line:
    """Progress: one line in a terminal, rewritten; elsewhere a line when something changed."""

    def __init__(self) -> None:
        self.last = ""

    def show(self, text: str, seconds: float) -> None:
        if sys.stdout.isatty():
            width = os.get_terminal_size().columns - 1
            print(f"\r{text}, {seconds / 60:.0f} min"[:width].ljust(width), end="", flush=True)
        elif text != self.last:
            print(text, flush=True)
        self.last = text

    def end(self, text: str) -> None:
        print(f"\r{text}".ljust(60) if sys.stdout.isatty() else text, flush=True)
