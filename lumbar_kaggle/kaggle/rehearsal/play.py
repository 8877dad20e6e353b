"""One session, played: inputs mounted, limits set, the very notebook run, its output kept.

A session that is finished is a folder with ``session.json`` in it, and is not played again; one that was
killed leaves nothing that counts.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, read_json, sha256_file, write_json
from lumbar_kaggle.kaggle.rehearsal.inputs import Input, lay_out
from lumbar_kaggle.kaggle.rehearsal.sandbox import RUNNER, Limits, Mount, run, system_mounts, wrap

START_UP_S = 180.0
"""Added to a session's limit: beside minutes the start of Python and its libraries counts."""

TAIL = 15
"""Lines of a failed session's log that are shown."""

_PASSED_ON = ("OMP_", "OPENBLAS_", "MKL_")
"""Beginnings of the variables that numerical libraries need on this machine."""


@dataclass(frozen=True)
class Session:
    """What is to be played.

    Attributes:
        name: of the session, and of its folder.
        code: the notebook, or a script.
        inputs: what is attached.
        layout: where it is mounted, see `inputs.LAYOUTS`.
        hours: the session's limit, told to the kernel; it is ended there and `START_UP_S` later.
        variables: further environment variables.
    """

    name: str
    code: Path
    inputs: tuple[Input, ...]
    layout: str
    hours: float
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Played:
    """What came of it.

    Attributes:
        name, layout: the session's.
        folder: holds ``session.log`` and ``output/``.
        seconds: wall time.
        processor_seconds: of all its processes; less than `seconds` where other work shares the machine.
        peak_bytes: memory of its largest process.
        output_bytes: size of its output.
        again: whether an earlier rehearsal had played it.
        key: identifies what was played; part of the key of a session that uses the output.
    """

    name: str
    layout: str
    folder: Path
    seconds: float
    processor_seconds: float
    peak_bytes: int
    output_bytes: int
    again: bool
    key: str

    @property
    def output(self) -> Path:
        """The session's output folder, as Kaggle would keep it."""
        return self.folder / "output"

    @property
    def log(self) -> str:
        """The text of both output streams."""
        return (self.folder / "session.log").read_text(encoding="utf-8", errors="replace")


def play(session: Session, folder: Path, sandbox: str, limits: Limits) -> Played:
    """Play a session, unless the same one is there already.

    Args:
        session: which.
        folder: of all sessions.
        sandbox: one of `sandbox.KINDS`.
        limits: see there.

    Raises:
        InputError: the session failed or was ended at its limit; the log's last lines are printed.
    """
    key = digest(
        [
            *(
                session.name,
                sha256_file(session.code),
                session.layout,
                session.hours,
                dict(session.variables),
            ),
            *([(item.place(session.layout), item.key) for item in session.inputs], sandbox),
        ]
    )
    done, stage = folder / session.name, folder / f".{session.name}"
    if (done / "session.json").is_file():
        facts = read_json(done / "session.json")
        if facts["key"] == key:
            return _played(session, done, facts, again=True)
    for leftover in (done, stage):
        shutil.rmtree(leftover, ignore_errors=True)
    for name in ("output", "figures", "root"):
        (stage / name).mkdir(parents=True)
    code = run(_command(session, stage, sandbox, limits), _environment(session, stage, sandbox), _log(stage))
    figures = {} if code else read_json(stage / "figures/usage.json")
    for name in ("input", "figures", "root"):
        shutil.rmtree(stage / name, ignore_errors=True)
    if code:
        os.replace(stage, done)
        _explain(session, done, code)
    facts = {"key": key, **figures}
    write_json(stage / "session.json", facts)
    os.replace(stage, done)
    return _played(session, done, facts, again=False)


def _played(session: Session, folder: Path, facts: dict[str, Any], *, again: bool) -> Played:
    names = ("seconds", "processor_seconds", "peak_bytes", "output_bytes", "key")
    values = {name: facts[name] for name in names}
    return Played(session.name, session.layout, folder, again=again, **values)


def _command(session: Session, stage: Path, sandbox: str, limits: Limits) -> list[str]:
    """Lay out the stage and return the command line of the whole session."""
    closed = sandbox != "plain"
    lay_out(session.inputs, session.layout, stage / "input", linked=not closed)
    working = "/kaggle/working" if closed else str(stage / "output")
    code = f"/kaggle/src/{session.code.name}" if closed else str(session.code)
    spec = {
        "command": _interpreter(code, working),
        "working": working,
        "output": "/rehearsal/output" if closed else "",
        "usage": "/rehearsal/figures/usage.json" if closed else str(stage / "figures/usage.json"),
        "cores": limits.cores,
        "memory": limits.memory_bytes,
        "seconds": session.hours * 3600 + START_UP_S,
    }
    runner = "/kaggle/inside.py" if closed else str(RUNNER)
    mounts = _mounts(session, stage, limits) if closed else []
    return wrap(sandbox, [sys.executable, runner, json.dumps(spec)], mounts, stage / "root")


def _interpreter(code: str, working: str) -> list[str]:
    """Return how Kaggle starts a kernel: notebooks by papermill, scripts by Python."""
    if not code.endswith(".ipynb"):
        return [sys.executable, "-P", code]
    options = ["--log-output", "--no-progress-bar", "--cwd", working]
    return [sys.executable, "-m", "papermill", *options, code, f"{working}/__notebook__.ipynb"]


def _mounts(session: Session, stage: Path, limits: Limits) -> list[Mount]:
    mounts = [*system_mounts(), Mount("ro", "/kaggle/input", str(stage / "input"))]
    for item in session.inputs:
        mounts.append(Mount("ro", f"/kaggle/input/{item.place(session.layout)}", str(item.folder.resolve())))
    return [
        *mounts,
        Mount("ro", f"/kaggle/src/{session.code.name}", str(session.code)),
        Mount("ro", "/kaggle/inside.py", str(RUNNER)),
        Mount("tmpfs", "/kaggle/working", size=limits.disk_bytes),
        Mount("tmpfs", "/kaggle/tmp"),
        *(Mount("rw", f"/rehearsal/{name}", str(stage / name)) for name in ("output", "figures")),
    ]


def _environment(session: Session, stage: Path, sandbox: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    values = {
        **kept,
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        "LUMBAR_HOURS": repr(session.hours),
        **session.variables,
    }
    if sandbox == "plain":
        # Without a mount of its own the source would be written to: byte code beside it.
        values |= {"LUMBAR_INPUT": str(stage / "input"), "PYTHONDONTWRITEBYTECODE": "1"}
        values |= {"HOME": str(stage / "root"), "LUMBAR_SCRATCH": str(stage / "root")}
    return values


def _log(stage: Path) -> Path:
    return stage / "session.log"


def _explain(session: Session, folder: Path, code: int) -> None:
    log = folder / "session.log"
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]:
        print(f"    {line}")
    reason = f"failed with exit code {code}"
    if code == 124:
        reason = f"did not end within its {session.hours * 60:.1f} minutes"
    raise InputError(f"{session.name}: the session {reason}; its log is {log}")
