"""The competition's tables, read as text and checked: every fault with its file and line."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lumbar_kaggle.errors import InputError
from lumbar_kaggle.folders import shown
from lumbar_kaggle.targets import (
    CONDITIONS,
    LEVELS,
    SERIES_DESCRIPTIONS,
    SEVERITY_WORDS,
    TARGET_NAMES,
    condition_words,
    level_words,
    row_id,
    split_row_id,
)

COORDINATE_COLUMNS = ("study_id", "series_id", "instance_number", "condition", "level", "x", "y")
SERIES_COLUMNS = ("study_id", "series_id", "series_description")


class Fault(NamedTuple):
    """Something wrong in a table.

    Attributes:
        file: path of the table.
        line: line in that file, the header being line 1; 0 when it is the file as a whole.
        serious: True when the table cannot be used as it is; otherwise the row is left out.
        message: one clear sentence.
    """

    file: Path
    line: int
    serious: bool
    message: str

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else str(self.file)
        return shown(f"{place}: {self.message}")


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV as text and check that it has `columns`; further columns are dropped.

    Returns:
        Text columns, empty text where nothing stands, and an index that gives ``line - 2``.

    Raises:
        InputError: the file is missing, empty, no CSV, or lacks a column.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder, where a CSV file was expected") from None
    except pd.errors.EmptyDataError:
        raise InputError(f"{path}: the file is empty; it needs the columns {', '.join(columns)}") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV file ({str(error).strip()})") from None
    if not isinstance(table.index, pd.RangeIndex):
        # pandas takes surplus fields for row names, and every column would be shifted.
        raise InputError(f"{path}, line 2: the row has more fields than the header; remove what is too much")
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(f"{path}, line 1: column {', '.join(missing)} is missing")
    # A blank line is no row, yet it counts as a line of the file.
    return table.loc[(table != "").any(axis=1), list(columns)]


def label_rows(train: pd.DataFrame) -> pd.DataFrame:
    """Turn the wide label table into one row per labelled study × target.

    Args:
        train: ``study_id`` and the 25 target columns with `SEVERITY_WORDS` or empty text.

    Returns:
        Columns ``row_id, study_id, target, severity`` (int64 0, 1, 2), studies in table order.
    """
    long = train.melt("study_id", list(TARGET_NAMES), "target", "word")
    grades = {word: grade for grade, word in enumerate(SEVERITY_WORDS)}
    severity = long["word"].map(grades).fillna(-1)
    long = long.assign(severity=severity.astype(np.int64), position=np.tile(np.arange(len(train)), 25))
    long = long[long["severity"] >= 0].sort_values("position", kind="stable")
    identifiers = [row_id(study, name) for study, name in zip(long["study_id"], long["target"], strict=True)]
    return long.assign(row_id=identifiers)[["row_id", "study_id", "target", "severity"]].reset_index(
        drop=True
    )


def read_labels(path: Path) -> tuple[pd.DataFrame, list[Fault]]:
    """Read a label table (``train.csv`` or a truth file of the same columns).

    Returns:
        As `label_rows`, and the faults: unknown severities and duplicate studies are serious.

    Raises:
        InputError: the file is missing, empty, no CSV, or lacks a column.
    """
    table, faults = read_label_table(path)
    return label_rows(table), faults


def read_label_table(path: Path) -> tuple[pd.DataFrame, list[Fault]]:
    """Read a label table as it stands: text columns ``study_id`` and the 25 targets.

    Returns:
        The rows without those at fault, and the faults.

    Raises:
        InputError: the file is missing, empty, no CSV, or lacks a column.
    """
    table = read_table(path, ("study_id", *TARGET_NAMES))
    faults = _bad_identifiers(path, table, "study_id")
    twice = table["study_id"].duplicated()
    faults += faults_of(path, table[twice], "study {study_id} stands here a second time; keep one row", True)
    bad = np.zeros(len(table), dtype=bool)
    for name in TARGET_NAMES:
        unknown = ~table[name].isin([*SEVERITY_WORDS, ""])
        bad |= unknown.to_numpy()
        sentence = f"{name} is {{{name}!r}}; it must be Normal/Mild, Moderate, Severe or empty"
        faults += faults_of(path, table[unknown], sentence, True)
    return table[~twice & ~bad].reset_index(drop=True), faults


def read_series_table(path: Path) -> tuple[pd.DataFrame, list[Fault]]:
    """Read a table of series descriptions.

    Returns:
        Text columns ``study_id, series_id, series_description, kind`` (one of `targets.SERIES_KINDS`),
        and the faults; an unknown description is serious.

    Raises:
        InputError: the file is missing, empty, no CSV, or lacks a column.
    """
    table = read_table(path, SERIES_COLUMNS)
    faults = _bad_identifiers(path, table, "study_id") + _bad_identifiers(path, table, "series_id")
    twice = table.duplicated(["study_id", "series_id"])
    sentence = "series {series_id} of study {study_id} stands here a second time; the row is left out"
    faults += faults_of(path, table[twice], sentence, False)
    kind = table["series_description"].map(SERIES_DESCRIPTIONS)
    words = ", ".join(SERIES_DESCRIPTIONS)
    sentence = f"series_description is {{series_description!r}}; it must be one of {words}"
    faults += faults_of(path, table[kind.isna()], sentence, True)
    return table.assign(kind=kind)[~twice & kind.notna()], faults


def read_coordinates(
    path: Path, studies: set[str], described: pd.DataFrame
) -> tuple[pd.DataFrame, list[Fault]]:
    """Read ``train_label_coordinates.csv``.

    Args:
        path: the table.
        studies: identifiers in ``train.csv``.
        described: as from `read_series_table`.

    Returns:
        `COORDINATE_COLUMNS` with conditions and levels as in `targets`, instance numbers int64, x and y
        float (column and row in px of the stored image), index ``line - 2``; and the faults.

    Raises:
        InputError: the file is missing, empty, no CSV, or lacks a column.
    """
    table = read_table(path, COORDINATE_COLUMNS)
    conditions = {condition_words(name): name for name in CONDITIONS}
    levels = {level_words(name): name for name in LEVELS}
    faults: list[Fault] = []
    bad = np.zeros(len(table), dtype=bool)
    for column, names in (("condition", conditions), ("level", levels)):
        unknown = ~table[column].isin(list(names))
        sentence = f"{column} is {{{column}!r}}; it must be one of {', '.join(names)}"
        faults += faults_of(path, table[unknown], sentence, True)
        bad |= unknown.to_numpy()
    numbers = table[["instance_number", "x", "y"]].apply(pd.to_numeric, errors="coerce")
    for column in ("instance_number", "x", "y"):
        # Negative pixels are outside of every image, whatever its size.
        wrong = ~(numbers[column] >= 0) | ~np.isfinite(numbers[column])
        wanted = "a number, 0 or more"
        if column == "instance_number":
            wrong |= numbers[column] % 1 != 0
            wanted = "a whole number, 0 or more"
        sentence = f"{column} is {{{column}!r}}; it must be {wanted}; the row is left out"
        faults += faults_of(path, table[wrong], sentence, False)
        bad |= wrong.to_numpy()
    unknown = ~table["study_id"].isin(studies)
    faults += faults_of(
        path, table[unknown], "study {study_id} is not in train.csv; the row is left out", False
    )
    pairs = set(zip(described["study_id"], described["series_id"], strict=True))
    keys = zip(table["study_id"], table["series_id"], strict=True)
    strange = np.array([key not in pairs for key in keys], dtype=bool) & ~unknown.to_numpy()
    sentence = "series {series_id} is not in train_series_descriptions.csv; the row is left out"
    faults += faults_of(path, table[strange], sentence, False)
    twice = table.duplicated(["study_id", "condition", "level"]).to_numpy()
    sentence = "study {study_id} has this condition and level a second time; the row is left out"
    faults += faults_of(path, table[twice], sentence, False)
    table = table.assign(
        condition=table["condition"].map(conditions), level=table["level"].map(levels), **numbers
    )
    kept = table[~(bad | unknown.to_numpy() | strange | twice)]
    return kept.astype({"instance_number": np.int64}), faults


def sample_studies(path: Path) -> list[str]:
    """Return the studies that a sample submission names, in its order.

    Raises:
        InputError: the file is unreadable, or a row identifier is not study + target.
    """
    studies: dict[str, None] = {}
    table = read_table(path, ("row_id",))
    for index, identifier in zip(table.index, table["row_id"], strict=True):
        try:
            studies[split_row_id(identifier)[0]] = None
        except ValueError as error:
            raise InputError(f"{path}, line {index + 2}: {error}") from None
    return list(studies)


def _bad_identifiers(path: Path, table: pd.DataFrame, column: str) -> list[Fault]:
    bad = table[~table[column].str.fullmatch(r"\d+")]
    return faults_of(path, bad, f"{column} is {{{column}!r}}; it must be a whole number", True)


def faults_of(path: Path, rows: pd.DataFrame, sentence: str, serious: bool) -> list[Fault]:
    """One fault per row; `sentence` is filled with the row's own values."""
    if rows.empty:
        # The usual case; turning a frame of no rows into records takes milliseconds.
        return []
    return [
        Fault(
            path,
            int(index) + 2,
            serious,
            sentence.format_map({str(key): value for key, value in row.items()}),
        )
        for index, row in zip(rows.index, rows.to_dict("records"), strict=True)
    ]
