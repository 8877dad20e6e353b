"""One slice of a patient: noiseless brightness in a plane of patient space, averaged over its thickness."""

from collections.abc import Sequence
from itertools import groupby, product

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from lumbar_kaggle.phantom.acquisition import Plane
from lumbar_kaggle.phantom.anatomy import SIDES, Anatomy, Solid
from lumbar_kaggle.phantom.patient import Patient, Spine
from lumbar_kaggle.phantom.sac import REACH_BACK, REACH_SIDE, Sac
from lumbar_kaggle.phantom.settings import Contrast, Floats, Singles
from lumbar_kaggle.phantom.shapes import Body, Disc, bump, covered, covered_through, ellipse, painted

SUB_SLICES = (-1 / 3, 0.0, 1 / 3)  # planes that sample the slice's thickness, as parts of it
CORTEX_MM, ROUGHNESS_MM = 0.55, 0.35  # of bones; the latter is the standard deviation of their uneven surfaces
PASSES_BY_MM = 3.0  # further than this from a bone neither its roughness nor a soft edge reaches
GRAIN_SIZE, GRAIN_MM = 64, 1.2


def _grains_at(grains: Sequence[Singles], x: Singles, y: Singles, z: Singles) -> list[Singles]:
    """Return some grains at points in mm, a step being `GRAIN_MM`."""
    k = np.float32(1 / GRAIN_MM)
    column, row, index = ((c * k).astype(np.int32) & (GRAIN_SIZE - 1) for c in (x, y, z))
    for part in (row, column):
        index *= GRAIN_SIZE
        index += part
    return [grain.ravel().take(index) for grain in grains]


class Scene:
    """A patient, ready to be imaged."""

    def __init__(self, patient: Patient, rng: np.random.Generator) -> None:
        self.patient, self.spine = patient, Spine(patient)
        self.sac = Sac(patient, self.spine, rng)
        # Fine, coarse and lumpy noise ``[64, 64, 64]``, mean 0, standard deviation 1; it repeats seamlessly.
        self.grains: list[Singles] = []
        for k, width in enumerate((1.3, 4.0, 9.0)):
            white = np.random.default_rng(patient.texture_seed + k)
            smooth = gaussian_filter(white.standard_normal((GRAIN_SIZE,) * 3, dtype=np.float32), width, mode="wrap")
            self.grains.append((smooth / smooth.std()).astype(np.float32))
        anatomy = Anatomy(patient, self.spine)
        places = product(range(1, patient.first_sacral), SIDES)
        self._behind = _Solids([part for k, side in places for part in anatomy.foramen(k, *side)])
        self._before = _Solids(anatomy.bones_and_discs())

    def render(self, plane: Plane, thickness: float, contrast: Contrast, *, fat_shift: float = 0.0) -> Singles:
        """Return ``[rows, columns]`` float32 brightness, 0 (air) to around 1, of a slice around `plane`. Its
        `thickness` is in mm, as is `fat_shift`: how far down the columns the fat of the marrow appears beside its
        place. Fat and water resonate at different frequencies, so one end plate thickens and the other thins."""
        painter = _Painter(self, plane, thickness, contrast, plane.orientation[3:] * fat_shift)
        painter.paint_solids(self._behind)
        painter.paint_canal()
        painter.paint_solids(self._before)
        return painter.image.mean(axis=0)


class _Solids:
    """Solids in the order in which they are painted; `origins` ``[n, 3]`` (LPS mm) and `extents` ``[n, 3, 3]``: the
    half edges (mm) of the boxes that hold them and their soft edges."""

    def __init__(self, parts: list[Solid]) -> None:
        self.parts = parts
        self.origins = np.array([solid.origin for solid in parts])
        self.extents = np.array([solid.axes * (np.array(solid.shape.extent)[:, None] + 0.7) for solid in parts])


