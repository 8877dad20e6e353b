"""What is listed and graded of a folder while it changes."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.inference.base import Prediction, Study
from lumbar_kaggle.serve import grading
from lumbar_kaggle.serve.grading import Background
from lumbar_kaggle.serve.watch import FolderOfStudies
from lumbar_kaggle.serve.worklist import worst
from lumbar_kaggle.tables.submission import read_predictions
from tests.support.clock import WoundClock
from tests.support.dicom_files import write_sagittal
from tests.support.serving import ByName, serving
from tests.support.waiting import until


def write_study(folder: Path, name: str, slices: int = 3) -> Path:
    """A study of one sagittal T1 series."""
    write_sagittal(folder / name / "t1", slices=slices, shape=(16, 16), SeriesDescription="SAG T1")
    return folder / name


def test_studies_come_and_go(tmp_path: Path) -> None:
    """One that is there, one that arrives, one that changes, one that is taken away."""
    folder, predictor = tmp_path / "in", ByName()
    write_study(folder, "p1")
    with serving(folder, tmp_path / "state", predictor) as served:
        until(lambda: served.statuses() == {"p1": "graded"})
        cursor = served.worklist.news()["cursor"]
        write_study(tmp_path, "p2").rename(folder / "p2")
        until(lambda: served.statuses() == {"p1": "graded", "p2": "graded"})
        assert [facts["study"] for facts in served.worklist.news(cursor)["studies"]] == ["p2"]
        fourth = Path(shutil.copy(folder / "p2" / "t1" / "1.dcm", tmp_path / "4.dcm"))
        fourth.rename(folder / "p2" / "t1" / "4.dcm")  # at one moment, however slow the machine is
        until(lambda: predictor.graded == ["p1", "p2", "p2"])
        cursor = served.worklist.news()["cursor"]
        shutil.rmtree(folder / "p1")
        until(lambda: served.statuses() == {"p2": "graded"})
        assert served.worklist.news(cursor)["gone"] == ["p1"]
    assert "p2_" in (tmp_path / "state" / "submission.csv").read_text()


def test_what_is_being_copied_is_not_graded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that grows keeps its study from being read, however long; however slow the machine is, by this clock it
    grows often enough."""
    clock = WoundClock(0.2)
    monkeypatch.setattr(grading, "time", SimpleNamespace(monotonic=clock, time=time.time))
    folder, predictor = tmp_path / "in", ByName()
    whole = (write_study(tmp_path / "from", "p3") / "t1" / "1.dcm").read_bytes()
    growing = folder / "p3" / "1.dcm"
    growing.parent.mkdir(parents=True)
    with serving(folder, tmp_path / "state", predictor, quiet_s=0.5) as served:
        for end in range(0, 10 * (len(whole) // 10), len(whole) // 10):
            growing.write_bytes(whole[:end])
            clock.wind()
            time.sleep(0.12)
        until(served.statuses)
        assert served.statuses() == {"p3": "copying"}
        growing.write_bytes(whole)
        clock.most_s = 60.0
        until(lambda: served.statuses() == {"p3": "graded"})
    assert predictor.graded == ["p3"]


def test_a_bad_study_sinks_no_other(tmp_path: Path) -> None:
    """Each that is not graded says why, and stays at the prior in the submission; nothing is tried twice."""
    folder, predictor = tmp_path / "in", ByName()
    for name in ("p1", "odd", "p2"):
        write_study(folder, name)
    for name, file, content in (("damaged", "1.dcm", b"no image"), ("notes", "a.txt", b"hello")):
        (folder / name).mkdir()
        (folder / name / file).write_bytes(content)
    (folder / "leak").symlink_to(tmp_path)
    (folder / "p4").mkdir()
    (folder / "p4" / "1.dcm").symlink_to("/etc/hostname")
    (folder / "loop").mkdir()
    (folder / "loop" / "again").symlink_to(folder / "loop")
    with serving(folder, tmp_path / "state", predictor) as served:
        until(lambda: set(served.statuses().values()) == {"graded", "failed"} and len(served.rows()) == 8)
        reasons = {name: row.reason for name, row in served.rows().items() if row.status == "failed"}
        submission = served.get("/submission.csv")[2]
    assert reasons.pop("odd").startswith("RuntimeError: nobody thought of this")
    assert "leads out of the folder" in reasons.pop("leak")
    assert "p4: 1.dcm is a link that leads out of the folder" in reasons.pop("p4")
    assert reasons.pop("notes") == reasons.pop("loop") == "it holds no DICOM file"
    assert reasons.keys() == {"damaged"}
    assert sorted(predictor.graded) == ["p1", "p2"]
    (tmp_path / "s.csv").write_text(submission)
    assert len(read_predictions(tmp_path / "s.csv")) == 25 * 4


def test_a_second_start_goes_on(tmp_path: Path) -> None:
    """What is graded is not graded again, and is in the list with its probabilities."""
    folder = tmp_path / "in"
    for number in range(3):
        write_study(folder, f"p{number}")
    tables = []
    for expected in (3, 0):
        predictor = ByName()
        with serving(folder, tmp_path / "state", predictor) as served:
            until(lambda served=served: list(served.statuses().values()) == ["graded"] * 3)
            tables.append(served.get("/submission.csv")[2])
        assert len(predictor.graded) == expected
    assert tables[0] == tables[1] == (tmp_path / "state" / "submission.csv").read_text()


def test_entries_are_the_studies_that_predict_finds(tmp_path: Path) -> None:
    """Of every layout: studies, several in a folder, slices beside the folders, and one study alone."""
    folder, state = tmp_path / "in", tmp_path / "in" / "state"
    write_study(folder, "p1")
    for uid in ("1.2", "1.3"):
        write_sagittal(folder / "both" / uid, slices=2, StudyInstanceUID=uid, SeriesDescription="SAG T1")
    write_sagittal(folder, slices=2, SeriesDescription="SAG T1")
    state.mkdir()
    watched = FolderOfStudies(folder, state)
    found = {name for entry in watched.entries() for name in watched.read(entry).studies}
    assert found == set(find_studies(folder).studies) == {"in", "p1", "both-1.2", "both-1.3"}
    with pytest.raises(InputError, match="where files of studies may lie"):
        FolderOfStudies(folder, folder / "p1" / "state")
    single = tmp_path / "patient"
    for kind in ("T1", "T2"):
        write_sagittal(single / kind, slices=2, StudyInstanceUID="1.4", SeriesInstanceUID=f"1.4.{kind[1]}")
    watched = FolderOfStudies(single, tmp_path / "other")
    assert [watched.read(entry).studies for entry in watched.entries()] == [("patient",)]


def test_of_a_competition_the_tables_say_what_is_a_study(competition: Path, tmp_path: Path) -> None:
    """A folder that no table names is not listed; a study without one waits for nothing."""
    copied = tmp_path / "competition"
    shutil.copytree(competition, copied)
    write_study(copied / "test_images", "stranger")
    first, *others = find_studies(copied).studies
    shutil.rmtree(copied / "test_images" / first)
    watched = FolderOfStudies(copied, tmp_path / "state")
    assert watched.entries() == (first, *others)
    assert watched.read(first).series.empty
    assert "has no folder" in watched.read(first).reasons(first)
    before = watched.look(others[0])
    os.utime(copied / "test_series_descriptions.csv")
    watched.entries()
    assert watched.look(others[0]) != before


def test_the_worst_grade_is_the_severest_level() -> None:
    """Of levels with the same grade, that nearest to severe; a level that is not graded does not count."""
    shares = np.tile([0.9, 0.06, 0.04], (25, 1))
    shares[:5] = [[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.1, 0.6, 0.3], [0.2, 0.7, 0.1], [np.nan] * 3]
    found = worst(shares)

    def of(probability: float, expected: float) -> dict[str, float]:
        return {"probability": probability, "expected": expected}

    assert found["spinal_canal_stenosis"] == {"severity": "moderate", "level": "l3_l4", **of(0.6, 1.2)}
    assert found["left_subarticular_stenosis"] == {"severity": "normal_mild", "level": "l1_l2", **of(0.9, 0.14)}
    assert set(worst(np.full((25, 3), np.nan)).values()) == {None}


def test_the_table_can_be_opened_in_a_spreadsheet(tmp_path: Path) -> None:
    """A name that would be a formula is none there."""
    write_study(tmp_path / "in", "=1+1")
    with serving(tmp_path / "in", tmp_path / "state", ByName()) as served:
        until(lambda: served.statuses() == {"=1+1": "graded"})
        status, _, text = served.get("/studies.csv")
    (tmp_path / "list.csv").write_text(text)
    (line,) = pd.read_csv(tmp_path / "list.csv").to_dict("records")
    assert (status, line["study"], line["status"]) == (200, "'=1+1", "graded")
    assert line["spinal_canal_stenosis_level"] == "l4_l5"


def test_what_keeps_it_from_grading_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again, and what was told goes when it is over."""
    monkeypatch.setattr(grading, "PAUSE_S", 0.3)
    write_study(tmp_path / "in", "p1")
    out = tmp_path / "state" / "submission.csv"
    out.mkdir(parents=True)  # in the place of the file
    with serving(tmp_path / "in", tmp_path / "state", ByName()) as served:
        until(lambda: "submission.csv: a folder, where a file was expected" in served.worklist.news()["trouble"])
        assert served.statuses() == {"p1": "waiting"}
        out.rmdir()
        until(lambda: served.statuses() == {"p1": "graded"})
        until(lambda: not served.worklist.news()["trouble"])


def test_a_lost_mount_empties_no_list(tmp_path: Path) -> None:
    """The studies stay listed while the folder cannot be, and the page says so."""
    write_study(tmp_path / "in", "p1")
    with serving(tmp_path / "in", tmp_path / "state", ByName()) as served:
        until(lambda: served.statuses() == {"p1": "graded"})
        (tmp_path / "in").rename(tmp_path / "lost")
        until(lambda: "in: no such folder" in served.worklist.news()["trouble"])
        assert served.statuses() == {"p1": "graded"}
        (tmp_path / "lost").rename(tmp_path / "in")
        until(lambda: not served.worklist.news()["trouble"])
        assert served.statuses() == {"p1": "graded"}


@pytest.mark.parametrize("while_it", ["is listed", "is read", "is graded", "is graded in part"])
def test_a_mount_lost_midway_is_no_fault_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, while_it: str
) -> None:
    """Whatever is done with its files just then is done again when they are back, and nothing else is."""
    monkeypatch.setattr(grading, "PAUSE_S", 0.05)
    folder, lost = tmp_path / "in" / "test_images", tmp_path / "lost"
    write_study(folder, "p1")

    class Losing(ByName):
        def predict(self, studies: Sequence[Study]) -> Iterator[Prediction]:
            if lose("is graded"):
                yield Prediction(np.full((25, 3), np.nan), "no file can be read")
            elif lose("is graded in part"):
                yield Prediction(np.full((25, 3), 1 / 3), "no readable axial_t2 series")
            else:
                yield from super().predict(studies)

    def lose(what: str) -> bool:
        if now := what == while_it and not losses:
            losses.append(what)
            folder.rename(lost)
        return now

    def losing(what: str, work: Callable[..., object]) -> Callable[..., object]:
        def with_loss(*values: object) -> object:
            lose(what)
            return work(*values)

        return with_loss

    losses, rounds = ["not yet"], []
    monkeypatch.setattr(FolderOfStudies, "look", losing("is listed", FolderOfStudies.look))
    monkeypatch.setattr(FolderOfStudies, "read", losing("is read", FolderOfStudies.read))
    grade_waiting = Background._grade_waiting
    monkeypatch.setattr(Background, "_grade_waiting", lambda self: (rounds.append(1), grade_waiting(self)))
    with serving(tmp_path / "in", tmp_path / "state", predictor := Losing()) as served:
        until(lambda: served.statuses() == {"p1": "graded"})
        losses.clear()
        write_study(tmp_path, "p2").rename(folder / "p2")
        until(lambda: "test_images: no such folder" in served.worklist.news()["trouble"])
        if "graded" in while_it:  # it is tried all the while
            before = len(rounds)
            until(lambda: len(rounds) > before + 2)
        known = served.statuses()
        assert known.pop("p1") == "graded"
        assert set(known.values()) <= {"copying", "waiting"}
        lost.rename(folder)
        until(lambda: served.statuses() == {"p1": "graded", "p2": "graded"})
        until(lambda: not served.worklist.news()["trouble"])
    assert predictor.graded == ["p1", "p2"]
