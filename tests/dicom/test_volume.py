"""Series folders: order by position, laterality, stacks, and files that are no slices."""

import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbar_kaggle.baseline.images import middle_slice
from lumbar_kaggle.dicom.series import READ, UnreadableSeries, read_headers, read_series
from lumbar_kaggle.dicom.volume import Volume
from tests.support.dicom_files import AXIAL, SAGITTAL, rewrite, tilted, write_sagittal, write_slice

FROM_BEHIND = (0.0, -1.0, 0.0, 0.0, 0.0, -1.0)
"""Sagittal slices whose columns run to the front: the normal points to the patient's left."""


def flat(value: int, shape: tuple[int, int] = (8, 6)) -> np.ndarray:
    """A picture of one value, by which a slice is known again."""
    return np.full(shape, value, dtype=np.uint16)


def values(volume: Volume) -> list[int]:
    """The value of each slice written by `flat`."""
    return [int(image[0, 0]) for image in volume.images]


def write_stack(folder: Path, degrees: float, centre: tuple[float, float, float], first: int) -> None:
    """Write four axial slices 3 mm apart along their normal; value and instance number rise to the head."""
    normal = np.cross(tilted(degrees)[:3], tilted(degrees)[3:])
    for step in range(4):
        position = tuple(np.array(centre) + 3.0 * step * normal)
        number, place = first + step, {"position": position, "orientation": tilted(degrees)}
        write_slice(folder / f"{number}.dcm", flat(number), number=number, **place)


