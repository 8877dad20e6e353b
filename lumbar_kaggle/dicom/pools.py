"""Which workers read a folder fastest: threads hide the latency of a slow mount, processes decode side by side."""

import logging
from concurrent.futures import Executor, ThreadPoolExecutor
from multiprocessing import set_forkserver_preload
from types import TracebackType

from lumbar_kaggle.core.budget import give_memory_back, usable_cores
from lumbar_kaggle.core.cluster import on_cluster, open_pool
from lumbar_kaggle.dicom.decoders import end_child

log = logging.getLogger(__name__)

AUTO, THREADS, PROCESSES = "auto", "threads", "processes"
TRIAL_SECONDS = 30.0  # of work left to threads; for less, starting processes takes as long as they save


class Pools:
    """Threads or processes, or with ``"auto"`` both, until a batch of each has told which is the faster. `workers` are
    of either kind; None: four threads per core and at least eight, one process per core. Processes start when they are
    first asked for; a scheduler's workers take their place, see `core.cluster`, and then nothing is tried."""

    def __init__(self, kind: str = AUTO, workers: int | None = None) -> None:
        cores = usable_cores()
        self.kinds = (THREADS, PROCESSES) if kind == AUTO and cores > 1 else (THREADS if kind == AUTO else kind,)
        self.kinds = (PROCESSES,) if on_cluster() else self.kinds
        self.threads = ThreadPoolExecutor(workers or max(8, 4 * cores))
        # What the processes are forked from imports once for all of them, which then share the memory of it.
        set_forkserver_preload(["lumbar_kaggle.dicom.preprocess"])
        self._count = workers or cores
        self._processes = open_pool(self._count)
        self.speeds: dict[str, float] = {}  # slices per second, of the kinds that were tried

    def __enter__(self) -> "Pools":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.threads.shutdown(cancel_futures=True)
        self._processes.shutdown(cancel_futures=True)

    def choose(self, slices: int) -> str:
        """Return the kind of workers for the next batch, where so many slices are left."""
        if len(self.kinds) == 1 or THREADS not in self.speeds:
            return self.kinds[0]
        if PROCESSES not in self.speeds:
            if slices <= TRIAL_SECONDS * self.speeds[THREADS]:
                return THREADS
            # Processes have children of their own, and all of this stays with them.
            end_child()
            give_memory_back()
            return PROCESSES
        return max(self.speeds, key=lambda kind: self.speeds[kind])

    def pool(self, kind: str) -> Executor:
        """Return the workers of a kind."""
        return self.threads if kind == THREADS else self._processes

    def tell(self, kind: str, slices: int, seconds: float) -> None:
        """Learn how fast a batch was, without the start of its workers."""
        new = kind not in self.speeds and len(self.kinds) == 2
        if slices and seconds > 0:
            self.speeds[kind] = slices / seconds
        if new and len(self.speeds) == 2:
            tried = ", ".join(f"{name} {speed:.0f}" for name, speed in self.speeds.items())
            log.info("Slices per second here: %s; going on with %s (--pool chooses)", tried, self.choose(0))
            if self.choose(0) == THREADS:  # idle processes would keep their memory; new ones start if they are needed
                self._processes.shutdown()
                self._processes = open_pool(self._count)
