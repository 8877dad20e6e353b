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
from tests.support.dicom_files import AXIAL, SAGITTAL, write_slice
from tests.support.grid_files import write_by_itk


def on_round_numbers(stack: Volume) -> Volume:
    """The same pictures in planes and at places that 32-bit floats hold without rounding."""
    first, number = np.round(stack.positions[0]), np.arange(len(stack))[:, None]
    sagittal = stack.plane == "sagittal"
    positions = first + number * np.array([4.25, 0, 0] if sagittal else [0, 0, -4.25])
    orientation = np.tile(SAGITTAL if sagittal else AXIAL, (len(stack), 1))
    return replace(stack, positions=positions, orientation=orientation, spacing=np.full((len(stack), 2), 1.1875))


def write(study: Path, name: str, stack: Volume) -> None:
    """Write a series in the format that the study's folder is named after."""
    suffix = study.name.split("-")[0]
    if suffix != "dicom":
        write_by_itk(study / f"{name}.{suffix}", stack)
        return
    for number, picture in enumerate(stack.images):
        where = {key: tuple(map(float, getattr(stack, f"{key}{s}")[number])) for key, s in PLACES.items()}
        words = {"SeriesDescription": name.replace("_", " "), "SeriesInstanceUID": f"1.2.{stack.series_id}"}
        write_slice(study / name / f"{number}.dcm", picture, **where, number=number + 1, **words)


PLACES = {"position": "s", "orientation": "", "spacing": ""}


def test_the_grades_are_those_of_the_same_patient_in_dicom(tiny_set: Path, tmp_path: Path) -> None:
    """Within 1e-3, with nothing but the names of the files to go by. NIfTI keeps geometry in 32 bits; by that rounding
    alone the grades of a tilted patient differ more, also when the DICOM files are rounded so."""
    split = read_competition(tiny_set, "test")
    for row in split.series[split.series["study_id"] == split.studies[0]].to_dict("records"):
        for number, stack in enumerate(read_series(Path(row["folder"])).stacks()):
            series = replace(stack, series_id=f"{row['series_id']}.{number}")
            name = f"{row['kind']}_{row['series_id']}_{number}"
            for study in ("dicom-round", "nii.gz-round", "mha-round"):
                write(tmp_path / study, name, on_round_numbers(series))
            for study in ("dicom-tilted", "nii.gz-tilted"):
                write(tmp_path / study, name, series)
    outcome = predict(tmp_path, models_in_the_box(), tmp_path / "submission.csv", Budget())
    assert set(outcome.log["status"]) == {"graded"}
    table = pd.read_csv(outcome.path, index_col="row_id")
    for form, way, most in (("nii.gz", "round", 1e-3), ("mha", "round", 1e-3), ("nii.gz", "tilted", 1e-2)):
        found, expected = (table[table.index.str.startswith(f"{one}-{way}_")].to_numpy() for one in (form, "dicom"))
        assert len(found) == 25
        assert np.abs(found - expected).max() <= most