@pytest.mark.parametrize(
    ("orientation", "step"),
    [
        (SAGITTAL, (4, 0, 0)),
        (FROM_BEHIND, (4, 0, 0)),
        (AXIAL, (0, 0, -4)),
        (tilted(20), (0, 4 * np.sin(np.radians(20)), -4 * np.cos(np.radians(20)))),
        (tilted(-35), (0, -4 * np.sin(np.radians(35)), -4 * np.cos(np.radians(35)))),
        ((0.8, -0.6, 0.0, 0.0, 0.0, -1.0), (2.4, 3.2, 0)),
        ((0.6, -0.8, 0.0, 0.0, 0.0, -1.0), (3.2, 2.4, 0)),
    ],
    ids=["sagittal", "from behind", "axial", "tilted", "tilted back", "nearer coronal", "nearer sagittal"],
)
@given(numbers=st.permutations(range(1, 5)), names=st.permutations(["1.dcm", "2.dcm", "b", "IM_10"]))
@settings(max_examples=6, deadline=None)
def test_slices_are_sorted_by_position(
    orientation: tuple[float, ...], step: tuple[float, ...], numbers: list[int], names: list[str]
) -> None:
    """Sagittal right to left, axial head to foot, whatever the instance numbers and file names are."""
    positions = [tuple(np.array([3.0, 5.0, 9.0]) + place * np.array(step)) for place in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        for place, position in enumerate(positions):
            header = {"position": position, "orientation": orientation, "number": numbers[place]}
            write_slice(Path(folder, names[place]), flat(place), **header)
        volume = read_series(Path(folder))
    assert values(volume) == [0, 1, 2, 3]
    assert list(volume.instance_numbers) == numbers
    np.testing.assert_allclose(volume.positions, positions, atol=1e-6)
    assert [len(stack) for stack in volume.stacks()] == [4]


@pytest.mark.parametrize("right_first", [True, False])
def test_laterality_is_independent_of_the_acquisition_order(tmp_path: Path, *, right_first: bool) -> None:
    """Slice 0 is the rightmost one also where instance numbers start on the left."""
    write_sagittal(tmp_path, right_first=right_first)
    volume = read_series(tmp_path)
    assert np.all(np.diff(volume.positions[:, 0]) == 4)
    assert np.all(np.diff(volume.pixels.mean(axis=(1, 2))) > 50)
    assert list(volume.instance_numbers) == ([1, 2, 3, 4, 5] if right_first else [5, 4, 3, 2, 1])


def test_pixels_and_geometry_are_those_of_the_files(tmp_path: Path) -> None:
    """Shape, type, spacing with the rows first, and orientation come from the headers."""
    write_sagittal(tmp_path, slices=3, spacing=(0.5, 0.75))
    volume = read_series(tmp_path)
    assert volume.pixels.shape == (3, 24, 20)
    assert volume.pixels.dtype == np.uint16
    np.testing.assert_array_equal(volume.spacing, [(0.5, 0.75)] * 3)
    np.testing.assert_array_equal(volume.orientation, [SAGITTAL] * 3)
    assert volume.placed
    assert len(volume) == 3
    assert volume.skipped == ()
    point = volume.to_patient(1, 3.25, 7.5)
    np.testing.assert_allclose(volume.to_slice(1, point), (3.25, 7.5, 0), atol=1e-9)
    np.testing.assert_allclose(volume.to_slice(0, point)[2], -4)
    np.testing.assert_allclose(volume.depth(point), [4, 0, 4])


@pytest.fixture
def tilted_stacks(tmp_path: Path) -> Volume:
    """One axial series of three stacks, 0°, 12° and 25°, written foot first."""
    write_stack(tmp_path, 25, (-50.0, -60.0, -40.0), 1)
    write_stack(tmp_path, 12, (-50.0, -60.0, 0.0), 5)
    write_stack(tmp_path, 0, (-50.0, -60.0, 40.0), 9)
    return read_series(tmp_path)


def test_tilted_stacks_of_one_series_are_separated(tilted_stacks: Volume) -> None:
    """Each tilt is a stack of its own, the stacks and the slices within them run from head to foot."""
    stacks = tilted_stacks.stacks()
    assert [values(stack) for stack in stacks] == [[12, 11, 10, 9], [8, 7, 6, 5], [4, 3, 2, 1]]
    for stack, degrees in zip(stacks, (0, 12, 25), strict=True):
        np.testing.assert_allclose(stack.orientation, [tilted(degrees)] * 4, atol=1e-6)
        assert np.all(np.diff(stack.positions[:, 2]) < 0)
        assert list(stack.instance_numbers) == values(stack)


@pytest.mark.parametrize(("degrees", "back"), [(15, -60.0), (0, -20.0)], ids=["tilted", "beside"])
def test_stacks_that_overlap_in_height_are_separated(tmp_path: Path, degrees: float, back: float) -> None:
    """Two tilts through the same level, or two stacks side by side: they interleave, and each is in order."""
    write_stack(tmp_path, 0, (-50.0, -60.0, 0.0), 1)
    write_stack(tmp_path, degrees, (-50.0, back, 1.0), 5)
    stacks = read_series(tmp_path).stacks()
    assert sorted(values(stack) for stack in stacks) == [[4, 3, 2, 1], [8, 7, 6, 5]]


def test_slices_of_another_plane_are_left_out_with_a_note(tmp_path: Path) -> None:
    """Sagittal slices stay in order of x, although they drift in z and two axial ones lie among them."""
    for place in range(3):
        position = (4.0 * place, 0.0, 20.0 * place)
        write_slice(tmp_path / f"{place}.dcm", flat(place), position=position)
    for value in (8, 9):
        position = (4.0, 0.0, float(value))
        write_slice(tmp_path / f"{value}.dcm", flat(value), position=position, orientation=AXIAL)
    volume = read_series(tmp_path)
    assert values(volume) == [0, 1, 2]
    assert [skipped.path.name for skipped in volume.skipped] == ["8.dcm", "9.dcm"]
    assert volume.notes == (
        "2 files are no usable slices (8.dcm: of another series, image type, time or plane than the rest)",
    )
    assert values(read_series(tmp_path, kind="axial_t2")) == [9, 8]
    with pytest.raises(UnreadableSeries, match="named Sagittal T1, but its slices are axial; it is left out"):
        read_series(tmp_path, ["8.dcm", "9.dcm"], "sagittal_t1")


def test_slices_of_two_sizes_are_kept_and_separated(tmp_path: Path) -> None:
    """A localiser-sized slice within a series stays in the volume and is a stack of its own."""
    for index in range(5):
        shape = (16, 16) if index == 2 else (8, 6)
        write_slice(tmp_path / f"{index}.dcm", flat(index, shape), position=(4.0 * index, 0, 0), number=index + 1)
    volume = read_series(tmp_path)
    assert values(volume) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"sizes \[\(8, 6\), \(16, 16\)\]; take Volume.stacks"):
        volume.pixels  # noqa: B018
    stacks = volume.stacks()
    assert [values(stack) for stack in stacks] == [[0, 1, 3, 4], [2]]
    assert stacks[0].pixels.shape == (4, 8, 6)


def test_slices_of_two_spacings_are_separated(tmp_path: Path) -> None:
    """Equal sizes with another pixel spacing do not make one stack."""
    for index in range(4):
        spacing = (0.5, 0.5) if index < 2 else (0.75, 0.75)
        write_slice(tmp_path / f"{index}.dcm", flat(index), position=(4.0 * index, 0, 0), spacing=spacing)
    assert [values(stack) for stack in read_series(tmp_path).stacks()] == [[0, 1], [2, 3]]


