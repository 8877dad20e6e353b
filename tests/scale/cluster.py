"""A day of a cluster in half a minute: the real scheduler, 64 workers, 10,000 tasks that only wait; and failures.

``python -m tests.scale.cluster`` prints one Markdown table. Lengths are drawn around the seconds that a study takes to
be graded, and shortened by one factor for all; workers die and come back, and some tasks raise what a mount raises that
was away. It shows what the scheduler itself costs, not what the work does."""

import argparse
import time
from collections import Counter
from concurrent.futures import as_completed
from dataclasses import dataclass

import numpy as np
from distributed import LocalCluster

from lumbar_kaggle.core.cluster import on_scheduler, open_pool

SPREAD = 0.5  # standard deviation of the logarithm of a task's length: studies have 20 to 300 slices


@dataclass(frozen=True)
class Day:
    """What is simulated."""

    tasks: int = 10_000
    workers: int = 64
    mean_s: float = 1.7  # of a task, before it is shortened
    faster: float = 10.0
    failing: float = 0.002  # share of attempts that raise
    deaths: int = 16  # workers that end, spread over the day
    seed: int = 1


def wait(task: int, seconds: float, fails: bool) -> int:
    """Do nothing for a while; fail at the first attempt."""
    time.sleep(seconds)
    if fails and task not in failed:
        failed.add(task)
        raise OSError("the mount was away")
    done[task] += 1
    return task


failed: set[int] = set()
done: Counter[int] = Counter()


def simulate(day: Day) -> dict[str, float]:
    """Run one day; the workers are threads of this process, the scheduler is the real one, over real connections."""
    rng = np.random.default_rng(day.seed)
    failed.clear()
    done.clear()
    lengths = day.mean_s / day.faster * np.exp(rng.normal(-(SPREAD**2) / 2, SPREAD, day.tasks))
    fails = rng.random(day.tasks) < day.failing
    expected = float(lengths.sum()) / day.workers
    options = {
        "n_workers": day.workers,
        "threads_per_worker": 1,
        "processes": False,
        "protocol": "tcp",
        "dashboard_address": None,
    }
    with LocalCluster(**options) as cluster, on_scheduler(cluster.scheduler_address), open_pool("processes", 1) as pool:
        begin, busy = time.perf_counter(), time.process_time()
        futures = [pool.submit(wait, *task) for task in zip(range(day.tasks), lengths, fails, strict=True)]
        for death in range(day.deaths):
            time.sleep(max(0, begin + expected * (death + 1) / (day.deaths + 1) - time.perf_counter()))
            dying = rng.choice(list(cluster.workers))
            cluster.sync(cluster.workers[dying].close, timeout=1, executor_wait=False)
            cluster.scale(day.workers)
        results = [future.result() for future in as_completed(futures)]
        took, busy = time.perf_counter() - begin, time.process_time() - busy
    assert sorted(results) == list(range(day.tasks))
    return {
        "tasks": day.tasks,
        "workers": day.workers,
        "expected_s": expected,
        "took_s": took,
        "used": expected / took,
        "raised": len(failed),
        "done_again": sum(done.values()) - day.tasks,
        "ms_per_task": 1000 * busy / day.tasks,
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in vars(Day()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    figures = simulate(Day(**vars(parser.parse_args())))
    print(f"| {' | '.join(figures)} |\n|{'---|' * len(figures)}")
    print(f"| {' | '.join(f'{value:.4g}' for value in figures.values())} |")


if __name__ == "__main__":
    from tests.scale import cluster

    cluster.main()  # of the module that the workers import, whose counters they share
