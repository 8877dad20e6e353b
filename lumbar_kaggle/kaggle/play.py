"""One session, played: inputs mounted, limits set, the very notebook run, its output kept.

A session that is finished is a folder with ``session.json`` in it, and is not played again; one that was killed leaves
nothing that counts. Where bubblewrap is installed, the session has a file tree of its own with read-only inputs and no
network; elsewhere it is a plain process. Paths of 2026: Kaggle/kaggle-cli issue 1140."""

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, read_json, sha256_file, write_json
from lumbar_kaggle.core.settings import Validated, option
from lumbar_kaggle.inference import DEFAULT_RECIPE

log = logging.getLogger(__name__)

LAYOUTS = ("new", "old")
VARIANTS = ("plain", "cut", "hidden", "all")
GIB = 1024**3
TIMED_OUT = 124  # as of the command ``timeout``
Inputs = Mapping[str, tuple[Path, str]]  # By `place`, a folder of this machine and the key of its content

START_UP_S = 180.0  # Added to a session's limit: beside minutes the start of Python and its libraries counts

USED = ".used.json"  # In a session's scratch space: its figures, as `Played` names them

# A session's command as it is started. Only here can be counted what its processes used: bubblewrap does not wait for
# them, and a process that a large one forked counts the memory of that as its own.
_COUNTED = """
import json, os, resource, subprocess, sys
used_file, working, *command = sys.argv[1:]
os.chdir(working)
code = subprocess.call(command)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
with open(used_file, "w") as file:
    json.dump({"processor_seconds": used.ru_utime + used.ru_stime, "peak_bytes": peak}, file)
sys.exit(code if code >= 0 else 128 - code)
"""


@dataclass(frozen=True)
class RehearsalSettings(Validated):
    """What is rehearsed, and within which limits; the limits' defaults are those of a Kaggle session with two T4."""

    variant: str = option("plain", "cut: training cut and resumed; hidden: a nasty test set", choices=VARIANTS)
    recipe: str = option(DEFAULT_RECIPE, "whose kernels are played", metavar="RECIPE")
    studies: int = option(16, "training studies of the phantom", metavar="N", least=1)
    test_studies: int = option(3, "test studies of the phantom", metavar="M", least=1)
    hidden_studies: int = option(40, "test studies of the hidden set; Kaggle's has about 722", metavar="H", least=1)
    seed: int = option(1, "of the phantom", metavar="S", least=0)
    minutes: float = option(15.0, "limit of a session that has 12 hours on Kaggle", metavar="MIN", above=0)
    config: str = option("", "JSON of settings, {recipe: {setting: value}}; none: those in kernels/", metavar="FILE")
    sandbox: str = option("auto", "auto: the better that works; bwrap: bubblewrap", choices=("auto", "bwrap", "plain"))
    cores: int = option(4, "processors of a session, as far as there are", metavar="N", least=1)
    memory_gb: float = option(31.0, "address space of a session's process in GiB", metavar="GB", above=0)
    disk_gb: float = option(20.0, "most that a session may leave in GiB", metavar="GB", above=0)


def place(layout: str, kind: str, slug: str, owner: str = "") -> str:
    """Return where an input lies below ``/kaggle/input``, by one of `LAYOUTS`; a competition has no owner."""
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
        """What Kaggle would keep."""
        return self.folder / "output"

    @property
    def log(self) -> str:
        """The text of both output streams."""
        return (self.folder / "session.log").read_text(encoding="utf-8", errors="replace")


