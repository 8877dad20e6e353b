"""What the benchmarks count, and the rows of their table."""

import contextlib

import psutil

ROWS: list[str] = []


def processor_seconds() -> float:
    """Of this process and all below it, also of those that have ended, which other work on the machine leaves alone."""
    me = psutil.Process()
    times = [one.cpu_times() for one in (me, *me.children(recursive=True))]
    return sum(one.user + one.system + one.children_user + one.children_system for one in times)


def memory_mb(process: psutil.Process) -> float:
    """Of a process and all below it, what they share counted once (Linux: the proportional set size)."""
    found = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                found += one.memory_full_info().pss / 2**20
    return found


def row(what: str, unit: str, ours: float, limit: float) -> None:
    """Add a row to the table, which is printed when all have been measured."""
    ROWS.append(f"| {what} | {ours:.3g} {unit} | {limit:.3g} {unit} | {ours / limit:.2f} |")
