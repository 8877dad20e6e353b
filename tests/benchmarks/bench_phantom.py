"""Speed of the phantom against what the small set needs: `make benchmark`. Never part of the tests."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from lumbar_kaggle.core.budget import usable_cores
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.settings import STANDARD_SETS

STUDIES = 24  # enough that the start of the workers does not count
REQUIRED = 0.5
"""Studies per second on one core."""


@pytest.mark.parametrize("workers", sorted({1, usable_cores()}))
def test_small_set(workers: int, tmp_path: Path) -> None:
    """Studies per second and core by the clock; for one, also processor time, which other work spares."""
    few = replace(STANDARD_SETS["small"], studies=STUDIES - 1, test_studies=1)
    write_set(tmp_path / "warm", replace(few, studies=1), workers=workers)
    clock, processor = time.perf_counter(), time.process_time()
    write_set(tmp_path / "small", few, workers=workers)
    speed = STUDIES / (time.perf_counter() - clock) / workers
    print(f"\nsmall set, {workers} workers: {speed:.2f} studies per second and core, ", end="")
    print(f"{speed / REQUIRED:.2f} of what is required")
    if workers == 1:
        print(f"processor time of one study: {(time.process_time() - processor) / STUDIES:.2f} s")
