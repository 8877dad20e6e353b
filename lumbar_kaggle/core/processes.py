"""How many processes to start, and how; and that none outlives the run that started it."""

import os
import sys
import threading
from multiprocessing import connection, parent_process


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


def end_with_parent() -> None:
    """Let this worker process end when the run that started it is killed.

    A pool's idle workers would wait for ever, and busy ones go on writing beside the run that resumes theirs.
    """
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
