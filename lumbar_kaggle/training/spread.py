"""Independent parts of a training, such as folds, over the GPUs of a machine: one process per device."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch

from lumbar_kaggle.core.budget import end_with_parent, start_method, usable_cores

Shared = TypeVar("Shared")
Item = TypeVar("Item")


def default_processes() -> int:
    """Return how many parts are worked on at once by default: one per GPU, one without."""
    return max(1, torch.cuda.device_count())


def spread(
    work: Callable[[Shared, Item], None], shared: Shared, items: Sequence[Item], processes: int | None = None
) -> None:
    """Call ``work(shared, item)`` for every item; what it makes, it leaves in files.

    With one process everything happens here, in order. With several, each owns one device, or its share of
    the cores, and takes the next item when it is free.

    Args:
        work: a function of a module, so that another process can find it.
        shared: handed to each process once.
        items: what to work on.
        processes: at once; None: see `default_processes`.

    Raises:
        Exception: what the first item that failed raised, `budget.OutOfTime` too; items that had begun
            have ended by then.
    """
    count = min(default_processes() if processes is None else processes, len(items))
    if count <= 1:
        for item in items:
            work(shared, item)
        return
    context = multiprocessing.get_context(start_method())
    number = context.Value("i", 0)
    with ProcessPoolExecutor(count, context, _take_device, (number, count, work, shared)) as pool:
        jobs = [pool.submit(_work, item) for item in items]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_task: tuple[Callable[[Any, Any], None], Any] | None = None
"""Of a worker process: its function and what all its items share."""


def _take_device(number: Any, count: int, work: Callable[[Any, Any], None], shared: Any) -> None:
    """Begin a worker process: the n-th one takes the n-th GPU, or without any a share of the cores."""
    global _task
    _task = (work, shared)
    end_with_parent()
    with number.get_lock():
        mine, number.value = number.value, number.value + 1
    if torch.cuda.is_available():
        torch.cuda.set_device(mine % torch.cuda.device_count())
    else:
        torch.set_num_threads(max(1, usable_cores() // count))


def _work(item: Any) -> None:
    assert _task is not None
    work, shared = _task
    work(shared, item)
