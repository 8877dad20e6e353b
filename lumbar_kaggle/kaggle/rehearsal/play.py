"""One session, played: inputs mounted, limits set, the very notebook run, its output kept.

A session that is finished is a folder with ``session.json`` in it, and is not played again; one that was killed leaves
nothing that counts. Where bubblewrap is installed, the session has a file tree of its own with read-only inputs and no
network; elsewhere it is a plain process. Paths of 2026: Kaggle/kaggle-cli issue 1140.
"""

import ctypes
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, read_json, sha256_file, write_json
from lumbar_kaggle.kaggle.rehearsal import RehearsalSettings

log = logging.getLogger(__name__)

LAYOUTS = ("new", "old")
GIB = 1024**3
Inputs = Mapping[str, tuple[Path, str]]
"""By `place`, a folder of this machine and the key of its content."""

START_UP_S = 180.0
"""Added to a session's limit: beside minutes the start of Python and its libraries counts."""

TIMED_OUT = 124  # as of the command ``timeout``


def place(layout: str, kind: str, slug: str, owner: str = "") -> str:
    """Return where an input lies below ``/kaggle/input``, by one of `LAYOUTS`; a competition has no owner.

    >>> place("new", "datasets", "lumbar-kaggle", "you")
    'datasets/you/lumbar-kaggle'
    """
    return slug if layout == "old" else "/".join(filter(None, (kind, owner, slug)))


@dataclass(frozen=True)
class Played:
    """What came of a session: `folder` holds ``session.log`` and ``output/``, `key` identifies what was played."""

    folder: Path
    key: str
    seconds: float = 0.0
    processor_seconds: float = 0.0  # of all its processes
    peak_bytes: int = 0  # of the largest one
    output_bytes: int = 0
    again: bool = False  # an earlier rehearsal had played it

    @property
    def output(self) -> Path:
        """The session's output folder, as Kaggle would keep it."""
        return self.folder / "output"

    @property
    def log(self) -> str:
        """The text of both output streams."""
        return (self.folder / "session.log").read_text(encoding="utf-8", errors="replace")


