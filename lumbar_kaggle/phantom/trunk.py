"""The trunk around the spine: skin, fat, muscles, great vessels, kidneys, bowel. Soft and cheap."""

import numpy as np
from scipy.ndimage import gaussian_filter

from lumbar_kaggle.phantom.patient import Patient
from lumbar_kaggle.phantom.shapes import Singles, covered
from lumbar_kaggle.phantom.spine import CentreLine
from lumbar_kaggle.phantom.tissues import Contrast

LEVEL_MM = 34.0
"""Mean distance of neighbouring levels."""

GRAIN_SIZE, GRAIN_MM = 64, 1.2


def make_grain(seed: int, width: float) -> Singles:
    """Return ``[64, 64, 64]`` smooth noise, mean 0, standard deviation 1, that repeats without a seam.

    Args:
        seed: of the noise.
        width: standard deviation of the smoothing, in steps of `GRAIN_MM`.
    """
    white = np.random.default_rng(seed).standard_normal((GRAIN_SIZE,) * 3, dtype=np.float32)
    smooth = gaussian_filter(white, width, mode="wrap")
    grain: Singles = (smooth / smooth.std()).astype(np.float32)
    return grain


def grain_at(grain: Singles, x: Singles, y: Singles, z: Singles) -> Singles:
    """Return the grain at points in mm."""
    k = np.float32(1 / GRAIN_MM)
    column, row, layer = ((c * k).astype(np.int32) & (GRAIN_SIZE - 1) for c in (x, y, z))
    found: Singles = grain.ravel().take((layer * GRAIN_SIZE + row) * GRAIN_SIZE + column)
    return found


def _ellipse(x: Singles, y: Singles, half_x: float | Singles, half_y: float | Singles) -> Singles:
    """Return mm from the edge of an ellipse about the origin, negative inside."""
    radius = np.sqrt((x / half_x) ** 2 + (y / half_y) ** 2)
    distance: Singles = (radius - 1) * np.minimum(half_x, half_y)
    return distance


def paint_trunk(
    points: tuple[Singles, Singles, Singles],
    patient: Patient,
    line: CentreLine,
    grains: tuple[Singles, Singles],
    contrast: Contrast,
    soft: float,
) -> Singles:
    """Return the brightness of everything but the spine.

    Args:
        points: LPS mm x, y, z of any shape.
        patient: sizes and fat.
        line: centre line of the canal, which the muscles follow.
        grains: fine and coarse, see `make_grain`.
        contrast: the tissues' signals.
        soft: width of the edges, mm.
    """
    x, y, z = points
    course_x, course_y = line.at_height(z)
    left, back = (x - course_x) / np.float32(patient.size), (y - course_y) / np.float32(patient.size)
    level = (z - np.float32(patient.origin[2])) / np.float32(LEVEL_MM * patient.size)  # 0 at L3/L4
    coarse = grain_at(grains[1], x, y, z)
    fine = grain_at(grains[0], x, y, z)
    squeeze = np.float32(1.8)
    streaks = grain_at(grains[1], x * squeeze, y * squeeze, z * np.float32(0.7)) + np.float32(0.3) * fine
    surface = _surface(x, y, course_y, patient)
    image = np.full(x.shape, contrast.fat, np.float32) * (1 + np.float32(0.02) * (coarse + fine))
    image = _paint_belly(image, left, back, level, coarse, contrast, soft)
    wall = np.abs(surface + np.float32(0.7 * patient.fat + 10)) - 6 + 12 * covered(-back - 20, 30.0)
    image = _over(image, contrast.muscle * (1 + np.float32(0.1) * fine), covered(wall, 2 * soft))
    image = _paint_muscles(image, left, back, level, streaks, patient, contrast, soft)
    image = _paint_vessels(image, left, back, level, patient, contrast, soft)
    image = _over(image, contrast.skin, covered(-surface - np.float32(2.0), soft))
    body: Singles = image * covered(surface, soft)
    return body


def _over(image: Singles, value: Singles | float, part: Singles) -> Singles:
    painted: Singles = image + (value - image) * part
    return painted


