"""Series → cache, in batches over a pool of workers; stopped at any moment, it goes on where it was."""

import json
import logging
import math
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import as_path, in_parts, locked, read_json, shown, write_atomic, write_text
from lumbar_kaggle.dicom.cache import OK, Batch, Cache, CacheConfig, Source
from lumbar_kaggle.dicom.plain import HEAD_BYTES
from lumbar_kaggle.dicom.pools import THREADS, Pools
from lumbar_kaggle.dicom.series import UnreadableSeries, read_series
from lumbar_kaggle.dicom.volume import GEOMETRY, HIGH, LOW, Volume
from lumbar_kaggle.tables.competition import SERIES_COLUMNS

log = logging.getLogger(__name__)
HELD_BYTES = 48 * 2**20  # of the files that threads work on at once; eight usual series have 43 MB
# Writes one source's files into a folder and returns its index entry (at least ``file``).
Worker = Callable[[Source, Path], dict[str, object]]


@dataclass(frozen=True)
class Summary:
    """What a preprocessing run did."""

    series: int  # entries in the cache
    failed: int  # of them without an image
    slices: int  # read in this run
    seconds: float  # wall time of this run
    skipped: int  # batches that were already there

    def sentence(self) -> str:
        """Return one line on the result."""
        text = f"{self.series} series in the cache"
        if self.failed:
            text += f", {self.failed} of them unreadable (see the index's reason column)"
        if self.slices:
            text += f"; {self.slices} slices in {self.seconds:.1f} s, {self.slices / self.seconds:.0f} per second"
        return text


def scan_sources(series: pd.DataFrame, pool: Executor) -> list[Source]:
    """List the files of every series of `competition.Competition.series`, in its order."""
    return list(in_parts(pool, Source.scan, *(series[name] for name in SERIES_COLUMNS)))


def preprocess(
    sources: list[Source],
    cache: Cache,
    config: CacheConfig,
    worker: Worker,
    pools: Pools,
    *,
    batch_size: int = 64,
    budget: Budget | None = None,
) -> Summary:
    """Fill a cache with the entries that `worker`, a module-level function, makes of the sources, in their order.
    Batches of `batch_size` series are worked on one after the other and their members side by side, so memory does not
    grow with the number of studies, and a killed run loses at most one batch. The result does not depend on where a run
    was interrupted, nor on the pools. Entries that failed are made again when their files are there, for a mount may
    have been away; so are those of files that changed. Raises InputError where the folder was made with other settings
    or another run is at work on it, and OutOfTime where the budget, asked before each batch, is spent; the batches so
    far are kept."""
    with locked(cache.folder):
        cache.open(config)
        batches, todo = cache.plan(sources, batch_size), deque[tuple[Batch, list[Any], dict[int, Source]]]()
        failed = 0
        for batch in batches:
            before = cache.entries(batch)
            rows: list[Any] = [{}] * len(batch.sources) if before is None else before.to_dict("records")
            known = [""] * len(rows) if before is None else pools.threads.map(Source.fingerprint, batch.sources)
            missing = {
                number: source
                for number, (row, source, now) in enumerate(zip(rows, batch.sources, known, strict=True))
                if not row or (row["source"] != now if row["status"] == OK else source.slices)
            }
            if missing:
                todo.append((batch, rows, missing))
            else:
                failed += _failed(rows)
        log.info("Preprocessing %d series into %s", len(sources), cache.folder)
        if done := len(batches) - len(todo):
            log.info("%d of %d batches are already there and are skipped", done, len(batches))
        start, total = time.perf_counter(), sum(source.slices for *_, missing in todo for source in missing.values())
        with tqdm(total=total, unit="slice", desc="preprocess", disable=not todo) as progress:
            while todo:
                batch, rows, missing = todo.popleft()  # a batch's rows are not kept once they are written
                if budget:
                    budget.check()
                folder, kind = cache.begin(batch), pools.choose(total - progress.n)
                first: tuple[int, float] | None = None  # slices and time when the workers were at work for sure
                for number, rows[number] in _entries(pools, kind, partial(_entry, worker, folder=folder), missing):
                    progress.update(missing[number].slices)
                    first = first or (progress.n, time.perf_counter())
                if first:
                    pools.tell(kind, progress.n - first[0], time.perf_counter() - first[1])
                # As objects: a failed entry has no numbers, and would turn those of the others into floats.
                cache.commit(batch, pd.DataFrame(rows, dtype=object))
                failed += _failed(rows)
        if batches:
            cache.finish(batches)
        return Summary(len(sources), failed, total, time.perf_counter() - start, done)


def _failed(rows: Sequence[Mapping[str, object]]) -> int:
    return sum(row["status"] != OK for row in rows)


