"""One slice of a patient: noiseless brightness in a plane of patient space, averaged over its thickness."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.geometry import slice_normal
from lumbar_kaggle.phantom.anatomy import Solid, Tissue, before_canal, behind_canal
from lumbar_kaggle.phantom.canal import REACH_BACK, REACH_SIDE, Canal, build_canal, paint_canal
from lumbar_kaggle.phantom.patient import Patient
from lumbar_kaggle.phantom.shapes import Disc, Singles, bump, covered
from lumbar_kaggle.phantom.spine import CentreLine, Spine, build_spine
from lumbar_kaggle.phantom.tissues import Contrast
from lumbar_kaggle.phantom.trunk import grain_at, make_grain, paint_trunk

Floats = NDArray[np.float64]

SUB_SLICES = (-1 / 3, 0.0, 1 / 3)
"""Planes that stand for the slice's thickness, as parts of it."""

CORTEX_MM = 0.9


@dataclass(frozen=True)
class Plane:
    """Where a slice lies: the attributes of its header, see `lumbar_kaggle.geometry`.

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

    def moved(self, distance: float) -> "Plane":
        """Return the plane `distance` mm further along its normal."""
        position = self.position + distance * slice_normal(self.orientation)
        return Plane(position, self.orientation, self.spacing, self.shape)

    def grid(self, every: int = 1) -> tuple[Singles, Singles, Singles]:
        """Return LPS mm x, y, z of the pixels, each ``[rows, columns]``, or of every so-manieth one."""
        return self._affine(self.position, np.eye(3), slice(0, self.shape[0]), slice(0, self.shape[1]), every)

    def local(self, solid: Solid, rows: slice, columns: slice) -> tuple[Singles, Singles, Singles]:
        """Return the solid's own x, y, z (mm) of a rectangle of pixels."""
        return self._affine(self.position - solid.origin, solid.axes, rows, columns, 1)

    def _affine(
        self, start: Floats, axes: Floats, rows: slice, columns: slice, every: int
    ) -> tuple[Singles, Singles, Singles]:
        first = axes @ start
        across = axes @ self.orientation[:3] * self.spacing[1]
        down = axes @ self.orientation[3:] * self.spacing[0]
        row = np.arange(rows.start, rows.stop, every)[:, None]
        column = np.arange(columns.start, columns.stop, every)[None, :]
        x, y, z = (
            (first[k] + row * down[k]).astype(np.float32) + (column * across[k]).astype(np.float32)
            for k in range(3)
        )
        return x, y, z


class Scene:
    """A patient, ready to be imaged."""

    def __init__(self, patient: Patient, rng: np.random.Generator) -> None:
        self.patient = patient
        self.spine: Spine = build_spine(patient)
        self.line = CentreLine(self.spine)
        self.canal: Canal = build_canal(patient, self.spine, rng)
        self.grain = make_grain(patient.texture_seed)
        self._behind = _Layer(behind_canal(patient, self.spine))
        self._before = _Layer(before_canal(patient, self.spine))

    def render(self, plane: Plane, thickness: float, contrast: Contrast) -> Singles:
        """Return ``[rows, columns]`` float32 brightness, 0 (air) to about 1.

        Args:
            plane: the middle of the slice.
            thickness: mm.
            contrast: the tissues' signals.
        """
        pixel = min(plane.spacing)
        coarse = paint_trunk(*plane.grid(2), self.patient, self.line, self.grain, contrast, 1.5 * pixel)
        trunk = cv2.resize(coarse, plane.shape[::-1], interpolation=cv2.INTER_LINEAR)
        total = np.zeros(plane.shape, np.float32)
        for part in SUB_SLICES:
            image = trunk.copy()
            self._paint_spine(image, plane.moved(part * thickness), contrast, pixel)
            total += image
        return total / np.float32(len(SUB_SLICES))

    def _paint_spine(self, image: Singles, plane: Plane, contrast: Contrast, softness: float) -> None:
        self._behind.paint(image, plane, contrast, self, softness)
        x, y, z = plane.grid()
        course_x, course_y = self.line.at_height(z)
        near = (np.abs(x - course_x) < REACH_SIDE) & (np.abs(y - course_y) < 1.3 * REACH_BACK)
        index = np.flatnonzero(near)
        if index.size:
            points = np.stack([c.ravel()[index] for c in (x, y, z)], axis=1)
            flat = image.reshape(-1)
            place = self.line.curved(points)
            flat[index] = paint_canal(flat[index], place, self.canal, contrast, softness)
        self._before.paint(image, plane, contrast, self, softness)


