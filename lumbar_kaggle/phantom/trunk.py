"""The trunk around the spine: skin, fat, muscles, great vessels, kidneys, bowel. Soft and cheap."""

import numpy as np
from scipy.ndimage import gaussian_filter

from lumbar_kaggle.phantom.acquisition import Contrast
from lumbar_kaggle.phantom.patient import Patient, Spine
from lumbar_kaggle.phantom.settings import Singles
from lumbar_kaggle.phantom.shapes import covered, ellipse, painted

LEVEL_MM = 34.0  # mean distance of neighbouring levels
GRAIN_SIZE, GRAIN_MM = 64, 1.2


def make_grain(seed: int, width: float) -> Singles:
    """Return ``[64, 64, 64]`` smooth noise, mean 0, standard deviation 1, that repeats without a seam.

    `width` is the standard deviation of the smoothing, in steps of `GRAIN_MM`.
    """
    white = np.random.default_rng(seed).standard_normal((GRAIN_SIZE,) * 3, dtype=np.float32)
    smooth = gaussian_filter(white, width, mode="wrap")
    return (smooth / smooth.std()).astype(np.float32)


def grain_at(grain: Singles, x: Singles, y: Singles, z: Singles) -> Singles:
    """Return the grain at points in mm."""
    k = np.float32(1 / GRAIN_MM)
    column, row, layer = ((c * k).astype(np.int32) & (GRAIN_SIZE - 1) for c in (x, y, z))
    return grain.ravel().take((layer * GRAIN_SIZE + row) * GRAIN_SIZE + column)


