"""Folders as discs, archives and zip files give them: which studies and series are found in them."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.dicom.series import UnreadableSeries, read_series
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.inference.predict import predict
from lumbar_kaggle.tables.competition import Competition
from tests.support.dicom_files import AXIAL, SAGITTAL, write_slice

T1 = {"SeriesDescription": "SAG T1", "EchoTime": 10, "RepetitionTime": 500, "ScanningSequence": "SE"}
T2 = {"SeriesDescription": "SAG T2", "EchoTime": 100, "RepetitionTime": 3500, "ScanningSequence": "SE"}
AXIAL_T2 = {**T2, "SeriesDescription": "AX T2"}


def series(folder: Path, tags: dict[str, Any], prefix: str = "", first: int = 1, slices: int = 4, **more: Any) -> None:
    """Write a series of parallel slices; those of an axial one are known by their description."""
    orientation = AXIAL if tags["SeriesDescription"].startswith("AX") else SAGITTAL
    normal = np.cross(orientation[:3], orientation[3:])
    for number in range(first, first + slices):
        write_slice(
            folder / f"{prefix}{number}.dcm",
            np.full((8, 8), number, np.uint16),
            position=tuple(4.0 * number * normal),
            orientation=orientation,
            number=number,
            **{**tags, **more},
        )


def found(competition: Competition) -> dict[str, list[str]]:
    """Per study the kinds of its series."""
    kinds = competition.series.groupby("study_id")["kind"].apply(sorted).to_dict()
    return {study: kinds.get(study, []) for study in competition.studies}


def slices_of(competition: Competition) -> dict[str, int]:
    """How many slices each series gives when it is read."""
    return {
        row.series_id: len(read_series(Path(row.folder), row.files, row.kind))
        for row in competition.series.itertuples()
    }


BOTH = ["sagittal_t1", "sagittal_t2"]
ALL = ["axial_t2", *BOTH]


def test_files_lie_at_any_depth(tmp_path: Path) -> None:
    """Below a study folder, in it, and as a disc has them."""
    series(tmp_path / "flat", T1, "a", SeriesInstanceUID="1.1")
    series(tmp_path / "flat", T2, "b", SeriesInstanceUID="1.2")
    series(tmp_path / "plain" / "t1", T1)
    series(tmp_path / "deep" / "ST000000" / "SE000000", T1)
    series(tmp_path / "deep" / "ST000000" / "SE000001", T2)
    competition = find_studies(tmp_path)
    assert found(competition) == {"deep": BOTH, "flat": BOTH, "plain": ["sagittal_t1"]}
    assert competition.faults == ()
    assert set(slices_of(competition).values()) == {4}
    for _, rows in competition.series.groupby("study_id"):
        assert rows["series_id"].is_unique


def test_a_disc_of_two_examinations_gives_two_studies(tmp_path: Path) -> None:
    """Each StudyInstanceUID is a study, the index and the viewer are none."""
    for study in (0, 1):
        for number, tags in enumerate((T1, T2, AXIAL_T2)):
            folder = tmp_path / "DICOM" / "PT000000" / f"ST00000{study}" / f"SE00000{number}"
            series(folder, tags, StudyInstanceUID=f"1.{study}", SeriesInstanceUID=f"1.{study}.{number}")
    (tmp_path / "DICOMDIR").write_bytes(b"index")
    (tmp_path / "VIEWER" / "bin").mkdir(parents=True)
    (tmp_path / "VIEWER" / "bin" / "viewer.exe").write_bytes(b"MZ")
    competition = find_studies(tmp_path)
    assert found(competition) == {"DICOM-PT000000-ST000000": ALL, "DICOM-PT000000-ST000001": ALL}
    assert [fault.message for fault in competition.faults if fault.file.name == "VIEWER"] == [
        "holds no DICOM file; it is left out"
    ]
    assert "holds 2 studies by their StudyInstanceUID" in competition.reasons("DICOM-PT000000-ST000000")


@pytest.mark.parametrize("layout", ["flat", "series"])
def test_a_study_itself_may_be_given(tmp_path: Path, layout: str) -> None:
    """Its files directly in the folder, or a folder for each series: the study is named by the folder."""
    root = tmp_path / "patient"
    for number, (name, tags) in enumerate((("t1", T1), ("t2", T2), ("ax", AXIAL_T2))):
        folder = root if layout == "flat" else root / name
        series(folder, tags, name, StudyInstanceUID="1.2", SeriesInstanceUID=f"1.2.{number}")
    (root / "report.txt").write_text("no slice")
    assert found(find_studies(root)) == {"patient": ALL}


def test_two_studies_in_one_folder_are_two(tmp_path: Path) -> None:
    """Slices of two patients are never mixed, and neither is dropped."""
    series(tmp_path / "p", T1, "a", StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1")
    series(tmp_path / "p", T1, "b", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1")
    competition = find_studies(tmp_path)
    assert found(competition) == {"p-1": ["sagittal_t1"], "p-2": ["sagittal_t1"]}
    assert competition.series["files"].str.len().tolist() == [4, 4]


def test_one_series_in_two_folders_and_two_in_one(tmp_path: Path) -> None:
    """Headers tell series, not folders; what is read are the slices of that series."""
    series(tmp_path / "p" / "a", T1, SeriesInstanceUID="1.1")
    series(tmp_path / "p" / "b", T1, first=5, SeriesInstanceUID="1.1")
    series(tmp_path / "p" / "c", T2, "x", SeriesInstanceUID="1.2", SeriesNumber=7)
    series(tmp_path / "p" / "c", AXIAL_T2, "y", SeriesInstanceUID="1.3", SeriesNumber=9)
    competition = find_studies(tmp_path)
    assert found(competition) == {"p": ALL}
    assert slices_of(competition) == {"series": 8, "c-7": 4, "c-9": 4}


def test_of_several_series_of_a_kind_one_is_taken_and_it_is_said_why(tmp_path: Path) -> None:
    """The fuller one, before it the one without fat suppression; all axial ones stay."""
    series(tmp_path / "p" / "short", T1, slices=3)
    series(tmp_path / "p" / "full", T1, slices=5)
    series(tmp_path / "p" / "fat", {**T1, "SeriesDescription": "SAG T1 FS"}, slices=9)
    series(tmp_path / "p" / "after", {**T1, "ContrastBolusAgent": "Gadovist"}, slices=9)
    series(tmp_path / "p" / "upper", AXIAL_T2)
    series(tmp_path / "p" / "lower", AXIAL_T2)
    competition = find_studies(tmp_path)
    assert sorted(competition.series["series_id"]) == ["full", "lower", "upper"]
    reasons = {fault.file.name: fault.message for fault in competition.faults}
    assert reasons["short"] == "a further series Sagittal T1; full is taken, since it has more slices"
    assert reasons["fat"].endswith("full is taken, since its fat is not suppressed")
    assert "taken after contrast agent (Gadovist)" in reasons["after"]
    assert all(f"{name}: {reason}" in competition.reasons("p") for name, reason in reasons.items())


def test_the_parts_of_a_dixon_scan_are_told_apart(tmp_path: Path) -> None:
    """Of one series with four images of each slice the water is read, and nothing of the rest."""
    for value, part in enumerate(("WATER", "FAT", "IN_PHASE", "OPP_PHASE")):
        image_type = ["DERIVED", "PRIMARY", "DIXON", part]
        series(tmp_path / "p" / "dixon", T2, part, first=10 * value + 1, ImageType=image_type, SeriesInstanceUID="1")
    competition = find_studies(tmp_path)
    assert found(competition) == {"p": ["sagittal_t2"]}
    row = competition.series.iloc[0]
    images = read_series(Path(row["folder"]), row["files"]).images
    assert sorted(int(image.max()) for image in images) == [1, 2, 3, 4]
    assert "fat only by its ImageType" in competition.reasons("p")


@pytest.mark.parametrize(
    "junk", ["__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", ".Trash", "System Volume Information"]
)
def test_what_systems_leave_behind_is_no_study(tmp_path: Path, junk: str) -> None:
    """Neither a study nor a fault, and their files are no slices."""
    series(tmp_path / "p" / "s", T1)
    series(tmp_path / junk / "p" / "s", T1)
    for name in ("._1.dcm", "Thumbs.db", ".DS_Store", "desktop.ini", "DICOMDIR"):
        (tmp_path / "p" / "s" / name).write_bytes(b"x")
    competition = find_studies(tmp_path)
    assert (competition.studies, competition.faults) == (("p",), ())
    assert read_series(tmp_path / "p" / "s").skipped == ()


def test_links_in_a_circle_end_and_a_dangling_one_is_named(tmp_path: Path) -> None:
    """A folder that contains itself is read once."""
    series(tmp_path / "p" / "s", T1)
    os.symlink(tmp_path / "p", tmp_path / "p" / "again")
    os.symlink(tmp_path / "p" / "circle", tmp_path / "p" / "circle")
    os.symlink(tmp_path / "gone", tmp_path / "p" / "s" / "5.dcm")
    competition = find_studies(tmp_path)
    assert found(competition) == {"p": ["sagittal_t1"]}
    (skipped,) = read_series(tmp_path / "p" / "s").skipped
    assert skipped.path.name == "5.dcm"
    assert "No such file" in skipped.reason


def forbid(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the system refuse to list a folder, as it does to everybody but root."""
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


