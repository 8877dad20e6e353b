"""Which workers are taken: both kinds are tried where there is enough to do, and the faster one stays."""

import logging

import pytest

from lumbar_kaggle.dicom import pools as module
from lumbar_kaggle.dicom.pools import Pools


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has."""
    monkeypatch.setattr(module, "usable_cores", lambda: 2)


@pytest.mark.parametrize(("seconds", "faster"), [(5.0, "processes"), (20.0, "threads")])
def test_the_faster_kind_stays(seconds: float, faster: str, caplog: pytest.LogCaptureFixture) -> None:
    """Threads begin, processes are tried in the second batch, and one line says what was found."""
    caplog.set_level(logging.INFO)
    with Pools() as pools:
        assert pools.choose(10**6) == "threads"
        pools.tell("threads", 1000, 10.0)
        assert pools.choose(10**6) == "processes"
        pools.tell("processes", 1000, seconds)
        for _ in range(3):
            assert pools.choose(10**6) == faster
            pools.tell(faster, 1000, min(seconds, 10.0))
        assert pools.pool("processes").submit(abs, -3).result() == 3
    (record,) = caplog.records
    assert record.getMessage().startswith("Slices per second here: threads 100, processes ")
    assert f"going on with {faster}" in record.getMessage()


def test_a_little_work_is_left_to_threads() -> None:
    """Starting processes would take longer; and a batch too small to be timed tells nothing."""
    with Pools() as pools:
        pools.tell("threads", 0, 0.0)
        assert pools.choose(10**6) == "threads"
        pools.tell("threads", 1000, 10.0)
        assert pools.choose(2000) == "threads"


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_a_kind_that_is_asked_for_is_taken(kind: str) -> None:
    """Without a trial, whatever the speed."""
    with Pools(kind, 2) as pools:
        for _ in range(3):
            assert pools.choose(10**6) == kind
            pools.tell(kind, 1, 100.0)
        assert pools.pool(kind).submit(abs, -3).result() == 3


def test_one_core_has_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """There processes decode no faster."""
    monkeypatch.setattr(module, "usable_cores", lambda: 1)
    with Pools() as pools:
        pools.tell("threads", 1000, 10.0)
        assert pools.choose(10**6) == "threads"
