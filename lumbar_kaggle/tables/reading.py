"""The competition's tables, read as text and checked: every fault with its file and line."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lumbar_kaggle.core import targets
from lumbar_kaggle.core.errors import InputError, system_sentence
from lumbar_kaggle.core.files import AnyPath, as_path, shown
from lumbar_kaggle.core.targets import SERIES_DESCRIPTIONS, SEVERITY_WORDS, TARGET_NAMES, row_id

COORDINATE_COLUMNS = ("study_id", "series_id", "instance_number", "condition", "level", "x", "y")
SERIES_COLUMNS = ("study_id", "series_id", "series_description")
LONGEST_ID = 64  # characters of a study's or series' identifier in a table: competition's have 10, a DICOM UID 64
PART_ROWS = 2000  # that are parsed at once: of a whole table the parser takes as much again as the table
SHOWN = 20  # faults of one kind that are printed
ARCHIVES = {".gz", ".zip", ".bz2", ".xz", ".zst", ".tar"}  # ends of names by which pandas unpacks a table


class Fault(NamedTuple):
    """Something wrong in a table."""

    file: Path
    line: int  # the header is line 1; 0 when it is the file as a whole
    serious: bool  # the table cannot be used as it is; otherwise the row is left out
    message: str
    kind: str = ""  # the sentence without the row's values; faults of one kind can be told together

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else str(self.file)
        return shown(f"{place}: {self.message}")


def refuse(faults: Sequence[Fault], remark: str = "") -> None:
    """Raise the first of the faults, if there is one, as `InputError`."""
    if faults:
        raise InputError(f"{faults[0]}{remark}")


class Checked:
    """A table of `read_table`, all its rows, and the faults found in it so far: one per row and reason."""

    def __init__(self, path: Path, table: pd.DataFrame) -> None:
        self.path, self.table = path, table
        self.faults: list[Fault] = []
        self.wrong = np.zeros(len(table), dtype=bool)  # [rows] where a row has a fault

    def fault(self, wrong: ArrayLike, sentence: str, serious: bool = True) -> None:
        """Note the rows ``[rows]`` that are wrong, with a sentence as in `faults_of`."""
        rows = np.asarray(wrong, dtype=bool)
        self.faults += faults_of(self.path, self.table[rows], sentence, serious)
        self.wrong |= rows

    def identifiers(self, *columns: str) -> "Checked":
        """Note identifiers that cannot name a folder; return the rows without them, to be checked further."""
        for column in columns:
            good = self.table[column].str.fullmatch(rf"[0-9]{{1,{LONGEST_ID}}}").to_numpy(dtype=bool)
            self.fault(~good, f"{column} is {{{column}!r}}; it must be a whole number of at most {LONGEST_ID} digits")
        others = Checked(self.path, self.sound())
        others.faults = self.faults
        return others

    def sound(self) -> pd.DataFrame:
        """Return the rows without a fault."""
        return self.table[~self.wrong]


def read_table(path: AnyPath, columns: Sequence[str], *, whole: bool = False) -> pd.DataFrame:
    """Read a CSV as text and check that it has `columns`; further columns stay only with `whole`. Returned are text
    columns, empty text where nothing stands, and an index that gives ``line - 2``. A file that is missing, empty, no
    CSV, lacks a column or has one twice, or has a line break or NUL in a field is an `InputError`."""
    path, columns = as_path(path), list(columns)
    try:
        packed = path.suffix.lower() in ARCHIVES
        with path.open("rb") as file:
            # pandas before 3 ends a field at a NUL.
            nul = 0 if packed else next((number for number, line in enumerate(file, 1) if b"\0" in line), 0)
            file.seek(0)
            source = path if packed else file
            how: dict[str, Any] = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False}
            with pd.read_csv(source, chunksize=PART_ROWS, **how) as parts:
                table = pd.concat(list(parts))
    except pd.errors.EmptyDataError:
        raise InputError(f"{path}: the file is empty; it needs the columns {', '.join(columns)}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a CSV file (no text in UTF-8: {error.reason}); save it as UTF-8") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise InputError(system_sentence(error)) from None
        # Each kind of archive fails in a way of its own, and a file may only be called one.
        reason = clipped(" ".join(str(error).split()), 160) or type(error).__name__
        raise InputError(f"{path}: not a CSV file ({reason}); give one, or a whole archive of one") from error
    if not isinstance(table.index, pd.RangeIndex):
        # pandas takes surplus fields for row names, and every column would be shifted.
        raise InputError(f"{path}, line 2: the row has more fields than the header; remove what is too much")
    if missing := [name for name in columns if name not in table.columns]:
        raise InputError(f"{path}, line 1: column {', '.join(missing)} is missing")
    # pandas gives a second column of one name the number 1.
    if twice := [name for name in columns if f"{name}.1" in table.columns]:
        raise InputError(f"{path}, line 1: column {twice[0]} is there twice; keep one")
    broken = table[columns].apply(lambda column: column.str.contains(r"[\r\n\0]")).any(axis=1)
    if line := int(broken.idxmax()) + 2 if broken.any() else nul:
        raise InputError(f"{path}, line {line}: a field holds a line break or a NUL; remove it")
    # A blank line is no row, yet it counts as a line of the file.
    blank = (table == "").all(axis=1)
    rows = table[~blank] if blank.any() else table
    return rows if whole else rows[columns]


def label_rows(train: pd.DataFrame) -> pd.DataFrame:
    """Turn the wide label table (`SEVERITY_WORDS` or empty text) into one row per labelled study × target. Columns
    ``row_id, study_id, target, severity`` (int64 0, 1, 2), studies in table order."""
    grades = {word: grade for grade, word in enumerate(SEVERITY_WORDS)}
    wide = train.set_index("study_id")[list(TARGET_NAMES)].apply(lambda column: column.map(grades))
    rows, columns = np.nonzero(wide.notna().to_numpy())
    studies, names = wide.index.to_numpy()[rows], wide.columns.to_numpy()[columns]
    identifiers = [row_id(study, name) for study, name in zip(studies, names, strict=True)]
    severity = wide.to_numpy(np.float64)[rows, columns].astype(np.int64)
    return pd.DataFrame({"row_id": identifiers, "study_id": studies, "target": names, "severity": severity})


def read_labels(path: Path) -> pd.DataFrame:
    """Read a label table (``train.csv`` or a truth file) as `label_rows`; its first fault is an `InputError`."""
    table, faults = read_label_table(path)
    refuse(faults)
    return label_rows(table)


def read_label_table(path: Path) -> tuple[pd.DataFrame, list[Fault]]:
    """Read a label table's text, ``study_id`` and 25 targets, without the rows at fault; raises as `read_table`."""
    checked = Checked(path, read_table(path, ("study_id", *TARGET_NAMES))).identifiers("study_id")
    table = checked.table
    checked.fault(table["study_id"].duplicated(), "study {study_id} is there a second time; keep one row")
    for name in TARGET_NAMES:
        sentence = f"{name} is {{{name}!r}}; it must be Normal/Mild, Moderate, Severe or empty"
        checked.fault(~table[name].isin([*SEVERITY_WORDS, ""]), sentence)
    return checked.sound().reset_index(drop=True), checked.faults


