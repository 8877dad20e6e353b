"""What a series is told to be: how it is weighted, hence how bright each tissue is, and where its slices lie.

How many slices there are never depends on the patient's spine, only where they lie: their number must not tell of
degenerated discs.
"""

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import pairwise

import numpy as np

from lumbar_kaggle.dicom.geometry import slice_normal
from lumbar_kaggle.phantom.patient import Spine
from lumbar_kaggle.phantom.settings import Defects, Floats, Scanners, Singles, draw_from


class Weighting(Enum):
    """How a series is weighted."""

    T1 = "T1"
    T2 = "T2"
    STIR = "STIR"


# Repetition, echo and inversion times from which a series' are drawn, ms.
_TIMES = {
    Weighting.T1: ((380.0, 820.0), (8.0, 20.0), (0.0, 0.0)),
    Weighting.T2: ((2300.0, 6000.0), (78.0, 132.0), (0.0, 0.0)),
    Weighting.STIR: ((2800.0, 5600.0), (28.0, 82.0), (135.0, 190.0)),
}

# fmt: off
TISSUES = {
    "fat": (0.95, 285, 125), "marrow_fatty": (0.88, 340, 105), "marrow_red": (0.70, 760, 72),
    "marrow_water": (0.85, 1100, 110), "cortex": (0.10, 500, 25),
    "disc_wet": (0.95, 1350, 140), "disc_dry": (0.72, 950, 52), "annulus": (0.50, 900, 44),
    "csf": (1.00, 4000, 1700), "nerve": (0.80, 1000, 78), "cord": (0.80, 900, 90), "ganglion": (0.86, 1100, 95),
    "ligament": (0.48, 820, 45), "epidural": (0.85, 560, 110), "muscle": (0.82, 950, 50),
    "vessel": (0.20, 1200, 100), "joint": (0.85, 1800, 130), "organ": (0.85, 900, 85), "bowel": (0.80, 850, 75),
    "skin": (0.60, 600, 60),
}
# fmt: on
"""Proton density (0 to 1), and T1 and T2 at 1.5 T in ms, of each tissue.

Relaxation times are rounded from published ones (Stanisz et al., Magn Reson Med 54:507, 2005; de Bazelaire et al.,
Radiology 230:652, 2004); those of fat are lengthened, as trains of echoes do. ``epidural`` is the mixture of fat and
veins around the sac; flow voids most of ``vessel``.
"""

Contrast = dict[str, float]
"""Brightness of each of the `TISSUES`, 0 (air) to 1; ``flow`` is how much pulsation darkens parts of the fluid."""


def contrast_of(repetition: float, echo: float, inversion: float = 0.0, t1_scale: float = 1.0) -> Contrast:
    """Return the magnitudes of a spin echo for times in ms, scaled so that the brightest tissue is 0.97; no flow.

    The signal is ``PD (1 - exp(-TR/T1)) exp(-TE/T2)``, with inversion for STIR (Bernstein, King, Zhou: Handbook of
    MRI Pulse Sequences, 2004, ch. 14); a field beside 1.5 T stretches T1.
    """
    signals = {}
    for name, (density, t1, t2) in TISSUES.items():
        remaining, inverted = (np.exp(-time / (t1 * t1_scale)) for time in (repetition, inversion))
        recovered = 1.0 - 2.0 * inverted + remaining if inversion else 1.0 - remaining
        signals[name] = float(density * abs(recovered) * np.exp(-echo / t2))
    top = max(signals.values())
    return {name: 0.97 * value / top for name, value in signals.items()} | {"flow": 0.0}


def draw_contrast(rng: np.random.Generator, weighting: Weighting) -> Contrast:
    """Draw one series' contrast: it varies as a whole, as between hospitals, then each tissue a little by its own."""
    repetition, echo, inversion = (rng.uniform(*limits) for limits in _TIMES[weighting])
    contrast = contrast_of(repetition, echo, inversion, float(rng.choice([1.0, 1.12, 1.25])))
    for name in TISSUES:
        contrast[name] = float(np.clip(contrast[name] * np.exp(rng.normal(0.0, 0.12)), 0.015, 1.05))
    # Slow or gated blood is not void everywhere.
    contrast["vessel"] = float(rng.uniform(0.02, 0.12) if rng.random() < 0.7 else rng.uniform(0.12, 0.4))
    contrast["flow"] = float(rng.uniform(0.0, 0.6) if weighting is not Weighting.T1 else 0.0)
    return contrast


