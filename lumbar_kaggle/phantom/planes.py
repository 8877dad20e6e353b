"""Where the slices of a series lie in the patient: sagittal stacks, and the ways of axial ones.

How many slices there are never depends on the patient's spine, only where they lie: their number must not
tell of degenerated discs.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lumbar_kaggle.dicom.geometry import slice_normal
from lumbar_kaggle.phantom.patient import Spine
from lumbar_kaggle.phantom.settings import Defects, Floats, Scanners, Singles, draw_from, draw_index

# Mean height between neighbouring discs, L1/L2 to L5/S1: what a straight stack is planned with.
LEVEL_GAPS_MM = (34.0, 34.2, 32.7, 27.0)
SAGITTAL_MIDDLE = (0.535, 0.53)
"""Where L3/L4 lies in a sagittal image, as parts of its width and height: the mean of the real labels."""

Place = tuple[Floats, Floats]
"""A point of the canal on a slice, LPS mm ``[3]``, and the direction down the image ``[3]``."""


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

    def grid(self, every: int = 1) -> tuple[Singles, Singles, Singles]:
        """Return LPS mm x, y, z of every `every`-th pixel each way, each ``[rows, columns]``."""
        rows, columns = (slice(0, size, every) for size in self.shape)
        x, y, z = self.local(np.zeros(3), np.eye(3), (0.0,), rows, columns)
        return x[0], y[0], z[0]

    def local(
        self, origin: Floats, axes: Floats, heights: tuple[float, ...], rows: slice, columns: slice
    ) -> tuple[Singles, Singles, Singles]:
        """Return x, y, z (mm) ``[heights, rows, columns]`` of a rectangle of pixels, its steps included.

        They are in the frame of `origin` (LPS mm) and `axes` (rows are unit vectors); `heights` are mm above
        the plane.
        """
        first, up = axes @ (self.position - origin), axes @ self.normal
        across = axes @ self.orientation[:3] * self.spacing[1]
        down = axes @ self.orientation[3:] * self.spacing[0]
        row = np.arange(rows.start, rows.stop, rows.step)[:, None]
        column = np.arange(columns.start, columns.stop, columns.step)
        start = (first[:, None, None] + up[:, None, None] * np.asarray(heights)[:, None] + 0.0)[..., None]
        start = (start + down[:, None, None, None] * row).astype(np.float32)  # [3, heights, rows, 1]
        x, y, z = start + (across[:, None] * column).astype(np.float32)[:, None, None, :]
        return x, y, z


@dataclass(frozen=True)
class Grid:
    """The image plane of a series: stored rows and columns, and mm of a pixel."""

    shape: tuple[int, int]
    spacing: float

    def at(self, middle: Floats, across: Floats, down: Floats, shares: Floats) -> Plane:
        """Return the plane in which a point (LPS mm) lies at the given shares ``[2]`` of width and height.

        `across` and `down` are unit vectors along the rows and down the columns.
        """
        rows, columns = self.shape
        corner = middle - self.spacing * (shares[0] * columns * across + shares[1] * rows * down)
        # As precise as a header's decimal text.
        orientation = np.round(np.concatenate([across, down]), 8)
        return Plane(np.round(corner, 5), orientation, (self.spacing, self.spacing), self.shape)


def draw_grid(rng: np.random.Generator, shape: tuple[int, int], field: float, spacings: tuple[float, float]) -> Grid:
    """Return a grid whose longer side measures around `field` mm, within the `spacings` that occur."""
    spacing = np.clip(field * rng.normal(1.0, 0.01) / max(shape), *spacings)
    return Grid(shape, round(float(spacing), 6))


def draw_step(rng: np.random.Generator, steps: tuple[tuple[float, float], ...]) -> float:
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
    step = draw_step(rng, scanners.sagittal_steps_mm)
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
    shares = rng.normal(SAGITTAL_MIDDLE, scanners.sagittal_shift)
    middle = spine.frame(spine.level_at(2))[0] + rng.normal(0.0, 1.5) * leftwards
    offsets = (np.arange(count) - (count - 1) / 2) * step
    return [grid.at(middle + offset * leftwards, across, down, shares) for offset in offsets], step


def axial_planes(
    rng: np.random.Generator, spine: Spine, levels: range, grid: Grid, defects: Defects, scanners: Scanners
) -> tuple[list[Plane], float]:
    """Return the slices of an axial series through some levels, head to foot, and their step in mm."""
    step = draw_step(rng, scanners.axial_steps_mm)
    turn = np.radians(rng.normal(0.0, 1.5))
    across = np.array([np.cos(turn), np.sin(turn), 0.0])
    shares = rng.normal((0.5, 0.525), scanners.axial_shift)
    parts = defects.tilted_axial, defects.block_axial, defects.double_axial
    tilted, block, double, straight = range(4)
    way = draw_index(rng, (*parts, max(0.0, 1 - sum(parts))))
    places: list[Place] = []
    if way == block and len(levels) > 2:
        cut = levels[int(rng.integers(1, len(levels)))]
        for part in (range(levels.start, cut), range(cut, levels.stop)):
            places += _straight_stack(rng, spine, part, across, step, scanners)
    elif way in (block, straight, double):
        places = _straight_stack(rng, spine, levels, across, step, scanners)
    if way in (tilted, double):
        places += _disc_stacks(rng, spine, levels, across, step, scanners)
    return [grid.at(middle, across, down, shares) for middle, down in places], step


def coronal_planes(rng: np.random.Generator, spine: Spine, grid: Grid) -> tuple[list[Plane], float]:
    """Return a coronal stack through the front of the bodies, front to back, and its step in mm.

    It stays in front of the canal, so that no reader marks a recess in it.
    """
    step, count = 5.0, int(rng.integers(9, 16))
    across, down, backwards = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, -1.0]), np.array([0.0, 1.0, 0.0])
    points = np.array([spine.frame(spine.level_at(level))[0] for level in range(5)])
    last = np.array([points[2, 0], points[:, 1].min() - 22.0, points[2, 2]])
    shares = rng.normal((0.5, 0.5), 0.02)
    return [grid.at(last - k * step * backwards, across, down, shares) for k in range(count)][::-1], step


def _disc_stacks(
    rng: np.random.Generator, spine: Spine, levels: range, across: Floats, step: float, scanners: Scanners
) -> list[Place]:
    """Return one short stack per disc, each parallel to it."""
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
) -> list[Place]:
    """Return one stack of parallel slices through the levels."""
    above, below = rng.uniform(*scanners.axial_margin_mm, 2)
    lean, aside = rng.uniform(0.4, 0.9), rng.normal(0.0, 3.0)
    frames = [spine.frame(spine.level_at(level)) for level in levels]
    points, normals = np.array([origin for origin, _ in frames]), np.array([axes[2] for _, axes in frames])
    # Part of the way to the middle disc's own tilt.
    tilt = lean * np.arctan2(normals[:, 1], normals[:, 2]).mean() + np.radians(aside)
    down, up = _square_to(np.array([0.0, np.cos(tilt), -np.sin(tilt)]), across)
    extent = sum(LEVEL_GAPS_MM[levels.start : levels.stop - 1]) + above + below
    count = int(np.ceil(extent / step)) + 1
    heights = points @ up
    top = (heights.max() + heights.min() + (count - 1) * step + above - below) / 2
    centre = points.mean(axis=0)
    return [(centre + (top - k * step - centre @ up) * up, down) for k in range(count)]


def _square_to(down: Floats, across: Floats) -> Place:
    """Return the unit vectors nearest to `down` at right angles to `across`, and up along the normal."""
    level = down - (down @ across) * across
    unit = level / np.linalg.norm(level)
    return unit, np.cross(across, unit)
