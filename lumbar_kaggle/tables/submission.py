"""The submission file: filled with the prior first, replaced row by row, and checked before it is sent."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import AnyPath, write_csv
from lumbar_kaggle.core.targets import SEVERITIES, SEVERITY_WEIGHTS, TARGET_NAMES, row_id, split_row_id
from lumbar_kaggle.tables.competition import read_split, submission_rows
from lumbar_kaggle.tables.reading import Checked, Fault, clipped, faults_of, read_table, refuse, to_floats

COLUMNS = ("row_id", *SEVERITIES)
SUM_TOLERANCE = 1e-6  # how far a row's sum may be from 1; the platform does not say what it does with such rows
LONGEST_ROW = 300  # characters of a row's identifier: a study that names a folder (255 at most), and its target
MISSING = "row {row_id} is missing; every test study needs its 25 rows"


def prior_predictions(prior: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return `metric.weighted_prior` as predictions, columns `COLUMNS`, for rows ``row_id, target``."""
    values = prior.loc[rows["target"], list(SEVERITIES)].reset_index(drop=True)
    return pd.concat([rows["row_id"].reset_index(drop=True), values], axis=1)


class Submission:
    """A submission being filled from a positive `metric.weighted_prior`; complete and valid at every moment."""

    def __init__(self, path: Path, studies: tuple[str, ...], prior: pd.DataFrame) -> None:
        self.path = path
        self.table = prior_predictions(prior, submission_rows(studies))
        self._place = {identifier: place for place, identifier in enumerate(self.table["row_id"])}

    def replace(self, study_id: str, probabilities: NDArray[np.float64]) -> int:
        """Replace a study's rows by those ``[25, 3]``, as `targets.TARGETS`, without NaN; return how many that were."""
        graded = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
        places = [self._place[row_id(study_id, TARGET_NAMES[index])] for index in graded]
        self.table.loc[places, list(SEVERITIES)] = probabilities[graded]
        return len(places)

    def write(self) -> None:
        """Write the table as it is, atomically."""
        write_csv(self.path, self.table)


def read_predictions(path: AnyPath) -> pd.DataFrame:
    """Read `COLUMNS` of predictions for scoring: unique rows of numbers from 0 to 1; a fault is an `InputError`."""
    checked, numbers = _check_rows(Path(path), read_table(path, COLUMNS))
    refuse(checked.faults)
    return checked.sound()[["row_id"]].join(numbers)


def with_targets(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return predictions with ``study_id`` and ``target`` beside; a row that names no target is an `InputError`, which
    calls the table by its `name`."""
    try:
        keys = [split_row_id(identifier) for identifier in table["row_id"]]
    except ValueError as error:
        raise InputError(f"{name}: {error}; a row_id is the study, an underscore and the target") from None
    return table.join(pd.DataFrame(keys, table.index, ["study_id", "target"]))


def without_weights(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return predictions ``[rows, 3]`` with the score's weights, by which the best ones are raised above frequencies,
    divided out; rows sum to 1."""
    plain = probabilities / np.asarray(SEVERITY_WEIGHTS, dtype=np.float64)
    return np.asarray(plain / plain.sum(axis=1, keepdims=True))


def read_soft_labels(path: AnyPath) -> pd.DataFrame:
    """Read predictions as labels for training: `with_targets` and `without_weights`; raises as `read_predictions`."""
    table = with_targets(read_predictions(path), str(path))
    table[list(SEVERITIES)] = without_weights(table[list(SEVERITIES)].to_numpy())
    return table


def validate(path: AnyPath, competition: AnyPath) -> list[Fault]:
    """Check a submission against a competition folder, whose test studies it must cover. Returned is every fault, in
    the order of the file, then what is missing from it. Raises as `read_table`."""
    path = Path(path)
    text = read_table(path, COLUMNS, whole=True)
    checked, numbers = _check_rows(path, text)
    off = checked.sound()[["row_id"]].join(numbers.sum(axis=1).rename("total"))
    off = off[(off["total"] - 1).abs() > SUM_TOLERANCE]
    wanted = submission_rows(read_split(competition, "test").studies)["row_id"]
    extra = text[~text["row_id"].isin(wanted)]
    faults = [
        *checked.faults,
        # Kaggle's server refuses the file for any further column.
        *(
            Fault(path, 1, True, f"column {clipped(name)!r} is not in the sample submission; remove it")
            for name in text.columns.difference(list(COLUMNS), sort=False)
        ),
        *faults_of(path, off, "row {row_id} sums to {total:.6g}; it must be 1", True),
        *faults_of(path, extra, "row {row_id} is not among the test rows; remove it", True),
        *(Fault(path, 0, True, MISSING.format(row_id=row), MISSING) for row in wanted[~wanted.isin(text["row_id"])]),
    ]
    return sorted(faults, key=lambda fault: (fault.line == 0, fault.line))


def _check_rows(path: Path, text: pd.DataFrame) -> tuple[Checked, pd.DataFrame]:
    """Return a predictions table of text with its faults, and its numbers (index: line - 2)."""
    numbers = text[list(SEVERITIES)].apply(to_floats).astype(np.float64)
    checked = Checked(path, text)
    too_long = text["row_id"].str.len() > LONGEST_ROW
    checked.fault(too_long, "row {row_id} has an identifier of too many characters")
    checked.fault(text["row_id"].duplicated(), "row {row_id} is there a second time; keep one")
    for name, value in numbers.items():
        checked.fault(~value.between(0, 1), f"row {{row_id}}: {name} is {{{name}!r}}; it must be a number from 0 to 1")
    zero = (numbers.sum(axis=1) <= 0) & ~checked.wrong
    checked.fault(zero, "row {row_id}: all three are 0; they must sum to 1")
    return checked, numbers