def test_a_slice_taken_twice_stays_in_the_volume_and_once_in_its_stack(tmp_path: Path) -> None:
    """Of two slices at one position both are kept by instance number, and the stack takes the first."""
    for value, x, number in ((0, -4.0, 1), (2, 0.0, 4), (1, 0.0, 2), (3, 4.0, 3)):
        write_slice(tmp_path / f"{number}.dcm", flat(value), position=(x, 0, 0), number=number)
    volume = read_series(tmp_path)
    assert values(volume) == [0, 1, 2, 3]
    assert [values(stack) for stack in volume.stacks()] == [[0, 1, 3]]


@pytest.mark.parametrize("absent", ["position", "orientation", "both"])
def test_without_geometry_the_instance_numbers_give_the_order(tmp_path: Path, absent: str) -> None:
    """A series without positions or orientations is one stack in the order of its instance numbers."""
    position = None if absent in ("position", "both") else (0.0, 0.0, 0.0)
    orientation = None if absent in ("orientation", "both") else SAGITTAL
    for number, name in ((10, "a"), (2, "b"), (1, "c")):
        write_slice(tmp_path / name, flat(number), position=position, orientation=orientation, number=number)
    volume = read_series(tmp_path)
    assert values(volume) == [1, 2, 10]
    assert not volume.placed
    assert [values(stack) for stack in volume.stacks()] == [[1, 2, 10]]


def test_slices_without_geometry_come_last(tmp_path: Path) -> None:
    """Among placed slices, those without a place follow and form their own stack."""
    write_slice(tmp_path / "1.dcm", flat(9), position=None, number=1)
    write_slice(tmp_path / "2.dcm", flat(8), orientation=None, number=2)
    for number, x in ((3, 4.0), (4, 0.0)):
        write_slice(tmp_path / f"{number}.dcm", flat(number), position=(x, 0, 0), number=number)
    volume = read_series(tmp_path)
    assert values(volume) == [4, 3, 9, 8]
    assert np.isnan(volume.positions[2]).all()
    assert not volume.placed
    assert [values(stack) for stack in volume.stacks()] == [[4, 3], [9, 8]]
    assert volume.take([0, 1]).placed


def test_files_that_are_no_slices_are_skipped_and_listed(tmp_path: Path) -> None:
    """Each bad file is listed with its own reason, and the good slices are all there."""
    write_sagittal(tmp_path, slices=5)
    content = (tmp_path / "5.dcm").read_bytes()
    (tmp_path / "5.dcm").write_bytes(content[: len(content) - 200])
    (tmp_path / "notes.txt").write_text("seen by the radiologist")
    (tmp_path / "empty.dcm").touch()
    rewrite(shutil.copy(tmp_path / "1.dcm", tmp_path / "frames.dcm"), NumberOfFrames=3)
    (tmp_path / ".DS_Store").write_text("hidden files are nobody's business")
    (tmp_path / "sub").mkdir()
    volume = read_series(tmp_path)
    assert list(volume.instance_numbers) == [1, 2, 3, 4]
    reasons = {skipped.path.name: skipped.reason for skipped in volume.skipped}
    assert set(reasons) == {"5.dcm", "notes.txt", "empty.dcm", "frames.dcm"}
    assert "cannot be decoded" in reasons["5.dcm"]
    assert reasons["notes.txt"] == reasons["empty.dcm"] == "not a DICOM file"
    assert "3 frames" in reasons["frames.dcm"]


def test_the_headers_are_read_without_the_pixels(tmp_path: Path) -> None:
    """`read_headers` gives the same order as `read_series`, and is content with truncated pixels."""
    write_sagittal(tmp_path, right_first=False)
    content = (tmp_path / "3.dcm").read_bytes()
    (tmp_path / "3.dcm").write_bytes(content[: len(content) - 200])
    headers, skipped = read_headers(tmp_path)
    assert [header.instance_number for header in headers] == [5, 4, 3, 2, 1]
    assert skipped == []


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "the folder is empty"),
        (
            {"a.txt": b"no image", "b.txt": b""},
            f"none of 2 files is a usable slice; a.txt: not a DICOM file; {READ} are read",
        ),
    ],
)
def test_a_series_with_nothing_readable_names_its_folder(tmp_path: Path, files: dict[str, bytes], reason: str) -> None:
    """The failure is one sentence with the folder and the first file's reason; good headers alone are no series."""
    folder = tmp_path / "44036939" / "2828203845"
    with pytest.raises(UnreadableSeries, match="2828203845: no such folder"):
        read_series(folder)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with pytest.raises(UnreadableSeries) as caught:
        read_series(folder)
    assert str(caught.value) == f"{folder}: {reason}"
    for path in write_sagittal(tmp_path / "cut", slices=2):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnreadableSeries, match=r"none of 2 files is a usable slice; 1\.dcm: pixels cannot"):
        read_series(tmp_path / "cut")