@pytest.mark.parametrize("place", ["p", "p/s", "p/s/deeper"])
def test_a_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """At any depth it ends in a sentence, and the other study is found."""
    series(tmp_path / "p" / "s" / "deeper", T1)
    series(tmp_path / "q" / "s", T1)
    forbid(monkeypatch, tmp_path / place)
    competition = find_studies(tmp_path)
    assert found(competition) == {"p": [], "q": ["sagittal_t1"]}
    assert "the folder cannot be read (Permission denied)" in competition.reasons("p")
    with pytest.raises(UnreadableSeries, match=r"the folder cannot be read \(Permission denied\)"):
        read_series(tmp_path / place)


def test_names_that_are_no_text_are_graded_and_shown(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes that are no UTF-8 pass through prediction, print, log and fault."""
    root = tmp_path / "studies"
    strange = Path(os.fsdecode(os.fsencode(root) + b"/m\xfcller"))
    series(strange / os.fsdecode(b"s\xe9rie"), T1)
    (strange / os.fsdecode(b"s\xe9rie") / os.fsdecode(b"\xff.dcm")).write_bytes(b"x")
    (strange / os.fsdecode(b"\xe9")).mkdir()
    outcome = predict(root, bundle, tmp_path / "out.csv", Budget())
    assert outcome.log["study_id"].tolist() == ["m\\udcfcller"]
    assert outcome.log["status"].tolist() == ["graded"]
    assert "\\udcff.dcm" in outcome.log["reason"].iloc[0]
    capsys.readouterr().out.encode()
    (tmp_path / "out-log.csv").read_text(encoding="utf-8")


def test_a_study_that_cannot_be_graded_says_why_in_the_log(tmp_path: Path, bundle: Path) -> None:
    """The reason is not only on the screen."""
    series(tmp_path / "p" / "t1", {**T1, "ContrastBolusAgent": "Gadovist"})
    shutil.copytree(tmp_path / "p", tmp_path / "q")
    for path in (tmp_path / "q" / "t1").iterdir():
        path.write_bytes(path.read_bytes()[:300])
    outcome = predict(tmp_path, bundle, tmp_path / "out.csv", Budget())
    log = outcome.log.set_index("study_id")
    assert log["status"].tolist() == ["prior", "prior"]
    assert "taken after contrast agent (Gadovist)" in log.loc["p", "reason"]
    assert "none of 4 files is a usable slice; 1.dcm: " in log.loc["q", "reason"]
