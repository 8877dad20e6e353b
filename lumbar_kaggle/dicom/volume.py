"""One series → `Volume`: slices sorted in the body, with their geometry.

Order and laterality come from positions, never from instance numbers. A file that is no usable slice
is skipped and listed; only a series without any usable slice is an error.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lumbar_kaggle.core.folders import Folder, list_folder, shown
from lumbar_kaggle.dicom import geometry
from lumbar_kaggle.dicom.grouping import group_slices, may_be, places, plane_of, sort_instances
from lumbar_kaggle.dicom.instances import Instance, UnreadableInstance, read_instances, read_slices
from lumbar_kaggle.dicom.kinds import KIND_WORDS, recognise_series

Found = TypeVar("Found")

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
        padding: one mask ``[rows, columns]`` per slice, True outside of the picture; None where it has no
            outside. Empty where nothing has.
        notes: what is to be said of the series, see `notes`.
    """

    images: tuple[NDArray[Any], ...]
    positions: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: NDArray[np.float64]
    instance_numbers: tuple[int | None, ...]
    skipped: tuple[Skipped, ...] = ()
    padding: tuple[NDArray[np.bool_] | None, ...] = ()
    notes: tuple[str, ...] = ()

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
            padding=tuple(self.padding[index] for index in chosen) if self.padding else (),
            notes=self.notes,
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


def read_headers(
    folder: Path, files: Sequence[str] = (), kind: str = ""
) -> tuple[list[Instance], list[Skipped]]:
    """Read the headers of a series, sorted as `Volume` is.

    Args:
        folder, files, kind: see `read_series`.

    Raises:
        UnreadableSeries: no file is a usable slice, or none is of the kind's plane.
    """
    found, skipped = _read_all(folder, files, read_instances)
    chosen, others = choose_group(found, kind, folder)
    return sort_instances(chosen), skipped + others


def choose_group(found: Sequence[Instance], kind: str, folder: Path) -> tuple[list[Instance], list[Skipped]]:
    """Return the slices of the one series that is meant, and the others with what they are.

    Of several groups, see `grouping.group_slices`, it is that of the kind's plane, of the kind itself, and
    with the most slices, in this order.

    Raises:
        UnreadableSeries: no group lies in the kind's plane.
    """
    every = group_slices(found)
    groups = [group for group in every if not kind or may_be(kind.split("_")[0], group)]
    if not groups:
        planes = " and ".join(sorted({str(plane_of(group)) for group in every}))
        raise UnreadableSeries(
            f"{folder}: named {KIND_WORDS[kind]}, but its slices are {planes}; it is left out"
        )

    def fit(group: list[Instance]) -> tuple[bool, int]:
        return recognise_series(group)[0] == kind, places(group)

    best = max(groups, key=fit) if len(groups) > 1 else groups[0]
    kept = set(map(id, best))
    reason = "of another series, image type, time or plane than the rest"
    others = [Skipped(item.path, reason) for item in found if id(item) not in kept]
    return _believed(best), others


def _believed(group: list[Instance]) -> list[Instance]:
    """Take positions for absent where all slices have the same; two are one slice taken twice."""
    if len(group) < 3 or any(item.position is None for item in group) or places(group) > 1:
        return group
    remark = "ImagePositionPatient is the same in all slices, which cannot be meant; it counts as absent"
    return [replace(item, position=None, remarks=(*item.remarks, remark)) for item in group]


def _read_all(
    folder: Path, files: Sequence[str], read: Callable[[Path], list[Found]]
) -> tuple[list[Found], list[Skipped]]:
    """Read the files of a series one by one, once each."""
    listed = list_folder(folder) if not files else Folder(folder, (), tuple(folder / name for name in files))
    if listed.problem:
        raise UnreadableSeries(f"{folder}: {listed.problem}")
    found: list[Found] = []
    skipped: list[Skipped] = []
    for path in listed.files:
        try:
            found += read(path)
        except UnreadableInstance as error:
            skipped.append(Skipped(path, str(error)))
    if not found:
        raise UnreadableSeries(_nothing_readable(folder, skipped))
    return found, skipped


def read_series(folder: Path, files: Sequence[str] = (), kind: str = "") -> Volume:
    """Read one series; each file is opened once.

    Args:
        folder: holds its DICOM files; other files are skipped and listed.
        files: those to read, relative to `folder`; none: every file that lies in it.
        kind: one of `targets.SERIES_KINDS`, what the series is said to be; or empty. Where the files are of
            several series, it tells which one is meant.

    Raises:
        UnreadableSeries: no file is a usable slice, or none is of the kind's plane.
    """
    slices, skipped = _read_all(folder, files, read_slices)
    chosen, others = choose_group([one.instance for one in slices], kind, folder)
    found = {(one.instance.path, one.instance.frame): one for one in slices}
    kept = sort_instances(chosen)
    return Volume(
        images=tuple(found[item.path, item.frame].image for item in kept),
        positions=np.array([item.position or (np.nan,) * 3 for item in kept], dtype=np.float64),
        orientation=np.array([item.orientation or (np.nan,) * 6 for item in kept], dtype=np.float64),
        spacing=np.array([item.spacing or (np.nan, np.nan) for item in kept], dtype=np.float64),
        instance_numbers=tuple(item.instance_number for item in kept),
        skipped=(*skipped, *others),
        padding=tuple(found[item.path, item.frame].padding for item in kept),
        notes=notes(kept, [*skipped, *others]),
    )


def notes(headers: Sequence[Instance], skipped: Sequence[Skipped]) -> tuple[str, ...]:
    """Return what is to be said of a series: each reason and each remark once, with their number."""
    reasons = Counter(one.reason for one in skipped)
    first = {one.reason: shown(one.path.name) for one in reversed(skipped)}
    left_out = [
        f"{count} {'file is' if count == 1 else 'files are'} no usable {'slice' if count == 1 else 'slices'} "
        f"({first[reason]}: {reason})"
        for reason, count in reasons.items()
    ]
    # By the attribute, with which each remark begins: the values may be different in each slice.
    remarks = [(remark.split()[0], remark) for item in headers for remark in item.remarks]
    counts, first = Counter(name for name, _ in remarks), dict(reversed(remarks))
    return (
        *left_out,
        *(f"{first[name]} ({count} of {len(headers)} slices)" for name, count in counts.items()),
    )


def _nothing_readable(folder: Path, skipped: list[Skipped]) -> str:
    if not skipped:
        return f"{folder}: the folder is empty"
    first = skipped[0]
    return (
        f"{folder}: none of {len(skipped)} files is a usable slice; {shown(first.path.name)}: {first.reason}"
    )
