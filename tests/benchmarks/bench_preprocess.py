"""Preprocessing against its limit, reading and decoding the same files and nothing else: `make benchmark`, as a table
of ratios within one run. Never part of the tests.

Seconds are processor time of all processes, which other work on the machine leaves alone, and by the clock where files
are waited for. With the environment variable LUMBAR_BENCHMARK_FOLDER the first studies of that competition folder are
taken instead of new ones."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydicom
import pytest

from lumbar_kaggle.baseline.images import CACHE_CONFIG, image_worker, rank_series
from lumbar_kaggle.dicom import headers, plain
from lumbar_kaggle.dicom.cache import Cache, CacheConfig, Source
from lumbar_kaggle.dicom.decoders import Layout, plain_frame
from lumbar_kaggle.dicom.headers import Header, read_file
from lumbar_kaggle.dicom.instances import read_layout
from lumbar_kaggle.dicom.pools import AUTO, PROCESSES, THREADS, Pools
from lumbar_kaggle.dicom.preprocess import VOLUMES, Worker, preprocess, scan_sources, volume_worker
from lumbar_kaggle.dicom.series import middle_first, read_headers, read_series
from lumbar_kaggle.dicom.volume import percentiles
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.settings import PhantomSet
from lumbar_kaggle.tables.competition import read_competition
from tests.support.measuring import memory_mb, processor_seconds, row

STUDIES = int(os.environ.get("LUMBAR_BENCHMARK_STUDIES", "24"))
POOLS = (THREADS, PROCESSES, AUTO)
ROUNDS = 3  # each thing is done in turn so many times, and the fastest counts
LATENCY = 0.005  # s, of opening a file on a slow mount

Plan = list[
    tuple[Path, int, Layout]
]  # of a series: each file, where its one frame begins, how it is stored; 0: not read


def fastest(
    *works: Callable[[], object], cache: Path | None = None, clock: Callable[[], float] = processor_seconds
) -> list[float]:
    """Do several things in turn; return the seconds of each one's fastest round. The `cache` that one of them fills is
    removed before each: a virtual machine's memory is dear where it was never used before."""
    seconds = [float("inf")] * len(works)
    for _ in range(ROUNDS):
        for number, work in enumerate(works):
            if cache:
                shutil.rmtree(cache, ignore_errors=True)
            os.sync()  # what was written before is not counted with what is now
            start = clock()
            work()
            seconds[number] = min(seconds[number], clock() - start)
    return seconds


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A competition folder."""
    if given := os.environ.get("LUMBAR_BENCHMARK_FOLDER"):
        return Path(given)
    folder = tmp_path_factory.mktemp("bench") / "competition"
    write_set(folder, PhantomSet("", 1, STUDIES, 1))
    return folder


@pytest.fixture(scope="module")
def sources(root: Path) -> list[Source]:
    """All series of the first studies; says how many slices they have."""
    series = read_competition(root, "train").series
    with Pools("threads") as pools:
        found = scan_sources(series[series["study_id"].isin(series["study_id"].unique()[:STUDIES])], pools.threads)
    print(f"\n{sum(one.slices for one in found)} slices of {STUDIES} studies")
    return found


def plan_of(source: Source, *, middle: bool = False) -> Plan:
    """Say how to decode a series, or its middle slice alone."""
    plans = []
    for path in sorted(Path(source.folder).iterdir()):
        dataset, syntax = read_file(path, pixels=True)
        assert isinstance(dataset, plain.Plain)
        start = path.read_bytes().index(dataset.value(plain.PIXEL_DATA))
        plans.append((path, start, read_layout(Header([dataset]), syntax)))
    if middle:
        chosen = middle_first(read_headers(Path(source.folder))[0])[0].path
        plans = [(path, start * (path == chosen), layout) for path, start, layout in plans]
    return plans


def decode(plan: Plan) -> None:
    """Read and decode, and nothing else."""
    for path, start, layout in plan:
        content = headers.read_content(path)
        if start:
            plain_frame(content[start : None if layout.syntax == plain.ExplicitVRLittleEndian else -8], layout)


def decode_by_pydicom(plan: Plan) -> None:
    """The plain way."""
    for path, *_ in plan:
        pydicom.dcmread(path).pixel_array  # noqa: B018


def fill(cache: Path, sources: list[Source], config: CacheConfig, worker: Worker, pools: Pools) -> None:
    """Fill a new cache with some sources."""
    preprocess(sources, Cache(cache, config.kind), config, worker, pools, batch_size=10**4)


@pytest.mark.parametrize("kind", ["threads", "processes"])
@pytest.mark.parametrize("encoding", ["all files", "native and RLE"])
def test_volumes(sources: list[Source], kind: str, encoding: str, tmp_path: Path) -> None:
    """Whole series to the cache, with one thread or two processes."""
    plans = [plan_of(source) for source in sources]
    fast = {"native and RLE": {plain.ExplicitVRLittleEndian, plain.RLELossless}}
    chosen = [
        (source, plan)
        for source, plan in zip(sources, plans, strict=True)
        if {one.syntax for *_, one in plan} <= fast.get(encoding, plain.ENCODED | {plain.ExplicitVRLittleEndian})
    ]
    some, mine = [source for source, _ in chosen], [plan for _, plan in chosen]
    workers = {"threads": 1, "processes": 2}[kind]
    with Pools(kind, workers) as pools:
        pool = pools.pool(kind)
        list(pool.map(decode_by_pydicom, mine))  # the workers have started, and what they need is imported
        fill(tmp_path, some, VOLUMES, volume_worker, pools)
        ours, limit, theirs = fastest(
            lambda: fill(tmp_path, some, VOLUMES, volume_worker, pools),
            lambda: list(pool.map(decode, mine)),
            lambda: list(pool.map(decode_by_pydicom, mine)),
            cache=tmp_path,
        )
    what = f"volumes, {encoding}, {'one thread' if workers == 1 else 'two processes'}"
    row(what, "s", ours, limit)
    row(f"{what}, against dcmread and pixel_array", "s", ours, theirs)


@pytest.mark.parametrize("latency", [0, LATENCY])
def test_pictures(
    root: Path, sources: list[Source], latency: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The baseline's pictures, in memory with one thread, and on a slow mount with eight."""
    known = {one.series_id: one for one in sources}
    ranked = rank_series(read_competition(root, "train").series)["series_id"]
    some = [known[one] for one in ranked if one in known]
    plans = [plan_of(source, middle=True) for source in some]
    plainly = Path.open

    def slowly(path: Path, *args: Any, **how: Any) -> Any:
        if path.suffix == ".dcm":
            time.sleep(latency)
        return plainly(path, *args, **how)

    if latency:
        monkeypatch.setattr(Path, "open", slowly)
    with Pools("threads", 8 if latency else 1) as pools:
        ours, limit = fastest(
            lambda: fill(tmp_path, some, CACHE_CONFIG, image_worker, pools),
            lambda: list(pools.threads.map(decode, plans)),
            cache=tmp_path,
            clock=time.perf_counter if latency else time.process_time,
        )
    row("baseline, 5 ms per file, 8 threads, by the clock" if latency else "baseline, one thread", "s", ours, limit)


