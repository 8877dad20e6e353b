"""One slice of a patient: noiseless brightness in a plane of patient space, averaged over its thickness."""

import cv2
import numpy as np

from lumbar_kaggle.phantom.acquisition import Contrast, Plane
from lumbar_kaggle.phantom.anatomy import Anatomy, Solid
from lumbar_kaggle.phantom.patient import Patient, Spine
from lumbar_kaggle.phantom.sac import REACH_BACK, REACH_SIDE, Sac
from lumbar_kaggle.phantom.settings import Singles
from lumbar_kaggle.phantom.shapes import Body, Disc, bump, covered_through
from lumbar_kaggle.phantom.trunk import Trunk, grain_at, make_grain

SUB_SLICES = (-1 / 3, 0.0, 1 / 3)  # planes that sample the slice's thickness, as parts of it
CORTEX_MM = 0.55
ROUGHNESS_MM = 0.35  # standard deviation by which the surfaces of bones are uneven
PASSES_BY_MM = 3.0  # further than this from a bone neither its roughness nor a soft edge reaches

Local = tuple[Singles, Singles, Singles]  # a frame's x, y, z of pixels, mm ``[heights, rows, columns]``


class Scene:
    """A patient, ready to be imaged."""

    def __init__(self, patient: Patient, rng: np.random.Generator) -> None:
        self.patient, self.spine = patient, Spine(patient)
        self.sac = Sac(patient, self.spine, rng)
        # Fine, coarse and lumpy.
        self.grains = tuple(make_grain(patient.texture_seed + k, width) for k, width in enumerate((1.3, 4.0, 9.0)))
        anatomy = Anatomy(patient, self.spine)
        self._behind, self._before = _Layer(anatomy.foramina()), _Layer(anatomy.bones_and_discs())

    def render(self, plane: Plane, thickness: float, contrast: Contrast, *, fat_shift: float = 0.0) -> Singles:
        """Return ``[rows, columns]`` float32 brightness, 0 (air) to around 1, of a slice around `plane`.

        Its `thickness` is in mm, as is `fat_shift`: how far down the columns the fat of the marrow appears beside its
        place. Fat and water resonate at different frequencies, so one end plate thickens and the other thins.
        """
        soft = 1.5 * min(plane.spacing)
        coarse = Trunk(plane.grid(2), self.patient, self.spine, self.grains, contrast, soft).brightness()
        trunk = cv2.resize(coarse, plane.shape[::-1], interpolation=cv2.INTER_LINEAR)
        image = np.repeat(trunk[None].astype(np.float32), len(SUB_SLICES), axis=0)
        painter = _Painter(self, image, plane, tuple(part * thickness for part in SUB_SLICES), contrast)
        painter.paint_layer(self._behind, fat_shift)
        painter.paint_canal()
        painter.paint_layer(self._before, fat_shift)
        return image.mean(axis=0)


class _Layer:
    """Solids in painting order."""

    def __init__(self, solids: list[Solid]) -> None:
        self.solids = solids
        self.origins = np.array([solid.origin for solid in solids])
        extents = np.array([solid.shape.extent() for solid in solids]) + 0.7
        self.reach = np.array([solid.axes for solid in solids]) * extents[:, :, None]