@cache
def why_no_sandbox() -> str:
    """Return why bubblewrap cannot be used here, tried for real; empty text when it can."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    done = subprocess.run(sandboxed([sys.executable, "-c", "pass"]), capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["bwrap fails"])[-1]


def choose_sandbox(wanted: str = "auto") -> str:
    """Return ``bwrap`` or ``plain``: the wanted one, else an `InputError`; with ``auto`` the best that works."""
    if wanted == "bwrap" and why_no_sandbox():
        raise InputError(f"sandbox bwrap does not work on this machine ({why_no_sandbox()}); give --sandbox auto")
    return wanted if wanted != "auto" else "plain" if why_no_sandbox() else "bwrap"


def sandboxed(command: list[str], binds: Mapping[str, tuple[str, Path]] | None = None) -> list[str]:
    """Return the command line that runs `command` in a file tree of its own, without network.

    `binds` gives by place in that tree how (``--ro-bind`` or ``--bind``), and the folder or file of this machine.
    """
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session"]
    words += ["--tmpfs", "/tmp", "--proc", "/proc", "--dev", "/dev"]
    for path in (Path("/") / name for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64", "etc")):
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    # An environment must keep its own path, or its scripts and links no longer find it.
    for prefix in dict.fromkeys((sys.base_prefix, sys.prefix)):
        if not f"{prefix}/".startswith("/usr/"):
            words += ["--ro-bind", prefix, prefix]
    for place, (how, source) in (binds or {}).items():
        words += [how, str(source), place]
    return [*words, "--remount-ro", "/", "--chdir", "/", "--", *command]


def play(
    name: str,
    code: Path,
    inputs: Inputs,
    folder: Path,
    settings: RehearsalSettings,
    *,
    hours: float,
    variables: Mapping[str, str] | None = None,
) -> Played:
    """Play a notebook or script as a session in the `folder` of all sessions, unless the same one is there already.

    The limit in `hours` is told to the kernel; it is ended there and `START_UP_S` later.

    Raises:
        InputError: the session failed, was ended at its limit, or left too much; the log's end is shown.
    """
    keys, sandbox = {where: key for where, (_, key) in inputs.items()}, choose_sandbox(settings.sandbox)
    variables = {"LUMBAR_HOURS": repr(hours), **(variables or {})}
    key = digest([name, sha256_file(code), variables, keys, sandbox])
    done, stage = folder / name, folder / f".{name}"
    if (done / "session.json").is_file() and read_json(done / "session.json")["key"] == key:
        return Played(done, again=True, **read_json(done / "session.json"))
    for leftover in (done, stage):
        shutil.rmtree(leftover, ignore_errors=True)
    for part in ("output", "scratch", "input"):
        (stage / part).mkdir(parents=True)
    command, variables = _command(code, inputs, variables, stage, closed=sandbox == "bwrap")
    status, figures = run(command, variables, stage, hours * 3600 + START_UP_S, settings)
    figures["output_bytes"] = sum(path.stat().st_size for path in (stage / "output").rglob("*") if path.is_file())
    for part in ("input", "scratch"):
        shutil.rmtree(stage / part, ignore_errors=True)
    sound = not status and figures["output_bytes"] <= settings.disk_gb * GIB
    if sound:
        write_json(stage / "session.json", {"key": key, **figures})
    os.replace(stage, done)
    played = Played(done, key, **figures)
    if sound:
        return played
    log.info("%s", "\n".join(f"    {line}" for line in played.log.splitlines()[-15:]))
    reason = f"failed with exit code {status}" if status else "left more than its disk holds"
    if status == TIMED_OUT:
        reason = f"did not end within its {hours * 60:.1f} minutes"
    raise InputError(f"{name}: the session {reason}; its log is {done / 'session.log'}")


def _command(
    code: Path, inputs: Inputs, variables: Mapping[str, str], stage: Path, *, closed: bool
) -> tuple[list[str], dict[str, str]]:
    """Lay out the inputs; return the command line of the session, and its whole environment."""
    working = "/kaggle/working" if closed else str(stage / "output")
    there = f"/kaggle/src/{code.name}" if closed else str(code)
    command = [sys.executable, "-P", there]
    if code.suffix == ".ipynb":
        options = ["--log-output", "--no-progress-bar", "--cwd", working]
        command = [sys.executable, "-m", "papermill", *options, there, f"{working}/__notebook__.ipynb"]
    # What numerical libraries need on this machine.
    kept = {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "OPENBLAS_", "MKL_"))}
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    kept |= {"HOME": "/tmp", "LANG": "C.UTF-8", "PATH": path, "KAGGLE_KERNEL_RUN_TYPE": "Batch", **variables}
    binds = {there: ("--ro-bind", code), "/kaggle/input": ("--ro-bind", stage / "input")}
    for where, (source, _) in inputs.items():
        mounted = stage / "input" / where
        mounted.parent.mkdir(parents=True, exist_ok=True)
        if closed:
            mounted.mkdir()
            binds[f"/kaggle/input/{where}"] = ("--ro-bind", source.resolve())
        else:
            mounted.symlink_to(source.resolve(), target_is_directory=True)
    if closed:
        binds |= {working: ("--bind", stage / "output"), "/kaggle/tmp": ("--bind", stage / "scratch")}
        # Its working folder is that of the mount; bubblewrap starts in /.
        return sandboxed(["/bin/sh", "-c", 'cd "$0" && exec "$@"', working, *command], binds), kept
    # Without a mount of its own the source would be written to: byte code beside it.
    kept |= {"LUMBAR_INPUT": str(stage / "input"), "PYTHONDONTWRITEBYTECODE": "1"}
    return command, kept | dict.fromkeys(("HOME", "LUMBAR_SCRATCH"), str(stage / "scratch"))


def run(
    command: list[str], variables: Mapping[str, str], stage: Path, seconds: float, limits: RehearsalSettings
) -> tuple[int, dict[str, Any]]:
    """Run a command in ``output`` below `stage`; both its streams go to ``session.log`` there.

    Its processes end with this one, on any exception, and after `seconds`. Returns the exit code, or `TIMED_OUT`, and
    the figures of `Played` by name.
    """

    def limit() -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: limits.cores])
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_AS, (int(limits.memory_gb * GIB),) * 2)
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG

    start = time.monotonic()
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "start_new_session": True}
    with (stage / "session.log").open("wb") as stream:
        process = subprocess.Popen(
            command, env=dict(variables), cwd=stage / "output", stdout=stream, preexec_fn=limit, **streams
        )
    end = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
    end.start()
    try:
        _, status, used = os.wait4(process.pid, 0)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        end.cancel()
    took, process.returncode = time.monotonic() - start, os.waitstatus_to_exitcode(status)
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    figures = {"seconds": took, "processor_seconds": used.ru_utime + used.ru_stime, "peak_bytes": peak}
    return TIMED_OUT if took >= seconds else process.returncode, figures


def tree_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def link_tree(source: Path, target: Path) -> None:
    """Copy a tree by hard links where the file system has them, by bytes elsewhere.

    Whoever changes a file of the copy must write it anew: a change in place would reach the source.
    """

    def link(one: str, other: str) -> None:
        try:
            Path(other).hardlink_to(one)
        except OSError:
            shutil.copy2(one, other)

    shutil.copytree(source, target, copy_function=link)