class _Painter:
    """A slice while it is painted; `shift` is mm ``[3]`` by which the fat of the marrow appears beside its place."""

    def __init__(self, scene: Scene, plane: Plane, thickness: float, contrast: Contrast, shift: Floats) -> None:
        self.scene, self.plane, self.contrast, self.shift = scene, plane, contrast, shift
        self.heights, self.softness = tuple(part * thickness for part in SUB_SLICES), min(plane.spacing)
        trunk = cv2.resize(_Trunk(scene, plane, contrast).brightness(), plane.shape[::-1])
        self.image = np.repeat(trunk[None].astype(np.float32), len(SUB_SLICES), axis=0)  # [heights, rows, columns]

    def paint_canal(self) -> None:
        """Paint the pixels near the centre line."""
        spine, count = self.scene.spine, len(self.heights)
        grid = self.plane.grid()
        course_x, course_y = spine.at_height(grid[2])
        near = (np.abs(grid[0] - course_x) < REACH_SIDE) & (np.abs(grid[1] - course_y) < 1.25 * REACH_BACK)
        index = np.flatnonzero(near)
        if index.size:
            up = (self.plane.normal[:, None] * np.asarray(self.heights)).astype(np.float32)
            points = grid.reshape(3, 1, -1)[..., index] + up[:, :, None]
            left, back, along = (part.reshape(count, -1) for part in spine.curved(points.reshape(3, -1)))
            flat = self.image.reshape(count, -1)
            flat[:, index] = self.scene.sac.paint(flat[:, index], (left, back, along), self.contrast, self.softness)

    def paint_solids(self, solids: _Solids) -> None:
        """Paint every solid that the slice meets, in their order."""
        plane = self.plane
        directions = plane.orientation[:3], plane.orientation[3:], plane.normal
        offsets = solids.origins - plane.position
        middle = np.array([offsets @ direction for direction in directions])  # [3, n], as reach
        reach = np.array([np.abs(solids.extents @ direction).sum(axis=1) for direction in directions])
        # The solids' windows of pixels: columns, then rows.
        spacing, size = np.array(plane.spacing)[::-1, None], np.array(plane.shape)[::-1, None]
        start = np.maximum(((middle[:2] - reach[:2]) / spacing).astype(int), 0)
        stop = np.minimum(((middle[:2] + reach[:2]) / spacing).astype(int) + 2, size)
        met = (np.abs(middle[2]) < reach[2] + max(self.heights)) & (start < stop).all(axis=0)
        for _, parts in groupby(np.flatnonzero(met), key=lambda k: solids.parts[k].bone):
            marrow = []
            for k in parts:
                columns, rows = (slice(*ends) for ends in zip(start[:, k], stop[:, k], strict=True))
                marrow += self._paint_solid(solids.parts[k], rows, columns)
            # It comes when the shells of all parts of a bone are there: no rim is left inside.
            for view, value, part in marrow:
                view += (value - view) * part

    def _paint_solid(self, solid: Solid, rows: slice, columns: slice) -> list[tuple[Singles, ...]]:
        """Paint soft tissue, or a bone's dark shell; return a bone's view, its marrow's brightness and covered part."""
        local = self.plane.local(solid.origin, solid.axes, self.heights, rows, columns)
        view, shape, contrast = self.image[:, rows, columns], solid.shape, self.contrast
        distance = shape.distance(*local)
        if solid.tissue != "bone":
            part = covered_through(distance, self.softness)
            if part.any():
                value = self._disc(shape, local) if isinstance(shape, Disc) else contrast[solid.tissue]
                view += (value - view) * part
            return []
        shift = (solid.axes @ self.shift).astype(np.float32)
        if distance.min() > PASSES_BY_MM + np.abs(shift).sum():
            return []
        # Marrow and roughness change slowly, so the slice's middle serves for its thickness.
        middle = local[:, [len(self.heights) // 2]]
        place = middle + (solid.axes @ solid.origin).astype(np.float32)[:, None, None, None]
        fine, coarse = _grains_at(self.scene.grains[:2], *place)
        distance += ROUGHNESS_MM * coarse
        view += (contrast["cortex"] - view) * covered_through(distance, self.softness)
        if shift.any():
            distance = shape.distance(*(local - shift[:, None, None, None])) + ROUGHNESS_MM * coarse
        value = self._marrow(shape if isinstance(shape, Body) else None, middle, fine, coarse)
        return [(view, value, covered_through(distance + np.float32(CORTEX_MM), self.softness))]

    def _marrow(self, body: Body | None, local: Singles, fine: Singles, coarse: Singles) -> Singles:
        """Return the marrow's brightness: red and fatty in patches, changed beside degenerated discs."""
        (x, y, z), contrast = local, self.contrast
        patchy = np.clip(self.scene.patient.marrow_fat + 0.13 * coarse, 0, 1)
        red, fatty = np.float32(contrast["marrow_red"]), np.float32(contrast["marrow_fatty"])
        value: Singles = painted(red, fatty, patchy) * (1 + 0.06 * fine)
        if body is None:
            return value
        fat = 0.5 * (contrast["fat"] + contrast["marrow_fatty"])
        beside = {1: contrast["marrow_water"], 2: fat, 3: contrast["ligament"]}
        for sign, kind, depth in zip((1, -1), body.modic, body.modic_depth, strict=True):
            if kind:
                inner = sign * z - (body.half[2] - depth)
                value += (beside[kind] - value) * np.clip(inner * 0.35 + 0.4 * coarse + 0.5, 0, 1) * 0.8
        sx, sy, sz, radius = (np.float32(part) for part in body.spot)
        if radius:
            away = np.sqrt((x - sx) ** 2 + (y - sy) ** 2 + (z - sz) ** 2) - radius
            value += (contrast["fat"] - value) * np.clip(0.5 - away * 0.5, 0, 1)
        return value

    def _disc(self, disc: Disc, local: Singles) -> Singles:
        """Return a wet or dry nucleus, with its dark cleft, inside a dark ring of fibres."""
        x, y, z = local
        dry, annulus = self.contrast["disc_dry"], self.contrast["annulus"]
        radius = disc.radius(x, y - 1.5)
        nucleus = painted(dry, self.contrast["disc_wet"], disc.hydration)
        cleft = 1 - 0.3 * disc.hydration * bump(z, 0.0, 0.9)
        ring = painted(annulus + np.float32(0.5) * (dry - annulus), annulus, np.clip((radius - 0.86) * 8, 0, 1))
        return painted(ring, nucleus * cleft, np.clip((0.9 - radius) * 4.0, 0, 1))


class _Trunk:
    """What is around the spine, at every second pixel of a slice; soft and cheap. Muscles follow the canal's line."""

    def __init__(self, scene: Scene, plane: Plane, contrast: Contrast) -> None:
        patient = scene.patient
        self.patient, self.contrast, self.soft = patient, contrast, 1.5 * min(plane.spacing)
        x, y, z = plane.grid(2)
        course_x, course_y = scene.spine.at_height(z)
        scale = np.float32(1 / patient.size)
        self.left, self.back = (x - course_x) * scale, (y - course_y) * scale  # mm of an average adult from the line
        self.side = np.abs(self.left)
        # In disc distances, 0 at L3/L4, growing to the head.
        self.level = (z - np.float32(patient.origin[2])) * np.float32(1 / (34.0 * patient.size))
        # mm below the skin, negative outside; the back follows the spine's course half-way.
        half_width = np.float32(138.0 * patient.size + 0.8 * patient.fat)
        half_depth = np.float32((95.0 * patient.size + patient.fat + patient.abdomen) / 2)
        behind = np.float32(50.0 * patient.size + patient.fat + 0.5 * patient.origin[1]) + course_y / 2
        behind = np.maximum(behind, course_y + np.float32(43.0 * patient.size + 0.75 * patient.fat))
        u, v = np.abs((x - np.float32(patient.origin[0])) / half_width), np.abs((y - behind + half_depth) / half_depth)
        self.inside = (1 - np.sqrt(np.sqrt(u**4 + v**4 + 0.6 * (u * v) ** 2))) * half_depth
        self.fine, self.coarse = _grains_at(scene.grains[:2], x, y, z)
        # Lumps as large as loops of bowel; two turned copies hide that the grain repeats.
        turned = 0.64 * z - 0.6 * y + 0.48 * x, 0.8 * y + 0.6 * z, 0.76 * x - 0.4 * z + 0.51 * y
        again = 0.55 * y + 0.47 * x - 0.31 * z, 0.7 * z + 0.4 * x, 0.62 * z - 0.44 * y - 0.36 * x
        first, second = (_grains_at(scene.grains[2:], *np.array(axes, np.float32))[0] for axes in (turned, again))
        self.lumps: Singles = 0.75 * first + 0.66 * second

    def brightness(self) -> Singles:
        """Return the brightness ``[rows, columns]``."""
        septa = np.clip(1 - np.abs(self.coarse) * 5, 0, 1)
        self._image = np.float32(self.contrast["fat"]) * (1 + 0.02 * self.fine - 0.12 * septa)
        self._paint_abdomen()
        self._paint_back()
        self._paint_front()
        self._paint(self.contrast["skin"], self.inside - 2.0)
        return self._image * covered(-self.inside, self.soft)

    def _paint(self, over: Singles | float, distance: Singles, widen: float = 1.0, share: float = 1.0) -> None:
        """Paint a share over what lies inside a distance of 0, with edges so many times as wide as usual."""
        self._image = painted(self._image, over, covered(distance, widen * self.soft) * share)

    def _muscle(self, streak: Singles) -> Singles:
        """Return the brightness of muscle of which a part is streaked with fat."""
        return painted(self.contrast["muscle"], self.contrast["fat"], streak) + 0.015 * self.fine

    def _paint_abdomen(self) -> None:
        """Paint the abdominal wall, bowel in front and at the sides, kidneys, liver, bladder."""
        patient, contrast, level, lumps = self.patient, self.contrast, self.level, self.lumps
        wall_depth = np.float32(0.55 * patient.fat + 9)
        wall = np.abs(self.inside - wall_depth) - 5 - 3 * lumps + 14 * (1 - covered(self.back + 28, 30.0))
        self._paint(contrast["muscle"] * (1 + 0.1 * self.fine), wall, 2)
        # Loops: content differs between lumps, from gas to fluid; their walls are seen.
        edge = self.back + 62.0 + 4 * lumps - np.maximum(self.side - 42, 0) * 0.8
        edge = np.maximum(edge, wall_depth + 6 - self.inside)
        turn = np.sin(lumps * 2.6 + np.float32(patient.texture_seed % 7))
        loops: Singles = np.float32(contrast["bowel"]) * (1 + 0.7 * turn + 0.15 * self.coarse)
        loops = painted(loops, 0.04, covered(np.float32(1.25) - lumps, 0.3))  # gas
        loops = painted(loops, contrast["bowel"], covered(np.abs(self.coarse) - np.float32(0.12), 0.15))
        loops = painted(loops, contrast["fat"] * 0.85, covered(lumps + 0.35, 0.3))
        self._image = painted(self._image, np.clip(loops, 0, 1).astype(np.float32), covered(edge, 8.0))
        kidney = ellipse(self.side - 60, self.back + 16, 25.0, 21.0) + 9 * np.maximum(np.abs(level - 2.6) - 0.9, 0) ** 2
        self._paint(contrast["organ"] * (1 + 0.06 * self.coarse), kidney, 2)
        liver = ellipse(self.left + 75, self.back + 65, 52.0, 50.0) + 22 * np.maximum(2.2 - level, 0) ** 2
        self._paint(contrast["organ"] * (1 + 0.04 * self.fine), liver, 2)
        full = 4.0 + patient.texture_seed % 23
        bladder = ellipse(self.left, self.back + 100, 1.4 * full, full)
        self._paint(contrast["csf"], bladder + 28 * np.maximum(np.abs(level + 4.0) - 0.6, 0) ** 2, 2)

    def _paint_back(self) -> None:
        """Paint the extensors behind the laminae, parted by septa, and the ligaments between the spines."""
        patient, contrast, side, back, lumps = self.patient, self.contrast, self.side, self.back, self.lumps
        low = np.clip(-self.level - 1.0, 0, 3).astype(np.float32)  # how far below L4/L5
        rear = 43.0 - 0.0034 * (side - 22) ** 2 - 4 * low
        ahead = 12.0 - np.clip((side - 14) * 0.5, 0, 9)
        reach = np.float32(76.0 * patient.muscle) - 13 * low
        compartment = np.maximum(np.maximum(back - rear, ahead - back), side - reach) + lumps
        seam = 19.0 + 0.45 * (back - 10) + 2 * lumps
        fatty = np.float32(patient.muscle_fat) * (0.7 + covered(side - seam, 6.0) * (0.35 + 0.2 * low))
        streaks = self.coarse * 0.5 + self.fine * 0.25 + 0.3
        self._paint(self._muscle(np.clip(fatty * streaks * 1.3, 0, 0.9)), compartment)
        outer = 44.0 + 0.2 * (back - 10) - 2 * lumps
        septa = np.minimum(np.abs(side - seam), np.abs(side - outer)) - np.float32(0.5 + 0.8 * patient.muscle_fat)
        part = covered(septa, 1.5 * self.soft) * covered(compartment, self.soft) * 0.7
        self._image = painted(self._image, contrast["fat"] * 0.85, part)
        fascia = np.maximum(np.abs(back - rear - 1) - 0.7, side - reach)
        self._paint(contrast["ligament"], fascia, share=0.7)
        interspinous = painted(contrast["ligament"], contrast["fat"], np.clip(0.5 + 0.14 * self.coarse, 0, 1))
        self._paint(interspinous, np.maximum(side - 2.3, np.abs(back - 29) - 15), 2)
        supraspinous = np.maximum(side - 3.0, np.abs(back - 45 + 4 * low) - 1.2)
        self._paint(contrast["ligament"], supraspinous, share=0.8)

    def _paint_front(self) -> None:
        """Paint psoas and quadratus beside the bodies; aorta and vena cava before them, branching below L4."""
        side, back, patient = self.side, self.back, self.patient
        high = np.clip(self.level, -2, 4).astype(np.float32)
        radius = np.clip((18.5 - 3.2 * high) * patient.muscle, 3, 24).astype(np.float32)
        psoas = ellipse(side - (36.0 - 3.3 * high), back - (3.0 * high - 24.0), radius, radius * 1.15)
        quadratus = ellipse(side - 64, back + 1, 17.0, 9.0) + 20 * np.maximum(np.abs(self.level) - 2.0, 0)
        streak = np.clip(np.float32(0.5 * patient.muscle_fat) * (self.coarse + self.fine) * 0.5, 0, 0.7)
        for belly in (psoas, quadratus):
            self._paint(self._muscle(streak), belly + self.lumps)
        in_front = -(patient.canal_half + float(patient.depth[5])) / patient.size - 11.0
        apart = np.clip(-self.level - 0.6, 0, 3).astype(np.float32) * 15
        winding = 3 * np.sin(self.level * 1.3 + np.float32(patient.texture_seed % 11))
        for sign, x, radius, flat in ((1.0, 9.0, 8.5, 1.0), (-1.0, 13.0, 10.5, 0.75)):
            narrowed = radius - apart * 0.08
            across = self.left * sign - x - apart - winding
            vessel = ellipse(across, back - in_front - 0.35 * apart, narrowed, narrowed * flat)
            self._paint(self.contrast["ligament"], vessel - 1.0)
            self._paint(self.contrast["vessel"], vessel)
