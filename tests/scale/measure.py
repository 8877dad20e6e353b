"""Every stage of both recipes in a child process each, with what it took."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

CHILD = """
import resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), hard))
if len(sys.argv) == 2:
    import torch
else:
    from lumbar_kaggle.cli import main
    sys.exit(main(sys.argv[2:]))
"""
"""Sets its limit of open files, and is one `lumbar` command; without arguments it is torch alone."""

BASELINE = (
    *("--targets", "spinal_canal_stenosis_l4_l5", "--arch", "mobilenetv3_small_050", "--weights", "none"),
    *("--image-size", "32", "--folds", "2", "--lr", "0.001"),
    *("--short-epochs", "1", "--middle-epochs", "1", "--long-epochs", "1"),
)

TWO_STAGE = {
    "locate": {
        **{"folds": 2, "epochs": 3, "picture": [64, 64], "pixel_mm": 4.0, "slices": 1},
        "channels": [4, 8, 8, 8, 8],
    },
    "grade": {
        **{"folds": 2, "epochs": 1, "batch_size": 32, "sagittal_px": 16, "axial_px": 16},
        **{"slices": [1, 1, 1, 1], "features": 8, "backbones": ["mobilenetv3_small_050"] * 2},
    },
}
"""Networks that learn nothing, in the time that everything around them takes."""

MB = 1e6


@dataclass(frozen=True)
class Took:
    """What a stage took.

    Attributes:
        stage: its name.
        studies: that it works on.
        seconds: wall time.
        busy: seconds of processor time, of the process and its children, which other work on the machine leaves alone.
        memory_mb: greatest resident memory of the process or one of its children.
        files: greatest number of open files seen; 0 where the system does not tell.
        disk_mb: of everything in the folder after it.
    """

    stage: str
    studies: int
    seconds: float
    busy: float
    memory_mb: float
    files: int
    disk_mb: float


def stages(place: Path, studies: int, test_studies: int) -> list[tuple[str, int, list[str]]]:
    """Return name, number of studies and arguments of each stage in a folder of `studies.write_studies`."""
    root, cache = str(place / "competition"), str(place / "cache")
    (place / "two-stage.json").write_text(json.dumps(TWO_STAGE))
    runs = {name: str(place / f"run-{name}") for name in ("baseline", "two-stage")}
    bundles = {name: str(place / f"bundle-{name}") for name in runs}
    outs = {name: str(place / f"{name}.csv") for name in runs}
    train = ["train", root, "--cache", cache, "--out"]
    settings = {
        "baseline": list(BASELINE),
        "two-stage": ["--recipe", "two-stage", "--config", str(place / "two-stage.json")],
    }
    steps = [
        ("torch alone", 1, []),
        ("check", studies, ["check", root]),
        *((f"preprocess {kind}", studies, ["preprocess", root, "--cache", cache, "--kind", kind])
          for kind in ("baseline", "volumes")),
    ]  # fmt: skip
    for name in runs:
        predict = ["predict", root, "--bundle", bundles[name], "--out", outs[name]]
        steps += [
            (f"train {name}", studies, [*train, runs[name], *settings[name]]),
            (f"export {name}", studies, ["export", runs[name], "--out", bundles[name]]),
            (f"predict {name}", test_studies, predict),
            (f"predict {name} again", test_studies, predict),
        ]
    truth = ["--truth", str(place / "truth.csv")]
    steps += [
        ("validate", test_studies, ["validate", outs["two-stage"], "--competition", root]),
        ("score", test_studies, ["score", outs["two-stage"], *truth]),
    ]
    return steps


def measure(place: Path, stage: str, studies: int, arguments: Sequence[str], limit: int) -> Took:
    """Run one stage in a child process with at most `limit` open files.

    Raises:
        RuntimeError: it failed; its output is in the text.
    """
    start = time.perf_counter()
    with (place / "stage.log").open("w+b") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(limit), *arguments], stdout=log, stderr=subprocess.STDOUT
        )
        most, ended = [0], threading.Event()
        watcher = threading.Thread(target=_watch, args=(child.pid, most, ended))
        watcher.start()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watcher.join()
        log.seek(0)
        if child.returncode:
            raise RuntimeError(f"{stage} ended with {child.returncode}:\n{log.read().decode()[-3000:]}")
    # Kilobytes, but on macOS bytes.
    memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    disk = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    busy = usage.ru_utime + usage.ru_stime
    return Took(stage, studies, time.perf_counter() - start, busy, memory / MB, most[0], disk / MB)


def _watch(pid: int, most: list[int], ended: threading.Event) -> None:
    """Note the greatest number of a process's open files, until it has ended."""
    while not ended.wait(0.05):
        with contextlib.suppress(OSError):  # no such process any more, or no such folder on this system
            most[0] = max(most[0], len(os.listdir(f"/proc/{pid}/fd")))


def compare(*sizes: Sequence[Took]) -> str:
    """Return a Markdown table of the same stages at several sizes side by side. What is added
    for each study from one size to the next is free of what every run takes; it is flat where time grows linearly."""
    rows = []
    for same in zip(*sizes, strict=True):

        def beside(text: Callable[[Took], str], same: tuple[Took, ...] = same) -> str:
            return " / ".join(map(text, same))

        row = {"stage": same[0].stage, "studies": beside(lambda one: f"{one.studies}")}
        row["s"] = beside(lambda one: f"{one.seconds:.0f}")
        row["processor ms per study"] = beside(lambda one: f"{1000 * one.busy / one.studies:.0f}")
        steps = [
            (more.busy - less.busy) / max(more.studies - less.studies, 1) for less, more in itertools.pairwise(same)
        ]
        row["added ms per study"] = " / ".join(f"{1000 * step:.0f}" for step in steps)
        row["peak MB"] = beside(lambda one: f"{one.memory_mb:.0f}")
        row["open files"] = beside(lambda one: f"{one.files}")
        row["disk MB"] = beside(lambda one: f"{one.disk_mb:.0f}")
        rows.append(row)
    table = pd.DataFrame(rows).astype(str)
    lines = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
