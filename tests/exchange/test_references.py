"""How slices are found again in their files, and what of a header counts as an identifier."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom

from lumbar_kaggle.exchange.references import References
from lumbar_kaggle.inference.base import SliceName, Study
from lumbar_kaggle.tables.competition import SERIES_COLUMNS
from tests.dicom.test_frames import write_enhanced
from tests.support.dicom_files import write_slice

UIDS = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.5"}


def references(folder: Path, kind: str = "sagittal_t1") -> References:
    """Those of a study of one series, S."""
    return References(Study("study", pd.DataFrame([("study", "S", kind, str(folder), ())], columns=SERIES_COLUMNS)))


def write(folder: Path, number: int, x_mm: float = 0.0, name: str = "", **tags: object) -> None:
    """Write a sagittal slice."""
    pixels = np.zeros((32, 32), np.uint16)
    path = folder / f"{name or number}.dcm"
    write_slice(path, pixels, position=(x_mm, 0, 0), number=number, **{**UIDS, **tags})


def test_a_slice_is_told_by_number_and_place(tmp_path: Path) -> None:
    """Stacks may count anew, so that the number alone tells nothing; nor does the place of a slice taken twice."""
    for name, number, x_mm in (("a", 1, 0.0), ("b", 2, 4.0), ("c", 1, 30.0), ("d", 2, 4.0)):
        write(tmp_path, number, x_mm, name, SOPInstanceUID=f"1.2.3.4.{name.encode().hex()}")
    found = references(tmp_path)
    for name, number, x_mm in (("a", 1, 0.0), ("b", 2, 4.0), ("c", 1, 30.0)):
        reference = found.find("S", SliceName(number, (x_mm, 0.0, 0.0)))
        assert reference is not None
        assert reference.path.stem == name
        assert (reference.frame, reference.complete) == (None, True)
        assert reference.frame_uid == UIDS["FrameOfReferenceUID"]
    assert found.find("S", SliceName(1, None)) is None
    assert found.find("S", SliceName(3, (0.0, 0.0, 0.0))) is None
    assert found.find("S", SliceName(None, None)) is None


def test_frames_of_one_file_have_numbers(tmp_path: Path) -> None:
    """And one identifier. The second one's echo is another: it is of another series."""
    path = write_enhanced(tmp_path / "1.dcm", 3)
    dataset = pydicom.dcmread(path)
    for keyword, value in UIDS.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    found = references(tmp_path)
    each = [found.find("S", SliceName(number, None)) for number in (1, 2, 3)]
    assert [one and one.frame for one in each] == [1, None, 3]
    assert {one.instance_uid for one in each if one} == {dataset.SOPInstanceUID}


def test_what_is_no_identifier_is_left_out(tmp_path: Path) -> None:
    """Words are none, nor is one that two pictures share, but that of a copy is; values of a patient that break the
    standard are told."""
    write(tmp_path, 1, SOPInstanceUID="1.2.3.4.1", PatientID="7", StudyDate="20240229", StudyTime="1015")
    write(tmp_path, 2, 4.0, SOPInstanceUID="1.2.3.4.9")
    write(tmp_path, 3, 8.0, SOPInstanceUID="1.2.3.4.9")
    for keyword, value in (("FrameOfReferenceUID", "none"), ("StudyDate", "20240230"), ("PatientSex", "X")):
        dataset = pydicom.dcmread(tmp_path / "2.dcm")
        dataset.add(pydicom.DataElement(pydicom.datadict.tag_for_keyword(keyword), "LO", ""))
        dataset[keyword]._value = value
        dataset[keyword].VR = pydicom.datadict.dictionary_VR(keyword)
        dataset.save_as(tmp_path / "2.dcm")
    shutil.copy(tmp_path / "1.dcm", tmp_path / "copy of 1.dcm")
    found = references(tmp_path)
    first, second, third = (found.find("S", SliceName(number, (4.0 * number - 4, 0.0, 0.0))) for number in (1, 2, 3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert [one.complete for one in (first, second, third)] == [True, False, False]
    assert (first.frame_uid, second.frame_uid) == (UIDS["FrameOfReferenceUID"], "")
    values, notes = found.patient(first.path)
    assert (values["PatientID"], values["StudyDate"], values["PatientName"], notes) == ("7", "20240229", "", [])
    values, notes = found.patient(second.path)
    assert (values["StudyDate"], values["PatientSex"]) == ("", "")
    assert [note.split()[0] for note in notes] == ["PatientSex", "StudyDate"]


def test_files_that_have_gone_have_none(tmp_path: Path) -> None:
    """Nothing is raised: the study was graded, and its report says what it can."""
    assert references(tmp_path / "gone").find("S", SliceName(1, None)) is None
    assert references(tmp_path / "gone").study_uid == ""
