"""One slice of a patient: noiseless brightness in a plane of patient space, averaged over its thickness."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from lumbar_kaggle.dicom.geometry import slice_normal
from lumbar_kaggle.phantom.anatomy import Solid, Tissue, discs, foramina
from lumbar_kaggle.phantom.arrays import Floats, Singles
from lumbar_kaggle.phantom.canal import REACH_BACK, REACH_SIDE, Canal, build_canal, paint_canal
from lumbar_kaggle.phantom.patient import Patient
from lumbar_kaggle.phantom.shapes import Disc, bump, covered_through
from lumbar_kaggle.phantom.spine import CentreLine, Spine, build_spine
from lumbar_kaggle.phantom.tissues import Contrast
from lumbar_kaggle.phantom.trunk import grain_at, make_grain, paint_trunk
from lumbar_kaggle.phantom.vertebrae import bones

SUB_SLICES = (-1 / 3, 0.0, 1 / 3)
"""Planes that sample the slice's thickness, as parts of it."""

CORTEX_MM = 0.55

ROUGHNESS_MM = 0.35
"""Standard deviation by which the surfaces of bones are uneven."""

PASSES_BY_MM = 3.0
"""Further than this from a bone neither its roughness nor a soft edge reaches."""


@dataclass(frozen=True)
class Plane:
    """Where a slice lies: the attributes of its header, see `lumbar_kaggle.dicom.geometry`.

    Attributes:
        position: ``[3]`` LPS mm, centre of the first pixel.
        orientation: ``[6]`` direction cosines.
        spacing: mm between rows, mm between columns.
        shape: rows, columns.
    """

    position: Floats
    orientation: Floats
    spacing: tuple[float, float]
    shape: tuple[int, int]

    @cached_property
    def normal(self) -> Floats:
        """``[3]`` unit normal."""
        return slice_normal(self.orientation)

    def heights(self, points: Floats) -> Floats:
        """Return mm ``[...]`` of LPS points ``[..., 3]`` above the plane, along its normal."""
        heights: Floats = (points - self.position) @ self.normal
        return heights

    def grid(self, every: int = 1) -> tuple[Singles, Singles, Singles]:
        """Return LPS mm x, y, z of every `every`-th pixel each way, each ``[rows, columns]``."""
        rows, columns = (slice(0, size, every) for size in self.shape)
        x, y, z = self.local(np.zeros(3), np.eye(3), (0.0,), rows, columns)
        return x[0], y[0], z[0]

    def local(
        self, origin: Floats, axes: Floats, heights: tuple[float, ...], rows: slice, columns: slice
    ) -> tuple[Singles, Singles, Singles]:
        """Return a frame's x, y, z (mm) ``[heights, rows, columns]`` of a rectangle of pixels.

        Args:
            origin, axes: ``[3]`` LPS mm and ``[3, 3]`` unit vectors (rows) of the frame.
            heights: mm above the plane, along its normal.
            rows, columns: the rectangle; steps are allowed.
        """
        first = axes @ (self.position - origin)
        up = axes @ self.normal
        across = axes @ self.orientation[:3] * self.spacing[1]
        down = axes @ self.orientation[3:] * self.spacing[0]
        height = np.asarray(heights)[:, None]
        row = np.arange(rows.start, rows.stop, rows.step)[:, None]
        column = np.arange(columns.start, columns.stop, columns.step)
        start = (first[:, None, None] + up[:, None, None] * height + 0.0)[..., None]  # [3, heights, 1, 1]
        start = (start + down[:, None, None, None] * row).astype(np.float32)
        x, y, z = start + (across[:, None] * column).astype(np.float32)[:, None, None, :]
        return x, y, z


