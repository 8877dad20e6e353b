"""Work on several machines: the workers of a dask scheduler in place of the processes of this one.

A scheduler is in force while the block of `on_scheduler` runs: then `open_pool` gives its workers. They see the same
files by the same names as this process, from the same working folder on, and write what they make there. What is
finished is committed as on one machine, so a worker that dies costs its task, which another one does again, and a
scheduler that dies costs a restart of the same command."""

import contextlib
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from contextvars import ContextVar
from multiprocessing import get_context
from typing import Any, TypeVar, cast

from lumbar_kaggle import __version__
from lumbar_kaggle.core.budget import start_method, usable_cores
from lumbar_kaggle.core.errors import InputError

ANSWER_S = 10  # in which a scheduler answers
WORKERS_S = 60  # in which its first worker is there: an import of the libraries from a slow mount takes its time

AHEAD = 256  # studies that are with the workers at once, where they are handed out one by one
RETRIES = 2  # of a task that raised: on another worker what the network raised may not come again

S = TypeVar("S")
T = TypeVar("T")

_client: ContextVar[Any] = ContextVar("scheduler", default=None)


def open_pool(processes: int, begin: Callable[[], None] | None = None) -> Executor:
    """Return a pool of so many processes, which call `begin` first, or with a scheduler in force all of its workers,
    which do not. Only functions of modules can be handed to it."""
    if client := _client.get():
        return _Workers(client)
    return ProcessPoolExecutor(processes, get_context(start_method()), begin)


def ahead(pool: Executor, work: Callable[[S], T], items: Iterable[S], count: int) -> Iterator[T]:
    """Yield what a pool makes of some items, in their order; up to `count` of them are begun before they are asked for,
    and no more, so that memory stays bounded."""
    begun: deque[Future[T]] = deque()
    for item in items:
        begun.append(pool.submit(work, item))
        if len(begun) > count:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


class _Workers(Executor):
    """A scheduler's workers. Unlike dask's own executor this one lets go of a result once it is here: what a worker
    still holds when it dies is done again."""

    def __init__(self, client: Any, resources: dict[str, float] | None = None) -> None:
        self._client, self._resources = client, resources
        self._there: dict[Future[Any], Any] = {}

    def submit(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        options = {"pure": False, "retries": RETRIES, "resources": self._resources}
        here: Future[T] = Future()
        there = self._client.submit(_from_folder, os.getcwd(), work, *args, **options, **kwargs)
        self._there[here] = there

        def finish(there: Any) -> None:
            if here.set_running_or_notify_cancel():
                try:
                    here.set_result(there.result())
                except BaseException as error:
                    here.set_exception(error)
            del self._there[here]

        there.add_done_callback(finish)
        return here

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let go of the tasks whose results nobody has fetched, as of work that failed; those that run there end."""
        for there in list(self._there.values()):
            there.cancel()


def _from_folder(folder: str, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Do a task where relative paths mean what they mean to the command."""
    os.chdir(folder)
    return work(*args, **kwargs)


@contextlib.contextmanager
def on_scheduler(address: str | None) -> Iterator[None]:
    """Put the dask scheduler at an address (``tcp://host:port``) in force; None: everything stays on this machine.
    Raises InputError where distributed is not installed, no scheduler answers, it has no worker, a worker has another
    version of this package, or the scheduler is lost while the block runs."""
    if address is None:
        yield
        return
    try:
        from distributed import Client, KilledWorker
        from distributed.comm.addressing import get_address_host_port
        from distributed.comm.core import CommClosedError
    except ImportError:
        raise InputError("--scheduler needs dask: pip install 'lumbar_kaggle[cluster]'") from None
    try:
        # A client that fails to connect goes on trying until the interpreter ends.
        socket.create_connection(get_address_host_port(address, strict=True), ANSWER_S).close()
        client = cast(Any, Client)(address, timeout=ANSWER_S, set_as_default=False, name="lumbar")
    except (OSError, ValueError, TimeoutError):
        how = "start one with: dask scheduler; and workers with: dask worker ADDRESS --nthreads 1"
        raise InputError(f"{address}: no dask scheduler answers there; {how}") from None
    token = _client.set(client)
    try:
        with client:
            _check_workers(client, address)
            yield
    except KilledWorker as error:
        raise InputError(
            f"{address}: a task ended each of the workers that tried it ({error}); see their logs"
        ) from None
    except (CancelledError, CommClosedError, TimeoutError):
        kept = "what was finished is kept, and the same command goes on from there"
        raise InputError(f"{address}: the scheduler was lost; {kept}") from None
    finally:
        _client.reset(token)


def _check_workers(client: Any, address: str) -> None:
    with contextlib.suppress(TimeoutError):
        client.wait_for_workers(1, timeout=WORKERS_S)
    try:
        versions = client.run(package_version)
    except ImportError:  # what a worker raises, this raises
        raise InputError(f"{address}: a worker does not have lumbar_kaggle; install {__version__} there") from None
    if not versions:
        raise InputError(f"{address}: the scheduler has no worker; start some with: dask worker {address} --nthreads 1")
    for worker, version in versions.items():
        if version != __version__:
            raise InputError(f"{worker}: has lumbar_kaggle {version}, and this is {__version__}; install the same")


def package_version() -> str:
    """Return the version of this package in the process that is asked."""
    return __version__


def on_cluster() -> bool:
    """Whether a scheduler is in force."""
    return _client.get() is not None


def run_there(work: Callable[[S, T], None], shared: S, items: Sequence[T]) -> None:
    """Call ``work(shared, item)`` for every item on the workers of the scheduler in force, on those with a GPU (``dask
    worker --resources GPU=1``) where there are any; `shared` travels once. Raises what the first item that failed
    raised; others that had begun end on their workers."""
    client = _client.get()
    found = client.scheduler_info(n_workers=-1)["workers"].values()
    beside = Counter(one["host"] for one in found)
    with _Workers(client, {"GPU": 1} if any("GPU" in one["resources"] for one in found) else None) as pool:
        given = client.scatter(shared, hash=False)
        futures = [pool.submit(_with_threads, item, work=work, shared=given, beside=beside) for item in items]
        for future in futures:
            future.result()


def _with_threads(item: Any, *, work: Callable[[Any, Any], None], shared: Any, beside: dict[str, int]) -> None:
    """Do one item with this worker's share of its machine's cores."""
    import torch
    from distributed import get_worker

    torch.set_num_threads(max(1, usable_cores() // beside.get(get_worker().ip, 1)))
    work(shared, item)
