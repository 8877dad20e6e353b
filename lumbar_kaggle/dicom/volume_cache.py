"""The cache of volumes: every series in 8 bits, its geometry in full precision."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_atomic, write_json
from lumbar_kaggle.core.folders import shown
from lumbar_kaggle.dicom import intensity
from lumbar_kaggle.dicom.cache import CacheConfig, Source
from lumbar_kaggle.dicom.series import read_series
from lumbar_kaggle.dicom.volume import Volume

VOLUMES = CacheConfig("volumes", 3, {"percentiles": [intensity.LOW, intensity.HIGH], "window": "series"})

FORMAT = "volumes-3"
"""Of a series' JSON file."""

_TABLES = ("positions", "orientation", "spacing")

_REMEDY = "delete its folder and run lumbar preprocess again"


class CachedImages:
    """Slices ``[slices, rows, columns]`` uint8 in a file that is open only while a slice is read.

    A set has some thousand stacks, more than a process may have open files. To another process goes the
    name of the file.

    Args:
        path: as `numpy.save` writes it.

    Raises:
        InputError: the file is missing, damaged or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
                self._start, size = file.tell(), file.seek(0, 2)
        except (OSError, ValueError) as error:
            raise self._damage(str(error)) from None
        if fortran or dtype != np.uint8 or len(shape) != 3 or size - self._start != np.prod(shape):
            raise self._damage(f"{size} bytes are not those of slices of shape {shape}")
        self.shape: tuple[int, int, int] = shape

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return one slice ``[rows, columns]``."""
        slices, rows, columns = self.shape
        place = self._start + range(slices)[index] * rows * columns
        try:
            flat = np.fromfile(self.path, np.uint8, rows * columns, offset=place)
            return flat.reshape(rows, columns)
        except (OSError, ValueError) as error:
            raise self._damage(str(error)) from None

    def _damage(self, reason: str) -> InputError:
        return InputError(f"{self.path}: damaged ({reason}); {_REMEDY}")


def windowed_stacks(volume: Volume) -> list[Volume]:
    """Return the stacks of a series in 8 bits, each `Volume.completed`: what the cache gives back of it."""
    return [stack.completed() for stack in volume.windowed().stacks()]


def volume_worker(source: Source, folder: Path) -> dict[str, object]:
    """Cache a whole series: per stack one uint8 ``[slices, rows, columns]`` file, and one table of geometry.

    Raises:
        UnreadableSeries: no usable slice.
    """
    volume = read_series(Path(source.folder), source.files, source.kind).windowed()
    stacks = volume.stacks()
    name = f"{source.study_id}_{source.series_id}"
    write_volumes(folder, name, stacks)
    skipped = [{"file": shown(one.path.name), "reason": one.reason} for one in volume.skipped]
    return {
        "file": f"{name}.json",
        "slices": sum(map(len, stacks)),
        "stacks": len(stacks),
        "skipped": json.dumps(skipped),
        "notes": "; ".join(volume.notes),
    }


def write_volumes(folder: Path, name: str, stacks: list[Volume]) -> None:
    """Write the stacks of a series to ``{name}.json`` and ``{name}_{number}.npy``.

    Args:
        folder: of the batch.
        name: of the series.
        stacks: windowed, as their headers say, not completed.
    """
    entries = []
    for number, stack in enumerate(stacks):
        file, pixels = f"{name}_{number}.npy", stack.pixels
        write_atomic(folder / file, lambda path, pixels=pixels: np.save(path, pixels))  # type: ignore[misc]
        tables = {table: _with_null(getattr(stack, table)) for table in _TABLES}
        entries.append({"file": file, **tables, "instance_numbers": list(stack.instance_numbers)})
    window = stacks[0].window if stacks else None
    write_json(folder / f"{name}.json", {"format": FORMAT, "window": window, "stacks": entries})


def _with_null(values: NDArray[np.float64]) -> list[list[float | None]]:
    """Return rows as lists; JSON has no word for NaN."""
    return [[None if np.isnan(value) else value for value in row] for row in values.tolist()]


def read_volumes(folder: Path, file: str, series_id: str = "", kind: str = "") -> list[Volume]:
    """Read one series of the cache as `windowed_stacks` gives it; pixels stay in files, see `CachedImages`.

    Args:
        folder: of the cache kind ``volumes``.
        file: of the index: the series' JSON file, relative to `folder`.
        series_id, kind: of the index.

    Raises:
        InputError: the file or one of its pictures is missing, damaged or of another version.
    """
    path = folder / file
    content = read_json(path)
    try:
        if content.get("format") != FORMAT:
            raise InputError(f"{path}: written by another version of this package, or damaged; {_REMEDY}")
        window = tuple(content["window"])
        found = [_read_stack(path.parent, entry) for entry in content["stacks"]]
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error!r}); {_REMEDY}") from None
    return [replace(one, series_id=series_id, kind=kind, window=window) for one in found]


def _read_stack(folder: Path, entry: dict[str, Any]) -> Volume:
    images = CachedImages(folder / entry["file"])
    # A number that is not known is null in the file, and NaN here.
    positions, orientation, spacing = (
        np.array(entry[name], dtype=np.float64).reshape(len(images), -1) for name in _TABLES
    )
    return Volume(images, positions, orientation, spacing, tuple(entry["instance_numbers"])).completed()