class Trunk:
    """Everything but the spine, at the points (LPS mm x, y, z of any shape) of one slice.

    The muscles follow the centre line of the canal. `grains` are fine, coarse and lumpy, see `make_grain`; edges are
    `soft` mm wide.
    """

    def __init__(
        self,
        points: tuple[Singles, Singles, Singles],
        patient: Patient,
        spine: Spine,
        grains: tuple[Singles, ...],
        contrast: Contrast,
        soft: float,
    ) -> None:
        self.patient, self.contrast, self.soft = patient, contrast, soft
        x, y, z = points
        course_x, course_y = spine.at_height(z)
        scale = np.float32(1 / patient.size)
        # mm of an average adult from the canal's line
        self.left, self.back = (x - course_x) * scale, (y - course_y) * scale
        self.side = np.abs(self.left)
        # In disc distances, 0 at L3/L4, growing to the head.
        self.level = (z - np.float32(patient.origin[2])) * np.float32(1 / (LEVEL_MM * patient.size))
        self.inside = self._depth(x, y, course_y)  # mm below the skin, negative outside
        self.fine, self.coarse = (grain_at(grain, x, y, z) for grain in grains[:2])
        # As large as loops of bowel; two turned copies hide that the grain repeats.
        turned = 0.64 * z - 0.6 * y + 0.48 * x, 0.8 * y + 0.6 * z, 0.76 * x - 0.4 * z + 0.51 * y
        again = 0.55 * y + 0.47 * x - 0.31 * z, 0.7 * z + 0.4 * x, 0.62 * z - 0.44 * y - 0.36 * x
        first, second = (grain_at(grains[2], *(axis.astype(np.float32) for axis in axes)) for axes in (turned, again))
        self.lumps: Singles = 0.75 * first + 0.66 * second

    def brightness(self) -> Singles:
        """Return the brightness in the shape of the points."""
        septa = np.clip(1 - np.abs(self.coarse) * 5, 0, 1)
        self._image = np.float32(self.contrast.fat) * (1 + 0.02 * self.fine - 0.12 * septa)
        self._paint_abdomen()
        self._paint_back()
        self._paint_beside()
        self._paint_vessels()
        self._paint(self.contrast.skin, self.inside - 2.0)
        return self._image * covered(-self.inside, self.soft)

    def _depth(self, x: Singles, y: Singles, course_y: Singles) -> Singles:
        """Return mm below the skin, negative outside; the back follows the spine's course half-way."""
        patient = self.patient
        half_width = 138.0 * patient.size + 0.8 * patient.fat
        behind = np.float32(50.0 * patient.size + patient.fat + 0.5 * patient.origin[1]) + course_y / 2
        behind = np.maximum(behind, course_y + np.float32(43.0 * patient.size + 0.75 * patient.fat))
        half_depth = np.float32((95.0 * patient.size + patient.fat + patient.abdomen) / 2)
        u = np.abs((x - np.float32(patient.origin[0])) / np.float32(half_width))
        v = np.abs((y - behind + half_depth) / half_depth)
        radius = np.sqrt(np.sqrt(u**4 + v**4 + 0.6 * (u * v) ** 2))
        return -((radius - 1) * half_depth)

    def _paint(self, over: Singles | float, distance: Singles, widen: float = 1.0, share: float = 1.0) -> None:
        """Paint a share over what lies inside a distance of 0, with edges so many times as wide as usual."""
        self._image = painted(self._image, over, covered(distance, widen * self.soft) * share)

    def _muscle(self, streak: Singles) -> Singles:
        """Return the brightness of muscle of which a part is streaked with fat."""
        muscle = self.contrast.muscle
        return muscle + (self.contrast.fat - muscle) * streak + 0.015 * self.fine

    def _paint_abdomen(self) -> None:
        """Paint the abdominal wall, bowel in front and at the sides, kidneys, liver, bladder."""
        patient, contrast, level, lumps = self.patient, self.contrast, self.level, self.lumps
        wall_depth = np.float32(0.55 * patient.fat + 9)
        ahead = covered(self.back + 28, 30.0)
        wall = np.abs(self.inside - wall_depth) - 5 - 3 * lumps + 14 * (1 - ahead)
        self._paint(contrast.muscle * (1 + 0.1 * self.fine), wall, 2)
        # Loops: content differs between lumps, from gas to fluid; their walls are seen.
        edge = self.back + 62.0 + 4 * lumps - np.maximum(self.side - 42, 0) * 0.8
        edge = np.maximum(edge, wall_depth + 6 - self.inside)
        turn = np.sin(lumps * 2.6 + np.float32(patient.texture_seed % 7))
        loops: Singles = np.float32(contrast.bowel) * (1 + 0.7 * turn + 0.15 * self.coarse)
        loops = painted(loops, 0.04, covered(np.float32(1.25) - lumps, 0.3))  # gas
        loops = painted(loops, contrast.bowel, covered(np.abs(self.coarse) - np.float32(0.12), 0.15))
        loops = painted(loops, contrast.fat * 0.85, covered(lumps + 0.35, 0.3))
        self._image = painted(self._image, np.clip(loops, 0, 1).astype(np.float32), covered(edge, 8.0))
        kidney = ellipse(self.side - 60, self.back + 16, 25.0, 21.0) + 9 * np.maximum(np.abs(level - 2.6) - 0.9, 0) ** 2
        self._paint(contrast.organ * (1 + 0.06 * self.coarse), kidney, 2)
        liver = ellipse(self.left + 75, self.back + 65, 52.0, 50.0) + 22 * np.maximum(2.2 - level, 0) ** 2
        self._paint(contrast.organ * (1 + 0.04 * self.fine), liver, 2)
        full = 4.0 + patient.texture_seed % 23
        bladder = ellipse(self.left, self.back + 100, 1.4 * full, full)
        self._paint(contrast.csf, bladder + 28 * np.maximum(np.abs(level + 4.0) - 0.6, 0) ** 2, 2)

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
        self._image = painted(self._image, contrast.fat * 0.85, part)
        fascia = np.maximum(np.abs(back - rear - 1) - 0.7, side - reach)
        self._paint(contrast.ligament, fascia, share=0.7)
        interspinous = contrast.ligament + (contrast.fat - contrast.ligament) * np.clip(0.5 + 0.14 * self.coarse, 0, 1)
        self._paint(interspinous, np.maximum(side - 2.3, np.abs(back - 29) - 15), 2)
        supraspinous = np.maximum(side - 3.0, np.abs(back - 45 + 4 * low) - 1.2)
        self._paint(contrast.ligament, supraspinous, share=0.8)

    def _paint_beside(self) -> None:
        """Paint psoas and quadratus beside the bodies."""
        side, back, patient = self.side, self.back, self.patient
        high = np.clip(self.level, -2, 4).astype(np.float32)
        radius = np.clip((18.5 - 3.2 * high) * patient.muscle, 3, 24).astype(np.float32)
        psoas = ellipse(side - (36.0 - 3.3 * high), back - (3.0 * high - 24.0), radius, radius * 1.15)
        quadratus = ellipse(side - 64, back + 1, 17.0, 9.0) + 20 * np.maximum(np.abs(self.level) - 2.0, 0)
        streak = np.clip(np.float32(0.5 * patient.muscle_fat) * (self.coarse + self.fine) * 0.5, 0, 0.7)
        for belly in (psoas, quadratus):
            self._paint(self._muscle(streak), belly + self.lumps)

    def _paint_vessels(self) -> None:
        """Paint aorta and vena cava in front of the bodies; below L4 their branches part."""
        patient = self.patient
        in_front = -(patient.canal_half + float(patient.depth[5])) / patient.size - 11.0
        apart = np.clip(-self.level - 0.6, 0, 3).astype(np.float32) * 15
        winding = 3 * np.sin(self.level * 1.3 + np.float32(patient.texture_seed % 11))
        for sign, x, radius, flat in ((1.0, 9.0, 8.5, 1.0), (-1.0, 13.0, 10.5, 0.75)):
            narrowed = radius - apart * 0.08
            across = self.left * sign - x - apart - winding
            vessel = ellipse(across, self.back - in_front - 0.35 * apart, narrowed, narrowed * flat)
            self._paint(self.contrast.ligament, vessel - 1.0)
            self._paint(self.contrast.vessel, vessel)
