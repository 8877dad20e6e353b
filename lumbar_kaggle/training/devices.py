"""Where networks are trained and used: every GPU in 16 bits, or the CPU in 32; folds spread over them."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch

from lumbar_kaggle.core.budget import end_with_parent, start_method
from lumbar_kaggle.core.cluster import on_cluster, run_there
from lumbar_kaggle.training import group

Shared = TypeVar("Shared")
Item = TypeVar("Item")

CPU = torch.device("cpu")
HALF = ("cuda",)  # kinds of devices that are faster in 16-bit floats


def training_device() -> torch.device:
    """Return this process's own GPU (see `spread`), or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else CPU


def usable_devices() -> list[torch.device]:
    """Return every GPU, or the CPU where there is none."""
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())] or [CPU]


def device_of(model: torch.nn.Module) -> torch.device:
    """Return the device that a model's weights are on."""
    return next(model.parameters()).device


def half_precision(device: torch.device, *, wanted: bool = True) -> torch.autocast:
    """Return a context in which networks compute in 16-bit floats on a device of `HALF`."""
    return torch.autocast(device.type, torch.float16, enabled=wanted and device.type in HALF)


def spread(
    work: Callable[[Shared, Item], None], shared: Shared, items: Sequence[Item], processes: int | None = None
) -> None:
    """Call ``work(shared, item)``, a function of a module, for every item; what it makes, it leaves in files. With one
    process everything happens here, in order. With several, by default as many as there are GPUs, each owns one device,
    or its share of the cores, gets `shared` once, and takes the next item when it is free. With a scheduler in force
    its workers do, see `core.cluster.run_there`, and under ``torchrun`` all of its processes do one item after the
    other together. So do several GPUs those that would leave some without work at the end, see `shares`: `work` trains
    by `loop.train_file`, and what it does besides, it does only where `group.leads`. Raises what the first item that
    failed raised, `OutOfTime` too; items that had begun have ended by then."""
    if on_cluster():
        return run_there(work, shared, items)
    if group.has_followers():
        return group.lead(work, shared, items)
    gpus = max(1, torch.cuda.device_count())
    alone, several = shares(len(items), gpus) if processes is None else (len(items), 1)
    _spread_singly(work, shared, items[:alone], gpus if processes is None else processes)
    _spread_together(work, shared, items[alone:], several)


def shares(items: int, devices: int) -> tuple[int, int]:
    """Return how many items are done one to a device, and over how many devices each of the others is done together:
    those that would leave half or more of the devices without work in the last round."""
    left = items % devices
    return (items - left, devices // left) if left and devices // left > 1 else (items, 1)


def _spread_together(work: Callable[[Shared, Item], None], shared: Shared, items: Sequence[Item], several: int) -> None:
    """Do some items at once, each over `several` devices; one on which the devices cannot agree is done on one."""

    def together(number: int) -> bool:
        place = {"first": number * several, "beside": several * len(items)}
        return group.train_together(work, shared, items[number], several, **place)

    with ThreadPoolExecutor(max(1, len(items))) as pool:
        done = list(pool.map(together, range(len(items))))
    _spread_singly(work, shared, [item for item, well in zip(items, done, strict=True) if not well], len(items))


def _spread_singly(work: Callable[[Shared, Item], None], shared: Shared, items: Sequence[Item], processes: int) -> None:
    count = min(processes, len(items))
    if count <= 1:
        for item in items:
            work(shared, item)
        return
    context = multiprocessing.get_context(start_method())
    number = context.Value("i", 0)
    with ProcessPoolExecutor(count, context, _take_device, (number, count, work, shared)) as pool:
        for _ in pool.map(_work, items):  # what one raises, it raises, and cancels those that have not begun
            pass


_task: Callable[[Any], None]  # of a worker process: the function, what all items share filled in


def _work(item: Any) -> None:
    _task(item)


def _take_device(number: Any, count: int, work: Callable[[Any, Any], None], shared: Any) -> None:
    """Begin a worker process: the n-th one takes the n-th GPU, or without any a share of the cores."""
    global _task
    _task = partial(work, shared)
    end_with_parent()
    with number.get_lock():
        mine, number.value = number.value, number.value + 1
    group.use_device(mine, count)
