"""A closed room for one session: bubblewrap where it is installed, ``unshare``, else a plain process.

The first two give a file tree of the session's own (inputs read-only, working folder of a limited size),
no network but the loopback interface, and an end of every process when the rehearsal ends.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from lumbar_kaggle.core.errors import InputError

KINDS = ("bwrap", "unshare", "plain")
"""Best first."""

GIB = 1024**3
RUNNER = Path(__file__).with_name("inside.py")
_BUILDER = Path(__file__).with_name("enter.py")
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "etc")


@dataclass(frozen=True)
class Mount:
    """One piece of the sandbox's file tree.

    Attributes:
        kind: ``ro`` or ``rw`` (a folder or file of this machine), ``tmpfs``, ``proc``, ``dev``, or ``link``.
        target: where, an absolute path; its parent folders are made.
        source: path on this machine, or what a link points to.
        size: of a ``tmpfs``, bytes; 0 for no limit.
    """

    kind: str
    target: str
    source: str = ""
    size: int = 0


@dataclass(frozen=True)
class Limits:
    """What a session may use; the defaults are those of a Kaggle session with two T4.

    Attributes:
        cores: processors.
        memory_bytes: of address space per process, which stands in for the machine's memory.
        disk_bytes: of the working folder.
    """

    cores: int = 4
    memory_bytes: int = 31 * GIB
    disk_bytes: int = 20 * GIB


def choose_sandbox(wanted: str = "auto") -> str:
    """Return the best kind of sandbox that works here, or the wanted one.

    Raises:
        InputError: the wanted one does not work here.
    """
    if wanted == "auto":
        return next(kind for kind in KINDS if why_not(kind) == "")
    if wanted not in KINDS:
        raise InputError(f"sandbox {wanted!r} is unknown; give auto or one of {', '.join(KINDS)}")
    reason = why_not(wanted)
    if reason:
        raise InputError(f"sandbox {wanted} does not work on this machine ({reason}); give --sandbox auto")
    return wanted


@cache
def why_not(kind: str) -> str:
    """Return why a kind of sandbox cannot be used here, tried for real; empty text when it can."""
    if kind == "plain":
        return ""
    if shutil.which(kind) is None:
        return f"the command {kind} is not installed"
    with tempfile.TemporaryDirectory() as folder:
        command = wrap(kind, [sys.executable, "-c", "pass"], system_mounts(), Path(folder))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"exit code {done.returncode}"


def system_mounts() -> list[Mount]:
    """Return what any session needs to start this Python: system folders, interpreter, /dev, /proc, /tmp."""
    mounts = [Mount("tmpfs", "/tmp"), Mount("proc", "/proc"), Mount("dev", "/dev")]
    for name in _SYSTEM:
        path = Path("/") / name
        if path.is_symlink():
            mounts.append(Mount("link", str(path), os.readlink(path)))
        elif path.is_dir():
            mounts.append(Mount("ro", str(path), str(path)))
    # An environment must keep its own path, or its scripts and links no longer find it.
    for prefix in dict.fromkeys((sys.base_prefix, sys.prefix)):
        if not prefix.startswith(("/usr/", "/lib/")) and prefix != "/usr":
            mounts.append(Mount("ro", prefix, prefix))
    return mounts


def wrap(kind: str, command: list[str], mounts: Iterable[Mount], root: Path) -> list[str]:
    """Return the command line that runs `command` within the sandbox.

    Args:
        kind: one of `KINDS`; ``plain`` takes no mounts.
        command: starts with an absolute path.
        mounts: applied in order.
        root: an empty folder, which ``unshare`` mounts the tree on.
    """
    if kind == "bwrap":
        options = [word for mount in mounts for word in _bwrap_words(mount)]
        words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", *options]
        return [*words, "--remount-ro", "/", "--chdir", "/", "--", *command]
    if kind == "unshare":
        plan = {
            "root": str(root.resolve()),
            "mounts": [asdict(mount) for mount in mounts],
            "command": command,
        }
        # Root mounts as itself; anyone else becomes root of a user namespace first.
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        words = ["unshare", *user, "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child"]
        return [*words, sys.executable, str(_BUILDER), json.dumps(plan)]
    return command


def _bwrap_words(mount: Mount) -> list[str]:
    if mount.kind == "link":
        return ["--symlink", mount.source, mount.target]
    if mount.kind in ("ro", "rw"):
        return ["--ro-bind" if mount.kind == "ro" else "--bind", mount.source, mount.target]
    size = ["--size", str(mount.size)] if mount.size else []
    return [*size, f"--{mount.kind}", mount.target]


def run(command: list[str], environment: dict[str, str], log: Path) -> int:
    """Run a wrapped command with this environment only; its two output streams go to `log`.

    The processes end when this one is killed, and on any exception.

    Returns:
        The exit code.
    """
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,
        )
        try:
            return process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG
