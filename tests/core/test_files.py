"""Files: locks, and names that are no UTF-8."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import copy_file, locked, write_csv

HOLD = """
import sys
from pathlib import Path
from lumbar_kaggle.core.files import locked
with locked(Path(sys.argv[1]), file=sys.argv[2] == "file"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_second_process_is_told_who_is_at_work(tmp_path: Path, kind: str) -> None:
    """It gets one sentence with the holder's number; a holder that was killed is in nobody's way."""
    target, file = tmp_path / "run", kind == "file"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        sentence = rf"run: another run \(process {other.pid}\) is at work"
        with pytest.raises(InputError, match=sentence), locked(target, file=file):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    with locked(target, file=file), locked(target, file=file):
        pass
    assert not list(tmp_path.rglob("*.lock"))


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    """Where no folder can be made, one sentence says so."""
    (tmp_path / "file").write_text("x")
    for target, file in ((tmp_path / "file", False), (tmp_path / "file" / "s.csv", True)):
        sentence = r"cannot be written \(.+\); choose another place"
        with pytest.raises(InputError, match=sentence), locked(target, file=file):
            pass


def test_names_that_are_no_utf8_are_written_as_escapes(tmp_path: Path) -> None:
    """A table with such a name is valid UTF-8, and tells the name."""
    name = os.fsdecode(b"Pr\xe4parat")
    write_csv(tmp_path / "log.csv", pd.DataFrame({"study_id": [name]}))
    assert pd.read_csv(tmp_path / "log.csv")["study_id"].tolist() == ["Pr\\udce4parat"]


def test_a_copy_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that is interrupted leaves the old file, and nothing else."""
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")

    def interrupted(_: Path, target: Path) -> None:
        target.write_text("n")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", interrupted)
        with pytest.raises(KeyboardInterrupt):
            copy_file(tmp_path / "a", tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert (tmp_path / "b").read_text() == "old"
    copy_file(tmp_path / "a", tmp_path / "c" / "d")
    assert (tmp_path / "c" / "d").read_text() == "new"
