"""Slices → series, by what their headers say, and the files of one series → `Volume`: a folder is not a series.

One folder may hold several series, and one series several folders or several kinds of image (echoes, the parts of a
Dixon scan, phases of time, planes). What is absent from a header tells nothing apart. A file that is no usable slice is
skipped and listed; only a series without any usable slice is an error."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lumbar_kaggle.core.files import Folder, is_folder, list_folder, natural, shown
from lumbar_kaggle.dicom import geometry
from lumbar_kaggle.dicom.grids import is_grid
from lumbar_kaggle.dicom.headers import NOT_DICOM, UnreadableInstance, read_content
from lumbar_kaggle.dicom.instances import Instance
from lumbar_kaggle.dicom.kinds import KIND_WORDS, contents, may_be, places, plane_of, recognise_series
from lumbar_kaggle.dicom.reading import read_slices, without_sidecars
from lumbar_kaggle.dicom.volume import Skipped, Volume

# Slices tilted against each other by less belong together, also where the nearest plane changes: stacks through L5/S1
# may be tilted beyond 45°, yet neighbouring discs differ by less than this.
ONE_PLANE_DEGREES = 30.0
READ = "DICOM, .nii, .nii.gz and .mha files"
FAR_STEPS = 10  # slices further from the others are strays, and do not move the middle of a series


class UnreadableSeries(Exception):
    """A series without one usable slice; the text says what was wrong with its files."""


def read_headers(
    folder: Path,
    files: Sequence[str] = (),
    kind: str = "",
    *,
    pixels: bool = False,
    keep: Callable[[Path, bytes], object] | None = None,
) -> tuple[list[Instance], list[Skipped]]:
    """Read the headers of a series, with `pixels` its pictures too, sorted as `Volume` is; each file is opened once,
    and `keep`, if there is one, called with its path and bytes.
    `files` are relative to `folder`; none: every file that lies in it, where what is no slice is skipped and listed.
    In place of `folder`, one NIfTI or MetaImage file may be given.
    Where they are of several series, `kind` (one of `targets.SERIES_KINDS`, or empty) tells which one is meant. Raises
    UnreadableSeries where no file is a usable slice, or none is of the kind's plane."""
    if is_grid(folder) and not is_folder(folder):
        folder, files = folder.parent, (folder.name,)
    listed = list_folder(folder) if not files else Folder(folder, (), tuple(folder / name for name in files))
    if listed.problem:
        raise UnreadableSeries(f"{folder}: {listed.problem}")
    found: list[Instance] = []
    skipped: list[Skipped] = []
    slices = set(without_sidecars(listed.files))
    for path in listed.files:
        try:
            content = read_content(path) if keep else None
            if keep and content is not None:
                keep(path, content)
            found += read_slices(path, pixels=pixels, content=content) if path in slices else []
        except UnreadableInstance as error:
            skipped.append(Skipped(path, str(error)))
    if not found:
        raise UnreadableSeries(f"{folder}: {none_usable(skipped)}")
    chosen = _choose_group(found, kind, folder)
    if len(chosen) < len(found):
        kept = {(item.path, item.frame) for item in chosen}
        reason = "of another series, image type, time or plane than the rest"
        skipped += [Skipped(item.path, reason) for item in found if (item.path, item.frame) not in kept]
    return sort_instances(chosen), skipped


def read_series(
    folder: Path, files: Sequence[str] = (), kind: str = "", *, keep: Callable[[Path, bytes], object] | None = None
) -> Volume:
    """Read the slices of one series; arguments and errors as of `read_headers`."""
    kept, skipped = read_headers(folder, files, kind, pixels=True, keep=keep)
    return Volume(
        images=tuple(item.image for item in kept),
        kind=kind,
        positions=np.array([item.position or (np.nan,) * 3 for item in kept], dtype=np.float64),
        orientation=np.array([item.orientation or (np.nan,) * 6 for item in kept], dtype=np.float64),
        spacing=np.array([item.spacing or (np.nan,) * 2 for item in kept], dtype=np.float64),
        instance_numbers=tuple(item.instance_number for item in kept),
        skipped=tuple(skipped),
        padding=tuple(item.padding for item in kept),
        notes=notes(kept, skipped),
    )