class Scene:
    """A patient, ready to be imaged."""

    def __init__(self, patient: Patient, rng: np.random.Generator) -> None:
        self.patient = patient
        self.spine: Spine = build_spine(patient)
        self.line = CentreLine(self.spine)
        self.canal: Canal = build_canal(patient, self.spine, rng)
        seed = patient.texture_seed
        self.fine, self.coarse, self.lumps = (
            make_grain(seed + k, width) for k, width in enumerate((1.3, 4.0, 9.0))
        )
        self._behind = _Layer(foramina(patient, self.spine))
        self._before = _Layer([*discs(patient, self.spine), *bones(patient, self.spine)])

    def render(
        self, plane: Plane, thickness: float, contrast: Contrast, *, fat_shift: float = 0.0
    ) -> Singles:
        """Return ``[rows, columns]`` float32 brightness, 0 (air) to about 1.

        Args:
            plane: the middle of the slice.
            thickness: mm.
            contrast: the tissues' signals.
            fat_shift: mm down the columns by which the fat of the marrow appears beside its place, because
                fat and water resonate at different frequencies: one end plate thickens, the other thins.
        """
        pixel = min(plane.spacing)
        coarse = paint_trunk(
            plane.grid(2),
            self.patient,
            self.line,
            (self.fine, self.coarse, self.lumps),
            contrast,
            1.5 * pixel,
        )
        trunk = cv2.resize(coarse, plane.shape[::-1], interpolation=cv2.INTER_LINEAR)
        image: Singles = np.repeat(trunk[None].astype(np.float32), len(SUB_SLICES), axis=0)
        heights = tuple(part * thickness for part in SUB_SLICES)
        self._behind.paint(image, plane, heights, contrast, self, fat_shift)
        self._paint_canal(image, plane, heights, contrast)
        self._before.paint(image, plane, heights, contrast, self, fat_shift)
        mean: Singles = image.mean(axis=0)
        return mean

    def _paint_canal(
        self, image: Singles, plane: Plane, heights: tuple[float, ...], contrast: Contrast
    ) -> None:
        x, y, z = plane.grid()
        course_x, course_y = self.line.at_height(z)
        near = (np.abs(x - course_x) < REACH_SIDE) & (np.abs(y - course_y) < 1.25 * REACH_BACK)
        index = np.flatnonzero(near)
        if not index.size:
            return
        points = np.stack([c.ravel()[index] for c in (x, y, z)])[:, None, :]
        up = plane.normal[:, None] * np.asarray(heights)
        points = (points + up.astype(np.float32)[:, :, None]).reshape(3, -1)
        flat = image.reshape(len(heights), -1)
        left, back, along = (part.reshape(len(heights), -1) for part in self.line.curved(points))
        place = left, back, along
        flat[:, index] = paint_canal(flat[:, index], place, self.canal, contrast, min(plane.spacing))


class _Layer:
    """Solids in painting order."""

    def __init__(self, solids: list[Solid]) -> None:
        self._solids = solids
        self._origins = np.array([solid.origin for solid in solids])
        extents = np.array([solid.shape.extent for solid in solids]) + 0.7
        self._reach = np.array([solid.axes for solid in solids]) * extents[:, :, None]

    def paint(
        self,
        image: Singles,
        plane: Plane,
        heights: tuple[float, ...],
        contrast: Contrast,
        scene: Scene,
        fat_shift: float,
    ) -> None:
        """Paint every solid that the slice meets over `image` ``[heights, rows, columns]``, in place."""
        shift = plane.orientation[3:] * fat_shift
        directions = plane.orientation[:3], plane.orientation[3:], plane.normal
        middle = [(self._origins - plane.position) @ direction for direction in directions]
        reach = [np.abs(self._reach @ direction).sum(axis=1) for direction in directions]
        marrow: list[tuple[Singles, Singles, Singles]] = []  # view, brightness, part
        bone = -1
        for k in np.flatnonzero(np.abs(middle[2]) < reach[2] + max(heights)):
            if self._solids[k].bone != bone:
                _fill(marrow)
                bone = self._solids[k].bone
            columns = _window(middle[0][k], reach[0][k], plane.spacing[1], plane.shape[1])
            rows = _window(middle[1][k], reach[1][k], plane.spacing[0], plane.shape[0])
            if rows.start < rows.stop and columns.start < columns.stop:
                solid = self._solids[k]
                local = plane.local(solid.origin, solid.axes, heights, rows, columns)
                view = image[:, rows, columns]
                if solid.tissue is Tissue.BONE:
                    moved = (solid.axes @ shift).astype(np.float32)
                    painted = _paint_rim(view, solid, local, moved, contrast, scene, min(plane.spacing))
                    if painted is not None:
                        marrow.append(painted)
                else:
                    _paint_solid(view, solid, local, contrast, min(plane.spacing))
        _fill(marrow)


def _window(centre: float, reach: float, spacing: float, size: int) -> slice:
    """Return the pixels, of `size`, within `reach` mm of `centre` mm."""
    return slice(max(0, int((centre - reach) / spacing)), min(size, int((centre + reach) / spacing) + 2))


def _paint_solid(
    view: Singles, solid: Solid, local: tuple[Singles, Singles, Singles], contrast: Contrast, softness: float
) -> None:
    """Paint a solid other than bone over a view of the image, in place."""
    part = covered_through(solid.shape.distance(*local), softness)
    if not part.any():
        return
    value: Singles | float
    if solid.tissue is Tissue.DISC:
        value = _disc(solid, local, contrast)
    else:
        value = float(getattr(contrast, solid.tissue.value))
    view += (value - view) * part


