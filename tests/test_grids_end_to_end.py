"""A patient whose series are NIfTI or MetaImage files gets the grades of the same patient in DICOM."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.dicom.series import read_series
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.inference.bundle import models_in_the_box
from lumbar_kaggle.inference.predict import predict
from lumbar_kaggle.tables.competition import read_competition
from tests.support.dicom_files import write_slice
from tests.support.golden import made_with_these
from tests.support.grid_files import write_by_itk

PLACES = {"position": "positions", "orientation": "orientation", "spacing": "spacing"}


def other_way_round(stack: Volume) -> Volume:
    """The same slices with the last one and the lowest row first, as some converters store them."""
    rows, _ = stack.shape
    corners = [stack.to_patient(index, rows - 1, 0) for index in range(len(stack))]
    orientation = stack.orientation * np.repeat([1.0, -1.0], 3)
    return replace(
        stack, images=stack.pixels[::-1, ::-1], positions=np.array(corners[::-1]), orientation=orientation[::-1]
    )


def write(study: Path, name: str, stack: Volume) -> None:
    """Write a series in the format that the study's folder is named after."""
    suffix, _, turned = study.name.partition("-")
    if suffix != "dicom":
        write_by_itk(study / f"{name}.{suffix}", other_way_round(stack) if turned else stack)
        return
    for number, picture in enumerate(stack.images):
        where = {tag: tuple(map(float, getattr(stack, name)[number])) for tag, name in PLACES.items()}
        words = {"SeriesDescription": name.replace("_", " "), "SeriesInstanceUID": f"1.2.{stack.series_id}"}
        write_slice(study / name / f"{number}.dcm", picture, **where, number=number + 1, **words)


def test_the_grades_are_those_of_the_same_patient_in_dicom(tiny_set: Path, tmp_path: Path) -> None:
    """Of tilted planes, which no 32-bit float holds exactly, with nothing but the names of the files to go by."""
    split = read_competition(tiny_set, "test")
    for row in split.series[split.series["study_id"] == split.studies[0]].to_dict("records"):
        for number, stack in enumerate(read_series(Path(row["folder"])).stacks()):
            series = replace(stack, series_id=f"{row['series_id']}.{number}")
            for study in ("dicom", "nii.gz", "mha", "nii.gz-turned"):
                write(tmp_path / study, f"{row['kind']}_{row['series_id']}_{number}", series)
    outcome = predict(tmp_path, models_in_the_box(), tmp_path / "submission.csv", Budget())
    assert set(outcome.log["status"]) == {"graded"}
    table = pd.read_csv(outcome.path, index_col="row_id")
    grades = {study: table[table.index.str.startswith(f"{study}_")].to_numpy() for study in outcome.log["study_id"]}
    expected = grades.pop("dicom")
    assert expected.shape == (25, 3)
    within = 2e-4 if made_with_these("models") else 1e-3
    for found in grades.values():
        np.testing.assert_allclose(found, expected, rtol=0, atol=within)