def none_usable(skipped: Sequence[Skipped]) -> str:
    """Return why a folder whose files were all skipped has no slice."""
    if not skipped:
        return "the folder is empty"
    path, reason = skipped[0]
    foreign = f"; {READ} are read" if {one.reason for one in skipped} == {NOT_DICOM} else ""
    return f"none of {len(skipped)} files is a usable slice; {shown(path.name)}: {reason}{foreign}"


def _choose_group(found: Sequence[Instance], kind: str, folder: Path) -> list[Instance]:
    """Return the slices of the one series that is meant. Of several groups it is that of the kind's plane, of the kind
    itself, and with the most slices, in this order."""
    every = group_slices(found)
    groups = [group for group in every if not kind or may_be(kind, group)]
    if not groups:
        planes = " and ".join(sorted({str(plane_of(group)) for group in every}))
        raise UnreadableSeries(f"{folder}: named {KIND_WORDS[kind]}, but its slices are {planes}; it is left out")
    best = max(groups, key=lambda group: (recognise_series(group)[0] == kind, places(group)))
    if len(best) > 2 and places(best) == 1 and all(item.position is not None for item in best):
        # Two would be one slice taken twice.
        remark = "ImagePositionPatient is the same in all slices, which cannot be meant; it counts as absent"
        best = [replace(item, position=None, remarks=(*item.remarks, remark)) for item in best]
    return best


def notes(headers: Sequence[Instance], skipped: Sequence[Skipped]) -> tuple[str, ...]:
    """Return what is to be said of a series: each reason and each remark once, with their number."""
    reasons = Counter(one.reason for one in skipped)
    files = {one.reason: shown(one.path.name) for one in reversed(skipped)}
    left_out = [
        f"{'1 file is no usable slice' if count == 1 else f'{count} files are no usable slices'} "
        f"({files[reason]}: {reason})"
        for reason, count in reasons.items()
    ]
    # By the attribute, with which each remark begins: the values may be different in each slice.
    remarks = [(remark.split()[0], remark) for item in headers for remark in item.remarks]
    counts, first = Counter(name for name, _ in remarks), dict(reversed(remarks))
    return (*left_out, *(f"{first[name]} ({count} of {len(headers)} slices)" for name, count in counts.items()))


def group_slices(instances: Sequence[Instance]) -> list[list[Instance]]:
    """Split slices into groups that each are one series, echo, image type, time and plane. The slices are of one study,
    from any number of folders. Groups come in the order of their first slices."""
    groups = _by_series(list(instances))
    by_contents = partial(split, value=lambda item: tuple(contents(item)) if item.image_type else None)
    by_b_value = partial(split, value=lambda item: item.b_value)
    for split_further in (_by_echo, by_contents, by_b_value, _by_time, _by_plane):
        groups = [part for group in groups for part in split_further(group)]
    order = {id(item): place for place, item in enumerate(instances)}
    return sorted(groups, key=lambda group: order[id(group[0])])


def split(group: Sequence[Instance], value: Callable[[Instance], Hashable]) -> list[list[Instance]]:
    """Split by a value; where there is but one beside None, the slices stay together."""
    parts: dict[Hashable, list[Instance]] = {}
    for item in group:
        parts.setdefault(value(item), []).append(item)
    return list(parts.values()) if len(parts.keys() - {None}) != 1 else [list(group)]


def split_by_uid(
    group: Sequence[Instance], uid: Callable[[Instance], str]
) -> tuple[list[list[Instance]], list[Instance]]:
    """Split by an identifier; return the parts, and apart the slices that each have one of their own. Canon gives each
    slice of a series another SeriesInstanceUID, and careless anonymisers do the like: such identifiers tell nothing."""
    parts: list[list[Instance]] = []
    alone: list[Instance] = []
    for part in split(group, lambda item: uid(item) or None):
        if len(part) < min(len(group), 5) and places(part) == 1:
            alone += part
        else:
            parts.append(part)
    return parts, alone


def _by_series(group: list[Instance]) -> list[list[Instance]]:
    parts, alone = split_by_uid(group, lambda item: item.series_uid)
    found = []
    for part in [*parts, *([alone] if alone else [])]:
        for number in split(part, lambda item: item.series_number):
            for series in split(number, lambda item: item.description or None):
                known = series[0].series_number is not None if part is alone else part[0].series_uid
                found += [series] if known else split(series, lambda item: item.path.parent)
    return found