class _Painter:
    """A slice while it is painted, in place: its image ``[heights, rows, columns]`` and what it shows."""

    def __init__(
        self, scene: Scene, image: Singles, plane: Plane, heights: tuple[float, ...], contrast: Contrast
    ) -> None:
        self.scene, self.image, self.plane, self.heights, self.contrast = scene, image, plane, heights, contrast
        self.softness = min(plane.spacing)

    def paint_canal(self) -> None:
        """Paint the pixels near the centre line."""
        spine, count = self.scene.spine, len(self.heights)
        x, y, z = self.plane.grid()
        course_x, course_y = spine.at_height(z)
        near = (np.abs(x - course_x) < REACH_SIDE) & (np.abs(y - course_y) < 1.25 * REACH_BACK)
        index = np.flatnonzero(near)
        if not index.size:
            return
        points = np.stack([c.ravel()[index] for c in (x, y, z)])[:, None, :]
        up = (self.plane.normal[:, None] * np.asarray(self.heights)).astype(np.float32)
        place = spine.curved((points + up[:, :, None]).reshape(3, -1))
        left, back, along = (part.reshape(count, -1) for part in place)
        flat = self.image.reshape(count, -1)
        flat[:, index] = self.scene.sac.paint(flat[:, index], (left, back, along), self.contrast, self.softness)

    def paint_layer(self, layer: _Layer, fat_shift: float) -> None:
        """Paint every solid that the slice meets."""
        plane = self.plane
        shift = plane.orientation[3:] * fat_shift
        directions = plane.orientation[:3], plane.orientation[3:], plane.normal
        middle = [(layer.origins - plane.position) @ direction for direction in directions]
        reach = [np.abs(layer.reach @ direction).sum(axis=1) for direction in directions]
        # The marrow comes when the shells of all parts of a bone are there: no rim is left inside.
        marrow: list[Local] = []  # view, brightness, part
        bone = -1
        for k in np.flatnonzero(np.abs(middle[2]) < reach[2] + max(self.heights)):
            solid = layer.solids[k]
            if solid.bone != bone:
                _fill(marrow)
                bone = solid.bone
            columns = _window(middle[0][k], reach[0][k], plane.spacing[1], plane.shape[1])
            rows = _window(middle[1][k], reach[1][k], plane.spacing[0], plane.shape[0])
            if rows.start >= rows.stop or columns.start >= columns.stop:
                continue
            local = plane.local(solid.origin, solid.axes, self.heights, rows, columns)
            view = self.image[:, rows, columns]
            if solid.tissue == "bone":
                marrow += self._paint_rim(view, solid, local, (solid.axes @ shift).astype(np.float32))
                continue
            part = covered_through(solid.shape.distance(*local), self.softness)
            if part.any():
                disc = solid.shape if isinstance(solid.shape, Disc) else None
                value = self._disc(disc, local) if disc else getattr(self.contrast, solid.tissue)
                view += (value - view) * part
        _fill(marrow)

    def _paint_rim(self, view: Singles, solid: Solid, local: Local, shift: Singles) -> list[Local]:
        """Paint a bone's dark shell; return the view, the marrow's brightness and the part that it covers.

        Nothing is returned where the slice only passes by.
        """
        bare = solid.shape.distance(*local)
        if bare.min() > PASSES_BY_MM + np.abs(shift).sum():
            return []
        # Marrow and roughness change slowly, so the slice's middle serves for its thickness.
        x, y, z = (axis[len(axis) // 2][None] for axis in local)
        offset = (solid.axes @ solid.origin).astype(np.float32)
        place = [axis + by for axis, by in zip((x, y, z), offset, strict=True)]
        fine, coarse = (grain_at(grain, *place) for grain in self.scene.grains[:2])
        uneven = ROUGHNESS_MM * coarse
        distance = bare + uneven
        view += (self.contrast.cortex - view) * covered_through(distance, self.softness)
        if shift.any():
            moved = (axis - by for axis, by in zip(local, shift, strict=True))
            distance = solid.shape.distance(*moved) + uneven
        value = self._marrow(solid, (x, y, z), fine, coarse)
        return [(view, value, covered_through(distance + np.float32(CORTEX_MM), self.softness))]

    def _marrow(self, solid: Solid, local: Local, fine: Singles, coarse: Singles) -> Singles:
        """Return the marrow's brightness: red and fatty in patches, changed beside degenerated discs."""
        (x, y, z), contrast, body = local, self.contrast, solid.shape
        patchy = np.clip(self.scene.patient.marrow_fat + 0.13 * coarse, 0, 1)
        red, fatty = np.float32(contrast.marrow_red), np.float32(contrast.marrow_fatty)
        value: Singles = (red + (fatty - red) * patchy) * (1 + 0.06 * fine)
        if not isinstance(body, Body):
            return value
        beside = {1: contrast.marrow_water, 2: 0.5 * (contrast.fat + contrast.marrow_fatty), 3: contrast.ligament}
        for sign, kind, depth in zip((1, -1), body.modic, body.modic_depth, strict=True):
            if kind:
                inner = sign * z - (body.c - depth)
                value += (beside[kind] - value) * np.clip(inner * 0.35 + 0.4 * coarse + 0.5, 0, 1) * 0.8
        sx, sy, sz, radius = (np.float32(part) for part in body.spot)
        if radius:
            away = np.sqrt((x - sx) ** 2 + (y - sy) ** 2 + (z - sz) ** 2) - radius
            value += (contrast.fat - value) * np.clip(0.5 - away * 0.5, 0, 1)
        return value

    def _disc(self, disc: Disc, local: Local) -> Singles:
        """Return a wet or dry nucleus, with its dark cleft, inside a dark ring of fibres."""
        (x, y, z), contrast = local, self.contrast
        radius = disc.radius(x, y - 1.5)
        nucleus = contrast.disc_dry + (contrast.disc_wet - contrast.disc_dry) * disc.hydration
        cleft = 1 - 0.3 * disc.hydration * bump(z, 0.0, 0.9)
        inner = contrast.annulus + np.float32(0.5) * (contrast.disc_dry - contrast.annulus)
        ring = inner + (contrast.annulus - inner) * np.clip((radius - 0.86) * 8, 0, 1)
        return ring + (nucleus * cleft - ring) * np.clip((0.9 - radius) * 4.0, 0, 1)


def _window(centre: float, reach: float, spacing: float, size: int) -> slice:
    """Return the pixels, of `size`, within `reach` mm of `centre` mm."""
    return slice(max(0, int((centre - reach) / spacing)), min(size, int((centre + reach) / spacing) + 2))


def _fill(marrow: list[Local]) -> None:
    """Paint the marrow of one bone, and empty the list."""
    for view, value, part in marrow:
        view += (value - view) * part
    marrow.clear()
