"""The structured report, read back by pydicom and highdicom, and judged by dciodvfy."""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from highdicom.sr import Comprehensive3DSR, srread
from pydicom.dataset import Dataset

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.files import read_json
from lumbar_kaggle.core.targets import TARGET_NAMES
from lumbar_kaggle.exchange import codes
from lumbar_kaggle.exchange.content import report
from lumbar_kaggle.exchange.references import References
from lumbar_kaggle.exchange.reports import file_name
from lumbar_kaggle.exchange.structured import structured_report
from lumbar_kaggle.inference.base import Findings, Prediction, SliceName, Study, UsedView
from lumbar_kaggle.inference.bundle import models_in_the_box, read_manifest
from lumbar_kaggle.inference.predict import Result, log_path
from lumbar_kaggle.tables.competition import SERIES_COLUMNS
from tests.exchange.conftest import BAD, UNNAMED, UNPLACED, WHOLE, command, images
from tests.support.dicom_files import write_slice


@cache
def read(reports: Path, study: str) -> tuple[Comprehensive3DSR, dict]:
    """The structured report of a study and what its JSON report says."""
    made = srread(reports / "sr" / f"{file_name(study)}.dcm")
    assert isinstance(made, Comprehensive3DSR)
    return made, read_json(reports / "json" / f"{file_name(study)}.json")


def items(dataset: Dataset) -> Iterator[Dataset]:
    """All content items below one."""
    for item in dataset.get("ContentSequence", ()):
        yield item
        yield from items(item)


def groups(made: Comprehensive3DSR) -> dict[str, Dataset]:
    """The measurement groups by target, which their tracking identifier names in words."""
    content = made.content
    found = [*content.get_planar_roi_measurement_groups(), *content.get_image_measurement_groups()]
    return {one.tracking_identifier: one for one in found}


def words(finding: dict) -> str:
    """The tracking identifier of a finding."""
    return f"{finding['condition'].replace('_', ' ').title()} {finding['level'].replace('_', '/').upper()}"


def test_it_says_what_the_json_report_says(reports: Path) -> None:
    """Of 25 findings severity, probabilities, level, side, and the point in the frame of its slice."""
    made, content = read(reports, WHOLE)
    found = groups(made)
    assert len(found) == 25
    located = 0
    for finding in content["findings"]:
        group = found[words(finding)]
        (severity,) = group.get_qualitative_evaluations(codes.SEVERITY)
        assert severity.value == codes.SEVERITIES[finding["severity"]]
        for name, value in finding["probabilities"].items():
            (measurement,) = group.get_measurements(codes.PROBABILITIES[name])
            assert measurement.value == pytest.approx(value, abs=1e-6)
        (site,) = group.finding_sites
        assert site.value == codes.LEVELS[finding["level"]]
        assert site.laterality == codes.SIDES.get(finding["side"])
        if finding["point"]:
            located += 1
            np.testing.assert_allclose(group.roi.value[0], finding["point"]["mm"], atol=1e-3)
            assert group.roi.frame_of_reference_uid == finding["point"]["frame_of_reference_uid"]
    assert located == len(made.content.get_planar_roi_measurement_groups()) > 0


