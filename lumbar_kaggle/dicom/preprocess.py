"""Series → cache, in batches over a pool of workers; stopped at any moment, it goes on where it was.

The pool is of threads by default: they hide the latency of a slow mount, which is where the
competition's images lie. Decoding holds the interpreter's lock, so where the files are already in
memory a pool of processes is faster (`tests/benchmarks` measures both). The executor is an
argument, so a cluster's can be handed in.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from lumbar_kaggle.core.budget import Budget, start_method
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import locked, read_json, shown, write_atomic, write_json
from lumbar_kaggle.dicom.cache import OK, Batch, Cache, CacheConfig, Source
from lumbar_kaggle.dicom.series import UnreadableSeries, read_series
from lumbar_kaggle.dicom.volume import HIGH, LOW, Volume
from lumbar_kaggle.tables.competition import SERIES_COLUMNS

log = logging.getLogger(__name__)

Worker = Callable[[Source, Path], dict[str, object]]
"""Writes one source's files into a folder and returns its index entry (at least ``file``)."""


@dataclass(frozen=True)
class Summary:
    """What a preprocessing run did."""

    series: int  # entries in the cache
    failed: int  # of them without an image
    slices: int  # read in this run
    seconds: float  # wall time of this run
    batches: int
    skipped: int  # batches that were already there

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
    """Return a pool of `workers` (1 or more) ``"threads"`` or ``"processes"``."""
    if kind == "threads":
        return ThreadPoolExecutor(workers)
    return ProcessPoolExecutor(workers, mp_context=get_context(start_method()))


def scan_sources(series: pd.DataFrame, pool: Executor) -> list[Source]:
    """List the files of every series of `competition.Competition.series`, in its order."""
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
        cache.open(config)
        batches = cache.plan(sources, batch_size)
        missing = {batch.name: _missing(batch, cache) for batch in batches}
        todo = [batch for batch in batches if missing[batch.name]]
        log.info("Preprocessing %d series into %s", len(sources), cache.folder)
        if done := len(batches) - len(todo):
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
        return Summary(len(sources), failed, total, seconds, len(batches), done)


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


VOLUMES = CacheConfig("volumes", 3, {"percentiles": [LOW, HIGH], "window": "series"})

FORMAT = "volumes-3"
"""Of a series' JSON file."""

_TABLES = ("positions", "orientation", "spacing")

_REMEDY = "delete its folder and run lumbar preprocess again"


class CachedImages:
    """Slices ``[slices, rows, columns]`` uint8 in a file that is open only while a slice is read.

    A set has some thousand stacks, more than a process may have open files. To another process goes the
    name of the file.

    Args:
        path: as `numpy.save` writes it.

    Raises:
        InputError: the file is missing, damaged or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
                self._start, size = file.tell(), file.seek(0, 2)
        except (OSError, ValueError) as error:
            raise self._damage(str(error)) from None
        if fortran or dtype != np.uint8 or len(shape) != 3 or size - self._start != np.prod(shape):
            raise self._damage(f"{size} bytes are not those of slices of shape {shape}")
        self.shape: tuple[int, int, int] = shape

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return one slice ``[rows, columns]``."""
        slices, rows, columns = self.shape
        place = self._start + range(slices)[index] * rows * columns
        try:
            flat = np.fromfile(self.path, np.uint8, rows * columns, offset=place)
            return flat.reshape(rows, columns)
        except (OSError, ValueError) as error:
            raise self._damage(str(error)) from None

    def _damage(self, reason: str) -> InputError:
        return InputError(f"{self.path}: damaged ({reason}); {_REMEDY}")


def windowed_stacks(volume: Volume) -> list[Volume]:
    """Return the stacks of a series in 8 bits, each `Volume.completed`: what the cache gives back of it."""
    return [stack.completed() for stack in volume.windowed().stacks()]


def volume_worker(source: Source, folder: Path) -> dict[str, object]:
    """Cache a whole series: per stack one uint8 ``[slices, rows, columns]`` file, and one table of geometry.

    Raises:
        UnreadableSeries: no usable slice.
    """
    volume = read_series(Path(source.folder), source.files, source.kind).windowed()
    stacks = volume.stacks()
    name = f"{source.study_id}_{source.series_id}"
    write_volumes(folder, name, stacks)
    skipped = [{"file": shown(one.path.name), "reason": one.reason} for one in volume.skipped]
    return {
        "file": f"{name}.json",
        "slices": sum(map(len, stacks)),
        "stacks": len(stacks),
        "skipped": json.dumps(skipped),
        "notes": "; ".join(volume.notes),
    }


def write_volumes(folder: Path, name: str, stacks: list[Volume]) -> None:
    """Write windowed stacks, not completed, to ``{name}.json`` and ``{name}_{number}.npy``."""
    entries = []
    for number, stack in enumerate(stacks):
        file, pixels = f"{name}_{number}.npy", stack.pixels
        write_atomic(folder / file, lambda path, pixels=pixels: np.save(path, pixels))  # type: ignore[misc]
        tables = {table: _with_null(getattr(stack, table)) for table in _TABLES}
        entries.append({"file": file, **tables, "instance_numbers": list(stack.instance_numbers)})
    window = stacks[0].window if stacks else None
    write_json(folder / f"{name}.json", {"format": FORMAT, "window": window, "stacks": entries})


def _with_null(values: NDArray[np.float64]) -> list[list[float | None]]:
    """Return rows as lists; JSON has no word for NaN."""
    return [[None if np.isnan(value) else value for value in row] for row in values.tolist()]


def read_volumes(folder: Path, file: str, series_id: str = "", kind: str = "") -> list[Volume]:
    """Read one series of the cache as `windowed_stacks` gives it; pixels stay in files, see `CachedImages`.

    `file`, relative to `folder` of the cache kind ``volumes``, is the series' JSON file, as in the index.

    Raises:
        InputError: the file or one of its pictures is missing, damaged or of another version.
    """
    path = folder / file
    content = read_json(path)
    try:
        if content.get("format") != FORMAT:
            raise InputError(f"{path}: written by another version of this package, or damaged; {_REMEDY}")
        window = tuple(content["window"])
        found = [_read_stack(path.parent, entry) for entry in content["stacks"]]
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error!r}); {_REMEDY}") from None
    return [replace(one, series_id=series_id, kind=kind, window=window) for one in found]


def _read_stack(folder: Path, entry: dict[str, Any]) -> Volume:
    images = CachedImages(folder / entry["file"])
    # A number that is not known is null in the file, and NaN here.
    positions, orientation, spacing = (
        np.array(entry[name], dtype=np.float64).reshape(len(images), -1) for name in _TABLES
    )
    return Volume(images, positions, orientation, spacing, tuple(entry["instance_numbers"])).completed()
