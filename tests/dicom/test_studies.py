"""Folders of studies without tables: recognising the kind of a series, and finding studies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.dicom.kinds import recognise_series
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.tables.competition import SERIES_COLUMNS
from tests.support.dicom_files import AXIAL, SAGITTAL, read_instance, write_sagittal, write_slice

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
TILTED_AXIAL = (1.0, 0.0, 0.0, 0.0, 0.906308, 0.422618)
T1_TIMES = {"EchoTime": 10, "RepetitionTime": 550}
T2_TIMES = {"EchoTime": 102, "RepetitionTime": 3500}
PROTON_DENSITY_TIMES = {"EchoTime": 15, "RepetitionTime": 3000}
GRADIENT_ECHO_TIMES = {"EchoTime": 4, "RepetitionTime": 9, "ScanningSequence": "GR"}
INVERSION_TIMES = {"EchoTime": 40, "RepetitionTime": 4000, "InversionTime": 150, "ScanningSequence": ["SE", "IR"]}


def series(folder: Path, orientation: tuple[float, ...] | None = SAGITTAL, **tags: Any) -> Path:
    """Write a series of three slices along the first axis of its plane."""
    for number in range(1, 4):
        position = (4.0 * number, 4.0 * number, 4.0 * number)
        pixels = np.full((8, 6), number, dtype=np.uint16)
        write_slice(folder / f"{number}.dcm", pixels, position=position, orientation=orientation, number=number, **tags)
    return folder


def kind_of(folder: Path, orientation: tuple[float, ...] | None, tags: dict[str, Any]) -> str | None:
    """Write one slice with these tags and recognise it."""
    path = write_slice(folder / "1.dcm", np.zeros((8, 6), dtype=np.uint16), orientation=orientation, **tags)
    return recognise_series([read_instance(path)] * 3)[0]


@pytest.mark.parametrize(
    ("orientation", "description", "kind"),
    [
        # The competition's files: T1 or T2 and nothing else.
        (SAGITTAL, "T1", "sagittal_t1"),
        (SAGITTAL, "T2", "sagittal_t2"),
        (AXIAL, "T2", "axial_t2"),
        (TILTED_AXIAL, "T2", "axial_t2"),
        # Vendors' protocol names.
        (SAGITTAL, "SAG T1 TSE", "sagittal_t1"),
        (SAGITTAL, "t1_tse_sag_384", "sagittal_t1"),
        (SAGITTAL, "Sag T1 FLAIR", "sagittal_t1"),
        (SAGITTAL, "sT1W_TSE", "sagittal_t1"),
        (SAGITTAL, "SagT2 FRFSE", "sagittal_t2"),
        (SAGITTAL, "T1W_TSE SAG", "sagittal_t1"),
        (SAGITTAL, "t2_tse_sag", "sagittal_t2"),
        (SAGITTAL, "t2_tirm_sag_fs", "sagittal_t2"),
        (SAGITTAL, "STIR SAG", "sagittal_t2"),
        (SAGITTAL, "T1 STIR SAG", "sagittal_t2"),
        (SAGITTAL, "SAG T2 FRFSE T12-S1", "sagittal_t2"),
        (SAGITTAL, "SAG T1 T11-S2", "sagittal_t1"),
        (AXIAL, "AX T2 FSE", "axial_t2"),
        (AXIAL, "t2_tse_tra L1-S1", "axial_t2"),
        # Series that are none of the three.
        (AXIAL, "AX T1 TSE", None),
        (CORONAL, "COR T2", None),
        (CORONAL, "COR STIR", None),
        (SAGITTAL, "PD SAG", None),
        (SAGITTAL, "T12-S1", None),
        (SAGITTAL, "", None),
        (None, "SAG T1 TSE", None),
    ],
)
def test_the_kind_is_recognised_from_plane_and_description(
    tmp_path: Path, orientation: tuple[float, ...] | None, description: str, kind: str | None
) -> None:
    """The plane comes from the orientation, the weighting from the words of the description."""
    assert kind_of(tmp_path, orientation, {"SeriesDescription": description}) == kind


@pytest.mark.parametrize(
    ("orientation", "tags", "kind"),
    [
        (SAGITTAL, T1_TIMES, "sagittal_t1"),
        (SAGITTAL, T2_TIMES, "sagittal_t2"),
        (SAGITTAL, INVERSION_TIMES, "sagittal_t2"),
        (SAGITTAL, {**INVERSION_TIMES, "InversionTime": 860, "EchoTime": 24}, "sagittal_t1"),
        (SAGITTAL, PROTON_DENSITY_TIMES, None),
        (AXIAL, T2_TIMES, "axial_t2"),
        (AXIAL, T1_TIMES, None),
        (CORONAL, T2_TIMES, None),
        (SAGITTAL, {"EchoTime": 10}, "sagittal_t1"),
        (SAGITTAL, {"EchoTime": 90}, "sagittal_t2"),
        (SAGITTAL, {"RepetitionTime": 500}, None),
        (SAGITTAL, {**T1_TIMES, "SeriesDescription": "Lumbar spine"}, "sagittal_t1"),
        (SAGITTAL, {**T2_TIMES, "SeriesDescription": "SAG T1 and T2"}, "sagittal_t2"),
        (SAGITTAL, {**PROTON_DENSITY_TIMES, "SeriesDescription": "PD_TSE_SAG"}, None),
    ],
    ids=str,
)
def test_without_a_telling_description_the_times_decide(
    tmp_path: Path, orientation: tuple[float, ...], tags: dict[str, Any], kind: str | None
) -> None:
    """Echo, repetition and inversion time tell T1, T2 and STIR, and proton density is none of them."""
    assert kind_of(tmp_path, orientation, tags) == kind


@pytest.mark.parametrize("times", [T1_TIMES, T2_TIMES], ids=["short", "long"])
@pytest.mark.parametrize(("description", "kind"), [("T1", "sagittal_t1"), ("T2", "sagittal_t2")])
def test_a_telling_description_wins_over_the_times(
    tmp_path: Path, description: str, kind: str, times: dict[str, Any]
) -> None:
    """What the description says is believed."""
    assert kind_of(tmp_path, SAGITTAL, {**times, "SeriesDescription": description}) == kind


@pytest.mark.parametrize(
    "description", ["LOCALIZER", "3-plane loc", "3 Plane Localiser", "t2_haste_localizer", "Scout", "SURVEY"]
)
@pytest.mark.parametrize("orientation", [SAGITTAL, AXIAL, CORONAL])
def test_a_localizer_is_no_diagnostic_series(tmp_path: Path, description: str, orientation: tuple[float, ...]) -> None:
    """Planning images are left out although their times look like T1 and their name may say T2."""
    tags = {**GRADIENT_ECHO_TIMES, "SeriesDescription": description}
    assert kind_of(tmp_path, orientation, tags) is None


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