@cache
def why_no_sandbox() -> str:
    """Return why bubblewrap, tried for real, cannot be used here; empty text when it can."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    done = subprocess.run(sandboxed([sys.executable, "-c", "pass"]), capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["bwrap fails"])[-1]


def choose_sandbox(wanted: str = "auto") -> str:
    """Return ``bwrap`` or ``plain``: the wanted one, else an `InputError`; with ``auto`` the best that works."""
    if wanted == "bwrap" and why_no_sandbox():
        raise InputError(f"sandbox bwrap does not work on this machine ({why_no_sandbox()}); give --sandbox auto")
    return wanted if wanted != "auto" else "plain" if why_no_sandbox() else "bwrap"


def sandboxed(command: list[str], binds: Mapping[str, tuple[str, Path]] = {}) -> list[str]:
    """Return the command line that runs `command` in a file tree of its own, without network. `binds` gives by place in
    that tree how (``--ro-bind`` or ``--bind``), and the folder or file of this machine."""
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
    for place, (how, source) in binds.items():
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
    variables: Mapping[str, str] = {},
) -> Played:
    """Play a notebook or script as a session in the `folder` of all sessions, unless the same one is there already. The
    limit in `hours` is told to the kernel, which is ended `START_UP_S` later. Raises `InputError` where the session
    failed, was ended at its limit, or left too much; the log's end is shown."""
    keys, sandbox = {where: key for where, (_, key) in inputs.items()}, choose_sandbox(settings.sandbox)
    variables = {"LUMBAR_HOURS": repr(hours), **variables}
    key = digest([name, sha256_file(code), variables, keys, sandbox])
    done, stage = folder / name, folder / f".{name}"
    if (done / "session.json").is_file() and read_json(done / "session.json")["key"] == key:
        return Played(done, again=True, **read_json(done / "session.json"))
    for leftover in (done, stage):
        shutil.rmtree(leftover, ignore_errors=True)
    for part in ("output", "scratch"):
        (stage / part).mkdir(parents=True)
    command, variables = _command(code, inputs, variables, stage, closed=sandbox == "bwrap")
    status, seconds = run(command, variables, stage, hours * 3600 + START_UP_S, settings)
    used = stage / "scratch" / USED  # one that was killed leaves none
    figures = {"seconds": seconds, **(read_json(used) if used.is_file() else {})}
    figures["output_bytes"] = sum(path.stat().st_size for path in (stage / "output").rglob("*") if path.is_file())
    for part in ("input", "scratch"):
        shutil.rmtree(stage / part, ignore_errors=True)
    fault = f"failed with exit code {status}" if status else ""
    if status == TIMED_OUT:
        fault = f"did not end within its {hours * 60:.1f} minutes"
    elif figures["output_bytes"] > settings.disk_gb * GIB:
        fault = fault or "left more than its disk holds"
    if not fault:
        write_json(stage / "session.json", {"key": key, **figures})
    os.replace(stage, done)
    played = Played(done, key, **figures)
    if fault:
        log.info("%s", "\n".join(f"    {line}" for line in played.log.splitlines()[-15:]))
        raise InputError(f"{name}: the session {fault}; its log is {done / 'session.log'}")
    return played


def _command(
    code: Path, inputs: Inputs, variables: Mapping[str, str], stage: Path, *, closed: bool
) -> tuple[list[str], dict[str, str]]:
    """Lay out the inputs; return the command line of the session, and its whole environment."""
    working = "/kaggle/working" if closed else str(stage / "output")
    scratch = "/kaggle/tmp" if closed else str(stage / "scratch")
    there = f"/kaggle/src/{code.name}" if closed else str(code)
    command = [sys.executable, "-P", there]
    if code.suffix == ".ipynb":
        options = ["--log-output", "--no-progress-bar", "--cwd", working]
        command = [sys.executable, "-m", "papermill", *options, there, f"{working}/__notebook__.ipynb"]
    command = [sys.executable, "-P", "-c", _COUNTED, f"{scratch}/{USED}", working, *command]
    # What numerical libraries need on this machine.
    kept = {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "OPENBLAS_", "MKL_"))}
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    kept |= {"HOME": "/tmp", "LANG": "C.UTF-8", "PATH": path, "KAGGLE_KERNEL_RUN_TYPE": "Batch", **variables}
    if closed:
        binds = {f"/kaggle/input/{where}": ("--ro-bind", source.resolve()) for where, (source, _) in inputs.items()}
        binds |= {there: ("--ro-bind", code), working: ("--bind", stage / "output")}
        binds |= {scratch: ("--bind", stage / "scratch")}
        return sandboxed(command, binds), kept
    for where, (source, _) in inputs.items():
        mounted = stage / "input" / where
        mounted.parent.mkdir(parents=True, exist_ok=True)
        mounted.symlink_to(source.resolve(), target_is_directory=True)
    # Without a mount of its own the source would be written to: byte code beside it.
    kept |= {"LUMBAR_INPUT": str(stage / "input"), "PYTHONDONTWRITEBYTECODE": "1"}
    return command, kept | dict.fromkeys(("HOME", "LUMBAR_SCRATCH"), scratch)


def run(
    command: list[str], variables: Mapping[str, str], stage: Path, seconds: float, limits: RehearsalSettings
) -> tuple[int, float]:
    """Run a command in ``output`` below `stage`, its streams into ``session.log``; return exit code and wall seconds.
    Its processes end with this one, on any exception, and after `seconds`; the exit code is then `TIMED_OUT`."""

    def limit() -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: limits.cores])
        if sys.platform == "linux":
            import resource  # which Windows has not, where this module is imported for the help

            resource.setrlimit(resource.RLIMIT_AS, (int(limits.memory_gb * GIB),) * 2)
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG

    start, code = time.monotonic(), TIMED_OUT
    about: dict[str, Any] = {"env": dict(variables), "cwd": stage / "output", "start_new_session": True}
    with (stage / "session.log").open("wb") as stream:
        about |= {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, preexec_fn=limit, **about)
    try:
        code = process.wait(seconds)
    except BaseException as stop:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not isinstance(stop, subprocess.TimeoutExpired):
            raise
    return code, time.monotonic() - start


def tree_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
