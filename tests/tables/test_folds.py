"""Splitting: no study on two sides, ever; balancing stays inside the training part."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbar_kaggle.baseline.recipe import BaselineConfig
from lumbar_kaggle.baseline.training import split_rows
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import TARGET_NAMES
from lumbar_kaggle.tables.folds import balance, derive_seed, make_folds


def labels(studies: int, seed: int = 0) -> pd.DataFrame:
    """Random labels of `studies` studies, all 25 targets."""
    generator = np.random.default_rng(seed)
    rows = [
        (f"s{study}_{name}", f"s{study}", name, int(generator.choice(3, p=[0.8, 0.15, 0.05])))
        for study in range(studies)
        for name in TARGET_NAMES
    ]
    return pd.DataFrame(rows, columns=["row_id", "study_id", "target", "severity"])


@settings(max_examples=25, deadline=None)
@given(studies=st.integers(6, 60), folds=st.integers(2, 5), seed=st.integers(0, 1000))
def test_each_study_is_in_one_fold_and_folds_are_even(studies: int, folds: int, seed: int) -> None:
    """Every study has exactly one fold, no fold is empty, sizes differ by a few studies at most."""
    table = make_folds(labels(studies, seed), folds, seed)
    assert table["study_id"].is_unique
    assert len(table) == studies
    sizes = table["fold"].value_counts()
    assert sorted(sizes.index) == list(range(folds))
    assert sizes.max() - sizes.min() <= max(2, studies // 5)


def test_folds_are_stratified_by_canal_severity() -> None:
    """Studies with a severe canal are spread over the folds."""
    table = labels(200)
    folds = make_folds(table, 5, 3)
    canal = table[table["target"].str.startswith("spinal") & (table["severity"] == 2)]
    severe = folds[folds["study_id"].isin(canal["study_id"])]["fold"].value_counts()
    assert severe.max() - severe.min() <= 3


def test_the_same_seed_gives_the_same_folds_and_another_gives_others() -> None:
    """Folds depend on the seed and on nothing else."""
    table = labels(50)
    first, again, other = (make_folds(table, 5, seed)["fold"].tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_too_few_studies_is_an_input_error() -> None:
    """More folds than studies is refused with what to do."""
    with pytest.raises(InputError, match="3 labelled studies cannot be split into 5 folds; use fewer"):
        make_folds(labels(3), 5, 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(0, 99))
def test_balance_equalises_and_keeps_every_row(severities: list[int], seed: int) -> None:
    """Each severity present gets as many rows as the most frequent; every original row stays."""
    rows = pd.DataFrame({"row_id": [f"r{index}" for index in range(len(severities))], "severity": severities})
    balanced = balance(rows, seed)
    counts = balanced["severity"].value_counts()
    assert (counts == rows["severity"].value_counts().max()).all()
    assert set(balanced["row_id"]) == set(rows["row_id"])
    merged = balanced.merge(rows, on="row_id", suffixes=("", "_before"))
    assert (merged["severity"] == merged["severity_before"]).all()


def job_rows(studies: int) -> pd.DataFrame:
    """Rows of one target with folds and pictures."""
    table = labels(studies)
    rows = table[table["target"] == "spinal_canal_stenosis_l4_l5"]
    return rows.merge(make_folds(table, 4, 0), on="study_id").assign(image="x.png")


@settings(max_examples=20, deadline=None)
@given(studies=st.integers(16, 60), fold=st.integers(0, 3), seed=st.integers(0, 99))
def test_honest_split_has_no_study_on_two_sides(studies: int, fold: int, seed: int) -> None:
    """Also after upsampling; and the validation part keeps its natural frequencies."""
    rows = job_rows(studies)
    split = split_rows(rows, fold, BaselineConfig(folds=4), seed)
    training, held_out = split[~split["is_valid"]], split[split["is_valid"]]
    assert not set(training["study_id"]) & set(held_out["study_id"])
    assert held_out["study_id"].is_unique
    assert set(training["study_id"]) | set(held_out["study_id"]) == set(rows["study_id"])
    assert training["severity"].value_counts().nunique() == 1


def test_report_split_leaks_copies_across_the_sides() -> None:
    """The report's protocol does what it is kept for: copies of one study stand on both sides."""
    split = split_rows(job_rows(40), 0, BaselineConfig(folds=4, protocol="report"), 7)
    sides = split.groupby("study_id")["is_valid"].nunique()
    assert (sides == 2).any()
    assert split["severity"].value_counts().nunique() == 1


def test_seeds_differ_by_name() -> None:
    """Two targets of one run never share a seed by accident."""
    seeds = {derive_seed(1, name, fold) for name in TARGET_NAMES for fold in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**31 for seed in seeds)
