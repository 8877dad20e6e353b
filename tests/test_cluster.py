"""Work on a dask scheduler: real processes, the results of one machine, and what happens when some of them die."""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lumbar_kaggle.cli import main
from lumbar_kaggle.core import cluster as scheduling
from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import SEVERITIES
from lumbar_kaggle.kaggle.play import tree_hashes
from lumbar_kaggle.tables.submission import read_predictions
from lumbar_kaggle.training.devices import spread
from tests.support.forked import fork, write_to
from tests.support.waiting import until

LocalCluster = pytest.importorskip("distributed", reason="install the extra [cluster]").LocalCluster


class Cluster:
    """A scheduler and two workers with a thread each, all processes of their own."""

    def __init__(self, folder: Path) -> None:
        place = folder / "scheduler.json"
        self.scheduler = fork(dask, folder, "dask_scheduler", "--port", "0", "--scheduler-file", str(place))
        until(place.is_file)
        self.address: str = json.loads(place.read_text())["address"]
        # Not as children of a nanny: that one would start a worker again that a test has ended.
        words = self.address, "--nthreads", "1", "--no-nanny", "--local-directory", str(folder)
        self.workers = [fork(dask, folder, "dask_worker", *words) for _ in range(2)]

    def end(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.join()


def dask(folder: Path, command: str, *options: str) -> None:
    """Be one of dask's own commands; what it says goes to a file of the folder."""
    write_to(folder / "log.txt", folder / "log.txt")
    os.chdir(folder)
    import_module(f"distributed.cli.{command}").main(["--no-dashboard", *options])


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    one = Cluster(tmp_path_factory.mktemp("cluster"))
    yield one
    one.end()


def note(folder: Path, item: int) -> int:
    """Leave a file that tells the process, then take a moment."""
    (folder / f"{item}.{os.getpid()}").touch()
    time.sleep(0.2)
    if item < 0:
        raise OutOfTime("the time budget is spent")
    return item * item


def use_until_it_dies(cluster: Cluster, folder: Path) -> None:
    """Work with both workers, then with one, then without a scheduler."""
    with scheduling.on_scheduler(cluster.address), scheduling.open_pool(1) as pool:
        futures = [pool.submit(note, folder, item) for item in range(12)]
        next(as_completed(futures))
        until(lambda: len({path.suffix for path in folder.iterdir()}) == 2)
        cluster.workers[0].kill()
        assert sorted(future.result() for future in futures) == [item * item for item in range(12)]

        shared = folder / "spread"
        shared.mkdir()
        spread(note, shared, [1, 2, 3])
        assert {path.name for path in shared.iterdir()} == {f"{item}.{cluster.workers[1].pid}" for item in (1, 2, 3)}
        with pytest.raises(OutOfTime):
            spread(note, shared, [-1])

        lost = [pool.submit(note, folder, item) for item in range(100, 110)]
        next(as_completed(lost))
        cluster.scheduler.kill()
        for future in lost:
            future.result()


def test_a_worker_that_dies_loses_nothing_and_a_scheduler_that_dies_is_said(cluster: Cluster, tmp_path: Path) -> None:
    """One worker killed midway leaves its tasks to the other; without a scheduler there is a sentence."""
    with pytest.raises(InputError, match="the scheduler was lost; what was finished is kept"):
        use_until_it_dies(cluster, tmp_path)
    assert not scheduling.on_cluster()


def fail_first(item: int) -> None:
    """Fail at once for the first item, take a moment for the others."""
    if item == 0:
        raise OutOfTime("the time budget is spent")
    time.sleep(0.3)


def test_what_a_task_raises_is_not_taken_for_a_lost_scheduler() -> None:
    """Also where other tasks have not ended by then."""
    options: dict[str, Any] = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "protocol": "tcp"}
    with LocalCluster(dashboard_address=None, **options) as local, pytest.raises(OutOfTime):  # noqa: SIM117
        with scheduling.on_scheduler(local.scheduler_address), scheduling.open_pool(1) as pool:
            list(pool.map(fail_first, range(30)))


def test_every_stage_leaves_what_it_leaves_on_one_machine(
    cluster: Cluster,
    two_stage: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Phantom and cache byte for byte, trained networks and predictions as far as other cores compute them."""
    monkeypatch.chdir(tmp_path)
    there = ("--scheduler", cluster.address)

    def lumbar(*words: object) -> str:
        assert main([*map(str, words)]) == 0
        return capsys.readouterr().out

    for name, more in (("here", ("--workers", 1)), ("there", there)):
        lumbar("phantom", f"{name}/set", "--studies", 1, "--test-studies", 1, *more)
        lumbar("preprocess", "here/set", "--cache", f"{name}/cache", "--kind", "volumes", *more[:2])
    assert tree_hashes(tmp_path / "here" / "set") == tree_hashes(tmp_path / "there" / "set") != {}
    assert tree_hashes(tmp_path / "here" / "cache") == tree_hashes(tmp_path / "there" / "cache") != {}

    competition, cache = two_stage / "competition", two_stage / "cache"
    for name, more in (("here", ()), ("there", there)):
        given = ("--bundle", two_stage / "bundle", "--out", f"{name}/submission.csv", "--json", f"{name}/json")
        lumbar("predict", competition, *given, *more)
        use = ("--weights", two_stage / "bundle", "--epochs", 0)
        lumbar("locate", competition, "--cache", cache, "--out", f"{name}/located", *more, *use)
    for name, columns in (("submission.csv", list(SEVERITIES)), ("located/points.csv", ["x_mm", "y_mm", "z_mm"])):
        here, elsewhere = (pd.read_csv(tmp_path / place / name) for place in ("here", "there"))
        assert here.drop(columns=columns).equals(elsewhere.drop(columns=columns)) or name.endswith("points.csv")
        np.testing.assert_allclose(here[columns], elsewhere[columns], atol=1e-4)
    for path in (tmp_path / "here" / "json").iterdir():
        ours, theirs = (json.loads((tmp_path / name / "json" / path.name).read_text()) for name in ("here", "there"))
        assert ours["views"] == theirs["views"] != []
        assert ours.keys() == theirs.keys()
    assert "graded" in lumbar("predict", competition, "--bundle", two_stage / "bundle", "--out", "here/submission.csv")

    settings = two_stage / "settings.json"
    lumbar(
        "train", competition, "--cache", cache, "--out", "run", "--recipe", "two-stage", "--config", settings, *there
    )
    trained, before = (read_predictions(run / "oof.csv") for run in (tmp_path / "run", two_stage / "run"))
    np.testing.assert_allclose(trained[list(SEVERITIES)], before[list(SEVERITIES)], atol=1e-3)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "tcp://no-such-host.invalid:8786"])
def test_where_no_scheduler_answers_the_sentence_says_how_to_start_one(address: str) -> None:
    """At once, and without a traceback."""
    with (
        pytest.raises(InputError, match=r"no dask scheduler answers there; start one with"),
        scheduling.on_scheduler(address),
    ):
        raise AssertionError("never entered")


def test_a_budget_travels_as_what_is_left_of_it() -> None:
    """Clocks of two machines count from different moments."""
    import pickle

    now = [1000.0]
    budget = Budget(1.0, reserve_minutes=30, clock=lambda: now[0])
    now[0] += 600
    there: Budget = pickle.loads(pickle.dumps(budget))
    assert there.left_s() == pytest.approx(1200, abs=30)
    assert pickle.loads(pickle.dumps(Budget(None))).left_s() == float("inf")
