"""The submission file: filled with the prior first, replaced row by row, and checked before it is sent."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.files import AnyPath, write_csv
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES, row_id
from lumbar_kaggle.tables.competition import read_split, submission_rows
from lumbar_kaggle.tables.reading import Checked, Fault, clipped, faults_of, read_table, refuse, to_floats

COLUMNS = ("row_id", *SEVERITIES)
SUM_TOLERANCE = 1e-6
"""How far a row's sum may be from 1; the platform does not say what it does with such rows."""

LONGEST_ROW = 300
"""Characters of a row's identifier: a study that names a folder (255 at most), and its target."""

MISSING = "row {row_id} is missing; every test study needs its 25 rows"


def prior_predictions(prior: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return `metric.weighted_prior` as predictions, columns `COLUMNS`, for rows ``row_id, target``."""
    values = prior.loc[rows["target"], list(SEVERITIES)].reset_index(drop=True)
    return pd.concat([rows["row_id"].reset_index(drop=True), values], axis=1)


class Submission:
    """A submission being filled; what is written is complete and valid at every moment.

    `prior` is as from `metric.weighted_prior`, strictly positive.
    """

    def __init__(self, path: Path, studies: tuple[str, ...], prior: pd.DataFrame) -> None:
        self.path = path
        rows = submission_rows(studies)
        self.table = prior_predictions(prior, rows)
        self._place = {identifier: place for place, identifier in enumerate(rows["row_id"])}

    def replace(self, study_id: str, probabilities: NDArray[np.float64]) -> int:
        """Replace a study's rows by its graded ones, and return how many that were.

        Args:
            study_id: one of the studies.
            probabilities: ``[25, 3]`` in the order of `targets.TARGETS`; rows with a NaN keep the prior.
        """
        graded = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
        places = [self._place[row_id(study_id, TARGET_NAMES[index])] for index in graded]
        self.table.loc[places, list(SEVERITIES)] = probabilities[graded]
        return len(places)

    def write(self) -> None:
        """Write the table as it is, atomically."""
        write_csv(self.path, self.table)


def read_predictions(path: AnyPath) -> pd.DataFrame:
    """Read a file of predictions for scoring: unique rows with numbers from 0 to 1, whatever their
    sum; further columns are left out.

    Returns:
        Columns ``row_id, normal_mild, moderate, severe``.

    Raises:
        InputError: with the first fault, when there is one.
    """
    path = Path(path)
    table, faults = _check_rows(path, read_table(path, COLUMNS))
    refuse(faults)
    return table


def validate(path: AnyPath, competition: AnyPath) -> list[Fault]:
    """Check a submission against a competition folder, whose test studies it must cover.

    Returns:
        Every fault, in the order of the file, then what is missing from it.

    Raises:
        InputError: a file is missing or lacks its columns.
    """
    path = Path(path)
    text = read_table(path, COLUMNS, whole=True)
    table, faults = _check_rows(path, text)
    # Kaggle's server refuses the file for any further column.
    faults += [
        Fault(path, 1, True, f"column {clipped(name)!r} is not in the sample submission; remove it")
        for name in text.columns.difference(list(COLUMNS), sort=False)
    ]
    table = table.assign(total=table[list(SEVERITIES)].sum(axis=1))
    off = table[(table["total"] - 1).abs() > SUM_TOLERANCE]
    faults += faults_of(path, off, "row {row_id} sums to {total:.6g}; it must be 1", True)
    wanted = read_split(competition, "test").rows()["row_id"]
    extra = text[~text["row_id"].isin(wanted)]
    faults += faults_of(path, extra, "row {row_id} is not among the test rows; remove it", True)
    missing = wanted[~wanted.isin(text["row_id"])]
    faults += [Fault(path, 0, True, MISSING.format(row_id=identifier), MISSING) for identifier in missing]
    return sorted(faults, key=lambda fault: (fault.line == 0, fault.line))


def _check_rows(path: Path, text: pd.DataFrame) -> tuple[pd.DataFrame, list[Fault]]:
    """Return the sound rows of a predictions table (index: line - 2), and the faults of the others."""
    numbers = text[list(SEVERITIES)].apply(to_floats).astype(np.float64)
    checked = Checked(path, text)
    too_long = text["row_id"].str.len() > LONGEST_ROW
    checked.fault(too_long, "row {row_id} has an identifier of too many characters", True)
    twice = text["row_id"].duplicated()
    checked.fault(twice, "row {row_id} is there a second time; keep one", True)
    for name in SEVERITIES:
        value, finite = numbers[name], np.isfinite(numbers[name])
        checked.fault(~finite, f"row {{row_id}}: {name} is {{{name}!r}}; it must be a number", True)
        checked.fault(value < 0, f"row {{row_id}}: {name} is {{{name}}}; it must be 0 or more", True)
        large = finite & (value > 1)
        checked.fault(large, f"row {{row_id}}: {name} is {{{name}}}; it must be 1 or less", True)
    zero = (numbers.sum(axis=1) <= 0) & ~checked.wrong
    checked.fault(zero, "row {row_id}: all three are 0; they must sum to 1", True)
    return checked.sound()[["row_id"]].join(numbers), checked.faults
