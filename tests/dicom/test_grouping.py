"""Slices are grouped by their headers: what belongs together stays, what does not is told apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumbar_kaggle.dicom.instances import Instance
from lumbar_kaggle.dicom.kinds import may_be, plane_of
from lumbar_kaggle.dicom.series import group_slices, middle_first
from tests.support.dicom_files import CORONAL, SAGITTAL, tilted


def slices(
    count: int = 5, folder: str = "s", orientation: tuple[float, ...] = SAGITTAL, **header: Any
) -> list[Instance]:
    """Headers of parallel slices 4 mm apart; a header value may be a list with one for each slice."""
    normal = np.cross(orientation[:3], orientation[3:])
    return [
        Instance(
            Path(folder, f"{index}.dcm"),
            64,
            64,
            position=tuple(4.0 * index * normal),
            orientation=orientation,
            **{name: value[index] if isinstance(value, list) else value for name, value in header.items()},
        )
        for index in range(count)
    ]


def sizes(instances: Sequence[Instance]) -> list[int]:
    """How many slices each group has."""
    return [len(group) for group in group_slices(instances)]


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"series_uid": "1.1", "series_number": 3},
        # Canon: an identifier for each slice, one number.
        {"series_uid": ["1.1", "1.2", "1.3", "1.4", "1.5"], "series_number": 3},
        # The same where the files lie in five folders is told below.
        {"series_uid": "1.1", "series_number": [None, 3, 3, 3, None]},
        {"series_uid": ["", "1.1", "1.1", "", "1.1"]},
        {"image_type": [("ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D"), ("ORIGINAL", "PRIMARY", "M", "ND")] * 3},
        {"image_type": [("DERIVED", "PRIMARY", "M_SE", "M", "SE"), ()] * 3},
        {"echo_time_ms": [101.0, 102.0, 101.5, 103.0, None], "echo_number": [1, 2, 3, 4, 5]},
        {"temporal_position": [1, 2, 3, 4, 5]},
    ],
    ids=str,
)
def test_one_series_stays_together(header: dict[str, Any]) -> None:
    """Absent, wrong or changing values that tell no series apart do not shatter one."""
    assert sizes(slices(**header)) == [5]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"series_uid": "1.1"}, {"series_uid": "1.2"}),
        ({"series_number": 2}, {"series_number": 3}),
        # An anonymiser that left one identifier for everything.
        ({"series_uid": "1.1", "series_number": 2}, {"series_uid": "1.1", "series_number": 3}),
        ({"series_uid": "1.1", "description": "T1"}, {"series_uid": "1.1", "description": "T2"}),
        ({"series_uid": "1.1", "echo_time_ms": 15.0}, {"series_uid": "1.1", "echo_time_ms": 90.0}),
        ({"series_uid": "1.1", "echo_number": 1}, {"series_uid": "1.1", "echo_number": 2}),
        ({"image_type": ("ORIGINAL", "PRIMARY", "M")}, {"image_type": ("ORIGINAL", "PRIMARY", "P")}),
        ({"image_type": ("ORIGINAL", "PRIMARY", "WATER")}, {"image_type": ("ORIGINAL", "PRIMARY", "FAT")}),
        ({"image_type": ("ORIGINAL", "PRIMARY", "M")}, {"image_type": ("DERIVED", "SECONDARY", "ADC")}),
        ({"image_type": ("ORIGINAL", "PRIMARY", "M")}, {"image_type": ("DERIVED", "PRIMARY", "PROJECTION IMAGE")}),
        ({"temporal_position": 1}, {"temporal_position": 2}),
        ({"b_value": 0.0}, {"b_value": 800.0}),
        ({"orientation": SAGITTAL}, {"orientation": CORONAL}),
        ({"folder": "one"}, {"folder": "two"}),
    ],
    ids=str,
)
def test_two_series_are_told_apart(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Identifier, number, description, echo, image type, time, b-value, plane and folder each tell."""
    assert sizes(slices(**first) + slices(4, **second)) == [5, 4]


@pytest.mark.parametrize("header", [{"series_uid": "1.1"}, {"series_uid": ["1.1", "1.2", "1.3"], "series_number": 3}])
def test_one_series_in_several_folders_is_one(header: dict[str, Any]) -> None:
    """What the headers hold together, folders do not tear apart."""
    here, there = slices(3, "one", **header), slices(3, "two", **header)
    if isinstance(header["series_uid"], list):
        there = slices(3, "two", series_uid=["1.4", "1.5", "1.6"], series_number=3)
    assert sizes(here + there) == [6]


def test_tilted_stacks_are_one_series_and_an_odd_coronal_slice_is_not() -> None:
    """Axial stacks through each disc belong together, up to the steep one through L5/S1."""
    stacks = [item for degrees in (0, 20, 47) for item in slices(4, orientation=tilted(degrees))]
    groups = group_slices(stacks + slices(2, orientation=CORONAL))
    assert [len(group) for group in groups] == [12, 2]
    assert [plane_of(group) for group in groups] == ["axial", "coronal"]
    assert may_be("axial_t2", slices(orientation=tilted(47)))
    assert not may_be("axial_t2", slices(orientation=CORONAL))


def middle_of(places: Sequence[float], **header: Any) -> float:
    """The place of the slice that is taken for the middle one."""
    headers = [
        Instance(Path(f"{index}"), 8, 8, position=(place, 0.0, 0.0), orientation=SAGITTAL, **header)
        for index, place in enumerate(places)
    ]
    position = middle_first(headers)[0].position
    assert position is not None
    return position[0]


@pytest.mark.parametrize(
    ("places", "middle"),
    [
        ([-8, -4, 0, 4, 8], 0),
        ([-6, -2, 2, 6], 2),
        # Slices lost on one side do not move the middle, nor do slices taken twice.
        ([-16, -12, 0, 4, 8, 12, 16], 0),
        ([-8, -8, -8, -4, -4, 0, 4, 8], 0),
        ([-8, -4, 0, 4, 8, 900], 0),
        ([5], 5),
        ([5, 5], 5),
    ],
)
def test_the_middle_slice_is_the_middle_of_the_body(places: list[float], middle: float) -> None:
    """It is found by position, whatever the number of slices on either side."""
    assert middle_of(places) == middle


def test_without_positions_the_middle_is_that_of_the_count() -> None:
    """And its neighbours follow, the nearer ones first."""
    headers = [Instance(Path(f"{index}"), 8, 8) for index in range(5)]
    assert [item.path.name for item in middle_first(headers)] == ["2", "1", "3", "0", "4"]
