"""Stacks out of the cache: no open files, no pixels in other processes, damage in one sentence."""

import pickle
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_json
from lumbar_kaggle.two_stage.stacks import read_stacks

PIXELS = np.arange(3 * 40 * 50, dtype=np.uint8).reshape(3, 40, 50)


def write_series(folder: Path, name: str = "1_2") -> str:
    """Cache one series of three slices; return its file."""
    np.save(folder / f"{name}_0.npy", PIXELS)
    entry = {
        "file": f"{name}_0.npy",
        "positions": [[4.0 * k, 0, 0] for k in range(3)],
        "orientation": [[0, 1, 0, 0, 0, -1]] * 3,
        "spacing": [[2.0, 2.0]] * 3,
        "instance_numbers": [1, 2, 3],
    }
    write_json(folder / f"{name}.json", {"low": 0, "high": 255, "stacks": [entry]})
    return f"{name}.json"


@pytest.fixture
def few_files() -> Iterator[None]:
    """At most 64 open files, as if a set were many times as large."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_files")
def test_stacks_hold_no_file_open(tmp_path: Path) -> None:
    """More stacks than a process may have open files are there at once, and all can be read."""
    file = write_series(tmp_path)
    stacks = [read_stacks(tmp_path, file)[0] for _ in range(200)]
    for stack in stacks:
        np.testing.assert_array_equal(stack.pixels[1], PIXELS[1])
    np.testing.assert_array_equal(stacks[0].pixels[-1], PIXELS[2])
    assert (len(stacks[0]), stacks[0].pixels.shape) == (3, (3, 40, 50))


def test_another_process_gets_the_name_of_the_file(tmp_path: Path) -> None:
    """What is sent is smaller than one slice, and reads the same."""
    stack = read_stacks(tmp_path, write_series(tmp_path))[0]
    sent = pickle.dumps(stack)
    assert len(sent) < PIXELS[0].size
    np.testing.assert_array_equal(pickle.loads(sent).pixels[2], PIXELS[2])


@pytest.mark.parametrize("length", [0, 60, 3000, None])
def test_a_damaged_picture_file_is_named(tmp_path: Path, length: int | None) -> None:
    """Cut off anywhere, or gone: the file, and what to do."""
    file, pixels = write_series(tmp_path), tmp_path / "1_2_0.npy"
    if length is None:
        pixels.unlink()
    else:
        pixels.write_bytes(pixels.read_bytes()[:length])
    with pytest.raises(InputError, match=r"1_2_0\.npy: damaged .*delete its folder and run lumbar"):
        read_stacks(tmp_path, file)


def test_a_file_that_is_cut_off_later_is_named(tmp_path: Path) -> None:
    """Between the reading of the table and that of a slice."""
    stack, pixels = read_stacks(tmp_path, write_series(tmp_path))[0], tmp_path / "1_2_0.npy"
    pixels.write_bytes(pixels.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"1_2_0\.npy: damaged"):
        stack.pixels[2]


def test_a_damaged_slice_table_is_named(tmp_path: Path) -> None:
    """JSON that is none, or that lacks an entry."""
    file = write_series(tmp_path)
    for content in ('{"stacks": [{}]}', '{"stacks"', '{"stacks": [{"file": "1_2_0.npy"}]}'):
        (tmp_path / file).write_text(content)
        with pytest.raises(InputError, match=r"1_2\.json: "):
            read_stacks(tmp_path, file)
