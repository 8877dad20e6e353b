"""Series → cache, in batches over a pool of workers; stopped at any moment, it goes on where it was.

The pool is of threads by default: they hide the latency of a slow mount, which is where the
competition's images lie. Decoding holds the interpreter's lock, so where the files are already in
memory a pool of processes is faster (`tests/benchmarks` measures both). The executor is an
argument, so a cluster's can be handed in.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from lumbar_kaggle.core.budget import Budget, start_method
from lumbar_kaggle.core.files import locked
from lumbar_kaggle.dicom.cache import OK, Batch, Cache, CacheConfig, Source
from lumbar_kaggle.dicom.series import UnreadableSeries
from lumbar_kaggle.tables.competition import SERIES_COLUMNS

log = logging.getLogger(__name__)

Worker = Callable[[Source, Path], dict[str, object]]
"""Writes one source's files into a folder and returns its index entry (at least ``file``)."""


@dataclass(frozen=True)
class Summary:
    """What a preprocessing run did.

    Attributes:
        series, failed: entries in the cache, and how many of them have no image.
        slices: slices read in this run.
        seconds: wall time of this run.
        batches, skipped: batches in all, and those that were already there.
    """

    series: int
    failed: int
    slices: int
    seconds: float
    batches: int
    skipped: int

    @property
    def slices_per_second(self) -> float:
        """Slices read per second of wall time; 0 when nothing was to be done."""
        return self.slices / self.seconds if self.slices else 0.0

    def sentence(self) -> str:
        """Return one line on the result."""
        text = f"{self.series} series in the cache"
        if self.failed:
            text += f", {self.failed} of them unreadable (see the index's reason column)"
        if self.slices:
            text += f"; {self.slices} slices in {self.seconds:.1f} s, {self.slices_per_second:.0f} per second"
        return text


def make_pool(kind: str, workers: int) -> Executor:
    """Return a pool of `workers` threads or processes.

    Args:
        kind: ``"threads"`` or ``"processes"``.
        workers: at least 1.
    """
    if kind == "threads":
        return ThreadPoolExecutor(workers)
    return ProcessPoolExecutor(workers, mp_context=get_context(start_method()))


def scan_sources(series: pd.DataFrame, pool: Executor) -> list[Source]:
    """List the files of every series, in the order of the table.

    Args:
        series: as `competition.Competition.series`.
    """
    return list(pool.map(Source.scan, *(series[name] for name in SERIES_COLUMNS)))


def preprocess(
    sources: list[Source],
    cache: Cache,
    config: CacheConfig,
    worker: Worker,
    pool: Executor,
    *,
    batch_size: int = 64,
    budget: Budget | None = None,
) -> Summary:
    """Fill a cache.

    Batches are worked on one after the other and their members side by side, so memory does not grow
    with the number of studies, and a killed run loses at most one batch. The result does not depend
    on where a run was interrupted, nor on the pool. Entries that failed are made again when their files
    are there: a mount may have been away.

    Args:
        sources: in the order wanted in the index.
        cache, config: where to, and with what settings.
        worker: makes one entry; it must be a module-level function where the pool is of processes.
        pool: any `concurrent.futures.Executor`.
        batch_size: series per batch.
        budget: asked before each batch.

    Raises:
        InputError: the cache folder was made with other settings, or another run is at work on it.
        OutOfTime: the budget is spent; the batches so far are kept.
    """
    with locked(cache.folder):
        return _fill(sources, cache, config, worker, pool, batch_size, budget)


def _fill(
    sources: list[Source],
    cache: Cache,
    config: CacheConfig,
    worker: Worker,
    pool: Executor,
    batch_size: int,
    budget: Budget | None,
) -> Summary:
    cache.open(config)
    batches = cache.plan(sources, batch_size)
    missing = {batch.name: _missing(batch, cache) for batch in batches}
    todo = [batch for batch in batches if missing[batch.name]]
    log.info("Preprocessing %d series into %s", len(sources), cache.folder)
    if len(todo) < len(batches):
        done = len(batches) - len(todo)
        log.info("%d of %d batches are already there and are skipped", done, len(batches))
    start = time.perf_counter()
    total = sum(batch.sources[index].slices for batch in todo for index in missing[batch.name])
    with tqdm(total=total, unit="slice", desc="preprocess", disable=not todo) as progress:
        for batch in todo:
            if budget:
                budget.check()
            _run_batch(batch, missing[batch.name], cache, worker, pool, progress)
    index = cache.finish(batches) if batches else pd.DataFrame({"status": []})
    failed = int((index["status"] != OK).sum())
    seconds = time.perf_counter() - start
    return Summary(len(sources), failed, total, seconds, len(batches), len(batches) - len(todo))


def _missing(batch: Batch, cache: Cache) -> list[int]:
    """Return which entries of a batch are still to be made: all, or those that failed and have files now."""
    before = cache.entries(batch)
    if before is None:
        return list(range(len(batch.sources)))
    return [
        index
        for index, (source, status) in enumerate(zip(batch.sources, before["status"], strict=True))
        if status != OK and source.slices
    ]


def _run_batch(
    batch: Batch, missing: list[int], cache: Cache, worker: Worker, pool: Executor, progress: "tqdm[Any]"
) -> None:
    before = cache.entries(batch)
    rows: list[Any] = [{}] * len(batch.sources) if before is None else before.to_dict("records")
    folder = cache.begin(batch)
    futures = {pool.submit(_entry, worker, batch.sources[index], folder): index for index in missing}
    for future in as_completed(futures):
        rows[futures[future]] = future.result()
        progress.update(batch.sources[futures[future]].slices)
    # As objects: a failed entry has no numbers, and would turn those of the others into floats.
    cache.commit(batch, pd.DataFrame(rows, dtype=object))


def _entry(worker: Worker, source: Source, folder: Path) -> dict[str, object]:
    entry: dict[str, object] = {
        "study_id": source.study_id,
        "series_id": source.series_id,
        "kind": source.kind,
        "source": source.fingerprint,
        "status": OK,
        "reason": "",
    }
    try:
        return {**entry, **worker(source, folder)}
    except UnreadableSeries as error:
        return {**entry, "status": "failed", "reason": str(error), "file": ""}
