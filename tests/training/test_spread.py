"""Folds over several processes: everything is done once, errors come back, nothing outlives a killed run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lumbar_kaggle.core.budget import OutOfTime
from lumbar_kaggle.training import group
from lumbar_kaggle.training.devices import spread
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


def write_item(folder: Path, item: int) -> None:
    """Leave a file with the process and its threads; a negative item has no time."""
    if item < 0:
        raise OutOfTime("the time budget is spent")
    (folder / str(item)).write_text(f"{os.getpid()} {torch.get_num_threads()}")


def wait_long(folder: Path, item: int) -> None:
    """Tell the process, then do nothing for a minute."""
    (folder / f"{item}.part").write_text(str(os.getpid()))
    os.replace(folder / f"{item}.part", folder / str(item))
    time.sleep(60)


def test_every_item_is_worked_on_once_in_processes_of_their_own(tmp_path: Path) -> None:
    """Two processes besides this one share five items and the cores."""
    spread(write_item, tmp_path, range(5), 2)
    told = [(tmp_path / str(item)).read_text().split() for item in range(5)]
    assert len(list(tmp_path.iterdir())) == 5
    assert str(os.getpid()) not in {process for process, _ in told}
    assert {threads for _, threads in told} == {str(max(1, len(os.sched_getaffinity(0)) // 2))}


def test_one_process_is_this_one(tmp_path: Path) -> None:
    """Without several devices nothing is started."""
    spread(write_item, tmp_path, [3, 4], 1)
    assert (tmp_path / "4").read_text().split()[0] == str(os.getpid())


@pytest.mark.parametrize("processes", [1, 2])
def test_a_spent_budget_comes_back(processes: int, tmp_path: Path) -> None:
    """What a part raises ends the whole as if it had been done here."""
    with pytest.raises(OutOfTime):
        spread(write_item, tmp_path, [1, -1, -1], processes)
    assert (tmp_path / "1").is_file()


def test_the_last_item_is_done_over_all_devices_or_else_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two GPUs and one item; where they cannot do it together, it is done all the same."""
    asked: list[tuple[object, ...]] = []

    def fail(*given: object, **place: int) -> bool:
        asked.append((*given, place))
        return False

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(group, "train_together", fail)
    spread(write_item, tmp_path, [7])
    assert asked == [(write_item, tmp_path, 7, 2, {"first": 0, "beside": 2})]
    assert (tmp_path / "7").is_file()


def test_nothing_goes_on_after_the_run_is_killed(tmp_path: Path) -> None:
    """A resumed run must not find an earlier one's processes writing beside it."""
    script = (
        "from pathlib import Path; from tests.training.test_spread import wait_long\n"
        "from lumbar_kaggle.training.devices import spread\n"
        f"spread(wait_long, Path({str(tmp_path)!r}), [0, 1], 2)\n"
    )
    file = tmp_path / "script.py"
    file.write_text(f"if __name__ == '__main__':\n    {script.replace(chr(10), chr(10) + '    ')}")
    run = subprocess.Popen([sys.executable, str(file)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    files = [tmp_path / str(item) for item in range(2)]
    until(lambda: all(file.is_file() for file in files))
    children = [int(file.read_text()) for file in files]
    run.send_signal(signal.SIGKILL)
    run.wait()
    until(lambda: not any(alive(child) for child in children), 30)
    assert not any(alive(child) for child in children)


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
