"""The competition's folder: what its tables and images say of studies and series.

Identifiers are strings throughout: the competition's are integers up to ten digits, a hospital's may be anything that
names a folder."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import AnyPath, as_path, digest, in_parts, is_folder, list_folder, shown
from lumbar_kaggle.core.targets import SAMPLE_ORDER, TARGET_NAMES, row_id, split_row_id
from lumbar_kaggle.tables import reading
from lumbar_kaggle.tables.reading import Fault, faults_of

SERIES_COLUMNS = ("study_id", "series_id", "kind", "folder", "files")  # of `Competition.series`
_NO_LABELS = reading.label_rows(pd.DataFrame(columns=["study_id", *TARGET_NAMES]))
_NO_COORDINATES = pd.DataFrame(columns=list(reading.COORDINATE_COLUMNS))


@dataclass(frozen=True)
class Competition:
    """One split of a competition folder."""

    root: Path  # the competition folder, or the folder of studies where there are no tables
    split: str  # "train" or "test"
    studies: tuple[str, ...]  # in the order of the tables
    # Columns `SERIES_COLUMNS`: kind is one of `targets.SERIES_KINDS`, folder a path as text, files a tuple of paths
    # relative to it, empty where all its files are of the series; only series that exist on disk.
    series: pd.DataFrame
    # Of a training split, see `reading.label_rows`, and of one with such a table, see `reading.read_coordinates`.
    labels: pd.DataFrame = field(default_factory=_NO_LABELS.copy)
    coordinates: pd.DataFrame = field(default_factory=_NO_COORDINATES.copy)
    faults: tuple[Fault, ...] = ()  # what was wrong in the tables and was left out
    # Per study what is to be said of its series: which were left out, and why.
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def reasons(self, study_id: str) -> str:
        """Return the notes on a study as one line; empty text where there are none."""
        return shown("; ".join(self.notes.get(study_id, ())))

    def identity(self) -> dict[str, str]:
        """Return digests of ``studies``, ``labels`` and ``coordinates``; see `settings.begin_run`."""
        labels, coordinates = (digest(table.to_csv(index=False)) for table in (self.labels, self.coordinates))
        return {"studies": digest(self.studies), "labels": labels, "coordinates": coordinates}


def submission_rows(studies: Iterable[str]) -> pd.DataFrame:
    """Return 25 rows ``row_id, study_id, target`` per study, in the sample's order of targets."""
    rows = [(row_id(study, name), study, name) for study in studies for name in SAMPLE_ORDER]
    return pd.DataFrame(rows, columns=["row_id", "study_id", "target"])


def read_competition(root: AnyPath, split: str = "train", *, graded: bool = True, rows: bool = True) -> Competition:
    """Read one split, ``train`` or ``test``, of a folder with ``train.csv``, ``train_images`` and so on. A training
    split need not be `graded`; for that and `rows` see `read_split`. Raises `InputError` where a table is missing or
    faulty."""
    competition = read_split(root, split, graded=graded, rows=rows)
    serious = [fault for fault in competition.faults if fault.serious]
    reading.refuse(serious, f" (and {len(serious) - 1} more: lumbar check {root})" if len(serious) > 1 else "")
    return competition


def read_marked(root: AnyPath, *, rows: bool = True) -> Competition:
    """Read the training split for its labelled points, which must be there; grades need not be."""
    return read_competition(root, "train", graded=(as_path(root) / "train.csv").is_file(), rows=rows)


def read_split(root: AnyPath, split: str, *, graded: bool = True, rows: bool = True) -> Competition:
    """Read one split, ``train`` or ``test``, with all its faults, the serious ones too; see `read_competition`. A
    training split's studies are those of ``train.csv`` or, where it is not `graded`, of the series table; then the
    table of coordinates must be there. Without `rows` labels and coordinates are checked and not kept, for whoever
    wants the series alone. A table that is missing or lacks a column is an `InputError`."""
    root = as_path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that holds train.csv and test_images")
    series_table = root / f"{split}_series_descriptions.csv"
    described, faults = reading.read_series_table(series_table)
    labels, coordinates = _NO_LABELS, _NO_COORDINATES
    if split == "test":
        studies = _test_studies(root / "sample_submission.csv", described)
        sentence, named = "no table names this study folder; it is left out", set(studies)
        folders = list_folder(root / "test_images").folders
        faults += [Fault(path, 0, False, sentence) for path in folders if path.name not in named]
    else:
        studies = tuple(dict.fromkeys(described["study_id"]))
        if graded:
            table, found = reading.read_label_table(root / "train.csv")
            labels, studies = reading.label_rows(table) if rows else labels, tuple(table["study_id"])
            unknown = ~described["study_id"].isin(studies)
            sentence = "study {study_id} is not in train.csv; the row is left out"
            found += faults_of(series_table, described[unknown], sentence, False)
            described = described[~unknown]
            alone = table[~table["study_id"].isin(described["study_id"])]
            sentence = "study {study_id} has no series in train_series_descriptions.csv"
            faults += found + faults_of(root / "train.csv", alone, sentence, False)
        path = root / "train_label_coordinates.csv"
        if path.is_file() or not graded:
            marked, found = reading.read_coordinates(path, set(studies), described)
            coordinates, faults = marked if rows else coordinates, faults + found
    series, more, notes = _locate(root / f"{split}_images", described, series_table)
    return Competition(root, split, studies, series, labels, coordinates, tuple(faults + more), notes)


def _test_studies(sample: Path, described: pd.DataFrame) -> tuple[str, ...]:
    """Return every study that the sample or the series table names: each needs its 25 rows."""
    named = []
    rows = reading.read_table(sample, ("row_id",)) if sample.is_file() else pd.DataFrame({"row_id": []})
    for index, identifier in zip(rows.index, rows["row_id"], strict=True):
        try:
            study, _ = split_row_id(identifier)
            if len(study) > reading.LONGEST_ID or "/" in study:
                wanted = f"at most {reading.LONGEST_ID} characters, without /"
                raise ValueError(f"study {reading.clipped(study)} cannot name a folder: {wanted}")
        except ValueError as error:
            raise InputError(f"{sample}, line {index + 2}: {error}") from None
        named.append(study)
    return tuple(dict.fromkeys([*named, *described["study_id"]]))


def _locate(
    images: Path, described: pd.DataFrame, table: Path
) -> tuple[pd.DataFrame, list[Fault], dict[str, list[str]]]:
    """Add the folder of each series, and leave out those that are not on disk, with a note per study."""
    folders = [str(images / study / series) for study, series in described[["study_id", "series_id"]].to_numpy()]
    with ThreadPoolExecutor(16) as pool:  # a slow mount is waited for side by side
        there = np.array(list(in_parts(pool, lambda folder: is_folder(as_path(folder)), folders)), dtype=bool)
    missing = described[~there]
    place = str(images).replace("{", "{{").replace("}", "}}")
    sentence = f"series {{series_id}} of study {{study_id}} has no folder in {place}; it is left out"
    faults = faults_of(table, missing, sentence, False)
    if faults and not there.any():
        sentence = f"none of its {len(missing)} series has a folder in {images}; download the pictures too"
        faults = [Fault(table, 0, False, sentence)]
    notes: dict[str, list[str]] = {}
    for study, series in missing[["study_id", "series_id"]].to_numpy():
        notes.setdefault(study, []).append(f"series {series} has no folder")
    located = described.assign(folder=folders)[there].reset_index(drop=True)
    located["files"] = [()] * len(located)
    return located[list(SERIES_COLUMNS)], faults, notes
