"""Tables of predictions as arrays, one cell per study and target, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES, row_id, split_row_id
from lumbar_kaggle.scoring.metric import TARGET_PLACE, Booleans, Floats, Integers


@dataclass(frozen=True)
class Cells:
    """Predictions of some studies by several files, with labels and folds.

    Attributes:
        names: of the files.
        studies: identifiers.
        files: ``[files, studies, 25, 3]`` float64 probabilities; rows sum to 1, or are NaN where the file
            has no such row.
        severity: ``[studies, 25]`` int64 labels 0, 1, 2; -1 where there is none.
        fold: ``[studies]`` int64.
    """

    names: tuple[str, ...]
    studies: tuple[str, ...]
    files: Floats
    severity: Integers
    fold: Integers

    def part(self, chosen: Booleans) -> "Cells":
        """Return the studies that `chosen`, ``[studies]``, marks."""
        studies = tuple(study for study, wanted in zip(self.studies, chosen, strict=True) if wanted)
        return Cells(self.names, studies, self.files[:, chosen], self.severity[chosen], self.fold[chosen])


def arrange(tables: Mapping[str, pd.DataFrame]) -> tuple[tuple[str, ...], Floats]:
    """Return the studies that occur, in order of appearance, and their probabilities by every table.

    Args:
        tables: name → columns ``row_id, normal_mild, moderate, severe``; unique rows, in any order, each
            finite, non-negative, with a positive sum. Rows are scaled to sum to 1.

    Returns:
        Identifiers, and ``[tables, studies, 25, 3]`` as in `Cells.files`.

    Raises:
        InputError: a row identifier is not study + target; the table is named.
    """
    keys = {name: _keys(name, table) for name, table in tables.items()}
    place = {study: k for k, study in enumerate(dict.fromkeys(s for pairs in keys.values() for s, _ in pairs))}
    files = np.full((len(tables), len(place), 25, 3), np.nan)
    for number, (name, table) in enumerate(tables.items()):
        rows = [place[study] for study, _ in keys[name]]
        columns = [TARGET_PLACE[target] for _, target in keys[name]]
        values = table[list(SEVERITIES)].to_numpy(dtype=np.float64)
        files[number, rows, columns] = values / values.sum(axis=1, keepdims=True)
    return tuple(place), files


def gather(tables: Mapping[str, pd.DataFrame], labels: pd.DataFrame, folds: Mapping[str, int]) -> Cells:
    """Join tables of out-of-fold predictions with labels and folds.

    Args:
        tables: as in `arrange`.
        labels: columns ``study_id, target, severity``; studies that no table has are left out.
        folds: study → fold.

    Raises:
        InputError: a row identifier is wrong, or a study has no fold; the table is named.
    """
    studies, files = arrange(tables)
    for number, name in enumerate(tables):
        present = np.isfinite(files[number]).all(axis=2).any(axis=1)
        lost = [study for study, there in zip(studies, present, strict=True) if there and study not in folds]
        if lost:
            raise InputError(
                f"{name}: {len(lost)} of its studies have no fold, the first is {lost[0]}; give the "
                "folds.csv by which these predictions were made"
            )
    place = {study: k for k, study in enumerate(studies)}
    severity = np.full((len(studies), 25), -1, dtype=np.int64)
    known = labels[labels["study_id"].isin(place)]
    rows, columns = known["study_id"].map(place).to_numpy(), known["target"].map(TARGET_PLACE).to_numpy()
    severity[rows, columns] = known["severity"].to_numpy()
    fold = np.array([folds[study] for study in studies], dtype=np.int64)
    return Cells(tuple(tables), studies, files, severity, fold)


def as_table(studies: Sequence[str], probabilities: Floats) -> pd.DataFrame:
    """Return ``[studies, 25, 3]`` as columns ``row_id, normal_mild, moderate, severe``; NaN has no row."""
    there = np.isfinite(probabilities).all(axis=2)
    identifiers = [row_id(studies[study], TARGET_NAMES[place]) for study, place in np.argwhere(there).tolist()]
    table = pd.DataFrame(probabilities[there], columns=list(SEVERITIES))
    table.insert(0, "row_id", identifiers)
    return table


def _keys(name: str, table: pd.DataFrame) -> list[tuple[str, str]]:
    try:
        return [split_row_id(identifier) for identifier in table["row_id"]]
    except ValueError as error:
        raise InputError(f"{name}: {error}; a row_id is the study, an underscore and the target") from None
