"""The trunk around the spine: skin, fat, muscles, great vessels, kidneys, bowel. Soft and cheap."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from lumbar_kaggle.phantom.patient import CentreLine, Patient
from lumbar_kaggle.phantom.settings import Singles
from lumbar_kaggle.phantom.shapes import covered, ellipse, painted
from lumbar_kaggle.phantom.tissues import Contrast

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


@dataclass(frozen=True)
class _Place:
    """Where pixels lie beside the spine, all of one shape, and how they are painted."""

    left: Singles  # mm of an average adult from the canal's line, as back
    back: Singles
    side: Singles  # the size of `left`
    level: Singles  # in disc distances, 0 at L3/L4, growing to the head
    inside: Singles  # mm below the skin, negative outside
    fine: Singles  # smooth noise, standard deviation 1, as coarse and lumps
    coarse: Singles
    lumps: Singles  # as large as loops of bowel
    patient: Patient
    contrast: Contrast
    soft: float  # width of the edges, mm

    def muscle(self, streak: Singles) -> Singles:
        """Return the brightness of muscle of which a part is streaked with fat."""
        muscle = self.contrast.muscle
        return muscle + (self.contrast.fat - muscle) * streak + 0.015 * self.fine


def paint_trunk(
    points: tuple[Singles, Singles, Singles],
    patient: Patient,
    line: CentreLine,
    grains: tuple[Singles, Singles, Singles],
    contrast: Contrast,
    soft: float,
) -> Singles:
    """Return the brightness of everything but the spine, at `points` (LPS mm x, y, z of any shape).

    The muscles follow the centre line of the canal; `grains` are fine, coarse and lumpy, see `make_grain`;
    edges are `soft` mm wide.
    """
    x, y, z = points
    course_x, course_y = line.at_height(z)
    scale = np.float32(1 / patient.size)
    left, back = (x - course_x) * scale, (y - course_y) * scale
    place = _Place(
        left=left,
        back=back,
        side=np.abs(left),
        level=(z - np.float32(patient.origin[2])) * np.float32(1 / (LEVEL_MM * patient.size)),
        inside=-_surface(x, y, course_y, patient),
        fine=grain_at(grains[0], x, y, z),
        coarse=grain_at(grains[1], x, y, z),
        lumps=_lumps(grains[2], x, y, z),
        patient=patient,
        contrast=contrast,
        soft=soft,
    )
    septa = np.clip(1 - np.abs(place.coarse) * 5, 0, 1)
    image = np.float32(contrast.fat) * (1 + 0.02 * place.fine - 0.12 * septa)
    for paint in (_paint_abdomen, _paint_back, _paint_beside, _paint_vessels):
        image = paint(image, place)
    image = painted(image, contrast.skin, covered(place.inside - 2.0, soft))
    return image * covered(-place.inside, soft)


def _lumps(grain: Singles, x: Singles, y: Singles, z: Singles) -> Singles:
    """Return noise of the size of bowel loops; two turned copies hide that the grain repeats."""
    turned = 0.64 * z - 0.6 * y + 0.48 * x, 0.8 * y + 0.6 * z, 0.76 * x - 0.4 * z + 0.51 * y
    again = 0.55 * y + 0.47 * x - 0.31 * z, 0.7 * z + 0.4 * x, 0.62 * z - 0.44 * y - 0.36 * x
    first, second = (grain_at(grain, *(axis.astype(np.float32) for axis in axes)) for axes in (turned, again))
    return 0.75 * first + 0.66 * second


def _surface(x: Singles, y: Singles, course_y: Singles, patient: Patient) -> Singles:
    """Return mm from the skin, negative inside; the back follows the spine's course half-way."""
    half_width = 138.0 * patient.size + 0.8 * patient.fat
    behind = np.float32(50.0 * patient.size + patient.fat + 0.5 * patient.origin[1]) + course_y / 2
    behind = np.maximum(behind, course_y + np.float32(43.0 * patient.size + 0.75 * patient.fat))
    half_depth = np.float32((95.0 * patient.size + patient.fat + patient.abdomen) / 2)
    u = np.abs((x - np.float32(patient.origin[0])) / np.float32(half_width))
    v = np.abs((y - behind + half_depth) / half_depth)
    radius = np.sqrt(np.sqrt(u**4 + v**4 + 0.6 * (u * v) ** 2))
    return (radius - 1) * half_depth


