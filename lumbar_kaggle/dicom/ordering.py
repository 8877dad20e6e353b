"""The order of a series' slices: along the body, and outwards from its middle."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from lumbar_kaggle.core.folders import natural
from lumbar_kaggle.dicom import geometry
from lumbar_kaggle.dicom.instances import Instance

FAR_STEPS = 10
"""Slices further from the others than so many steps are strays, and do not move the middle of a series."""


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