def test_a_single_slice_is_a_series(tmp_path: Path) -> None:
    """One file gives a volume of one slice and one stack."""
    write_slice(tmp_path / "1.dcm", flat(7))
    volume = read_series(tmp_path)
    assert len(volume) == 1
    assert [values(stack) for stack in volume.stacks()] == [[7]]


def test_without_numbers_and_positions_names_sort_as_people_count(tmp_path: Path) -> None:
    """``2.dcm`` comes before ``10.dcm``."""
    for value in range(1, 13):
        path = write_slice(tmp_path / f"{value}.dcm", flat(value), position=None)
        rewrite(path, remove=("InstanceNumber",))
    assert values(read_series(tmp_path)) == list(range(1, 13))


def test_one_position_for_all_slices_counts_as_none(tmp_path: Path) -> None:
    """The slices stay a stack, in the order of their numbers, and it is said once; two are one slice taken twice."""
    for value in (3, 1, 2, 4):
        write_slice(tmp_path / f"{value}.dcm", flat(value), position=(5.0, 0.0, 0.0), number=value)
    twice = read_series(tmp_path, ["1.dcm", "2.dcm"])
    assert twice.placed
    assert [values(stack) for stack in twice.stacks()] == [[1]]
    volume = read_series(tmp_path)
    assert [values(stack) for stack in volume.stacks()] == [[1, 2, 3, 4]]
    assert not volume.placed
    (note,) = volume.notes
    assert note.startswith("ImagePositionPatient is the same in all slices")
    assert note.endswith("(4 of 4 slices)")


def test_remarks_on_headers_come_once_for_a_series(tmp_path: Path) -> None:
    """Whatever each slice's value is."""
    for number in range(1, 5):
        path = write_slice(tmp_path / f"{number}.dcm", flat(number), position=(4.0 * number, 0, 0), number=number)
        rewrite(path, PixelSpacing=[0, number])
    (note,) = read_series(tmp_path).notes
    assert note.startswith("PixelSpacing")
    assert note.endswith("(4 of 4 slices)")


@pytest.mark.parametrize("kind", ["sagittal_t1", "sagittal_t2", ""])
def test_of_several_series_in_a_folder_the_one_that_is_meant_is_read(tmp_path: Path, kind: str) -> None:
    """The kind tells which; without one it is the larger."""
    for value in range(1, 5):
        for name, first, echo in (("T1", 10, 10), ("T2", 20, 100)):
            if value < 4 or name == "T2":
                write_slice(
                    tmp_path / f"{name}-{value}",
                    flat(first + value),
                    position=(4.0 * value, 0, 0),
                    SeriesDescription=name,
                    EchoTime=echo,
                )
    volume = read_series(tmp_path, kind=kind)
    assert values(volume) == ([11, 12, 13] if kind == "sagittal_t1" else [21, 22, 23, 24])
    assert len(volume.skipped) == 7 - len(volume)


def test_each_file_is_opened_once(tmp_path: Path) -> None:
    """On a slow mount opening a file is what takes the time."""
    write_sagittal(tmp_path)
    opened: Counter[str] = Counter()
    listening = True

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and event == "open" and str(arguments[0]).startswith(str(tmp_path)):
            opened[Path(str(arguments[0])).name] += 1

    sys.addaudithook(listen)
    read_series(tmp_path)
    listening = False
    assert opened == {f"{number}.dcm": 1 for number in range(1, 6)}


def test_padding_takes_no_part_in_the_window(tmp_path: Path) -> None:
    """The same window with and without a margin that the header says is no picture; the margin is black."""
    for number in range(1, 4):
        pixels = np.random.default_rng(number).integers(100, 200, (20, 20)).astype(np.int16)
        padded = np.pad(pixels, 6, constant_values=-2000)
        for name, image, tags in (("plain", pixels, {}), ("padded", padded, {"PixelPaddingValue": -2000})):
            position = (4.0 * number, 0, 0)
            write_slice(tmp_path / name / f"{number}", image, position=position, number=number, **tags)
    plain, padded_series = (read_series(tmp_path / name).windowed() for name in ("plain", "padded"))
    assert padded_series.window == plain.window
    np.testing.assert_array_equal(padded_series.pixels[:, 6:-6, 6:-6], plain.pixels)
    assert not padded_series.pixels[:, :6].any()
    image, _ = middle_slice(tmp_path / "padded")
    np.testing.assert_array_equal(image[6:-6, 6:-6], middle_slice(tmp_path / "plain")[0])
    assert not image[:6].any()
