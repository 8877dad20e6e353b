"""Predictions that are stopped, repeated, damaged or of many studies."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lumbar_kaggle.cli import main
from lumbar_kaggle.core import files
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.inference import predict as inference
from lumbar_kaggle.inference.base import Prediction, Study
from lumbar_kaggle.inference.predict import Outcome, log_path, predict
from lumbar_kaggle.tables.submission import Submission, validate
from tests.support.dicom_files import write_sagittal, write_slice


class Plain:
    """Grades each study by its name, in no time; from a given study on it fails, or ends the process."""

    batch_size = 1

    def __init__(self, *, fail_at: int | None = None, die_at: int | None = None) -> None:
        self.fail_at, self.die_at, self.graded = fail_at, die_at, 0

    def predict(self, studies: list[Study]) -> list[Prediction]:
        """See `inference.base.Predictor`."""
        if self.graded == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fail_at is not None and self.graded >= self.fail_at:
            raise RuntimeError("the accelerator\nis gone")
        self.graded += 1
        first = 0.2 + int(studies[0].study_id) % 7 / 10
        return [Prediction(np.tile([first, 0.9 - first, 0.1], (25, 1)), "")]


Grade = Callable[[Path, Path, Plain], Outcome]


def write_tables(root: Path, studies: int) -> Path:
    """A competition's test split of which only the tables are there."""
    root.mkdir(parents=True)
    rows = [f"{100 + number},1,Sagittal T1" for number in range(studies)]
    table = root / "test_series_descriptions.csv"
    table.write_text("\n".join(["study_id,series_id,series_description", *rows, ""]))
    return root


