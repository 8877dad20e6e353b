"""Speed, as ratios within one run: `make benchmark`. Never part of the tests."""

import time
from pathlib import Path

import pytest

from lumbar_kaggle.dicom.preprocess import Summary
from lumbar_kaggle.inference.recipes import recipe
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.settings import PhantomSet

STUDIES = 24


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantom studies, all series; prints how fast they are made."""
    folder = tmp_path_factory.mktemp("bench") / "competition"
    start = time.perf_counter()
    write_set(folder, PhantomSet("", 1, STUDIES, 1), workers=1)
    seconds = (time.perf_counter() - start) / (STUDIES + 1)
    print(f"\nphantom: {seconds:.2f} s per study on one core")
    return folder


def timed(studies: Path, cache: Path, kind: str, pool: str, workers: int) -> Summary:
    """Preprocess once; the images are in the operating system's memory by then."""
    chosen = recipe("two-stage" if kind == "volumes" else kind)
    return chosen.preprocess(studies, cache, pool_kind=pool, workers=workers, batch_size=24)


@pytest.mark.parametrize("kind", ["baseline", "volumes"])
def test_pools(studies: Path, tmp_path: Path, kind: str) -> None:
    """One thread, eight threads, two processes: slices per second and the ratio to one thread."""
    timed(studies, tmp_path / "warm", kind, "threads", 1)
    rows = []
    for pool, workers in (("threads", 1), ("threads", 8), ("processes", 2)):
        summary = timed(studies, tmp_path / f"{pool}-{workers}", kind, pool, workers)
        rows.append((f"{workers} {pool}", summary.slices / summary.seconds))
    for name, speed in rows:
        print(f"{kind}: {name:<12} {speed:7.0f} slices per second, {speed / rows[0][1]:.2f} of one thread")
