"""One series folder → `Volume`: slices sorted in the body, with their geometry.

Order and laterality come from positions, never from instance numbers. A file that is no usable slice
is skipped and listed; only a series without any usable slice is an error.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lumbar_kaggle import geometry
from lumbar_kaggle.instances import Instance, UnreadableInstance, decode, read_instance

SAME_ORIENTATION_DEGREES = 2.0
"""Slices whose normals differ by less belong to one stack; tilts per disc differ by 5° and more."""

SAME_COLUMN_MM = 2.0
"""Slices of one stack lie over each other: their corners, seen along the normal, differ by less."""

SAME_POSITION_MM = 0.05
"""Slices nearer than this along the normal are the same slice taken twice."""


class UnreadableSeries(Exception):
    """A series without one usable slice; the text says what was wrong with its files."""


class Skipped(NamedTuple):
    """A file of the series folder that was left out."""

    path: Path
    reason: str


@dataclass(frozen=True, eq=False)
class Volume:
    """The slices of one series in reading order.

    Sagittal slices run from the patient's right to left (rising LPS x), axial ones from head to foot.

    Attributes:
        images: one ``[rows, columns]`` array per slice, MR intensity, dtype as `instances.decode`
            gives it; slices of one series may differ in size.
        positions: ``[slices, 3]`` LPS mm, centre of each slice's first pixel; NaN where the header
            has none.
        orientation: ``[slices, 6]`` direction cosines; NaN where the header has none.
        spacing: ``[slices, 2]`` mm between rows, mm between columns; NaN where the header has none.
        instance_numbers: one per slice, None where the header has none.
        skipped: files that were left out, with the reason.
    """

    images: tuple[NDArray[Any], ...]
    positions: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: NDArray[np.float64]
    instance_numbers: tuple[int | None, ...]
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def pixels(self) -> NDArray[Any]:
        """All slices as one array ``[slices, rows, columns]``.

        Raises:
            ValueError: the slices differ in size; take the `stacks` one by one.
        """
        sizes = {image.shape for image in self.images}
        if len(sizes) > 1:
            raise ValueError(f"the slices have the sizes {sorted(sizes)}; take Volume.stacks()")
        return np.stack(self.images)

    @property
    def has_geometry(self) -> bool:
        """Whether every slice knows its place in the patient."""
        return bool(self._placed(list(range(len(self)))).all())

    def to_patient(self, slice_index: int, row: ArrayLike, column: ArrayLike) -> NDArray[np.float64]:
        """Return LPS mm ``[..., 3]`` of pixels ``[...]`` of one slice; see `geometry.to_patient`."""
        index = slice_index
        return geometry.to_patient(
            row, column, self.positions[index], self.orientation[index], self.spacing[index]
        )

    def to_slice(
        self, slice_index: int, points: ArrayLike
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return row, column (px) and distance (mm) of LPS points ``[..., 3]`` in one slice."""
        index = slice_index
        return geometry.to_slice(points, self.positions[index], self.orientation[index], self.spacing[index])

    def take(self, indices: Sequence[int]) -> "Volume":
        """Return the volume of some of the slices, in the order of `indices`."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Volume(
            images=tuple(self.images[index] for index in chosen),
            positions=self.positions[chosen],
            orientation=self.orientation[chosen],
            spacing=self.spacing[chosen],
            instance_numbers=tuple(self.instance_numbers[index] for index in chosen),
            skipped=self.skipped,
        )

    def stacks(self) -> list["Volume"]:
        """Split into groups of parallel slices that lie over each other and have one size and spacing.

        Within a stack the slices are sorted along its own normal, and of slices at the same position
        only the first stays. Stacks come in the order of their first slice. Slices without geometry
        form one stack per size.
        """
        groups: list[list[int]] = []
        for index in range(len(self)):
            for group in groups:
                if self._same_stack(group[0], index):
                    group.append(index)
                    break
            else:
                groups.append([index])
        return [self.take(self._along_normal(group)) for group in groups]

    def _same_stack(self, first: int, second: int) -> bool:
        if self.images[first].shape != self.images[second].shape:
            return False
        if not np.allclose(self.spacing[first], self.spacing[second], rtol=0.01, equal_nan=True):
            return False
        known = self._placed([first, second])
        if not known.all():
            return not known.any()
        cosine = np.cos(np.radians(SAME_ORIENTATION_DEGREES))
        both = self.orientation[[first, second]].reshape(2, 2, 3)
        if (np.einsum("ij,ij->i", both[0], both[1]) < cosine).any():
            return False
        offset = self.positions[second] - self.positions[first]
        return bool(np.abs(both[0] @ offset).max() < SAME_COLUMN_MM)

    def _placed(self, indices: list[int]) -> NDArray[np.bool_]:
        """Whether each of the slices has both position and orientation, ``[indices]``."""
        geometry_of = np.hstack([self.positions[indices], self.orientation[indices]])
        return np.asarray(np.isfinite(geometry_of).all(axis=1))

    def _along_normal(self, group: list[int]) -> list[int]:
        if not self._placed(group).all():
            return group
        depth = self.positions[group] @ geometry.reading_direction(self.orientation[group[0]])
        ordered: list[int] = []
        last = -np.inf
        for place in np.argsort(depth, kind="stable"):
            if depth[place] - last > SAME_POSITION_MM:
                ordered.append(group[place])
                last = depth[place]
        return ordered


def read_headers(folder: Path) -> tuple[list[Instance], list[Skipped]]:
    """Read the headers of a series folder, sorted as `Volume` is.

    Raises:
        UnreadableSeries: the folder is missing or no file in it is a usable slice.
    """
    if not folder.is_dir():
        raise UnreadableSeries(f"{folder}: no such folder")
    instances: list[Instance] = []
    skipped: list[Skipped] = []
    for path in sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != "."):
        try:
            instances.append(read_instance(path))
        except UnreadableInstance as error:
            skipped.append(Skipped(path, str(error)))
    if not instances:
        raise UnreadableSeries(_nothing_readable(folder, skipped))
    return sort_instances(instances), skipped


def sort_instances(instances: list[Instance]) -> list[Instance]:
    """Sort slices along the body.

    The key is the projection of each slice's centre on the mean reading direction of the plane that
    most slices have, so tilted stacks within one series keep their order too. Slices without
    position or orientation come last, by instance number; so do all, if none has them.
    """
    placed = [item for item in instances if item.position is not None and item.orientation is not None]
    planes = [geometry.plane(item.orientation) for item in placed if item.orientation is not None]
    if not placed:
        return sorted(instances, key=_acquired)
    common = Counter(planes).most_common(1)[0][0]
    directions = [
        geometry.reading_direction(item.orientation)
        for item, plane in zip(placed, planes, strict=True)
        if item.orientation is not None and plane == common
    ]
    direction = np.mean(directions, axis=0)

    def key(item: Instance) -> tuple[Any, ...]:
        if item.position is None or item.orientation is None:
            return True, 0.0, *_acquired(item)
        middle = ((item.rows - 1) / 2, (item.columns - 1) / 2)
        centre = geometry.to_patient(*middle, item.position, item.orientation, item.spacing or (0.0, 0.0))
        # Rounded, so that two takes of one slice fall back on their instance numbers.
        return False, round(float(centre @ direction), 3), *_acquired(item)

    return sorted(instances, key=key)


def _acquired(item: Instance) -> tuple[Any, ...]:
    """Return the key of the order in which slices were taken, as far as their files tell it.

    Without numbers, names sort as people count: ``2.dcm`` before ``10.dcm``.
    """
    parts = re.split(r"(\d+)", item.path.name)
    natural = tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)
    number = item.instance_number
    return number is None, 0 if number is None else number, natural, item.frame


def read_series(folder: Path) -> Volume:
    """Read one series folder.

    Args:
        folder: holds one DICOM file per slice; other files are skipped and listed.

    Raises:
        UnreadableSeries: no file in the folder is a usable slice.
    """
    headers, skipped = read_headers(folder)
    images: list[NDArray[Any]] = []
    kept: list[Instance] = []
    for header in headers:
        try:
            images.append(decode(header.path))
            kept.append(header)
        except UnreadableInstance as error:
            skipped.append(Skipped(header.path, str(error)))
    if not kept:
        raise UnreadableSeries(_nothing_readable(folder, skipped))
    return Volume(
        images=tuple(images),
        positions=np.array([item.position or (np.nan,) * 3 for item in kept], dtype=np.float64),
        orientation=np.array([item.orientation or (np.nan,) * 6 for item in kept], dtype=np.float64),
        spacing=np.array([item.spacing or (np.nan, np.nan) for item in kept], dtype=np.float64),
        instance_numbers=tuple(item.instance_number for item in kept),
        skipped=tuple(skipped),
    )


def _nothing_readable(folder: Path, skipped: list[Skipped]) -> str:
    if not skipped:
        return f"{folder}: the folder is empty"
    first = skipped[0]
    return f"{folder}: none of {len(skipped)} files is a usable slice; {first.path.name}: {first.reason}"