@dataclass(frozen=True)
class Plane:
    """Where a slice lies: the attributes of its header, see `lumbar_kaggle.dicom.geometry`."""

    position: Floats  # [3] LPS mm, centre of the first pixel
    orientation: Floats  # [6] direction cosines
    spacing: tuple[float, float]  # mm between rows, between columns
    shape: tuple[int, int]  # rows, columns

    @cached_property
    def normal(self) -> Floats:
        """``[3]`` unit normal."""
        return slice_normal(self.orientation)

    def heights(self, points: Floats) -> Floats:
        """Return mm ``[...]`` of LPS points ``[..., 3]`` above the plane, along its normal."""
        return (points - self.position) @ self.normal

    def grid(self, every: int = 1) -> Singles:
        """Return LPS mm x, y, z of every `every`-th pixel each way, ``[3, rows, columns]``."""
        rows, columns = (slice(0, size, every) for size in self.shape)
        return self.local(np.zeros(3), np.eye(3), (0.0,), rows, columns)[:, 0]

    def local(self, origin: Floats, axes: Floats, heights: tuple[float, ...], rows: slice, columns: slice) -> Singles:
        """Return x, y, z (mm) of a rectangle of pixels, its steps included, ``[3, heights, rows, columns]``.

        They are in the frame of `origin` (LPS mm) and `axes` (rows are unit vectors); `heights` are mm above the plane.
        """
        first, up = axes @ (self.position - origin), axes @ self.normal
        across = axes @ self.orientation[:3] * self.spacing[1]
        down = axes @ self.orientation[3:] * self.spacing[0]
        row = np.arange(rows.start, rows.stop, rows.step)[:, None]
        column = np.arange(columns.start, columns.stop, columns.step)
        start = (first[:, None, None] + up[:, None, None] * np.asarray(heights)[:, None] + 0.0)[..., None]
        start = (start + down[:, None, None, None] * row).astype(np.float32)  # [3, heights, rows, 1]
        return start + (across[:, None] * column).astype(np.float32)[:, None, None, :]


@dataclass(frozen=True)
class Grid:
    """The image plane of a series: stored rows and columns, and mm of a pixel."""

    shape: tuple[int, int]
    spacing: float

    def at(self, middle: Floats, across: Floats, down: Floats, shares: Floats) -> Plane:
        """Return the plane along two unit vectors with a point (LPS mm) at the shares ``[2]`` of width and height."""
        rows, columns = self.shape
        corner = middle - self.spacing * (shares[0] * columns * across + shares[1] * rows * down)
        # As precise as a header's decimal text.
        orientation = np.round(np.concatenate([across, down]), 8)
        return Plane(np.round(corner, 5), orientation, (self.spacing, self.spacing), self.shape)


def draw_grid(rng: np.random.Generator, shape: tuple[int, int], field_mm: float, spacings: tuple[float, float]) -> Grid:
    """Return a grid whose longer side measures around `field_mm`, within the `spacings` that occur."""
    spacing = np.clip(field_mm * rng.normal(1.0, 0.01) / max(shape), *spacings)
    return Grid(shape, round(float(spacing), 6))


def _draw_step(rng: np.random.Generator, steps: tuple[tuple[float, float], ...]) -> float:
    """Draw a distance of slices (mm): a usual one or, in a tenth of the series, something near it."""
    step = draw_from(rng, steps)
    aside, amount = rng.random(), rng.normal(0.0, 0.04)
    return round(step * (1 + amount) if aside < 0.1 else step, 2)


def sagittal_planes(
    rng: np.random.Generator, spine: Spine, grid: Grid, scanners: Scanners
) -> tuple[list[Plane], float]:
    """Return a sagittal stack from the patient's right to left, and its step in mm."""
    count = int(np.clip(round(rng.normal(*scanners.sagittal_slices_usual)), *scanners.sagittal_slices))
    if rng.random() < 0.01:  # rarely the whole width of the back
        count = min(count + int(rng.integers(5, 15)), scanners.sagittal_slices[1])
    step = _draw_step(rng, scanners.sagittal_steps_mm)
    # Wide enough for the foramina: a technician first takes thicker slices, then more of them.
    needed = 2 * scanners.sagittal_half_width_mm
    if (count - 1) * step < needed:
        step = min(max(step, needed / (count - 1)), 5.2)
        count = min(max(count, int(np.ceil(needed / step)) + 1), scanners.sagittal_slices[1])
        step = round(max(step, needed / (count - 1)), 2)
    swivel, tip = np.radians(rng.normal(0.0, (1.5, 0.8)))
    across = np.array([-np.sin(swivel), np.cos(swivel), 0.0])
    down = np.array([np.sin(tip) * np.cos(swivel), np.sin(tip) * np.sin(swivel), -np.cos(tip)])
    leftwards = np.cross(down, across)
    shares = rng.normal((0.535, 0.53), scanners.sagittal_shift)  # of L3/L4; the mean of the real labels
    middle = spine.frame(spine.level_at(2))[0] + rng.normal(0.0, 1.5) * leftwards
    offsets = (np.arange(count) - (count - 1) / 2) * step
    return [grid.at(middle + offset * leftwards, across, down, shares) for offset in offsets], step


