"""What a run may use: its hours, its cores, and worker processes that end with it."""

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import connection, parent_process
from typing import Any

# Of glibc's malloc: in the environment, in malloc.h, value. Most arenas, and bytes that it keeps or takes apart.
MALLOC = (
    ("MALLOC_ARENA_MAX", -8, 2),
    ("MALLOC_TRIM_THRESHOLD_", -1, 64 * 2**20),
    ("MALLOC_MMAP_THRESHOLD_", -3, 32 * 2**20),
)


class OutOfTime(Exception):
    """The budget is spent; everything finished is saved, and the same command goes on from there."""


class Budget:
    """Hours that a run may take (None: no limit), less a reserve for the clean stop; `clock` gives seconds."""

    def __init__(
        self, hours: float | None = None, *, reserve_minutes: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._end = float("inf") if hours is None else clock() + hours * 3600 - reserve_minutes * 60

    def __getstate__(self) -> dict[str, Any]:
        # To another machine goes what is left: its clock counts from another moment.
        return {"left_s": self.left_s()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._clock = time.monotonic
        self._end = self._clock() + state["left_s"]

    def left_s(self) -> float:
        """Return the seconds left for work; infinite without a limit, never below 0."""
        return max(0.0, self._end - self._clock())

    def check(self) -> None:
        """Raise `OutOfTime` where no time is left."""
        if self.left_s() <= 0:
            raise OutOfTime("the time budget is spent")


def usable_cores() -> int:
    """Return the cores that this process may use, which in a container are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Let malloc, here and in workers, keep what is freed, in few arenas. glibc gives every thread one of its own,
    which keeps what it once had: hundreds of MB where eight decode. And it hands the memory of each picture back at
    once, only to ask for it again: a new page takes the system as long as a thousand pixels take us."""
    for name, number, value in MALLOC:
        # Workers take it from the environment, this process no longer does.
        os.environ.setdefault(name, str(value))
        _of_glibc("mallopt", number, int(os.environ[name]))


def give_memory_back() -> None:
    """Hand to the system what malloc keeps of memory that is no longer in use, where malloc is glibc's."""
    _of_glibc("malloc_trim", 0)


def _of_glibc(function: str, *values: int) -> None:
    with contextlib.suppress(AttributeError, OSError):
        getattr(ctypes.CDLL(None), function)(*values)


def start_method() -> str:
    """Return the safe way to start worker processes, where a forked child of torch's threads could hang."""
    return "spawn" if sys.platform == "win32" else "forkserver"


def end_with_parent() -> None:
    """Let this worker process end with the run that started it; else it waits for ever, or writes beside the next."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
