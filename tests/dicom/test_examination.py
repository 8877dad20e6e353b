"""What headers say of scanner and patient, read as it is written by different makers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lumbar_kaggle.dicom.examination import Examination, every_split, read_examination, read_examinations
from lumbar_kaggle.tables.competition import SERIES_COLUMNS, Competition, read_split
from tests.support.dicom_files import write_slice

PICTURE = np.full((8, 8), 7, dtype=np.uint16)


@pytest.mark.parametrize(
    ("written", "maker"),
    [
        *[(name, "Siemens") for name in ("SIEMENS", "Siemens Healthineers", "Siemens Healthcare GmbH")],
        *[("GE MEDICAL SYSTEMS", "GE"), ("Philips Medical Systems", "Philips"), ("TOSHIBA_MEC", "Toshiba"), ("", "")],
    ],
)
def test_a_maker_has_one_name(written: str, maker: str, tmp_path: Path) -> None:
    """The first word, whatever the company was called at the time."""
    assert read_examination(write_slice(tmp_path / "1.dcm", PICTURE, Manufacturer=written)).manufacturer == maker


@pytest.mark.parametrize(
    ("written", "field_t"),
    [("1.5", 1.5), ("1.494", 1.5), ("2.89362", 3.0), ("0.35", 0.35), ("15000", None), ("0", None)],
)
def test_a_field_strength_is_the_nominal_one(written: str, field_t: float | None, tmp_path: Path) -> None:
    """And none where it cannot be meant."""
    assert read_examination(write_slice(tmp_path / "1.dcm", PICTURE, MagneticFieldStrength=written)).field_t == field_t


@pytest.mark.parametrize(
    ("tags", "age"),
    [
        ({"PatientAge": "067Y"}, 67),
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientBirthDate": "19500615", "StudyDate": "20200616"}, 70),
        ({"PatientAge": "", "PatientBirthDate": "20200615", "StudyDate": "19500616"}, None),
        ({"PatientAge": "old"}, None),
    ],
)
def test_an_age_is_in_years(tags: dict[str, str], age: float | None, tmp_path: Path) -> None:
    """From the age, or the dates of birth and study."""
    path = write_slice(tmp_path / "1.dcm", PICTURE, **tags)
    found = read_examination(path).age
    assert found == (None if age is None else pytest.approx(age, abs=0.01))


def test_series_of_a_study_complete_each_other(tmp_path: Path) -> None:
    """A file that cannot be read is passed over; the first answer to each question holds."""
    series = tmp_path / "7" / "a", tmp_path / "7" / "b"
    first = {"Manufacturer": "Philips", "PatientSex": "F", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.1"}
    write_slice(series[0] / "2.dcm", PICTURE, **first)
    (series[0] / "1.dcm").write_bytes(b"nothing")
    more = {"Manufacturer": "GE", "PatientAge": "050Y", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.2"}
    write_slice(series[1] / "1.dcm", PICTURE, MagneticFieldStrength="3", SeriesDescription="T2 TSE SAG", **more)
    rows = [("7", name, "sagittal_t1", str(folder), ()) for name, folder in zip("ab", series, strict=True)]
    competition = Competition(tmp_path, "test", ("7",), pd.DataFrame(rows, columns=list(SERIES_COLUMNS)))
    found = read_examinations([competition], ["7", "8"])
    assert found == {"7": Examination("Philips", 3.0, "female", 50.0)}


def test_both_splits_of_a_competition_folder_are_read(competition: Path) -> None:
    """Training and test studies alike."""
    found = every_split(competition)
    assert [one.split for one in found] == ["train", "test"]
    assert found[0].studies == read_split(competition, "train").studies