def _entries(
    pools: Pools, kind: str, work: Callable[[Source], dict[str, object]], sources: dict[int, Source]
) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield what a kind of workers makes of numbered sources, as each is done. To threads no more than `HELD_BYTES` of
    files are given at once: a few long series that meet would double what all of them hold."""
    waiting, running, held = deque(sources), dict[Future[dict[str, object]], int](), 0
    while waiting or running:
        while waiting and (kind != THREADS or not running or held + sources[waiting[0]].size <= HELD_BYTES):
            number = waiting.popleft()
            running[pools.pool(kind).submit(work, sources[number])] = number
            held += sources[number].size
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            number = running.pop(future)
            held -= sources[number].size
            yield number, future.result()


def _entry(worker: Worker, source: Source, folder: Path) -> dict[str, object]:
    entry: dict[str, object] = {"study_id": source.study_id, "series_id": source.series_id, "kind": source.kind}
    entry |= {"source": source.state, "status": OK, "reason": ""}
    try:
        return {**entry, **worker(source, folder)}
    except UnreadableSeries as error:
        return {**entry, "status": "failed", "reason": str(error), "file": ""}


VOLUMES = CacheConfig("volumes", 3, {"percentiles": [LOW, HIGH], "window": "series"})

FORMAT = "volumes-3"  # of a series' JSON file
_REMEDY = "delete its folder and run lumbar preprocess again"
# What `_save_slices` writes before the pixels. numpy would read it by Python's parser, and that of Python 3.11 fails
# now and then where several threads use it ("AST constructor recursion depth mismatch", a SystemError).
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '\|u1', 'fortran_order': False, 'shape': \((\d+), (\d+), (\d+)\), \} *\n",
    re.DOTALL,
)


class CachedImages(Sequence[NDArray[np.uint8]]):
    """Slices ``[slices, rows, columns]`` uint8 in a file of `numpy.save` that is open only while one is read. A set has
    some thousand stacks, more than a process may have open files. To another process goes the name of the file. Raises
    InputError where the file is missing, damaged or holds something else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                head, size = file.read(256), os.fstat(file.fileno()).st_size
        except OSError as error:
            raise self._damaged(str(error)) from None
        match = _NPY.match(head)
        if match is None:
            raise self._damaged("it does not begin as slices in 8 bits do")
        self.shape = tuple(map(int, match.groups()))
        self._start = match.end()
        if size != self._start + math.prod(self.shape):
            raise self._damaged(f"{size} bytes, of which {math.prod(self.shape)} should be pixels")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> NDArray[np.uint8]:  # type: ignore[override]
        """Return one slice ``[rows, columns]``."""
        count, start = math.prod(self.shape[1:]), self._start
        try:
            pixels = np.fromfile(self.path, np.uint8, count, offset=start + range(len(self))[index] * count)
            return pixels.reshape(self.shape[1:])
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, why: str) -> InputError:
        return InputError(f"{self.path}: damaged ({why}); {_REMEDY}")


def windowed_stacks(volume: Volume) -> list[Volume]:
    """Return the stacks of a series in 8 bits, each `Volume.completed`: what the cache gives back of it."""
    return [stack.completed() for stack in volume.windowed().stacks()]


def volume_worker(source: Source, folder: Path) -> dict[str, object]:
    """Cache a whole series; a `Worker` that raises UnreadableSeries where there is no usable slice."""
    heads: dict[Path, bytes] = {}

    def keep(path: Path, content: bytes) -> None:
        heads[path] = content[:HEAD_BYTES]

    volume = read_series(as_path(source.folder), source.files, source.kind, keep=keep).windowed()
    stacks, name = volume.stacks(), f"{source.study_id}_{source.series_id}"
    write_volumes(folder, name, stacks)
    counts = {"file": f"{name}.json", "slices": sum(map(len, stacks)), "stacks": len(stacks)}
    skipped = [{"file": shown(one.path.name), "reason": one.reason} for one in volume.skipped]
    return {
        "source": source.fingerprint(heads),
        **counts,
        "skipped": json.dumps(skipped),
        "notes": "; ".join(volume.notes),
    }


def write_volumes(folder: Path, name: str, stacks: list[Volume]) -> None:
    """Write windowed stacks, not completed: pixels to ``{name}_{number}.npy``, geometry to ``{name}.json``."""
    entries = []
    for number, stack in enumerate(stacks):
        file = f"{name}_{number}.npy"
        write_atomic(folder / file, partial(_save_slices, stack))
        known = {name: getattr(stack, name) for name in GEOMETRY}
        # JSON has no word for NaN.
        tables = {name: np.where(np.isnan(rows), np.array(None), rows).tolist() for name, rows in known.items()}
        entries.append({"file": file, **tables, "instance_numbers": list(stack.instance_numbers)})
    window = stacks[0].window if stacks else None
    write_text(folder / f"{name}.json", json.dumps({"format": FORMAT, "window": window, "stacks": entries}))


def _save_slices(stack: Volume, path: Path) -> None:
    """Write what `numpy.save` does of all slices in one array, without this array."""
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(stack), *stack.shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for image in stack.images:
            file.write(np.ascontiguousarray(image).data)


def read_volumes(folder: Path, file: str, series_id: str = "", kind: str = "") -> list[Volume]:
    """Read one series of the cache as `windowed_stacks` gives it; pixels stay in files, see `CachedImages`. `file`,
    relative to `folder` of the cache kind ``volumes``, is the series' JSON file, as in the index. Raises InputError
    where it or one of its pictures is missing, damaged or of another version."""
    path = folder / file
    content = read_json(path)
    try:
        if content.get("format") != FORMAT:
            raise InputError(f"{path}: written by another version of this package, or damaged; {_REMEDY}")
        window, found = tuple(content["window"]), []
        for entry in content["stacks"]:
            images, numbers = CachedImages(path.parent / entry["file"]), tuple(entry["instance_numbers"])
            # A number that is not known is null in the file, and NaN here.
            positions, orientation, spacing = (
                np.array(entry[name], dtype=np.float64).reshape(len(images), -1) for name in GEOMETRY
            )
            stack = Volume(images, positions, orientation, spacing, numbers, series_id, kind, window=window)
            found.append(stack.completed())
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error!r}); {_REMEDY}") from None
    return found
