"""Stacks out of the cache: no open files, no pixels in other processes, damage in one sentence."""

import gc
import pickle
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.dicom.preprocess import FORMAT, CachedImages, read_volumes, write_volumes
from lumbar_kaggle.dicom.volume import Volume

PIXELS = np.arange(3 * 40 * 50, dtype=np.uint8).reshape(3, 40, 50)


def write_series(folder: Path, name: str = "1_2") -> str:
    """Cache one series of three slices; return its file."""
    positions = np.array([[4.0 * k, 0, 0] for k in range(3)])
    tables = np.tile([0.0, 1, 0, 0, 0, -1], (3, 1)), np.full((3, 2), 2.0)
    write_volumes(folder, name, [Volume(PIXELS, positions, *tables, (1, 2, 3), window=(0, 255))])
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
    stacks = [read_volumes(tmp_path, file)[0] for _ in range(200)]
    for stack in stacks:
        np.testing.assert_array_equal(stack.images[1], PIXELS[1])
    np.testing.assert_array_equal(stacks[0].images[-1], PIXELS[2])
    assert (len(stacks[0]), stacks[0].shape) == (3, (40, 50))


class Loop:
    """Garbage that only the collector finds, whose end lets another thread on, wherever that happens."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        time.sleep(1e-4)


def test_threads_read_side_by_side(tmp_path: Path) -> None:
    """Whatever the collector interrupts: numpy's own reading of such files failed in Python 3.11."""
    before = gc.get_threshold()
    write_series(tmp_path)

    def read(_: int) -> None:
        for _ in range(40):
            Loop()
            np.testing.assert_array_equal(CachedImages(tmp_path / "1_2_0.npy")[1], PIXELS[1])

    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read, range(64)))
    finally:
        gc.set_threshold(*before)


def test_another_process_gets_the_name_of_the_file(tmp_path: Path) -> None:
    """What is sent is smaller than one slice, and reads the same."""
    stack = read_volumes(tmp_path, write_series(tmp_path))[0]
    sent = pickle.dumps(stack)
    assert len(sent) < PIXELS[0].size
    np.testing.assert_array_equal(pickle.loads(sent).images[2], PIXELS[2])


@pytest.mark.parametrize("length", [0, 60, 3000, None])
def test_a_damaged_picture_file_is_named(tmp_path: Path, length: int | None) -> None:
    """Cut off anywhere, or gone: the file, and what to do."""
    file, pixels = write_series(tmp_path), tmp_path / "1_2_0.npy"
    if length is None:
        pixels.unlink()
    else:
        pixels.write_bytes(pixels.read_bytes()[:length])
    with pytest.raises(InputError, match=r"1_2_0\.npy: damaged .*delete its folder and run lumbar"):
        read_volumes(tmp_path, file)


def test_a_file_that_is_cut_off_later_is_named(tmp_path: Path) -> None:
    """Between the reading of the table and that of a slice."""
    stack, pixels = read_volumes(tmp_path, write_series(tmp_path))[0], tmp_path / "1_2_0.npy"
    pixels.write_bytes(pixels.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"1_2_0\.npy: damaged"):
        stack.images[2]


def test_a_damaged_slice_table_is_named(tmp_path: Path) -> None:
    """JSON that is none, that lacks an entry, or that another version wrote."""
    file = write_series(tmp_path)
    head = f'{{"format": "{FORMAT}", "window": [0, 255], "stacks"'
    for content in (head + ": [{}]}", head, head + ': [{"file": "1_2_0.npy"}]}', '{"stacks": []}', "[]"):
        (tmp_path / file).write_text(content)
        with pytest.raises(InputError, match=r"1_2\.json: "):
            read_volumes(tmp_path, file)
