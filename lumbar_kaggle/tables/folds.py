"""Who trains and who validates: grouped, stratified folds, and balancing inside the training part."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import AnyPath, write_csv
from lumbar_kaggle.tables.reading import Checked, read_table, refuse


def make_folds(labels: pd.DataFrame, folds: int, seed: int) -> pd.DataFrame:
    """Assign each study to one of 2 or more folds, for all targets alike; `seed` is the shuffle's. Every row of a study
    is on one side, since studies are what is drawn. They are stratified by their worst canal grade and by how many of
    their rows are severe. `labels` has columns ``study_id, target, severity``; returned are ``study_id, fold`` (0 …
    folds - 1), one row per study in the order of `labels`. Fewer studies than folds are an `InputError`."""
    from sklearn.model_selection import StratifiedKFold  # seconds, which to grade need not take

    studies = labels["study_id"].drop_duplicates().reset_index(drop=True)
    if len(studies) < folds:
        raise InputError(f"{len(studies)} labelled studies cannot be split into {folds} folds; use fewer folds")
    canal = labels[labels["target"].str.startswith("spinal")].groupby("study_id")["severity"].max()
    severe = (labels["severity"] == 2).groupby(labels["study_id"]).sum()
    worst = studies.map(canal).fillna(0).astype(int)
    stratum = worst * 3 + np.minimum(studies.map(severe).to_numpy() + 1, 5) // 2
    # A stratum smaller than the number of folds cannot be spread; it joins its neighbour below.
    for value in sorted(stratum.unique(), reverse=True):
        below = stratum[stratum < value]
        if (stratum == value).sum() < folds and len(below):
            stratum = stratum.replace(value, below.max())
    if (stratum == stratum.min()).sum() < folds:
        stratum = stratum * 0
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    assigned = np.empty(len(studies), dtype=np.int64)
    for fold, (_, held_out) in enumerate(splitter.split(studies, stratum)):
        assigned[held_out] = fold
    return pd.DataFrame({"study_id": studies, "fold": assigned})


def read_folds(path: AnyPath) -> pd.DataFrame:
    """Read a fold table: text ``study_id``, each once, and ``fold``, a whole number as int64."""
    checked = Checked(Path(path), read_table(path, ("study_id", "fold")))
    whole = checked.table["fold"].str.fullmatch(r"[0-9]{1,9}").to_numpy(dtype=bool)
    checked.fault(~whole, "fold is {fold!r}; it must be a whole number")
    checked.fault(checked.table["study_id"].duplicated(), "study {study_id} is there a second time; keep one row")
    refuse(checked.faults)
    return checked.table.astype({"fold": np.int64})


def open_folds(path: Path, labels: pd.DataFrame, folds: int, seed: int) -> pd.DataFrame:
    """Return the fold table that a run was begun with, on the same studies, or one of `make_folds`, now written."""
    made = make_folds(labels, folds, seed)
    if path.is_file():
        there = read_folds(path)
        if set(there["study_id"]) != set(made["study_id"].astype(str)):
            raise InputError(f"{path}: this run was begun with other studies; choose another --out folder")
        return there
    write_csv(path, made)
    return made


def balance(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Repeat rows of the rarer severities until each has as many as the most frequent one. Copies are drawn with
    replacement and follow the rows, index reset. A severity without any row stays without."""
    generator = np.random.default_rng(seed)
    counts = rows["severity"].value_counts().sort_index()
    parts = [rows]
    for severity, count in counts.items():
        members = np.flatnonzero(rows["severity"].to_numpy() == severity)
        parts.append(rows.iloc[generator.choice(members, counts.max() - count, replace=True)])
    return pd.concat(parts, ignore_index=True)


def derive_seed(seed: int, *names: object) -> int:
    """Return a seed of 31 bits for a named part of a run, such as a target, fold or epoch."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
