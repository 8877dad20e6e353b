"""The JSON report: as its schema says, and as the submission has it."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from jsonschema import Draft202012Validator

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.files import read_json
from lumbar_kaggle.core.targets import SEVERITIES, row_id
from lumbar_kaggle.exchange.content import SCHEMA
from lumbar_kaggle.exchange.reports import LONGEST, file_name
from lumbar_kaggle.inference.bundle import models_in_the_box, read_manifest
from tests.exchange.conftest import BAD, UNNAMED, UNPLACED, WHOLE, images


@pytest.fixture(scope="module")
def contents(reports: Path) -> dict[str, dict]:
    """The reports by study."""
    found = [read_json(path) for path in (reports / "json").iterdir()]
    return {one["study_id"]: one for one in found}


def test_every_study_has_a_report_of_the_documented_form(contents: dict[str, dict]) -> None:
    """The bad one, too; and the schema refuses what it does not describe."""
    Draft202012Validator.check_schema(read_json(SCHEMA))
    schema = Draft202012Validator(read_json(SCHEMA))
    assert set(contents) == {WHOLE, BAD, UNPLACED, UNNAMED}
    for content in contents.values():
        schema.validate(content)
    content = contents[BAD]
    for wrong in ({"extra": 1}, {"findings": content["findings"][1:]}, {"notice": ""}):
        assert not schema.is_valid({**content, **wrong})
    claimed = [{**content["findings"][0], "severity": "severe"}, *content["findings"][1:]]
    assert not schema.is_valid({**content, "findings": claimed})


def test_no_report_tells_where_it_was_made(reports: Path) -> None:
    """Files are named from the folder of the studies on."""
    for path in [*(reports / "json").iterdir(), *(reports / "sr").iterdir()]:
        assert str(reports).encode() not in path.read_bytes()


def test_it_says_what_the_submission_says(contents: dict[str, dict], reports: Path) -> None:
    """To the last digit, the bad study's prior too."""
    table = pd.read_csv(reports / "submission.csv").set_index("row_id")
    for study, content in contents.items():
        for finding in content["findings"]:
            row = table.loc[row_id(study, finding["target"]), list(SEVERITIES)].to_numpy(dtype=float)
            np.testing.assert_allclose(list(finding["probabilities"].values()), row, rtol=0, atol=1e-15)
            best = SEVERITIES[int(row.argmax())] if finding["graded"] else None
            assert finding["severity"] == best


def test_a_bad_study_carries_the_prior_and_the_reason(contents: dict[str, dict]) -> None:
    """Marked in three places."""
    content, prior = contents[BAD], read_manifest(models_in_the_box()).prior
    assert content["status"] == "prior"
    assert any("none of 1 files is a usable slice" in sentence for sentence in content["missing"])
    for finding in content["findings"]:
        assert (finding["graded"], finding["severity"], finding["point"]) == (False, None, None)
        assert list(finding["probabilities"].values()) == prior[finding["target"]]


def test_points_lie_on_the_slices_that_are_named(contents: dict[str, dict], reports: Path) -> None:
    """Each instance is a file of the series; the point is within a slice's distance of it."""
    content = contents[WHOLE]
    files = [pydicom.dcmread(path, stop_before_pixels=True) for path in images(reports).rglob("*.dcm")]
    by_uid = {one.SOPInstanceUID: one for one in files}
    points = [finding["point"] for finding in content["findings"] if finding["point"]]
    assert points
    for point in points:
        header = by_uid[point["instance"]["uid"]]
        assert point["instance"]["number"] == header.InstanceNumber
        assert point["frame_of_reference_uid"] == header.FrameOfReferenceUID
        row, column = np.reshape(header.ImageOrientationPatient, (2, 3))
        offset = np.subtract(point["mm"], header.ImagePositionPatient)
        assert abs(offset @ np.cross(row, column)) < 5
        assert 0 < offset @ row < header.Columns * header.PixelSpacing[1]
    assert content["study_uid"] == files[0].StudyInstanceUID
    for view in content["views"]:
        assert bool(view["instances"]) == (view["missing"] is None)
        assert {by_uid[one["uid"]].SeriesInstanceUID for one in view["instances"]} <= {view["series_uid"]}


def test_points_of_an_assumed_frame_have_no_millimetres(contents: dict[str, dict]) -> None:
    """Their confidence stays; the report says what was assumed, and the study without names is graded alike."""
    content = contents[UNPLACED]
    points = [finding["point"] for finding in content["findings"] if finding["point"]]
    sagittal = [point for point in points if "recess" not in point["place"]]
    assert sagittal
    assert all(point["mm"] is None and 0 < point["confidence"] <= 1 for point in sagittal)
    assert {"canal", "foramen of unknown side"} >= {point["place"] for point in sagittal}
    assert any("no position in the headers, assumed" in sentence for sentence in content["missing"])
    assert contents[UNNAMED]["study_uid"] is None
    assert contents[UNNAMED]["status"] == "graded"


def test_the_baseline_names_its_slice(competition: Path, bundle: Path, tmp_path: Path) -> None:
    """One view of the targets that have models; the others carry the prior."""
    words = ["predict", competition, "--bundle", bundle, "--out", tmp_path / "s.csv", "--json", tmp_path / "json"]
    assert main([*map(str, words)]) == 0
    found = [read_json(path) for path in (tmp_path / "json").iterdir()]
    assert len(found) == 6
    for content in found:
        Draft202012Validator(read_json(SCHEMA)).validate(content)
        (view,) = content["views"]
        assert [one["target"] for one in content["findings"] if one["graded"]] == view["targets"]
        assert [one["number"] for one in view["instances"]] == [2]


@pytest.mark.parametrize("study", ["../../etc/passwd", ".hidden", "a/b", "a\\b", "Müller 7", "a%2Fb", "x" * 400, "~"])
def test_any_study_has_a_safe_name_of_its_own(study: str, tmp_path: Path) -> None:
    """It stays in its folder, and the name can be written."""
    name = file_name(study)
    assert name.isascii()
    assert not name.startswith(".")
    assert not set(name) & set("/\\: ~")
    assert len(name) <= LONGEST
    (tmp_path / f"{name}.json").write_text(json.dumps(study))
    assert os.listdir(tmp_path) == [f"{name}.json"]
    assert file_name(study[:-1] + "?") != name