def test_window(sources: list[Source]) -> None:
    """The percentiles of a series against NumPy's."""
    images = list(read_series(Path(sources[0].folder)).images)
    ours, limit = fastest(
        lambda: [percentiles(*images) for _ in range(5)],
        lambda: [np.percentile(np.concatenate([one.ravel() for one in images]), [1, 99]) for _ in range(5)],
        clock=time.process_time,
    )
    row("percentiles of a series, against numpy.percentile", "s", ours, limit)


@pytest.mark.parametrize("kind", POOLS)
def test_memory(root: Path, sources: list[Source], kind: str, tmp_path: Path) -> None:
    """The most that is seen above one interpreter with the package, workers and decoders included, against 300 MB."""
    code = (
        "import sys; from pathlib import Path; import psutil\n"
        "from lumbar_kaggle.cli import main\n"
        "from lumbar_kaggle.inference.recipes import fill_cache\n"
        "from lumbar_kaggle.dicom.preprocess import VOLUMES, volume_worker\n"
        "from lumbar_kaggle.tables.competition import read_competition\n"
        "root, cache, kind, *studies = sys.argv[1:]; series = read_competition(Path(root), 'train').series\n"
        "main(['--version'])\n"  # as the command begins
        "print(psutil.Process().memory_full_info().pss / 2**20, flush=True)\n"
        "some = series[series['study_id'].isin(studies)]\n"
        "fill_cache(Path(root), some, 'series', Path(cache), VOLUMES, volume_worker, pool_kind=kind)\n"
    )
    studies = dict.fromkeys(source.study_id for source in sources)
    command = [sys.executable, "-c", code, str(root), str(tmp_path / "cache"), kind, *studies]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout
        assert child.stdout.readline()  # the version
        before, most = float(child.stdout.readline()), 0.0
        while child.poll() is None:
            most = max(most, memory_mb(psutil.Process(child.pid)))
            time.sleep(0.1)
    assert child.returncode == 0
    row(f"memory above the interpreter, {kind}", "MB", most - before, 300)