def _paint_abdomen(image: Singles, place: _Place) -> Singles:
    """Paint the abdominal wall, bowel in front and at the sides, kidneys, liver, bladder."""
    patient, contrast, soft = place.patient, place.contrast, place.soft
    wall_depth = np.float32(0.55 * patient.fat + 9)
    ahead = covered(place.back + 28, 30.0)
    wall = np.abs(place.inside - wall_depth) - 5 - 3 * place.lumps + 14 * (1 - ahead)
    image = painted(image, contrast.muscle * (1 + 0.1 * place.fine), covered(wall, 2 * soft))
    # Loops: content differs between lumps, from gas to fluid; their walls are seen.
    edge = place.back + 62.0 + 4 * place.lumps - np.maximum(place.side - 42, 0) * 0.8
    edge = np.maximum(edge, wall_depth + 6 - place.inside)
    turn = np.sin(place.lumps * 2.6 + np.float32(patient.texture_seed % 7))
    inner = np.float32(contrast.bowel) * (1 + 0.7 * turn + 0.15 * place.coarse)
    inner = painted(inner, 0.04, covered(np.float32(1.25) - place.lumps, 0.3))  # gas
    loops = painted(inner, contrast.bowel, covered(np.abs(place.coarse) - np.float32(0.12), 0.15))
    between = covered(place.lumps + 0.35, 0.3)
    loops = painted(loops, contrast.fat * 0.85, between)
    image = painted(image, np.clip(loops, 0, 1).astype(np.float32), covered(edge, 8.0))
    kidney = ellipse(place.side - 60, place.back + 16, 25.0, 21.0)
    kidney = kidney + 9 * np.maximum(np.abs(place.level - 2.6) - 0.9, 0) ** 2
    image = painted(image, contrast.organ * (1 + 0.06 * place.coarse), covered(kidney, soft * 2))
    liver = ellipse(place.left + 75, place.back + 65, 52.0, 50.0)
    liver = liver + 22 * np.maximum(2.2 - place.level, 0) ** 2
    image = painted(image, contrast.organ * (1 + 0.04 * place.fine), covered(liver, soft * 2))
    full = 4.0 + patient.texture_seed % 23
    bladder = ellipse(place.left, place.back + 100, 1.4 * full, full)
    bladder = bladder + 28 * np.maximum(np.abs(place.level + 4.0) - 0.6, 0) ** 2
    return painted(image, contrast.csf, covered(bladder, soft * 2))


def _paint_back(image: Singles, place: _Place) -> Singles:
    """Paint the extensors behind the laminae, parted by septa, and the ligaments between the spines."""
    patient, contrast, soft = place.patient, place.contrast, place.soft
    side, back = place.side, place.back
    low = np.clip(-place.level - 1.0, 0, 3).astype(np.float32)  # how far below L4/L5
    rear = 43.0 - 0.0034 * (side - 22) ** 2 - 4 * low
    ahead = 12.0 - np.clip((side - 14) * 0.5, 0, 9)
    reach = np.float32(76.0 * patient.muscle) - 13 * low
    compartment = np.maximum(np.maximum(back - rear, ahead - back), side - reach) + place.lumps
    seam = 19.0 + 0.45 * (back - 10) + 2 * place.lumps
    medial = covered(side - seam, 6.0)
    fatty = np.float32(patient.muscle_fat) * (0.7 + medial * (0.35 + 0.2 * low))
    streaks = place.coarse * 0.5 + place.fine * 0.25 + 0.3
    streak = np.clip(fatty * streaks * 1.3, 0, 0.9)
    muscle = place.muscle(streak)
    image = painted(image, muscle, covered(compartment, soft))
    outer = 44.0 + 0.2 * (back - 10) - 2 * place.lumps
    septa = np.minimum(np.abs(side - seam), np.abs(side - outer)) - np.float32(0.5 + 0.8 * patient.muscle_fat)
    part = covered(septa, 1.5 * soft) * covered(compartment, soft) * 0.7
    image = painted(image, contrast.fat * 0.85, part)
    fascia = np.maximum(np.abs(back - rear - 1) - 0.7, side - reach)
    image = painted(image, contrast.ligament, covered(fascia, soft) * 0.7)
    between = np.maximum(side - 2.3, np.abs(back - 29) - 15)
    mixed = 0.5 + 0.14 * place.coarse
    septum = contrast.ligament + (contrast.fat - contrast.ligament) * np.clip(mixed, 0, 1)
    image = painted(image, septum, covered(between, soft * 2))
    cord = np.maximum(side - 3.0, np.abs(back - 45 + 4 * low) - 1.2)
    return painted(image, contrast.ligament, covered(cord, soft) * 0.8)


def _paint_beside(image: Singles, place: _Place) -> Singles:
    """Paint psoas and quadratus beside the bodies."""
    patient, soft = place.patient, place.soft
    high = np.clip(place.level, -2, 4).astype(np.float32)
    x = 36.0 - 3.3 * high
    y = 3.0 * high - 24.0
    radius = np.clip((18.5 - 3.2 * high) * patient.muscle, 3, 24).astype(np.float32)
    bellies = (
        ellipse(place.side - x, place.back - y, radius, radius * 1.15),
        ellipse(place.side - 64, place.back + 1, 17.0, 9.0) + 20 * np.maximum(np.abs(place.level) - 2.0, 0),
    )
    streak = np.clip(np.float32(0.5 * patient.muscle_fat) * (place.coarse + place.fine) * 0.5, 0, 0.7)
    muscle = place.muscle(streak)
    for belly in bellies:
        image = painted(image, muscle, covered(belly + place.lumps, soft))
    return image


def _paint_vessels(image: Singles, place: _Place) -> Singles:
    """Paint aorta and vena cava in front of the bodies; below L4 their branches part."""
    patient, contrast, soft = place.patient, place.contrast, place.soft
    in_front = -(patient.canal_half + float(patient.depth[5])) / patient.size - 11.0
    apart = np.clip(-place.level - 0.6, 0, 3).astype(np.float32) * 15
    winding = 3 * np.sin(place.level * 1.3 + np.float32(patient.texture_seed % 11))
    for sign, x, radius, flat in ((1.0, 9.0, 8.5, 1.0), (-1.0, 13.0, 10.5, 0.75)):
        narrowed = radius - apart * 0.08
        across = place.left * sign - x - apart - winding
        vessel = ellipse(across, place.back - in_front - 0.35 * apart, narrowed, narrowed * flat)
        image = painted(image, contrast.ligament, covered(vessel - 1.0, soft))
        image = painted(image, contrast.vessel, covered(vessel, soft))
    return image
