"""Slices → series, by what their headers say, and the order of slices: a folder is not a series.

One folder may hold several series, and one series several folders or several kinds of image (echoes, the
parts of a Dixon scan, phases of time, planes). What is absent from a header tells nothing apart.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.core.files import natural
from lumbar_kaggle.dicom import geometry
from lumbar_kaggle.dicom.instances import Instance

ONE_PLANE_DEGREES = 30.0
"""Slices tilted against each other by less belong together, also where the nearest plane changes: stacks
through L5/S1 may be tilted beyond 45°, yet neighbouring discs differ by less than this."""

FAR_STEPS = 10
"""Slices further from the others than so many steps are strays, and do not move the middle of a series."""

_CONTENTS = {
    "a phase image": r"P|PHASE([ _]MAP)?",
    "a real part": r"R|REAL",
    "an imaginary part": r"I|IMAGINARY",
    "water only": r"W|WATER",
    "fat only": r"F|FAT",
    "in phase": r"IP|IN[ _-]?PHASE",
    "out of phase": r"OP|(OPP(OSED)?|OUT)([ _-]OF)?[ _-]?PHASE",
    "a map": r"ADC.*|FA|TRACEW?|(.*[ _])?MAP|DIFFUSION|PERFUSION|VELOCITY",
    "a projection": r".*PROJECTION.*|M(AX|IN)?[ _]?IP|MAXIMUM|MINIMUM",
    "a subtraction": r"SUB(TRACT(ION)?)?",
    "a localizer": r"LOCALI[SZ]ER",
    "a picture of a screen": r"SCREEN[ _]SAVE|SCREENSHOT",
}
"""What an image may be instead of a plain magnitude image, and the values of ImageType that say so, the
standard's (PS3.3 §C.8.3.1.1.1 and §C.8.13.3.1.1) and vendors'."""


def contents(instance: Instance) -> list[str]:
    """Return what ImageType says that an image is, in words; empty for a plain magnitude image."""
    values = instance.image_type[2:]
    return [name for name, form in _CONTENTS.items() if any(re.fullmatch(form, one) for one in values)]


def places(instances: Sequence[Instance]) -> int:
    """Return at how many places of the body slices lie; those without position count one each."""
    known = {tuple(np.round(item.position, 1)) for item in instances if item.position is not None}
    return len(known) + sum(item.position is None for item in instances)


def _normals(instances: Sequence[Instance]) -> NDArray[np.float64]:
    """Return unit normals ``[slices, 3]`` of those whose orientation is known."""
    known = [item.orientation for item in instances if item.orientation is not None]
    return geometry.slice_normal(np.array(known, dtype=np.float64).reshape(-1, 6))


def plane_of(instances: Sequence[Instance]) -> str | None:
    """Return the plane that most slices are nearest to, or None where no orientation is known."""
    normals = _normals(instances)
    return geometry.AXES[_commonest(np.abs(normals).argmax(axis=1))] if len(normals) else None


def may_be(plane: str, instances: Sequence[Instance]) -> bool:
    """Whether slices that are said to lie in a plane may do so: tilted by less than 60°, or not known."""
    normals = np.abs(_normals(instances))
    return not len(normals) or float(np.median(normals[:, geometry.AXES.index(plane)])) > 0.5


def _commonest(axes: NDArray[np.int64]) -> int:
    return int(np.bincount(axes).argmax())


def group_slices(instances: Sequence[Instance]) -> list[list[Instance]]:
    """Split slices into groups that each are one series, echo, image type, time and plane.

    The slices are of one study, from any number of folders. Groups come in the order of their first slices.
    """
    groups = _by_series(list(instances))
    for split in (_by_echo, _by_content, _by_time, _by_plane):
        groups = [part for group in groups for part in split(group)]
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
    """Split by an identifier; return the parts, and apart the slices that each have one of their own.

    Canon gives each slice of a series another SeriesInstanceUID, and careless anonymisers do the like: such
    identifiers tell nothing.
    """
    parts = split(group, lambda item: uid(item) or None)
    alone = [part for part in parts if len(part) < min(len(group), 5) and places(part) == 1]
    return [part for part in parts if part not in alone], [item for part in alone for item in part]


def _by_series(group: list[Instance]) -> list[list[Instance]]:
    parts, alone = split_by_uid(group, lambda item: item.series_uid)
    found = []
    for part in [*parts, *([alone] if alone else [])]:
        for number in split(part, lambda item: item.series_number):
            for series in split(number, lambda item: item.description or None):
                numbered = part is alone and series[0].series_number is not None
                known = numbered or (part is not alone and part[0].series_uid)
                found += [series] if known else split(series, lambda item: item.path.parent)
    return found


def _by_echo(group: list[Instance]) -> list[list[Instance]]:
    """Split by echo time: echoes differ by far, while the slices of one echo may differ a little."""
    times = sorted({item.echo_time_ms for item in group if item.echo_time_ms is not None})
    if not times:
        return split(group, lambda item: item.echo_number)
    later = [after for before, after in pairwise(times) if after > 1.25 * before + 1]
    return split(
        group,
        lambda item: None if item.echo_time_ms is None else int(np.searchsorted(later, item.echo_time_ms, "right")),
    )


def _by_content(group: list[Instance]) -> list[list[Instance]]:
    parts = split(group, lambda item: tuple(contents(item)) if item.image_type else None)
    return [part for one in parts for part in split(one, lambda item: item.b_value)]


def _by_time(group: list[Instance]) -> list[list[Instance]]:
    parts = split(group, lambda item: item.temporal_position)
    # Phases of time show the same places again; otherwise the number only counts the slices.
    return parts if sum(map(places, parts)) > places(group) else [group]


def _by_plane(group: list[Instance]) -> list[list[Instance]]:
    placed = [item for item in group if item.orientation is not None]
    normals = _normals(placed)
    nearest = np.abs(normals).argmax(axis=1)
    if len(set(nearest)) < 2:
        return [group]
    near = np.abs(normals @ normals.T) > np.cos(np.radians(ONE_PLANE_DEGREES))
    plane = np.full(len(placed), -1)
    # The commonest plane first: it takes the slices that are tilted just beyond it.
    for axis in sorted(set(nearest), key=lambda axis: -(nearest == axis).sum()):
        plane[(plane < 0) & near[nearest == axis].any(axis=0)] = axis
    planes = {id(item): int(axis) for item, axis in zip(placed, plane, strict=True)}
    return split(group, lambda item: planes.get(id(item), _commonest(plane)))


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
    """Return the key of the order in which slices were taken, as far as their files tell it."""
    number = item.instance_number
    return number is None, 0 if number is None else number, natural(item.path.name), item.frame


def middle_first(headers: Sequence[Instance]) -> list[Instance]:
    """Order the sorted slices of a series by their distance from the middle of what it shows.

    The middle lies half way between the outermost slices, so that it does not move where slices are
    missing or were taken twice; slices far off the others do not count. Without positions it is that of
    the count. Slices of the commonest size and plane come first.
    """

    def form(item: Instance) -> tuple[Any, ...]:
        return item.rows, item.columns, item.orientation and geometry.plane(item.orientation)

    common = Counter(map(form, headers)).most_common(1)[0][0]
    main = [item for item in headers if form(item) == common]
    rest = [item for item in headers if form(item) != common]
    places_mm = np.arange(len(main), dtype=np.float64)
    if all(item.position is not None and item.orientation is not None for item in main):
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
