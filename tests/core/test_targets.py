"""Names and spellings of the 25 targets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumbar_kaggle.core.targets import (
    CONDITIONS,
    LEVELS,
    SAMPLE_ORDER,
    SCORE_GROUPS,
    TARGET_NAMES,
    TARGETS,
    condition_words,
    level_words,
    row_id,
    split_row_id,
    target,
)


def test_the_25_targets_stand_in_the_column_order_of_train_csv() -> None:
    """The order is condition by condition, each from L1/L2 down to L5/S1."""
    assert len(TARGET_NAMES) == 25
    assert TARGET_NAMES[0] == "spinal_canal_stenosis_l1_l2"
    assert TARGET_NAMES[5] == "left_neural_foraminal_narrowing_l1_l2"
    assert TARGET_NAMES[-1] == "right_subarticular_stenosis_l5_s1"
    assert [name.removeprefix("spinal_canal_stenosis_") for name in TARGET_NAMES[:5]] == list(LEVELS)


def test_the_sample_order_is_alphabetical() -> None:
    """A study's rows in the sample submission are sorted by name, left foramina first."""
    assert sorted(TARGET_NAMES) == list(SAMPLE_ORDER)
    assert SAMPLE_ORDER[0] == "left_neural_foraminal_narrowing_l1_l2"
    assert SAMPLE_ORDER[-1] == "spinal_canal_stenosis_l5_s1"


@pytest.mark.parametrize(
    ("name", "side", "group"),
    [
        ("spinal_canal_stenosis_l4_l5", None, "spinal"),
        ("left_neural_foraminal_narrowing_l4_l5", "left", "foraminal"),
        ("right_neural_foraminal_narrowing_l4_l5", "right", "foraminal"),
        ("left_subarticular_stenosis_l4_l5", "left", "subarticular"),
        ("right_subarticular_stenosis_l4_l5", "right", "subarticular"),
    ],
)
def test_side_and_score_group_follow_from_the_condition(name: str, side: str | None, group: str) -> None:
    """Each condition has its side and belongs to one of the three pooled terms."""
    assert target(name).side == side
    assert target(name).score_group == group


def test_the_score_groups_hold_5_10_and_10_targets() -> None:
    """No target is outside of the three terms, and none is in two."""
    groups = [item.score_group for item in TARGETS]
    assert [groups.count(name) for name in SCORE_GROUPS] == [5, 10, 10]


def test_an_unknown_target_is_refused() -> None:
    """A name that is no target raises KeyError and is not guessed."""
    with pytest.raises(KeyError, match="l6_s1"):
        target("spinal_canal_stenosis_l6_s1")


studies = st.text(alphabet="abl15_-. 0", min_size=1, max_size=30)


@given(study=studies, name=st.sampled_from(TARGET_NAMES))
def test_a_row_identifier_splits_into_what_it_was_made_of(study: str, name: str) -> None:
    """Study and target come back whatever underscores the study's name has."""
    assert split_row_id(row_id(study, name)) == (study, name)


@given(prefix=st.sampled_from(TARGET_NAMES), name=st.sampled_from(TARGET_NAMES))
def test_a_study_may_be_called_like_a_target(prefix: str, name: str) -> None:
    """Only the end of an identifier is read as the target."""
    assert split_row_id(row_id(prefix, name)) == (prefix, name)


@pytest.mark.parametrize(
    "identifier",
    [
        "",
        "44036939",
        "44036939_spinal_canal_stenosis_l6_s1",
        "spinal_canal_stenosis_l1_l2",
        "_spinal_canal_stenosis_l1_l2",
        "44036939-spinal_canal_stenosis_l1_l2",
        "44036939_spinal_canal_stenosis_l1_l2 ",
    ],
)
def test_an_identifier_without_study_or_target_is_refused(identifier: str) -> None:
    """The error quotes the identifier."""
    with pytest.raises(ValueError, match="does not end in one of the 25 target names") as caught:
        split_row_id(identifier)
    assert repr(identifier) in str(caught.value)


def test_conditions_and_levels_are_spelt_as_in_the_coordinate_table() -> None:
    """The words are those of train_label_coordinates.csv."""
    assert [condition_words(name) for name in CONDITIONS] == [
        "Spinal Canal Stenosis",
        "Left Neural Foraminal Narrowing",
        "Right Neural Foraminal Narrowing",
        "Left Subarticular Stenosis",
        "Right Subarticular Stenosis",
    ]
    assert [level_words(name) for name in LEVELS] == ["L1/L2", "L2/L3", "L3/L4", "L4/L5", "L5/S1"]