def read_series_table(path: Path) -> tuple[pd.DataFrame, list[Fault]]:
    """Read a table of series descriptions: text `SERIES_COLUMNS` and ``kind``. An unknown description is serious."""
    checked = Checked(path, read_table(path, SERIES_COLUMNS)).identifiers("study_id", "series_id")
    table = checked.table
    sentence = "series {series_id} of study {study_id} is there a second time; the row is left out"
    checked.fault(table.duplicated(["study_id", "series_id"]), sentence, False)
    kind = table["series_description"].map(SERIES_DESCRIPTIONS)
    wanted = f"one of {', '.join(SERIES_DESCRIPTIONS)}"
    checked.fault(kind.isna(), f"series_description is {{series_description!r}}; it must be {wanted}")
    return table.assign(kind=kind)[~checked.wrong], checked.faults


def read_coordinates(path: Path, studies: set[str], described: pd.DataFrame) -> tuple[pd.DataFrame, list[Fault]]:
    """Read ``train_label_coordinates.csv`` of the `studies` in ``train.csv`` and series as of `read_series_table`.
    `COORDINATE_COLUMNS` with conditions and levels as in `targets`, instance numbers int64, x and y float (column and
    row in px of the stored image), index ``line - 2``; and the faults. Raises as `read_table`."""
    checked = Checked(path, table := read_table(path, COORDINATE_COLUMNS))
    words_of = {
        "condition": {targets.condition_words(name): name for name in targets.CONDITIONS},
        "level": {targets.level_words(name): name for name in targets.LEVELS},
    }
    for column, words in words_of.items():
        wanted = f"one of {', '.join(words)}"
        checked.fault(~table[column].isin(list(words)), f"{column} is {{{column}!r}}; it must be {wanted}")
    numbers = table[["instance_number", "x", "y"]].apply(to_floats).astype(np.float64)
    # Negative pixels are outside of every image; integer strings are of 32 bits (DICOM PS3.5, 6.2).
    sound = (numbers >= 0) & (numbers < np.inf)
    sound["instance_number"] &= (numbers["instance_number"] % 1 == 0) & (numbers["instance_number"] < 2**31)
    for name in numbers:
        wanted = "a whole number, 0 or more and of 32 bits" if name == "instance_number" else "a number, 0 or more"
        checked.fault(~sound[name], f"{name} is {{{name}!r}}; it must be {wanted}; the row is left out", False)
    unknown = ~table["study_id"].isin(studies)
    checked.fault(unknown, "study {study_id} is not in train.csv; the row is left out", False)
    pairs = [pd.MultiIndex.from_frame(one[["study_id", "series_id"]]) for one in (table, described)]
    sentence = "series {series_id} is not in train_series_descriptions.csv; the row is left out"
    checked.fault(~pairs[0].isin(pairs[1]) & ~unknown, sentence, False)
    twice = table.duplicated(["study_id", "condition", "level"])
    checked.fault(twice, "study {study_id} has this condition and level a second time; the row is left out", False)
    spelt = {column: table[column].map(words) for column, words in words_of.items()}
    kept = table.assign(**spelt, **numbers)[~checked.wrong]
    return kept.astype({"instance_number": np.int64}), checked.faults


