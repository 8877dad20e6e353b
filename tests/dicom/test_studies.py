"""Folders as discs, archives and zip files give them: which studies and series are found, and what is left out."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.dicom.series import READ, UnreadableSeries, read_series
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.inference.predict import predict
from lumbar_kaggle.tables.competition import SERIES_COLUMNS, Competition, submission_rows
from tests.support.dicom_files import AXIAL, CORONAL, SAGITTAL, write_slice

T1 = {"SeriesDescription": "SAG T1", "EchoTime": 10, "RepetitionTime": 500, "ScanningSequence": "SE"}
T2 = {"SeriesDescription": "SAG T2", "EchoTime": 100, "RepetitionTime": 3500, "ScanningSequence": "SE"}
AXIAL_T2 = {**T2, "SeriesDescription": "AX T2"}


def series(folder: Path, tags: dict[str, Any], prefix: str = "", first: int = 1, slices: int = 4, **more: Any) -> None:
    """Write a series of parallel slices; those of an axial one are known by their description."""
    plane = AXIAL if tags["SeriesDescription"].startswith("AX") else SAGITTAL
    for number in range(first, first + slices):
        position = tuple(4.0 * number * np.cross(plane[:3], plane[3:]))
        header = {"position": position, "orientation": plane, "number": number, **tags, **more}
        write_slice(folder / f"{prefix}{number}.dcm", np.full((8, 8), number, np.uint16), **header)


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
        "holds nothing that is read (DICOM, .nii, .nii.gz and .mha files are); it is left out"
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


def test_studies_are_found_without_tables(tmp_path: Path) -> None:
    """Names with underscores are kept, and kinds and folders are those of the series."""
    series(tmp_path / "patient_7_left" / "s_1", T1)
    series(tmp_path / "patient_7_left" / "s_2", AXIAL_T2)
    series(tmp_path / "anna" / "001", {**T2, "SeriesDescription": ""})
    (tmp_path / "notes").mkdir()
    (tmp_path / ".cache" / "x").mkdir(parents=True)
    (tmp_path / "README.txt").write_text("two patients")
    read = find_studies(tmp_path)
    assert read.studies == ("anna", "patient_7_left")
    assert read.series.to_numpy().tolist() == [
        ["anna", "001", "sagittal_t2", str(tmp_path / "anna" / "001"), ()],
        ["patient_7_left", "s_1", "sagittal_t1", str(tmp_path / "patient_7_left" / "s_1"), ()],
        ["patient_7_left", "s_2", "axial_t2", str(tmp_path / "patient_7_left" / "s_2"), ()],
    ]
    assert (read.faults, read.split) == ((), "test")
    assert read.labels.empty
    assert read.coordinates.empty
    rows = submission_rows(read.studies)
    assert len(rows) == 50
    assert rows["row_id"].iloc[-1] == "patient_7_left_spinal_canal_stenosis_l5_s1"
    assert set(rows["study_id"]) == {"anna", "patient_7_left"}


def test_studies_may_lie_in_test_images(tmp_path: Path) -> None:
    """A folder that holds test_images and no table is read like test_images itself."""
    series(tmp_path / "test_images" / "5" / "51", T1)
    read, direct = find_studies(tmp_path), find_studies(tmp_path / "test_images")
    assert read.studies == ("5",)
    assert read.series.equals(direct.series)


def test_series_that_cannot_be_used_are_faults_and_their_study_stays(tmp_path: Path) -> None:
    """Unreadable and unrecognised series are named with folder and reason and are not serious."""
    study = tmp_path / "p1"
    (study / "a_text").mkdir(parents=True)
    (study / "a_text" / "1.dcm").write_text("no image")
    (study / "b_empty").mkdir()
    series(study / "c_coronal", T2, orientation=CORONAL)
    series(study / "d_no_plane", {**T1, "SeriesDescription": "T1 TSE"}, orientation=None)
    read = find_studies(tmp_path)
    assert read.studies == ("p1",)
    assert read.series.empty
    assert list(read.series.columns) == list(SERIES_COLUMNS)
    reasons = {fault.file.name: fault.message for fault in read.faults}
    assert reasons["a_text"].startswith("none of 1 files is a usable slice; 1.dcm: not a DICOM file; DICOM, .nii, ")
    assert reasons["b_empty"] == "the folder is empty"
    assert reasons["c_coronal"].startswith("a coronal series (description 'SAG T2') is none of sagittal T1")
    assert reasons["d_no_plane"].startswith("the series has no ImageOrientationPatient")
    assert not any(fault.serious for fault in read.faults)
    assert {fault.line for fault in read.faults} == {0}


@pytest.mark.parametrize("orientation", [None, SAGITTAL])
def test_a_single_slice_is_what_its_description_says(orientation: tuple[float, ...] | None, tmp_path: Path) -> None:
    """Sagittal T1 or T2, with an orientation or without; anything less is a planning image. A whole series is taken
    before a single slice of the same kind."""
    for name, description in (("a", "sag T2"), ("b", "Sagittal T1"), ("c", "T2"), ("d", "SAG T2 localizer")):
        tags = {"SeriesDescription": description, "ScanningSequence": "SE"}
        series(tmp_path / name / "1", tags, slices=1, orientation=orientation)
    series(tmp_path / "e" / "1", {**T2, "SeriesDescription": "sag T2 lumbar"}, slices=1, orientation=orientation)
    # All at one place: a position that cannot be meant takes nothing from a whole series.
    series(tmp_path / "e" / "2", {**T2, "SeriesDescription": "sag T2"}, position=(0.0, 0.0, 0.0))
    read = find_studies(tmp_path)
    found = dict(zip(read.series["study_id"], read.series[["series_id", "kind"]].to_numpy().tolist(), strict=True))
    assert found == {"a": ["1", "sagittal_t2"], "b": ["1", "sagittal_t1"], "e": ["2", "sagittal_t2"]}


def test_one_bad_file_does_not_hide_a_series(tmp_path: Path) -> None:
    """The middle slice of the readable ones gives the kind."""
    series(tmp_path / "p" / "s", T1)
    (tmp_path / "p" / "s" / "0.dcm").write_bytes(b"")
    read = find_studies(tmp_path)
    assert read.series["kind"].tolist() == ["sagittal_t1"]
    assert read.faults == ()


def test_a_competition_folder_is_read_by_its_tables(tmp_path: Path) -> None:
    """Where there are tables, they say which studies and kinds there are, not the headers."""
    series(tmp_path / "test_images" / "5" / "51", T1)
    series(tmp_path / "test_images" / "6" / "61", T1)
    (tmp_path / "test_series_descriptions.csv").write_text(
        "study_id,series_id,series_description\n5,51,Sagittal T2/STIR\n"
    )
    read = find_studies(tmp_path)
    assert read.studies == ("5",)
    assert read.series["kind"].tolist() == ["sagittal_t2"]


def test_a_competition_folder_with_a_serious_fault_is_refused(tmp_path: Path) -> None:
    """The table's own sentence is raised."""
    (tmp_path / "test_series_descriptions.csv").write_text("study_id,series_id,series_description\n5,51,T3\n")
    with pytest.raises(InputError, match=r"test_series_descriptions\.csv, line 2: series_description is 'T3'"):
        find_studies(tmp_path)


@pytest.mark.parametrize("content", [[], ["file.dcm"], ["study/notes.txt"]])
def test_a_folder_without_studies_is_refused(tmp_path: Path, content: list[str]) -> None:
    """The sentence says which layout was expected; of a missing folder, what to give."""
    for name in content:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        find_studies(tmp_path)
    sentence = f"{tmp_path}: holds no study; expected {{study}}/{{series}}/*.dcm below it ({READ} are read)"
    assert str(caught.value).startswith(sentence)
    with pytest.raises(InputError, match=r"absent: no such folder; give a competition folder or a folder of"):
        find_studies(tmp_path / "absent")
