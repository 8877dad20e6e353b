"""The cached volumes: parallel slices of one series with their geometry, see `preprocess.volume_worker`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle import geometry
from lumbar_kaggle.files import read_json

Floats = NDArray[np.float64]

ASSUMED_FIELD_MM = 280.0
"""Height of a sagittal picture whose spacing is not known: the mean of the competition's is about that."""

_PLAUSIBLE_FIELD_MM = (60.0, 700.0)
"""Fields outside of these are a wrong spacing's; axial ones of 100 mm do occur."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Parallel slices of one size, sorted along the body as `volume.Volume` is.

    Attributes:
        pixels: ``[slices, rows, columns]`` uint8, windowed over the series.
        positions: ``[slices, 3]`` LPS mm of each first pixel's centre; NaN where unknown.
        orientation: ``[6]`` direction cosines; NaN where unknown.
        spacing: ``[2]`` mm between rows, mm between columns.
        instance_numbers: ``[slices]``.
        measured: whether the spacing is a scanner's; otherwise it is an assumption.
    """

    pixels: NDArray[np.uint8]
    positions: Floats
    orientation: Floats
    spacing: Floats
    instance_numbers: NDArray[np.int64]
    measured: bool

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def placed(self) -> bool:
        """Whether the slices know their place in the patient."""
        return bool(np.isfinite(self.positions).all() and np.isfinite(self.orientation).all())

    @property
    def normal(self) -> Floats:
        """Unit vector ``[3]`` across the slices, in the frame of `to_patient`."""
        return geometry.slice_normal(self.orientation) if self.placed else np.array([1.0, 0.0, 0.0])

    def to_patient(self, index: int, row: float, column: float) -> Floats:
        """Return LPS mm ``[3]`` of a pixel; without geometry, mm in the picture and slice numbers.

        The stand-in frame has the columns as y, the rows upside down as z, and the slice's index as x.
        """
        if self.placed:
            return geometry.to_patient(row, column, self.positions[index], self.orientation, self.spacing)
        return np.array([float(index), column * self.spacing[1], -row * self.spacing[0]])

    def to_slice(self, index: int, points: Floats) -> tuple[Floats, Floats, Floats]:
        """Return row, column (px) and distance (mm) of points as `to_patient` gives them, ``[..., 3]``."""
        if self.placed:
            return geometry.to_slice(points, self.positions[index], self.orientation, self.spacing)
        return -points[..., 2] / self.spacing[0], points[..., 1] / self.spacing[1], points[..., 0] - index


def read_stacks(folder: Path, file: str) -> list[Stack]:
    """Read one series of the volume cache.

    Args:
        folder: of the cache kind ``volumes``.
        file: of the index: the series' JSON file, relative to `folder`.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = folder / file
    return [_stack(path.parent, entry) for entry in read_json(path)["stacks"]]


def _stack(folder: Path, entry: dict[str, Any]) -> Stack:
    pixels = np.load(folder / entry["file"], mmap_mode="r")
    spacing = np.asarray(entry["spacing"], dtype=np.float64)[0]
    low, high = _PLAUSIBLE_FIELD_MM
    # Without PixelSpacing the reader gives 1 mm, which is a real spacing too, though a rare one.
    measured = not np.allclose(spacing, 1.0) and low < spacing[0] * pixels.shape[1] < high
    if not measured:
        spacing = np.full(2, ASSUMED_FIELD_MM / pixels.shape[1])
    return Stack(
        pixels=pixels,
        positions=np.asarray(entry["positions"], dtype=np.float64),
        orientation=np.asarray(entry["orientation"], dtype=np.float64)[0],
        spacing=spacing,
        instance_numbers=np.asarray(entry["instance_numbers"], dtype=np.int64),
        measured=measured,
    )
