"""Several training folders become one."""

from pathlib import Path

import numpy as np
import pandas as pd

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom.studies import check
from lumbar_kaggle.tables.competition import read_marked
from tests.real.folders import Slice, write_folder
from tests.real.mixing import Part, mix


def test_studies_of_all_parts_are_there_under_names_of_their_own(tmp_path: Path) -> None:
    """The same folder twice: whole, and its first two studies without their T2 series, marks included."""
    pixels = np.arange(300 * 200, dtype=np.uint32).reshape(300, 200).astype(np.uint8)
    points = {level: (100.0, 60.0 + 40 * k) for k, level in enumerate(LEVELS)}
    kinds = ("sagittal_t1", "sagittal_t2", "sagittal_t1")
    write_folder(tmp_path / "one", [Slice(k, kind, pixels, points) for k, kind in enumerate(kinds)])
    parts = [Part(tmp_path / "one", 0), Part(tmp_path / "one", 10**6, 2, ("Sagittal T2/STIR",))]
    folder = mix(parts, tmp_path / "mixed")
    assert mix(parts, tmp_path / "mixed") == folder
    assert not [fault for fault in check(folder) if fault.serious]
    competition = read_marked(folder)
    assert len(pd.read_csv(folder / "train.csv")) == 5
    assert list(competition.series["kind"]).count("sagittal_t2") == 1
    assert len(competition.series) == 4
    marked = competition.coordinates.groupby("study_id").size()
    assert (marked == 5).all()
    assert len(marked) == 4
