"""Several processes, on this machine or on others, that train one network together: who they are and what they say.

All processes of a group do the same work on the same item; `training.together` gives each its part of every batch. Only
the first one, which `leads`, writes files. Between two items it may do other work, alone."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from lumbar_kaggle.core.budget import Budget, OutOfTime, end_with_parent, start_method, usable_cores
from lumbar_kaggle.core.errors import InputError

log = logging.getLogger(__name__)

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Work = Callable[[Shared, Item], None]


_at_work = False  # whether all processes of the group do the same just now


def size() -> int:
    """Return the number of processes that do together what this one does, 1 where it is alone with that."""
    return dist.get_world_size() if _at_work else 1


def rank() -> int:
    """Return this process's number among them, from 0."""
    return dist.get_rank() if _at_work else 0


def has_followers() -> bool:
    """Whether other processes wait for what this one has them do, see `lead`."""
    return dist.is_initialized() and not _at_work


def leads() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def added(tensor: Tensor) -> Tensor:
    """Return a tensor with what all processes have in its place added up; it is changed. All must call it."""
    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


def check(budget: Budget) -> None:
    """Raise `OutOfTime` in all processes at once when the budget of any is spent. All must call it."""
    if int(added(torch.tensor(int(budget.left_s() <= 0)))):
        raise OutOfTime("the time budget is spent")


def use_device(number: int, beside: int) -> None:
    """Make the n-th GPU this process's own; without any, one of as many shares of the cores as processes are beside."""
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    else:
        torch.set_num_threads(max(1, usable_cores() // beside))


def join(beside: int, **options: Any) -> None:
    """Enter a group, with so many processes on this machine; options: see ``torch.distributed.init_process_group``."""
    # What is said about the work goes from memory to memory, gradients from GPU to GPU where each has its own.
    dist.init_process_group("cpu:gloo,cuda:nccl" if beside <= torch.cuda.device_count() else "gloo", **options)


def train_together(
    work: Work[Shared, Item], shared: Shared, item: Item, count: int, *, first: int = 0, beside: int | None = None
) -> bool:
    """Call ``work(shared, item)`` in so many new processes of this machine, the GPUs from number `first` on being
    theirs; `beside`: all processes that share the cores. Raises what they raise of `OutOfTime` and `InputError`; False:
    something else ended one of them, which is logged, and the others with it."""
    context = get_context(start_method())
    raised = context.SimpleQueue()
    start: Any = start_processes
    try:
        with TemporaryDirectory() as folder:  # where they find each other
            told = (count, first, beside or count, Path(folder, "store").as_uri(), work, shared, item, raised)
            start(_member, told, count, start_method=start_method())
    except (ProcessRaisedException, ProcessExitedException) as error:
        log.warning("Training over %d devices at once failed: %s", count, str(error).strip().splitlines()[-1])
        return False
    if not raised.empty():
        raise raised.get()
    return True


def _member(
    number: int, count: int, first: int, beside: int, store: str, work: Any, shared: Any, item: Any, raised: Any
) -> None:
    end_with_parent()
    use_device(first + number, beside)
    if sys.platform == "linux":  # else gloo asks for the address of the machine's name, which it may not have
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    join(beside, init_method=store, rank=number, world_size=count)
    try:
        _do(work, shared, item)
    except (OutOfTime, InputError) as error:
        raised.put(error)
    dist.destroy_process_group()


def under_torchrun(command: Callable[[], int]) -> NoReturn:
    """Be one of the processes that ``torchrun`` started with the same command: the first one executes it, the others
    follow what it trains. Ends the process with the command's exit code."""
    beside = int(os.environ["LOCAL_WORLD_SIZE"])
    use_device(int(os.environ["LOCAL_RANK"]), beside)
    # Between two networks the others wait for as long as it takes; when a process dies, torchrun ends them all.
    join(beside, timeout=timedelta(days=30))
    for name in ("RANK", "WORLD_SIZE"):  # by which fastai would have the first process wait for the others
        os.environ.pop(name)
    code = 0
    if dist.get_rank() == 0:
        code = command()
        _say(None)
    else:
        while (task := _say()) is not None:
            _follow(*task)
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter is not taken down in order: now and then a thread of torch's asks for it then, and aborts.
    os._exit(code)


def lead(work: Work[Shared, Item], shared: Shared, items: Sequence[Item]) -> None:
    """Call ``work(shared, item)`` for every item in all processes of the group, of which this one is the first."""
    _say((work, shared))
    try:
        for item in items:
            _say((item,))
            _do(work, shared, item)
    except (OutOfTime, InputError):
        _say(None)
        raise
    _say(None)


def _follow(work: Work[Shared, Item], shared: Shared) -> None:
    while (said := _say()) is not None:
        try:
            _do(work, shared, said[0])
        except (OutOfTime, InputError):
            continue  # the first process raises it too, and says no more items


def _do(work: Work[Shared, Item], shared: Shared, item: Item) -> None:
    global _at_work
    _at_work = True
    try:
        work(shared, item)
    finally:
        _at_work = False


def _say(what: Any = None) -> Any:
    """Return in every process what the first one says."""
    said = [what]
    dist.broadcast_object_list(said, 0)
    return said[0]
