"""Who trains and who validates: grouped, stratified folds, and balancing inside the training part."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import AnyPath, write_csv
from lumbar_kaggle.tables.reading import Checked, read_table, refuse


def make_folds(labels: pd.DataFrame, folds: int, seed: int) -> pd.DataFrame:
    """Assign each study to one fold, for all targets alike.

    Every row of a study is on one side, since studies are what is drawn. Studies are stratified by
    their worst canal grade and by how many of their rows are severe.

    Args:
        labels: columns ``study_id, target, severity``.
        folds: 2 or more.
        seed: of the shuffle.

    Returns:
        Columns ``study_id, fold`` (0 … folds - 1), one row per study in the order of `labels`.

    Raises:
        InputError: fewer studies than folds.
    """
    studies = labels["study_id"].drop_duplicates().reset_index(drop=True)
    if len(studies) < folds:
        raise InputError(f"{len(studies)} labelled studies cannot be split into {folds} folds; use fewer folds")
    canal = labels[labels["target"].str.startswith("spinal")].groupby("study_id")["severity"].max()
    severe = (labels["severity"] == 2).groupby(labels["study_id"]).sum()
    worst = studies.map(canal).fillna(0).astype(int)
    stratum = worst * 3 + np.minimum(studies.map(severe).to_numpy() + 1, 5) // 2
    # A stratum smaller than the number of folds cannot be spread; it joins its neighbour below.
    for value in sorted(stratum.unique(), reverse=True):
        below = [other for other in stratum.unique() if other < value]
        if (stratum == value).sum() < folds and below:
            stratum = stratum.replace(value, max(below))
    if (stratum == stratum.min()).sum() < folds:
        stratum = stratum * 0
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    assigned = np.empty(len(studies), dtype=np.int64)
    for fold, (_, held_out) in enumerate(splitter.split(studies, stratum)):
        assigned[held_out] = fold
    return pd.DataFrame({"study_id": studies, "fold": assigned})


def read_folds(path: AnyPath) -> pd.DataFrame:
    """Read a fold table: text ``study_id``, int64 ``fold``.

    Raises:
        InputError: the file is unreadable, a fold is no whole number, or a study has two.
    """
    checked = Checked(Path(path), read_table(path, ("study_id", "fold")))
    whole = checked.table["fold"].str.fullmatch(r"[0-9]{1,9}").to_numpy(dtype=bool)
    checked.fault(~whole, "fold is {fold!r}; it must be a whole number", True)
    twice = checked.table["study_id"].duplicated()
    checked.fault(twice, "study {study_id} is there a second time; keep one row", True)
    refuse(checked.faults)
    return checked.table.astype({"fold": np.int64})


def open_folds(path: Path, labels: pd.DataFrame, folds: int, seed: int) -> pd.DataFrame:
    """Return the fold table that a run was begun with, or one of `make_folds`, which is written.

    Raises:
        InputError: the run was begun with other studies, or there are fewer studies than folds.
    """
    made = make_folds(labels, folds, seed)
    if path.is_file():
        there = read_folds(path)
        if set(there["study_id"]) != set(made["study_id"].astype(str)):
            raise InputError(f"{path}: this run was begun with other studies; choose another --out folder")
        return there
    write_csv(path, made)
    return made


def balance(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Repeat rows of the rarer severities until each has as many as the most frequent one.

    Copies are drawn with replacement and follow the rows, index reset. A severity without any row
    stays without.
    """
    generator = np.random.default_rng(seed)
    counts = rows["severity"].value_counts()
    parts = [rows]
    for severity in sorted(counts.index):
        members = np.flatnonzero(rows["severity"].to_numpy() == severity)
        copies = generator.choice(members, counts.max() - len(members), replace=True)
        parts.append(rows.iloc[copies])
    return pd.concat(parts, ignore_index=True)


def derive_seed(seed: int, *names: object) -> int:
    """Return a seed of 31 bits for a named part of a run, such as a target, fold or epoch.

    >>> derive_seed(7, "spinal_canal_stenosis_l4_l5", 0) == derive_seed(7, "spinal_canal_stenosis_l4_l5", 0)
    True
    """
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