def axial_planes(
    rng: np.random.Generator, spine: Spine, levels: range, grid: Grid, defects: Defects, scanners: Scanners
) -> tuple[list[Plane], float]:
    """Return the slices of an axial series through some levels, head to foot, and their step in mm."""
    step = _draw_step(rng, scanners.axial_steps_mm)
    turn = np.radians(rng.normal(0.0, 1.5))
    across = np.array([np.cos(turn), np.sin(turn), 0.0])
    shares = rng.normal((0.5, 0.525), scanners.axial_shift)
    tilted, block, double = defects.tilted_axial, defects.block_axial, defects.double_axial
    ways = {"tilted": tilted, "block": block, "double": double, "straight": max(0.0, 1 - (tilted + block + double))}
    way = draw_from(rng, tuple(ways.items()))
    places: list[tuple[Floats, Floats]] = []
    if way != "tilted":
        cuts = [levels[int(rng.integers(1, len(levels)))]] if way == "block" and len(levels) > 2 else []
        for start, stop in pairwise([levels.start, *cuts, levels.stop]):
            places += _straight_stack(rng, spine, range(start, stop), across, step, scanners)
    if way in ("tilted", "double"):
        places += _disc_stacks(rng, spine, levels, across, step, scanners)
    return [grid.at(middle, across, down, shares) for middle, down in places], step


def coronal_planes(rng: np.random.Generator, spine: Spine, grid: Grid) -> tuple[list[Plane], float]:
    """Return a coronal stack, front to back and so far before the canal that it shows no recess, and its step in mm."""
    step, count = 5.0, int(rng.integers(9, 16))
    left, back, down = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, -1.0])
    points = np.array([spine.frame(spine.level_at(level))[0] for level in range(5)])
    last = np.array([points[2, 0], points[:, 1].min() - 22.0, points[2, 2]])
    shares = rng.normal((0.5, 0.5), 0.02)
    return [grid.at(last - k * step * back, left, down, shares) for k in reversed(range(count))], step


def _disc_stacks(
    rng: np.random.Generator, spine: Spine, levels: range, across: Floats, step: float, scanners: Scanners
) -> list[tuple[Floats, Floats]]:
    """Return one short stack per disc, each parallel to it: LPS mm of the canal and the direction down the image."""
    low, high = scanners.axial_slices_per_disc
    # Thin slices need more of them to span a disc and the recess below it.
    count = max(int(rng.integers(low, high + 1)), int(np.ceil(8.0 / step)) + 1)
    places = []
    for level in levels:
        middle, axes = spine.frame(spine.level_at(level))
        down, up = _square_to(axes[1], across)
        offsets = ((count - 1) / 2 - np.arange(count)) * step + rng.normal(0.0, 1.2)
        places += [(middle + offset * up, down) for offset in offsets]
    return places


def _straight_stack(
    rng: np.random.Generator, spine: Spine, levels: range, across: Floats, step: float, scanners: Scanners
) -> list[tuple[Floats, Floats]]:
    """Return one stack of parallel slices through the levels, as `_disc_stacks` does."""
    above, below = rng.uniform(*scanners.axial_margin_mm, 2)
    lean, aside = rng.uniform(0.4, 0.9), rng.normal(0.0, 3.0)
    frames = [spine.frame(spine.level_at(level)) for level in levels]
    points, normals = np.array([origin for origin, _ in frames]), np.array([axes[2] for _, axes in frames])
    # Part of the way to the middle disc's own tilt.
    tilt = lean * np.arctan2(normals[:, 1], normals[:, 2]).mean() + np.radians(aside)
    down, up = _square_to(np.array([0.0, np.cos(tilt), -np.sin(tilt)]), across)
    # Planned with the mean heights between neighbouring discs, L1/L2 to L5/S1.
    extent = sum((34.0, 34.2, 32.7, 27.0)[levels.start : levels.stop - 1]) + above + below
    count = int(np.ceil(extent / step)) + 1
    heights = points @ up
    top = (heights.max() + heights.min() + (count - 1) * step + above - below) / 2
    centre = points.mean(axis=0)
    return [(centre + (top - k * step - centre @ up) * up, down) for k in range(count)]


def _square_to(down: Floats, across: Floats) -> tuple[Floats, Floats]:
    """Return the unit vectors nearest to `down` at right angles to `across`, and up along the normal."""
    level = down - (down @ across) * across
    unit = level / np.linalg.norm(level)
    return unit, np.cross(across, unit)
