"""Groups of studies that are evaluated apart: from a table, or from the headers of their DICOM files."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import natural
from lumbar_kaggle.dicom.examination import Examination, read_examinations
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.tables.reading import faults_of, read_table, refuse, to_floats

AGES = (0, 40, 60, 80)  # years at which an age band begins
AGE_NAMES = ("age", "age_years", "patient_age", "patientage")
MOST = 12  # groups of one variable: more are names, not groups

Groups = dict[str, "pd.Series[Any]"]
"""Variable → of each study, by its identifier, its group as an ordered categorical; missing where it is in none."""


def read_groups(path: Path) -> Groups:
    """Read a table with ``study_id`` and a column per variable. Numbers of more than `MOST` / 2 different values are
    put into three bands of equal size, ages into those of `AGES`; an empty field is no group. Raises `InputError` where
    the table cannot be read, names a study twice, has no other column, or a text column has more than `MOST` values."""
    table = read_table(path, ("study_id",), whole=True)
    twice = table["study_id"].duplicated()
    refuse(faults_of(path, table[twice], "study {study_id} is there a second time; keep one row", True))
    table = table.set_index("study_id")
    if table.columns.empty:
        raise InputError(f"{path}: has no column beside study_id; give one for each thing to group by")
    found = {}
    for name in table.columns:
        text = table[name].str.strip()
        numbers = to_floats(text)
        if numbers[text != ""].notna().all() and (_is_age(name) or numbers.nunique() > MOST / 2):
            found[name] = banded(numbers, AGES if _is_age(name) else None)
        else:
            found[name] = _grouped(text)
        if (count := len(found[name].cat.categories)) > MOST:
            what = f"column {name} has {count} different values, and at most {MOST} groups are compared"
            raise InputError(f"{path}: {what}; join some of them, or leave the column out")
    return found


def header_groups(competitions: Sequence[Competition], studies: Sequence[str]) -> Groups:
    """Return ``manufacturer``, ``field_strength``, ``sex`` and ``age`` of studies, as far as their headers say."""
    read = read_examinations(competitions, studies)
    table = pd.DataFrame(list(read.values()), index=list(read), columns=list(Examination._fields))
    fields = [f"{value:g} T" if np.isfinite(value) else "" for value in table["field_t"].astype(np.float64)]
    return {
        "manufacturer": _grouped(table["manufacturer"]),
        "field_strength": _grouped(pd.Series(fields, table.index)),
        "sex": _grouped(table["sex"]),
        "age": banded(table["age"].astype(np.float64), AGES),
    }


def _is_age(name: str) -> bool:
    return name.strip().lower().replace(" ", "_") in AGE_NAMES


def _grouped(text: "pd.Series[str]") -> "pd.Series[Any]":
    """Return texts as groups in natural order."""
    names = sorted(set(text) - {""}, key=natural)
    return text.where(text != "").astype(pd.CategoricalDtype(names, ordered=True))


def banded(numbers: "pd.Series[float]", starts: Sequence[float] | None = None) -> "pd.Series[Any]":
    """Return numbers as bands, NaN in none: each begins at one of `starts`, by default the least number and where each
    further third of the numbers begins."""
    known = numbers.dropna()
    if starts is None:
        starts = sorted(set(known.quantile([0, 1 / 3, 2 / 3], interpolation="higher").tolist()))
    names = [f"{low:g} to below {high:g}" for low, high in pairwise(starts)]
    names.append(f"{starts[-1]:g} and above" if starts else "")
    place = np.searchsorted(starts, numbers.to_numpy(), "right") - 1
    text = [names[at] if at >= 0 and np.isfinite(value) else None for at, value in zip(place, numbers, strict=True)]
    return pd.Series(text, numbers.index).astype(pd.CategoricalDtype(names, ordered=True))