def _paint_rim(
    view: Singles,
    solid: Solid,
    local: tuple[Singles, Singles, Singles],
    shift: Singles,
    contrast: Contrast,
    scene: Scene,
    softness: float,
) -> tuple[Singles, Singles, Singles] | None:
    """Paint a bone's dark shell; return the view, the marrow's brightness and the part that it covers.

    The marrow comes when the shells of all parts of the bone are there, so that no rim is left inside. None
    where the slice only passes by.
    """
    bare = solid.shape.distance(*local)
    if bare.min() > PASSES_BY_MM + np.abs(shift).sum():
        return None
    # Marrow and roughness change slowly, so the slice's middle serves for its thickness.
    x, y, z = (axis[len(axis) // 2][None] for axis in local)
    offset = (solid.axes @ solid.origin).astype(np.float32)
    place = [axis + by for axis, by in zip((x, y, z), offset, strict=True)]
    fine, coarse = grain_at(scene.fine, *place), grain_at(scene.coarse, *place)
    uneven = np.float32(ROUGHNESS_MM) * coarse
    distance = bare + uneven
    view += (np.float32(contrast.cortex) - view) * covered_through(distance, softness)
    value = _marrow(solid, (x, y, z), (fine, coarse), contrast, scene)
    if shift.any():
        moved = (axis - by for axis, by in zip(local, shift, strict=True))
        distance = solid.shape.distance(*moved) + uneven
    return view, value, covered_through(distance + np.float32(CORTEX_MM), softness)


def _marrow(
    solid: Solid,
    local: tuple[Singles, Singles, Singles],
    grains: tuple[Singles, Singles],
    contrast: Contrast,
    scene: Scene,
) -> Singles:
    """Return the marrow's brightness: red and fatty in patches, changed beside degenerated discs."""
    (x, y, z), (fine, coarse) = local, grains
    patchy = np.clip(np.float32(scene.patient.marrow_fat) + np.float32(0.13) * coarse, 0, 1)
    red, fatty = np.float32(contrast.marrow_red), np.float32(contrast.marrow_fatty)
    value: Singles = (red + (fatty - red) * patchy) * (1 + np.float32(0.06) * fine)
    marrow = solid.marrow
    if marrow is None:
        return value
    beside = {1: contrast.marrow_water, 2: 0.5 * (contrast.fat + contrast.marrow_fatty), 3: contrast.ligament}
    for sign, kind, depth in zip((1, -1), marrow.modic, marrow.depth, strict=True):
        if kind:
            inner = sign * z - np.float32(marrow.half_height - depth)
            part = np.clip(inner * np.float32(0.35) + np.float32(0.4) * coarse + np.float32(0.5), 0, 1)
            value += (np.float32(beside[kind]) - value) * part * np.float32(0.8)
    sx, sy, sz, radius = (np.float32(part) for part in marrow.spot)
    if radius:
        away = np.sqrt((x - sx) ** 2 + (y - sy) ** 2 + (z - sz) ** 2) - radius
        value += (np.float32(contrast.fat) - value) * np.clip(np.float32(0.5) - away * np.float32(0.5), 0, 1)
    return value


def _fill(marrow: list[tuple[Singles, Singles, Singles]]) -> None:
    """Paint the marrow of one bone, and empty the list."""
    for view, value, part in marrow:
        view += (value - view) * part
    marrow.clear()


def _disc(solid: Solid, local: tuple[Singles, Singles, Singles], contrast: Contrast) -> Singles:
    """Return a wet or dry nucleus, with its dark cleft, inside a dark ring of fibres."""
    x, y, z = local
    assert isinstance(solid.shape, Disc)
    radius = solid.shape.radius(x, y - np.float32(1.5))
    nucleus = contrast.disc_dry + (contrast.disc_wet - contrast.disc_dry) * solid.amount
    cleft = 1 - np.float32(0.3 * solid.amount) * bump(z, 0.0, 0.9)
    inside = np.clip((np.float32(0.9) - radius) * np.float32(4.0), 0, 1)
    inner = contrast.annulus + np.float32(0.5) * (contrast.disc_dry - contrast.annulus)
    ring = inner + (contrast.annulus - inner) * np.clip((radius - np.float32(0.86)) * 8, 0, 1)
    value: Singles = ring + (np.float32(nucleus) * cleft - ring) * inside
    return value