def _surface(x: Singles, y: Singles, course_y: Singles, patient: Patient) -> Singles:
    """Return mm from the skin, negative inside; the back follows the spine's course half-way."""
    half_depth = 95.0 * patient.size + patient.fat
    half_width = 145.0 * patient.size + patient.fat
    behind = np.float32(50.0 * patient.size + patient.fat + 0.5 * patient.origin[1]) + course_y / 2
    behind = np.maximum(behind, course_y + np.float32(40.0 * patient.size + 0.7 * patient.fat))
    u = np.abs((x - np.float32(patient.origin[0])) / np.float32(half_width))
    v = np.abs((y - behind + np.float32(half_depth)) / np.float32(half_depth))
    radius = np.sqrt(np.sqrt(u**4 + v**4 + np.float32(0.6) * (u * v) ** 2))
    distance: Singles = (radius - 1) * np.float32(half_depth)
    return distance


def _paint_belly(
    image: Singles,
    left: Singles,
    back: Singles,
    level: Singles,
    coarse: Singles,
    contrast: Contrast,
    soft: float,
) -> Singles:
    """Paint bowel in front and at the sides, and the kidneys."""
    side = np.abs(left)
    edge = back + np.float32(70.0) + 5 * coarse - np.maximum(side - 45, 0)
    loops = contrast.bowel * (1 + np.float32(0.2) * coarse)
    loops = _over(loops, contrast.fat * 0.8, covered(coarse + 0.5, 0.5))
    loops = _over(loops, 0.05, covered(np.float32(1.2) - coarse, 0.4))  # gas
    image = _over(image, loops, covered(edge, 8.0))
    kidney = _ellipse(side - 62, back + 16, 27.0, 23.0) + 9 * np.maximum(np.abs(level - 2.6) - 0.9, 0) ** 2
    return _over(image, contrast.organ, covered(kidney, soft * 2))


def _paint_muscles(
    image: Singles,
    left: Singles,
    back: Singles,
    level: Singles,
    grain: Singles,
    patient: Patient,
    contrast: Contrast,
    soft: float,
) -> Singles:
    """Paint the extensors behind, psoas and quadratus beside, and the ligaments between the spines."""
    side = np.abs(left)
    streak = np.clip(np.float32(patient.muscle_fat) * (grain * 0.55 + 0.35), 0, 0.85)
    muscle = contrast.muscle + (contrast.fat - contrast.muscle) * streak + np.float32(0.02) * grain
    low: Singles = np.clip(-level - 1.0, 0, 3).astype(np.float32)  # how far below L4/L5
    high: Singles = np.clip(level, -2, 4).astype(np.float32)
    psoas_x = np.float32(36.5) - np.float32(3.5) * high
    psoas_y = np.float32(3.0) * high - np.float32(25.0)
    psoas_r: Singles = np.clip(18 - 3.2 * high, 3, 22).astype(np.float32)
    bellies = (
        _ellipse(side - 19, back - 29, 18.0, np.maximum(19 - 3.5 * low, 4)),
        _ellipse(side - 46, back - 23, np.maximum(23 - 3 * low, 5), np.maximum(19 - 5 * low, 4)),
        _ellipse(side - psoas_x, back - psoas_y, psoas_r, psoas_r * 1.15),
        _ellipse(side - 68, back - 2, 17.0, 10.0) + 20 * np.maximum(np.abs(level) - 2.0, 0),
    )
    for belly in bellies:
        image = _over(image, muscle, covered(belly + grain * 0.8, soft))
    between = np.maximum(side - 2.5, np.abs(back - 30) - 16)
    septum = (0.35 * contrast.ligament + 0.65 * contrast.fat) * (1 + np.float32(0.1) * grain)
    image = _over(image, septum, covered(between, soft * 2))
    cord = np.maximum(side - 3.0, np.abs(back - 47 + 4 * low) - 1.2)
    return _over(image, contrast.ligament, covered(cord, soft) * np.float32(0.8))


def _paint_vessels(
    image: Singles,
    left: Singles,
    back: Singles,
    level: Singles,
    patient: Patient,
    contrast: Contrast,
    soft: float,
) -> Singles:
    """Paint aorta and vena cava in front of the bodies; below L4 their branches part."""
    in_front = -(patient.canal_half + float(patient.depth[5])) / patient.size - 11.0
    apart: Singles = np.clip(-level - 0.6, 0, 3).astype(np.float32) * np.float32(15)
    for sign, x, radius in ((1.0, 9.0, 8.5), (-1.0, 13.0, 9.5)):
        narrowed = radius - apart * 0.08
        vessel = _ellipse(left * sign - x - apart, back - in_front - 0.35 * apart, narrowed, narrowed)
        image = _over(image, contrast.vessel, covered(vessel, soft))
    return image
