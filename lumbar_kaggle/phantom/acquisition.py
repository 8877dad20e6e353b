"""Which series a study has and where their slices lie: the plan of the scan, without any pixel."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.phantom.patient import VERTEBRAE
from lumbar_kaggle.phantom.rendering import Plane
from lumbar_kaggle.phantom.settings import Defects, Scanners
from lumbar_kaggle.phantom.spine import Spine
from lumbar_kaggle.phantom.tissues import Weighting
from lumbar_kaggle.targets import LEVELS, SERIES_KINDS

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """One planned acquisition.

    Attributes:
        kind: one of `targets.SERIES_KINDS`.
        weighting: T1, T2 or STIR.
        planes: middle of each slice; instance k + 1 is ``planes[k]``.
        thickness, step: mm; the step is what the header says lies between two slices' middles.
        syntax: name of a transfer syntax, see `dicom.SYNTAXES`.
        signed: stored as signed numbers.
    """

    kind: str
    weighting: Weighting
    planes: tuple[Plane, ...]
    thickness: float
    step: float
    syntax: str
    signed: bool


def plan_series(
    rng: np.random.Generator, spine: Spine, index: int, defects: Defects, scanners: Scanners
) -> tuple[Series, ...]:
    """Return the series of the study number `index` of its split, in the order of `SERIES_KINDS`."""
    absent = None
    if index % defects.missing_series_every == min(5, defects.missing_series_every - 1):
        absent = SERIES_KINDS[int(rng.integers(3))]
    second = Weighting.STIR if rng.random() < defects.inversion_recovery else Weighting.T2
    series = [
        _sagittal(rng, spine, "sagittal_t1", Weighting.T1, defects, scanners),
        _sagittal(rng, spine, "sagittal_t2", second, defects, scanners),
    ]
    two_sizes = index % defects.two_sizes_every == min(2, defects.two_sizes_every - 1)
    for group in _disc_groups(rng, defects):
        series.append(_axial(rng, spine, group, two_sizes, defects, scanners))
    return tuple(one for one in series if one.kind != absent)


def _disc_groups(rng: np.random.Generator, defects: Defects) -> list[range]:
    """Return which levels each axial series covers."""
    draw = rng.random()
    first = 2 if draw < defects.axial_below_second_level else int(draw < defects.axial_below_first_level)
    if rng.random() < defects.two_axial_series:
        return [range(first, 3), range(3, len(LEVELS))]
    return [range(first, len(LEVELS))]


def _sagittal(
    rng: np.random.Generator,
    spine: Spine,
    kind: str,
    weighting: Weighting,
    defects: Defects,
    scanners: Scanners,
) -> Series:
    size = int(rng.choice(scanners.sagittal_sizes))
    field = rng.uniform(*scanners.sagittal_field_mm)
    count = int(rng.integers(scanners.sagittal_slices[0], scanners.sagittal_slices[1] + 1))
    step = rng.uniform(*scanners.sagittal_step_mm)
    swivel, tip = np.radians(rng.normal(0.0, (1.5, 0.8)))
    across = np.array([-np.sin(swivel), np.cos(swivel), 0.0])
    down = np.array([np.sin(tip) * np.cos(swivel), np.sin(tip) * np.sin(swivel), -np.cos(tip)])
    leftwards = np.cross(down, across)
    # The middle of the image lies in front of the L3/L4 canal, where technicians put it.
    middle = spine.frame(spine.disc_at[VERTEBRAE.index("L3")])[0]
    column, row = rng.normal((0.535, 0.53), scanners.sagittal_shift)
    corner = middle - field * (column * across + row * down) + rng.normal(0.0, 1.5) * leftwards
    planes = [
        _plane(corner + offset * leftwards, across, down, field, size)
        for offset in (np.arange(count) - (count - 1) / 2) * step
    ]
    return _series(rng, kind, weighting, planes, step, defects, scanners)


def _axial(
    rng: np.random.Generator,
    spine: Spine,
    group: range,
    two_sizes: bool,
    defects: Defects,
    scanners: Scanners,
) -> Series:
    size = int(rng.choice(scanners.axial_sizes))
    field = rng.uniform(*scanners.axial_field_mm)
    step = rng.uniform(*scanners.axial_step_mm)
    across = _turned(np.radians(rng.normal(0.0, 1.5)))
    middles: list[tuple[Floats, Floats]] = []  # centre of the canal, direction down the image
    if rng.random() < defects.tilted_axial:
        count = int(rng.integers(scanners.axial_slices_per_disc[0], scanners.axial_slices_per_disc[1] + 1))
        for level in group:
            middle, axes = spine.frame(spine.level_at(level))
            down = _unit(axes[1] - (axes[1] @ across) * across)
            up = np.cross(across, down)
            offsets = ((count - 1) / 2 - np.arange(count)) * step + rng.normal(0.0, 1.0)
            middles += [(middle + offset * up, down) for offset in offsets]
    else:
        middles = _straight_stack(rng, spine, group, across, step)
    shift = rng.normal(0.0, 0.012, 2) * field
    planes = []
    for number, (middle, down) in enumerate(middles):
        matrix = 256 if two_sizes and number >= len(middles) // 2 and size != 256 else size
        if two_sizes and size == 256 and number >= len(middles) // 2:
            matrix = 320
        corner = middle - (0.5 * field + shift[0]) * across - (0.525 * field + shift[1]) * down
        planes.append(_plane(corner, across, down, field, matrix))
    return _series(rng, "axial_t2", Weighting.T2, planes, step, defects, scanners)


def _straight_stack(
    rng: np.random.Generator, spine: Spine, group: range, across: Floats, step: float
) -> list[tuple[Floats, Floats]]:
    """Return middles and down directions of one stack of parallel slices through the levels."""
    tilt = np.radians(rng.normal(-4.0, 4.0))
    down = np.array([0.0, np.cos(tilt), np.sin(-tilt)])
    down = _unit(down - (down @ across) * across)
    up = np.cross(across, down)
    points = np.array([spine.frame(spine.level_at(level))[0] for level in group])
    heights = points @ up
    top, bottom = heights.max() + rng.uniform(6.0, 12.0), heights.min() - rng.uniform(8.0, 13.0)
    count = int(np.ceil((top - bottom) / step)) + 1
    centre = points.mean(axis=0)
    return [(centre + (top - k * step - centre @ up) * up, down) for k in range(count)]


def _series(
    rng: np.random.Generator,
    kind: str,
    weighting: Weighting,
    planes: list[Plane],
    step: float,
    defects: Defects,
    scanners: Scanners,
) -> Series:
    """Return the series with its slices in the order of the instances, and how they are stored."""
    if rng.random() < defects.reversed_order:
        planes = planes[::-1]
    if rng.random() < defects.duplicate_position:
        planes = [*planes, planes[-1]]
    names, shares = zip(*defects.syntaxes, strict=True)
    syntax = str(rng.choice(names, p=np.array(shares) / sum(shares)))
    gap = rng.uniform(*scanners.gap_share)
    # Decoders disagree on signed pixels inside a JPEG.
    signed = bool(rng.random() < defects.signed_pixels) and not syntax.startswith("jpeg")
    return Series(kind, weighting, tuple(planes), round(step * (1 - gap), 2), round(step, 2), syntax, signed)


def _plane(corner: Floats, across: Floats, down: Floats, field: float, size: int) -> Plane:
    """Return the plane, rounded to what a header's decimal text holds."""
    spacing = round(field / size, 6)
    orientation = np.round(np.concatenate([across, down]), 8)
    return Plane(np.round(corner, 5), orientation, (spacing, spacing), (size, size))


def _turned(angle: float) -> Floats:
    return np.array([np.cos(angle), np.sin(angle), 0.0])


def _unit(vector: Floats) -> Floats:
    unit: Floats = vector / np.linalg.norm(vector)
    return unit