def to_floats(texts: pd.Series) -> pd.Series:
    """Return texts as float64, to the last digit, NaN where one is no number."""
    # pandas before 3 is a digit off where it parses numbers itself, and Python takes 1_000 for one.
    return texts.where(pd.to_numeric(texts, errors="coerce").notna()).astype(np.float64)


def as_numbers(path: Path, table: pd.DataFrame, *columns: str, least: float = -np.inf) -> pd.DataFrame:
    """Return the table of `read_table` with some columns as float64; none may be infinite or less than `least`."""
    for column in columns:
        values = to_floats(table[column])
        wrong = ~np.isfinite(values) | (values < least)
        wanted = "a number" if least == -np.inf else f"a number, {least:g} or more"
        refuse(faults_of(path, table[wrong].head(1), f"{column} is {{{column}!r}}; it must be {wanted}", True))
        table = table.assign(**{column: values})
    return table


def read_label_weights(path: Path) -> pd.DataFrame:
    """Read how much each label counts: ``row_id``, and ``weight`` as float64 of 0 or more; raises as `as_numbers`."""
    return as_numbers(path, read_table(path, ("row_id", "weight")), "weight", least=0)


def faults_of(path: Path, rows: pd.DataFrame, sentence: str, serious: bool) -> list[Fault]:
    """One fault per row; `sentence` is filled with the row's own values."""
    names = {name for _, name, _, _ in Formatter().parse(sentence) if name}
    columns = [[clipped(value) for value in rows[name].tolist()] for name in names]
    return [
        Fault(path, int(index) + 2, serious, sentence.format(**dict(zip(names, values, strict=True))), sentence)
        for index, *values in zip(rows.index, *columns, strict=True)
    ]


def shortened(faults: Sequence[Fault]) -> list[Fault]:
    """Return the first `SHOWN` faults of each kind, and after them how many more there are of each."""
    seen: Counter[tuple[Path, str]] = Counter()
    few, more = [], {}
    for fault in faults:
        kind = (fault.file, fault.kind or fault.message)
        seen[kind] += 1
        if seen[kind] <= SHOWN:
            few.append(fault)
        else:
            told = re.sub(r"\{[^}]*\}", "…", kind[1])
            more[kind] = Fault(fault.file, 0, fault.serious, f"{seen[kind] - SHOWN} more rows: {told}")
    return [*few, *more.values()]


def clipped(value: Any, most: int = 60) -> Any:
    """Return a value as it is, text beyond `most` characters cut off and marked."""
    return f"{value[:most]}…" if isinstance(value, str) and len(value) > most else value
