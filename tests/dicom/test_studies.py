"""Folders of studies without tables: which studies and series are found, and what is left out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.tables.competition import SERIES_COLUMNS
from tests.support.dicom_files import AXIAL, SAGITTAL, write_sagittal, write_slice

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
T2_TIMES = {"EchoTime": 102, "RepetitionTime": 3500}


def series(folder: Path, orientation: tuple[float, ...] | None = SAGITTAL, **tags: Any) -> Path:
    """Write a series of three slices along the first axis of its plane."""
    for number in range(1, 4):
        position = (4.0 * number, 4.0 * number, 4.0 * number)
        pixels = np.full((8, 6), number, dtype=np.uint16)
        write_slice(folder / f"{number}.dcm", pixels, position=position, orientation=orientation, number=number, **tags)
    return folder


def test_studies_are_found_without_tables(tmp_path: Path) -> None:
    """Names with underscores are kept, and kinds and folders are those of the series."""
    series(tmp_path / "patient_7_left" / "s_1", SeriesDescription="T1")
    series(tmp_path / "patient_7_left" / "s_2", AXIAL, SeriesDescription="AX T2 FSE")
    series(tmp_path / "anna" / "001", **T2_TIMES)
    (tmp_path / "notes").mkdir()
    (tmp_path / ".cache" / "x").mkdir(parents=True)
    (tmp_path / "README.txt").write_text("two patients")
    found = find_studies(tmp_path)
    assert found.studies == ("anna", "patient_7_left")
    assert found.series.to_numpy().tolist() == [
        ["anna", "001", "sagittal_t2", str(tmp_path / "anna" / "001"), ()],
        ["patient_7_left", "s_1", "sagittal_t1", str(tmp_path / "patient_7_left" / "s_1"), ()],
        ["patient_7_left", "s_2", "axial_t2", str(tmp_path / "patient_7_left" / "s_2"), ()],
    ]
    assert (found.faults, found.split) == ((), "test")
    assert found.labels.empty
    assert found.coordinates.empty
    rows = found.rows()
    assert len(rows) == 50
    assert rows["row_id"].iloc[-1] == "patient_7_left_spinal_canal_stenosis_l5_s1"
    assert set(rows["study_id"]) == {"anna", "patient_7_left"}


def test_studies_may_lie_in_test_images(tmp_path: Path) -> None:
    """A folder that holds test_images and no table is read like test_images itself."""
    series(tmp_path / "test_images" / "5" / "51", SeriesDescription="T1")
    found, direct = find_studies(tmp_path), find_studies(tmp_path / "test_images")
    assert found.studies == ("5",)
    assert found.series.equals(direct.series)


def test_series_that_cannot_be_used_are_faults_and_their_study_stays(tmp_path: Path) -> None:
    """Unreadable and unrecognised series are named with folder and reason and are not serious."""
    study = tmp_path / "p1"
    (study / "a_text").mkdir(parents=True)
    (study / "a_text" / "1.dcm").write_text("no image")
    (study / "b_empty").mkdir()
    series(study / "c_coronal", CORONAL, SeriesDescription="COR T2")
    series(study / "d_no_plane", None, SeriesDescription="T1")
    found = find_studies(tmp_path)
    assert found.studies == ("p1",)
    assert found.series.empty
    assert list(found.series.columns) == list(SERIES_COLUMNS)
    reasons = {fault.file.name: fault.message for fault in found.faults}
    assert reasons["a_text"] == "none of 1 files is a usable slice; 1.dcm: not a DICOM file"
    assert reasons["b_empty"] == "the folder is empty"
    assert reasons["c_coronal"].startswith("a coronal series (description 'COR T2') is none of sagittal T1")
    assert reasons["d_no_plane"].startswith("the series has no ImageOrientationPatient")
    assert not any(fault.serious for fault in found.faults)
    assert {fault.line for fault in found.faults} == {0}


def test_one_bad_file_does_not_hide_a_series(tmp_path: Path) -> None:
    """The middle slice of the readable ones gives the kind."""
    write_sagittal(tmp_path / "p" / "s", SeriesDescription="T1")
    (tmp_path / "p" / "s" / "0.dcm").write_bytes(b"")
    found = find_studies(tmp_path)
    assert found.series["kind"].tolist() == ["sagittal_t1"]
    assert found.faults == ()


def test_a_competition_folder_is_read_by_its_tables(tmp_path: Path) -> None:
    """Where there are tables, they say which studies and kinds there are, not the headers."""
    series(tmp_path / "test_images" / "5" / "51", SeriesDescription="T1")
    series(tmp_path / "test_images" / "6" / "61", SeriesDescription="T1")
    (tmp_path / "test_series_descriptions.csv").write_text(
        "study_id,series_id,series_description\n5,51,Sagittal T2/STIR\n"
    )
    found = find_studies(tmp_path)
    assert found.studies == ("5",)
    assert found.series["kind"].tolist() == ["sagittal_t2"]


def test_a_competition_folder_with_a_serious_fault_is_refused(tmp_path: Path) -> None:
    """The table's own sentence is raised."""
    (tmp_path / "test_series_descriptions.csv").write_text("study_id,series_id,series_description\n5,51,T3\n")
    with pytest.raises(InputError, match=r"test_series_descriptions\.csv, line 2: series_description is 'T3'"):
        find_studies(tmp_path)


@pytest.mark.parametrize("content", [[], ["file.dcm"], ["study/notes.txt"]])
def test_a_folder_without_studies_is_refused(tmp_path: Path, content: list[str]) -> None:
    """The sentence says which layout was expected."""
    for name in content:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        find_studies(tmp_path)
    sentence = f"{tmp_path}: holds no study; expected {{study}}/{{series}}/*.dcm below it"
    assert str(caught.value).startswith(sentence)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """The sentence names the folder and says what to give."""
    with pytest.raises(InputError, match=r"absent: no such folder; give a competition folder or a folder of"):
        find_studies(tmp_path / "absent")
