"""A competition folder of any size with tiny pictures, quick to write: one spine, other grades per study."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import LEVELS, SEVERITIES, SEVERITY_WORDS, TARGETS, condition_words, level_words
from lumbar_kaggle.dicom.geometry import to_slice
from lumbar_kaggle.tables.competition import submission_rows
from lumbar_kaggle.tables.reading import COORDINATE_COLUMNS
from lumbar_kaggle.two_stage.study import PLACE_OF_CONDITION, PLACES
from tests.support.dicom_files import AXIAL, SAGITTAL, write_slice
from tests.support.two_stage_studies import place_points

SHARES = (0.78, 0.15, 0.07)
"""Of the severities in the competition's labels, over all conditions."""

FIRST_STUDY = {"train": 1_000_000, "test": 5_000_000}
UID = "1.2.826.0.1.1000000.0"
"""Of study and series in the pattern files; replaced by one of the same length."""


@dataclass(frozen=True)
class Acquisition:
    """How a series is made: its description, its planes from the first to the last, pixels of a plane."""

    description: str
    orientation: tuple[float, ...]
    positions: tuple[tuple[float, float, float], ...]
    px: int
    spacing: float


def _sagittal(description: str) -> Acquisition:
    positions = tuple((6.0 * k - 18, -100.0, 100.0) for k in range(7))
    return Acquisition(description, SAGITTAL, positions, 48, 4.2)


SERIES = (
    _sagittal("Sagittal T1"),
    _sagittal("Sagittal T2/STIR"),
    Acquisition("Axial T2", AXIAL, tuple((-62.0, -62.0, 70 - 17.5 * k) for k in range(9)), 32, 4.0),
)
"""Of every study; every fifth has the last one twice, so that there are 3.2 as in the competition."""


def write_studies(root: Path, studies: int, test_studies: int) -> Path:
    """Write a competition folder, and beside it ``truth.csv`` with the test studies' labels.

    Args:
        root: the folder.
        studies, test_studies: how many.
    """
    generator = np.random.default_rng(0)
    patterns = [_patterns(root.parent / "patterns", series, generator) for series in SERIES]
    for split, count in (("train", studies), ("test", test_studies)):
        names = [FIRST_STUDY[split] + number for number in range(count)]
        described = []
        for study in names:
            kinds = [0, 1, 2, 2] if study % 5 == 0 else [0, 1, 2]
            for series, kind in enumerate(kinds, start=1):
                described.append((study, series, SERIES[kind].description))
                _write_series(root / f"{split}_images" / str(study) / str(series), patterns[kind], study, series)
        table = pd.DataFrame(described, columns=["study_id", "series_id", "series_description"])
        table.to_csv(root / f"{split}_series_descriptions.csv", index=False)
        words = np.array(SEVERITY_WORDS)[generator.choice(3, (count, len(TARGETS)), p=SHARES)]
        labels = pd.DataFrame(words, columns=[target.name for target in TARGETS])
        labels.insert(0, "study_id", names)
        labels.to_csv(root / "train.csv" if split == "train" else root.parent / "truth.csv", index=False)
        if split == "train":
            marks = [(study, *mark) for study in names for mark in _marks()]
            coordinates = pd.DataFrame(marks, columns=list(COORDINATE_COLUMNS))
            coordinates.to_csv(root / "train_label_coordinates.csv", index=False)
    sample = submission_rows(map(str, names))[["row_id"]].assign(**dict.fromkeys(SEVERITIES, 1 / 3))
    sample.to_csv(root / "sample_submission.csv", index=False)
    return root


def _patterns(folder: Path, series: Acquisition, generator: np.random.Generator) -> list[bytes]:
    """Return each slice's file with placeholders for the identifiers; its last bytes are the pixels."""
    files = []
    for number, position in enumerate(series.positions, start=1):
        pixels = _picture(series, generator)
        tags = {"SeriesDescription": series.description, "StudyInstanceUID": UID, "SeriesInstanceUID": UID}
        place = {"position": position, "orientation": series.orientation, "number": number}
        path = write_slice(folder / "x.dcm", pixels, spacing=(series.spacing,) * 2, **place, **tags)
        files.append(path.read_bytes())
    return files


def _picture(series: Acquisition, generator: np.random.Generator) -> NDArray[np.uint16]:
    rows, columns = np.mgrid[: series.px, : series.px]
    middle = (series.px - 1) / 2
    body = 800 * np.exp(-((rows - middle) ** 2 + (columns - middle) ** 2) / series.px**2)
    return (body + generator.integers(0, 100, body.shape)).astype(np.uint16)


def _write_series(folder: Path, files: list[bytes], study: int, series: int) -> None:
    folder.mkdir(parents=True)
    uid = f"1.2.826.0.1.{study:07d}.{series}".encode()
    for number, content in enumerate(files, start=1):
        (folder / f"{number}.dcm").write_bytes(content.replace(UID.encode(), uid))


def _marks() -> list[tuple[int, int, str, str, float, float]]:
    """Return series, slice, condition, level, x and y of the 25 points, the same in each study."""
    marks = []
    for target in TARGETS:
        kind = 1 if "spinal" in target.condition else 0 if "foraminal" in target.condition else 2
        series, place = SERIES[kind], PLACES.index(PLACE_OF_CONDITION[target.condition])
        point = place_points()[place, LEVELS.index(target.level)]
        spacing = np.array([series.spacing] * 2)
        found = [
            to_slice(point, np.array(position), np.array(series.orientation), spacing) for position in series.positions
        ]
        nearest = int(np.argmin([abs(float(distance)) for _, _, distance in found]))
        row, column, _ = found[nearest]
        words = condition_words(target.condition), level_words(target.level)
        marks.append((kind + 1, nearest + 1, *words, float(column), float(row)))
    return marks
