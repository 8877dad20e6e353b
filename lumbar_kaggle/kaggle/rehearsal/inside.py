"""Runs inside the sandbox: sets the limits, runs the session's command, hands its output out.

Started as a plain script with one argument, a JSON object, and without the package: the sandbox has no
copy of it but the one in the mounted dataset. Keys: ``command``, ``working``, ``output`` (folder to copy
the working folder to, or empty), ``usage`` (file for the figures), ``cores``, ``memory`` (bytes of
address space), ``seconds``.
"""

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TIMED_OUT = 124
"""Exit code when the session was ended at its limit, as of the command ``timeout``."""


def run(spec: dict[str, Any]) -> int:
    """Run the session; return its exit code, or `TIMED_OUT`."""
    start = time.monotonic()
    process = subprocess.Popen(
        spec["command"],
        cwd=spec["working"],
        start_new_session=True,
        preexec_fn=lambda: _limit(spec["cores"], spec["memory"]),
    )
    try:
        code = process.wait(spec["seconds"])
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        code = TIMED_OUT
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {"seconds": time.monotonic() - start, "peak_bytes": _peak_bytes(used)}
    figures["processor_seconds"] = used.ru_utime + used.ru_stime
    figures["output_bytes"] = _size(Path(spec["working"]))
    # A session that the platform ends at its limit leaves no output there either.
    if spec["output"] and code != TIMED_OUT:
        shutil.copytree(spec["working"], spec["output"], dirs_exist_ok=True)
    Path(spec["usage"]).write_text(json.dumps(figures))
    return code


def _limit(cores: int, memory: int) -> None:
    """Limit this process and its children; what a system does not know is left out."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        # Outside a process namespace nothing else would end the session when the rehearsal is killed.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


def _peak_bytes(used: resource.struct_rusage) -> int:
    return used.ru_maxrss if sys.platform == "darwin" else used.ru_maxrss * 1024


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(run(json.loads(sys.argv[1])))
