"""The files of one series → `Volume`.

A file that is no usable slice is skipped and listed; only a series without any usable slice is an error.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from lumbar_kaggle.core.files import Folder, list_folder, shown
from lumbar_kaggle.dicom.grouping import group_slices, may_be, places, plane_of, sort_instances
from lumbar_kaggle.dicom.headers import UnreadableInstance
from lumbar_kaggle.dicom.instances import Instance, read_instances, read_slices
from lumbar_kaggle.dicom.kinds import KIND_WORDS, recognise_series
from lumbar_kaggle.dicom.volume import Skipped, Volume

Found = TypeVar("Found")


class UnreadableSeries(Exception):
    """A series without one usable slice; the text says what was wrong with its files."""


def read_headers(folder: Path, files: Sequence[str] = (), kind: str = "") -> tuple[list[Instance], list[Skipped]]:
    """Read the headers of a series, sorted as `Volume` is; arguments and errors as of `read_series`."""
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
        raise UnreadableSeries(f"{folder}: named {KIND_WORDS[kind]}, but its slices are {planes}; it is left out")

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
        kind=kind,
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
    return (*left_out, *(f"{first[name]} ({count} of {len(headers)} slices)" for name, count in counts.items()))


def _nothing_readable(folder: Path, skipped: list[Skipped]) -> str:
    if not skipped:
        return f"{folder}: the folder is empty"
    first = skipped[0]
    return f"{folder}: none of {len(skipped)} files is a usable slice; {shown(first.path.name)}: {first.reason}"