def test_references_and_patient_are_those_of_the_files(reports: Path) -> None:
    """Every image that is referred to exists, and is among the evidence; the name is written in its own letters."""
    made, _ = read(reports, WHOLE)
    files = [pydicom.dcmread(path, stop_before_pixels=True) for path in images(reports).rglob("*.dcm")]
    known = {(one.SeriesInstanceUID, one.SOPInstanceUID): one for one in files}
    (study,) = made.CurrentRequestedProcedureEvidenceSequence
    evidence = {
        (series.SeriesInstanceUID, one.ReferencedSOPInstanceUID): one.ReferencedSOPClassUID
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    assert evidence
    assert evidence.items() <= {key: one.file_meta.MediaStorageSOPClassUID for key, one in known.items()}.items()
    used = {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in items(made) if item.ValueType == "IMAGE"}
    assert used <= {instance for _, instance in evidence}
    for group in groups(made).values():
        assert any(item.ValueType == "IMAGE" for item in items(group[0]))
    assert (made.PatientName, made.PatientSex, made.StudyDate) == ("Müller^Eva", "F", "20240507")
    assert made.StudyInstanceUID == files[0].StudyInstanceUID == study.StudyInstanceUID
    assert made.SeriesInstanceUID not in {one.SeriesInstanceUID for one in files}


def test_it_says_who_made_it_and_that_it_is_no_diagnosis(reports: Path) -> None:
    """In the description of the series, in the text, and by its flags."""
    made, content = read(reports, WHOLE)
    assert "NOT FOR DIAGNOSIS" in made.SeriesDescription
    assert (made.VerificationFlag, made.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert made.ContentQualification == "RESEARCH"
    (observer,) = made.content.get_observer_contexts()
    device = observer.observer_identifying_attributes
    assert device.serial_number == content["bundle"]["fingerprint"] == made.DeviceSerialNumber
    assert device.name == "lumbar_kaggle"
    assert content["software"]["version"] in device.model_name
    texts = [item.TextValue for item in made.ContentSequence if item.ValueType == "TEXT"]
    assert content["notice"] in texts
    assert set(content["missing"]) <= set(texts)


def test_where_headers_lack_something_a_sentence_stands_for_the_point(reports: Path) -> None:
    """Assumed sagittal frames, axial slices without a frame of reference: no coordinates; findings stay."""
    made, _ = read(reports, UNPLACED)
    assert made.content.get_planar_roi_measurement_groups() == []
    assert len(groups(made)) == 25
    comments = {item.TextValue for item in items(made) if item.ValueType == "TEXT"}
    assert any(text.startswith("No coordinates: the side, the frame or the scale") for text in comments)
    assert "No coordinates: the file of the nearest slice has no FrameOfReferenceUID" in comments
    assert any(text.startswith("PatientSex breaks the standard") for text in comments)
    assert made.PatientSex == ""
    # Nor does an identifier that several files have tell which is meant.
    assert any("slices are not referred to: identifiers of their own are missing" in text for text in comments)
    uids = Counter(pydicom.dcmread(path).SOPInstanceUID for path in images(reports, UNPLACED).rglob("*.dcm"))
    for item in items(made):
        assert item.ValueType != "IMAGE" or uids[item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID] == 1


def test_slices_without_identifiers_leave_a_report_without_references(tmp_path: Path) -> None:
    """It belongs to its study all the same; what was not graded has no finding."""
    series = pd.DataFrame([("7", "S", "sagittal_t1", str(tmp_path), ())], columns=list(SERIES_COLUMNS))
    write_slice(tmp_path / "1.dcm", np.zeros((32, 32), np.uint16), StudyInstanceUID="1.2.3", PatientID="P")
    probabilities = np.full((25, 3), np.nan)
    probabilities[4] = 0.1, 0.7, 0.2
    view = UsedView("middle slice", (TARGET_NAMES[4],), "S", (SliceName(1, None),))
    prediction = Prediction(probabilities, "", Findings((), (view,)))
    result, found = Result(Study("7", series), prediction, (), "0" * 16), References(Study("7", series))
    content = report(result, read_manifest(models_in_the_box()), found)
    structured_report(result, content, found).save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    made = srread(tmp_path / "sr.dcm")
    assert (made.StudyInstanceUID, made.PatientID) == ("1.2.3", "P")
    assert "CurrentRequestedProcedureEvidenceSequence" not in made
    ((name, group),) = groups(made).items()
    assert name == "Spinal Canal Stenosis L5/S1"
    assert group.get_qualitative_evaluations(codes.SEVERITY)[0].value == codes.SEVERITIES["moderate"]
    comments = [item.TextValue for item in items(made) if item.ValueType == "TEXT"]
    assert "1 of 1 slices are not referred to: identifiers of their own are missing" in comments
    assert "No coordinates: the place was not located" in comments


def test_studies_without_names_or_grades_have_none(reports: Path) -> None:
    """The log says why; the bad one sank nothing."""
    assert {path.stem for path in (reports / "sr").iterdir()} == {WHOLE, UNPLACED}
    log = pd.read_csv(log_path(reports / "submission.csv"), dtype=str).set_index("study_id")
    assert log["status"].to_dict() == {WHOLE: "graded", BAD: "prior", UNPLACED: "graded", UNNAMED: "graded"}
    assert "no structured report: the files have no StudyInstanceUID" in log.loc[UNNAMED, "reason"]


def test_the_same_study_gives_the_same_bytes(reports: Path, tmp_path: Path) -> None:
    """From another folder, at another time; identifiers too."""
    shutil.copytree(images(reports), images(tmp_path))
    table = "test_series_descriptions.csv"
    known = pd.read_csv(reports / "studies" / table, dtype=str)
    known[known["study_id"] == WHOLE].to_csv(tmp_path / "studies" / table, index=False)
    assert main([*map(str, command(tmp_path))]) == 0
    for name in (f"json/{WHOLE}.json", f"sr/{WHOLE}.dcm"):
        assert (tmp_path / name).read_bytes() == (reports / name).read_bytes()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian: dicom3tools)")
@pytest.mark.parametrize("study", [WHOLE, UNPLACED])
def test_dciodvfy_finds_nothing(study: str, reports: Path) -> None:
    """No error, and no warning but that a scheme of our own is not one of the standard's."""
    done = subprocess.run(["dciodvfy", reports / "sr" / f"{study}.dcm"], capture_output=True, text=True)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "99LUMBAR" not in line]
    assert lines == ["Comprehensive3DSR"]
    assert done.returncode == 0


def test_without_highdicom_a_sentence_says_what_to_install(
    reports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is graded; JSON reports need nothing more. Nor may reports lie among the studies."""
    place = reports / "studies" / "test_images"
    given = ["predict", str(place), "--out", str(tmp_path / "s.csv"), "--dicom-sr"]
    assert main([*given, str(place / "sr")]) == 2
    assert "lies among the studies" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert main([*given, str(tmp_path / "sr")]) == 2
    assert capsys.readouterr().err == "lumbar: --dicom-sr needs highdicom: pip install 'lumbar_kaggle[dicom]'\n"
    assert not list(tmp_path.iterdir())