def _by_echo(group: list[Instance]) -> list[list[Instance]]:
    """Split by echo time: echoes differ by far, while the slices of one echo may differ a little."""
    times = sorted({item.echo_time_ms for item in group if item.echo_time_ms is not None})
    if not times:
        return split(group, lambda item: item.echo_number)
    later = [after for before, after in pairwise(times) if after > 1.25 * before + 1]
    echo = dict[float | None, int](zip(times, np.searchsorted(later, times, "right").tolist(), strict=True))
    return split(group, lambda item: echo.get(item.echo_time_ms))


def _by_time(group: list[Instance]) -> list[list[Instance]]:
    parts = split(group, lambda item: item.temporal_position)
    # Phases of time show the same places again; otherwise the number only counts the slices.
    return parts if sum(map(places, parts)) > places(group) else [group]


def _by_plane(group: list[Instance]) -> list[list[Instance]]:
    placed = [item for item in group if item.orientation is not None]
    normals = geometry.slice_normal(np.array([item.orientation for item in placed], dtype=np.float64).reshape(-1, 6))
    nearest = np.abs(normals).argmax(axis=1)
    if len(set(nearest)) < 2:
        return [group]
    near = np.abs(normals @ normals.T) > np.cos(np.radians(ONE_PLANE_DEGREES))
    plane = np.full(len(placed), -1)
    # The commonest plane first: it takes the slices that are tilted just beyond it.
    for axis in np.argsort(-np.bincount(nearest), kind="stable"):
        plane[(plane < 0) & near[nearest == axis].any(axis=0)] = axis
    planes = dict(zip(map(id, placed), plane.tolist(), strict=True))
    commonest = int(np.bincount(plane).argmax())
    return split(group, lambda item: planes.get(id(item), commonest))


def sort_instances(instances: list[Instance]) -> list[Instance]:
    """Sort slices along the body. The key is the projection of each slice's centre on the mean reading direction of the
    plane that most slices have, so tilted stacks within one series keep their order too. Slices without position or
    orientation come last, by instance number; so do all, if none has them."""
    placed = [item for item in instances if item.position and item.orientation]
    common = Counter(item.plane for item in placed).most_common(1)
    planar = [item.orientation or () for item in placed if item.plane == common[0][0]]
    directions = {one: geometry.reading_direction(one) for one in set(planar)}
    direction = np.mean([directions[one] for one in planar], axis=0) if planar else None

    def key(item: Instance) -> tuple[Any, ...]:
        number, place = item.instance_number, None
        if item.position and item.orientation and direction is not None:
            middle = ((item.rows - 1) / 2, (item.columns - 1) / 2)
            centre = geometry.to_patient(*middle, item.position, item.orientation, item.spacing or (0.0, 0.0))
            # Rounded, so that two takes of one slice fall back on the order in which they were taken.
            place = round(float(centre @ direction), 3)
        return place is None, place or 0.0, number is None, number or 0, natural(item.path.name), item.frame

    return sorted(instances, key=key)


def middle_first(headers: Sequence[Instance]) -> list[Instance]:
    """Order the sorted slices of a series by their distance from the middle of what it shows. The middle lies half way
    between the outermost slices, so that it does not move where slices are missing or were taken twice; slices far off
    the others do not count. Without positions it is that of the count. Slices of the commonest size and plane come
    first."""
    forms = [(item.rows, item.columns, item.plane) for item in headers]
    common = Counter(forms).most_common(1)[0][0]
    main = [item for item, form in zip(headers, forms, strict=True) if form == common]
    rest = [item for item, form in zip(headers, forms, strict=True) if form != common]
    places_mm = np.arange(len(main), dtype=np.float64)
    if all(item.position and item.orientation for item in main):
        direction = geometry.reading_direction(main[len(main) // 2].orientation or ())
        places_mm = np.array([item.position for item in main], dtype=np.float64) @ direction
    places_mm = places_mm.round(1)
    known = np.unique(places_mm)
    steps = np.diff(known)
    cuts = np.flatnonzero(steps > FAR_STEPS * (np.median(steps) if len(steps) else 0)) + 1
    run = max(np.split(known, cuts), key=len)
    # Of two slices as near it is the later one, as half of an even count gives it; of two takes the first.
    nearest = np.abs(known - (run[0] + run[-1]) / 2).round(1)
    middle = known[len(known) - 1 - np.argmin(nearest[::-1])]
    order = np.argsort(np.abs(places_mm - middle).round(1), kind="stable")
    return [main[index] for index in order] + rest