class _Layer:
    """Solids in painting order."""

    def __init__(self, solids: list[Solid]) -> None:
        self._solids = solids
        self._origins = np.array([solid.origin for solid in solids])
        self._reach = np.array([solid.shape.reach for solid in solids])

    def paint(self, image: Singles, plane: Plane, contrast: Contrast, scene: Scene, softness: float) -> None:
        """Paint every solid that the plane meets over `image`."""
        offset = self._origins - plane.position
        height = offset @ slice_normal(plane.orientation)
        column = offset @ plane.orientation[:3] / plane.spacing[1]
        row = offset @ plane.orientation[3:] / plane.spacing[0]
        meets = np.abs(height) < self._reach
        radius = np.sqrt(np.maximum(self._reach**2 - height**2, 0.0))
        for k in np.flatnonzero(meets):
            rows = _window(row[k], radius[k] / plane.spacing[0], plane.shape[0])
            columns = _window(column[k], radius[k] / plane.spacing[1], plane.shape[1])
            if rows.start < rows.stop and columns.start < columns.stop:
                solid = self._solids[k]
                local = plane.local(solid, rows, columns)
                _paint_solid(image[rows, columns], solid, local, contrast, scene, softness)


def _window(centre: float, radius: float, size: int) -> slice:
    return slice(max(0, int(centre - radius)), min(size, int(centre + radius) + 2))


def _paint_solid(
    view: Singles,
    solid: Solid,
    local: tuple[Singles, Singles, Singles],
    contrast: Contrast,
    scene: Scene,
    softness: float,
) -> None:
    """Paint one solid over a view of the image, in place."""
    distance = solid.shape.distance(*local)
    part = covered(distance, softness)
    if not part.any():
        return
    value: Singles | float
    if solid.tissue is Tissue.BONE:
        value = _bone(solid, distance, local, contrast, scene, softness)
    elif solid.tissue is Tissue.DISC:
        value = _disc(solid, local, contrast)
    else:
        value = float(getattr(contrast, solid.tissue.value)) * solid.amount
    view += (value - view) * part


def _bone(
    solid: Solid,
    distance: Singles,
    local: tuple[Singles, Singles, Singles],
    contrast: Contrast,
    scene: Scene,
    softness: float,
) -> Singles:
    """Return marrow with its grain inside a dark rim."""
    x, y, z = local
    offset = solid.axes @ solid.origin
    grain = grain_at(scene.grain, x + np.float32(offset[0]), y + np.float32(offset[1]), z + np.float32(offset[2]), 1.0)
    fatty = scene.patient.marrow_fat
    marrow = contrast.marrow_red * (1 - fatty) + contrast.marrow_fatty * fatty
    inner = np.float32(marrow) * (1 + np.float32(0.05) * grain) - np.float32(contrast.cortex)
    value: Singles = contrast.cortex + inner * covered(distance + np.float32(CORTEX_MM), softness)
    return value


def _disc(solid: Solid, local: tuple[Singles, Singles, Singles], contrast: Contrast) -> Singles:
    """Return a wet or dry nucleus, with its dark cleft, inside a dark ring of fibres."""
    x, y, z = local
    assert isinstance(solid.shape, Disc)
    radius = solid.shape.radius(x, y - np.float32(1.5))
    nucleus = contrast.disc_dry + (contrast.disc_wet - contrast.disc_dry) * solid.amount
    cleft = 1 - np.float32(0.3 * solid.amount) * bump(z, 0.0, 0.9)
    inside = np.clip((np.float32(0.82) - radius) * 5, 0, 1)
    value: Singles = contrast.annulus + (np.float32(nucleus) * cleft - contrast.annulus) * inside
    return value