@pytest.fixture
def grade(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> Grade:
    """Predict with a `Plain` predictor."""

    def run(root: Path, out: Path, predictor: Plain) -> Outcome:
        monkeypatch.setattr(inference, "load_predictor", lambda *_: predictor)
        return predict(root, bundle, out, Budget())

    return run


def test_what_is_written_grows_with_the_studies(tmp_path: Path, grade: Grade, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the studies: twice the bytes, and no more files."""
    sizes: list[int] = []
    replace = os.replace

    def counted(source: Path, target: Path) -> None:
        sizes.append(Path(source).stat().st_size)
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", counted)
    counts = []
    for studies in (50, 100):
        sizes.clear()
        out = tmp_path / str(studies) / "submission.csv"
        grade(write_tables(tmp_path / f"c{studies}", studies), out, Plain())
        counts.append((len(sizes), sum(sizes) + out.with_name("submission-journal.jsonl").stat().st_size))
    assert counts[1][0] == counts[0][0]
    assert counts[1][1] == pytest.approx(2 * counts[0][1], rel=0.05)


KILLED = """
import sys
from pathlib import Path
from lumbar_kaggle.inference import predict as inference
from lumbar_kaggle.core.budget import Budget
from tests.inference.test_resuming_predictions import Plain
inference.load_predictor = lambda *_: Plain(die_at=7)
inference.predict(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Budget())
"""


def test_a_killed_run_loses_no_graded_study(tmp_path: Path, bundle: Path, grade: Grade) -> None:
    """kill -9 between two rewritings: the submission is valid, and the next run goes on at the study."""
    root, out = write_tables(tmp_path / "competition", 12), tmp_path / "submission.csv"
    command = [sys.executable, "-c", KILLED, str(root), str(bundle), str(out)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert validate(out, root) == []
    journal = tmp_path / "submission-journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30])  # the last line was on its way to the disk
    predictor = Plain()
    grade(root, out, predictor)
    assert predictor.graded == 6
    grade(root, tmp_path / "whole.csv", Plain())
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_run_that_another_began_anew_is_graded_again(
    tmp_path: Path, bundle: Path, grade: Grade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bundle B is killed before its first study, over a finished submission of bundle A."""
    root, out = write_tables(tmp_path / "competition", 3), tmp_path / "submission.csv"
    grade(root, out, Plain())
    finished = out.read_bytes()
    monkeypatch.setattr(Submission, "write", _stopped(Submission.write))
    other = inference.read_manifest(bundle).__dict__ | {"fingerprint": "B"}
    with monkeypatch.context() as patch:
        patch.setattr(inference, "read_manifest", lambda _: inference.Manifest(**other))
        with pytest.raises(KeyboardInterrupt):
            grade(root, out, Plain())
    assert out.read_bytes() != finished
    grade(root, out, Plain())
    assert out.read_bytes() == finished


def _stopped(write: Callable[[Submission], None]) -> Callable[[Submission], None]:
    """Write once and be interrupted, then write as ever."""
    calls: list[int] = []

    def once(submission: Submission) -> None:
        write(submission)
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt

    return once


@pytest.mark.parametrize("name", ["submission.csv", "submission-log.csv", "submission-journal.jsonl"])
@pytest.mark.parametrize("content", [b"", b"\0\xff" * 99, b'{"study_id": "100"}\n'])
def test_damage_ends_in_a_whole_submission(tmp_path: Path, grade: Grade, name: str, content: bytes) -> None:
    """Whatever became of one of the files, the next run ends with the submission of the first."""
    root, out = write_tables(tmp_path / "competition", 3), tmp_path / "submission.csv"
    grade(root, out, Plain())
    finished = out.read_bytes()
    (tmp_path / name).write_bytes(content)
    grade(root, out, Plain())
    assert out.read_bytes() == finished
    assert len(pd.read_csv(log_path(out))) == 3


class Missing(Plain):
    """Misses something in every study; of the second one the files are away while it is graded."""

    def predict(self, studies: list[Study]) -> list[Prediction]:
        """See `inference.base.Predictor`."""
        (found,) = super().predict(studies)
        if self.graded == 2:
            folder = Path(studies[0].series["folder"].iloc[0])
            folder.rename(folder.with_name("away"))
        return [found._replace(reason="no readable axial_t2 series")]


def test_what_was_missing_while_files_were_away_is_graded_again(tmp_path: Path, grade: Grade) -> None:
    """As by a mount that was lost; what is missing in files that stay as they are is graded once."""
    root, out = tmp_path / "in", tmp_path / "submission.csv"
    for name in ("100", "101"):
        write_sagittal(root / name / "t1", SeriesDescription="SAG T1")
    assert "axial_t2" in grade(root, out, Missing()).log.set_index("study_id").loc["101", "reason"]
    (root / "101" / "away").rename(root / "101" / "t1")
    again = Missing()
    grade(root, out, again)
    assert again.graded == 1


def test_a_deleted_submission_is_wanted_anew(tmp_path: Path, grade: Grade) -> None:
    """Its journal alone is not gone on from."""
    root, out = write_tables(tmp_path / "competition", 3), tmp_path / "submission.csv"
    grade(root, out, Plain())
    out.unlink()
    predictor = Plain()
    grade(root, out, predictor)
    assert predictor.graded == 3


def test_failures_are_told_with_their_traceback(tmp_path: Path, grade: Grade) -> None:
    """One traceback per kind in a file beside the log, which names it; the file goes with the failures."""
    root, out = write_tables(tmp_path / "competition", 6), tmp_path / "submission.csv"
    outcome = grade(root, out, Plain(fail_at=2))
    reasons = outcome.log["reason"].tolist()
    told = "RuntimeError: the accelerator is gone (traceback in submission-errors.txt)"
    assert [reason.split("; ")[0] for reason in reasons[2:]] == [told] * 4
    told = (tmp_path / "submission-errors.txt").read_text()
    assert told.startswith("study 102\nTraceback (most recent call last)")
    assert told.count("in predict\n    raise RuntimeError") == 1
    assert not outcome.failed
    assert grade(root, out, Plain()).log["status"].eq("graded").all()
    assert not (tmp_path / "submission-errors.txt").exists()


def test_a_run_that_grades_nothing_says_so(tmp_path: Path, bundle: Path) -> None:
    """Exit code 3 where every study failed; not where some were graded, or the time was spent."""
    write_slice(tmp_path / "own" / "p" / "s" / "1.dcm", np.full((8, 8), 5, np.uint16))
    (tmp_path / "own" / "p" / "s" / "1.dcm").write_bytes(b"no image")
    arguments = ["predict", str(tmp_path / "own"), "--bundle", str(bundle), "--out", str(tmp_path / "s.csv")]
    assert main(arguments) == 3
    assert main([*arguments, "--hours", "1e-9"]) == 0


def test_a_folder_in_the_place_of_the_submission_is_named(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence and exit code 2, before anything is graded."""
    (tmp_path / "file").write_text("x")
    root = write_tables(tmp_path / "competition", 1)
    for out, words in ((tmp_path, "a folder"), (tmp_path / "file" / "s.csv", "cannot be written")):
        assert main(["predict", str(root), "--bundle", str(bundle), "--out", str(out)]) == 2
        assert words in capsys.readouterr().err


def test_a_second_run_on_one_submission_is_refused(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says which process is at work, and leaves the submission as it is."""
    root, out = write_tables(tmp_path / "competition", 1), tmp_path / "s.csv"
    hold = "import sys, pathlib; from lumbar_kaggle.core.files import locked\n"
    hold += "with locked(pathlib.Path(sys.argv[1]), file=True): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert main(["predict", str(root), "--bundle", str(bundle), "--out", str(out)]) == 2
        assert f"process {other.pid}" in capsys.readouterr().err
        assert other.stdin is not None
        other.stdin.close()
    assert not out.exists()


def test_a_study_whose_name_is_no_utf8_is_graded(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its name is printed and written with its bytes escaped, and known again by them."""
    name = os.fsdecode(b"Pr\xe4parat")
    folder, out = tmp_path / "own" / name, tmp_path / "s.csv"
    for number in (1, 2, 3):
        pixels = np.random.default_rng(number).integers(0, 900, (32, 32)).astype(np.uint16)
        position = (4.0 * number, 0, 0)
        write_slice(folder / "t1" / f"{number}.dcm", pixels, position=position, SeriesDescription="SAG T1")
    write_slice(folder / "x" / "1.dcm", pixels, SeriesDescription="PD")
    arguments = ["predict", str(tmp_path / "own"), "--bundle", str(bundle), "--out", str(out)]
    assert main(arguments) == 0
    assert "Pr\\udce4parat" in capsys.readouterr().out
    assert "Pr\\udce4parat_spinal" in out.read_text(encoding="utf-8")
    assert main(arguments) == 0
    assert "1 studies are already graded" in capsys.readouterr().out
