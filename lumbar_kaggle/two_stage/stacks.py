"""Parallel slices of one series with their geometry, the same from the cache and fresh from DICOM."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json
from lumbar_kaggle.dicom import geometry
from lumbar_kaggle.dicom.preprocess import window_series

Floats = NDArray[np.float64]

ASSUMED_FIELD_MM, ASSUMED_AXIAL_FIELD_MM = 280.0, 190.0
"""Height of a picture whose spacing is not known: around the mean of the competition's of either plane."""

ASSUMED_STEP_MM = 4.5
"""Distance of sagittal slices that do not know their place; the competition's median is 4.5."""

_ASSUMED_ORIENTATION = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
"""Of slices that do not know theirs: sagittal, front to the left, head up, as such pictures are stored."""

_PLAUSIBLE_FIELD_MM = (60.0, 700.0)
"""Fields outside of these are a wrong spacing's; axial ones of 100 mm do occur."""

_OBLONG = 4.0
"""No scanner's pixels are so many times as long as they are wide."""


class CachedPixels:
    """Pixels ``[slices, rows, columns]`` uint8 in a file that is open only while a slice is read.

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
        return InputError(
            f"{self.path}: damaged ({reason}); delete its folder and run lumbar preprocess again"
        )


@dataclass(frozen=True, eq=False)
class Stack:
    """Parallel slices of one size, sorted along the body as `volume.Volume` is.

    Attributes:
        pixels: ``[slices, rows, columns]`` uint8, windowed over the series.
        positions: ``[slices, 3]`` LPS mm of each first pixel's centre.
        orientation: ``[6]`` direction cosines.
        spacing: ``[2]`` mm between rows, mm between columns.
        instance_numbers: one per slice, None where not known.
        measured: whether the spacing is a scanner's; otherwise it is an assumption.
        placed: whether positions and orientation are a scanner's. Otherwise they are those of sagittal
            slices `ASSUMED_STEP_MM` apart, in the order of their instance numbers, about the origin.
    """

    pixels: NDArray[np.uint8] | CachedPixels
    positions: Floats
    orientation: Floats
    spacing: Floats
    instance_numbers: tuple[int | None, ...]
    measured: bool
    placed: bool = True

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def normal(self) -> Floats:
        """Unit vector ``[3]`` across the slices."""
        return geometry.slice_normal(self.orientation)

    @property
    def plane(self) -> str:
        """``"sagittal"``, ``"coronal"`` or ``"axial"``, whichever is nearest."""
        return geometry.plane(self.orientation)

    def to_patient(self, index: int, row: float, column: float) -> Floats:
        """Return LPS mm ``[3]`` of a pixel."""
        return geometry.to_patient(row, column, self.positions[index], self.orientation, self.spacing)

    def to_slice(self, index: int, points: Floats) -> tuple[Floats, Floats, Floats]:
        """Return row, column (px) and distance (mm) of LPS points ``[..., 3]``."""
        return geometry.to_slice(points, self.positions[index], self.orientation, self.spacing)


def read_stacks(folder: Path, file: str) -> list[Stack]:
    """Read one series of the volume cache; its pixels stay in their files, see `CachedPixels`.

    Args:
        folder: of the cache kind ``volumes``.
        file: of the index: the series' JSON file, relative to `folder`.

    Raises:
        InputError: the file or one of its pictures is missing or damaged.
    """
    path = folder / file
    try:
        entries = read_json(path)["stacks"]
        return [_stack(CachedPixels(path.parent / entry["file"]), entry) for entry in entries]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise InputError(
            f"{path}: damaged ({error!r}); delete its folder and run lumbar preprocess again"
        ) from None


def fresh_stacks(
    folder: Path, files: Sequence[str] = (), kind: str = ""
) -> tuple[list[Stack], tuple[str, ...]]:
    """Read one series from DICOM: the same stacks as from the cache, and what is to be said of the series.

    Args:
        folder, files, kind: see `volume.read_series`.

    Raises:
        UnreadableSeries: no file is a usable slice, or none is of the kind's plane.
    """
    series = window_series(folder, files, kind)
    entries = zip(series.pixels, series.stacks, strict=True)
    return [_stack(pixels, entry) for pixels, entry in entries], series.notes


def _stack(pixels: NDArray[np.uint8] | CachedPixels, entry: dict[str, Any]) -> Stack:
    positions = _rows(entry["positions"], 3)
    orientation, spacing = _known(entry["orientation"], 6), _known(entry["spacing"], 2)
    # The two directions of an image are perpendicular unit vectors; anything else has no plane.
    area = float(np.linalg.norm(np.cross(orientation[:3], orientation[3:])))
    placed = bool(np.isfinite(positions).all() and 0.9 < area < 1.1)
    (low, high), (row_mm, column_mm) = _PLAUSIBLE_FIELD_MM, spacing
    square = row_mm / _OBLONG < column_mm < row_mm * _OBLONG
    measured = bool(low < row_mm * pixels.shape[1] < high and square)
    if not measured:
        axial = placed and geometry.plane(orientation) == "axial"
        spacing = np.full(2, (ASSUMED_AXIAL_FIELD_MM if axial else ASSUMED_FIELD_MM) / pixels.shape[1])
    if not placed:
        positions, orientation = _assumed_place(pixels.shape, spacing), np.array(_ASSUMED_ORIENTATION)
    numbers = tuple(entry["instance_numbers"])
    return Stack(pixels, positions, orientation, spacing, numbers, measured, placed)


def _rows(table: list[list[float] | None], width: int) -> Floats:
    """Return ``[slices, width]`` of a slice table, NaN where a row is not known."""
    return np.array([[np.nan] * width if row is None else row for row in table], dtype=np.float64)


def _known(table: list[list[float] | None], width: int) -> Floats:
    """Return the first row of a slice table that is known ``[width]``, NaN without any."""
    known = next((row for row in table if row is not None), None)
    return np.array([np.nan] * width if known is None else known, dtype=np.float64)


def _assumed_place(shape: tuple[int, ...], spacing: Floats) -> Floats:
    """Return positions ``[slices, 3]`` of slices whose middle is the origin."""
    slices, rows, columns = shape
    across = (np.arange(slices) - (slices - 1) / 2) * ASSUMED_STEP_MM
    corner = -(columns - 1) / 2 * spacing[1], (rows - 1) / 2 * spacing[0]
    return np.column_stack([across, np.full(slices, corner[0]), np.full(slices, corner[1])])
