"""How many processes to start, and how."""

import os
import sys


def usable_cores() -> int:
    """Return the cores that this process may use, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_method() -> str:
    """Return the safe way to start worker processes.

    A forked child of a process that has started torch's threads can hang; a fork server's cannot.
    Windows has neither.
    """
    return "spawn" if sys.platform == "win32" else "forkserver"
