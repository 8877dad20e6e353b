"""Speed of the phantom against what is asked of it: `make benchmark`. Never part of the tests."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from lumbar_kaggle.core.budget import usable_cores
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.settings import STANDARD_SETS
from tests.support.measuring import processor_seconds, row

STUDIES = 24  # enough that the start of the workers does not count
REQUIRED = 0.5
"""Studies per second on one core."""


@pytest.mark.parametrize("workers", sorted({1, usable_cores()}))
def test_small_set(workers: int, tmp_path: Path) -> None:
    """Seconds of one core for a study: processor time, which other work spares, and by the clock."""
    few = replace(STANDARD_SETS["small"], studies=STUDIES - 1, test_studies=1)
    write_set(tmp_path / "warm", replace(few, studies=1), workers=workers)
    clock, processor = time.perf_counter(), processor_seconds()
    write_set(tmp_path / "small", few, workers=workers)
    took = processor_seconds() - processor, (time.perf_counter() - clock) * workers
    for what, seconds in zip(("processor time", "by the clock"), took, strict=True):
        row(f"a phantom study, {workers} at once, {what}", "s", seconds / STUDIES, 1 / REQUIRED)
