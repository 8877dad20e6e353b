"""The trunk around the spine: skin, fat, muscles, great vessels, kidneys, bowel. Soft and cheap."""

import numpy as np

from lumbar_kaggle.phantom.patient import Patient
from lumbar_kaggle.phantom.shapes import Singles, covered
from lumbar_kaggle.phantom.spine import CentreLine
from lumbar_kaggle.phantom.tissues import Contrast

LEVEL_MM = 34.0
"""Mean distance of neighbouring levels."""

GRAIN_SIZE, GRAIN_MM = 64, 1.1


def make_grain(seed: int) -> Singles:
    """Return ``[64, 64, 64]`` smooth noise, mean 0, standard deviation 1, that repeats without a seam."""
    from scipy.ndimage import gaussian_filter

    white = np.random.default_rng(seed).standard_normal((GRAIN_SIZE,) * 3, dtype=np.float32)
    smooth: Singles = gaussian_filter(white, 1.3, mode="wrap")
    coarse: Singles = gaussian_filter(white, 4.0, mode="wrap")
    grain: Singles = smooth / smooth.std() * np.float32(0.8) + coarse / coarse.std() * np.float32(0.6)
    return grain


def grain_at(grain: Singles, x: Singles, y: Singles, z: Singles, scale: float) -> Singles:
    """Return the grain at points in mm, with features `scale` times as large as in marrow."""
    k = np.float32(1 / (GRAIN_MM * scale))
    i, j, l = ((c * k).astype(np.int32) & (GRAIN_SIZE - 1) for c in (z, y, x))
    return grain.ravel().take((i * GRAIN_SIZE + j) * GRAIN_SIZE + l)


def _ellipse(x: Singles, y: Singles, half_x: float | Singles, half_y: float | Singles) -> Singles:
    """Return mm from the edge of an ellipse about the origin, negative inside."""
    radius = np.sqrt((x / half_x) ** 2 + (y / half_y) ** 2)
    distance: Singles = (radius - 1) * np.minimum(half_x, half_y)
    return distance


def paint_trunk(
    x: Singles, y: Singles, z: Singles, patient: Patient, line: CentreLine, grain: Singles, contrast: Contrast, soft: float
) -> Singles:
    """Return the brightness of everything but the spine at points (LPS mm) of any shape.

    Args:
        x, y, z: LPS mm.
        patient: sizes and fat.
        line: centre line of the canal, which the muscles follow.
        grain: see `make_grain`.
        contrast: the tissues' signals.
        soft: width of the edges, mm.
    """
    size = np.float32(patient.size)
    course_x, course_y = line.at_height(z)
    left, back = (x - course_x) / size, (y - course_y) / size
    level = (z - np.float32(patient.origin[2])) / np.float32(LEVEL_MM * patient.size)  # 0 at L3/L4
    coarse = grain_at(grain, x, y, z, 2.4)
    image = np.full(x.shape, contrast.fat, np.float32) * (1 + np.float32(0.05) * coarse)
    image = _paint_belly(image, left, back, level, coarse, contrast, soft)
    image = _paint_muscles(image, left, back, level, grain_at(grain, x, y, z * 0.3, 1.6), patient, contrast, soft)
    image = _paint_vessels(image, left, back, level, patient, contrast, soft)
    surface = _surface(x, y, patient)
    image += (np.float32(contrast.skin) - image) * covered(-surface - np.float32(2.0), soft)
    body: Singles = image * covered(surface, soft)
    return body


def _surface(x: Singles, y: Singles, patient: Patient) -> Singles:
    """Return mm from the skin, negative inside."""
    half_depth = 95.0 * patient.size + patient.fat
    half_width = 150.0 * patient.size + patient.fat
    behind = patient.origin[1] + 60.0 * patient.size + patient.fat
    u = np.abs((x - np.float32(patient.origin[0])) / np.float32(half_width))
    v = np.abs((y - np.float32(behind - half_depth)) / np.float32(half_depth))
    radius = np.sqrt(np.sqrt(u**4 + v**4 + np.float32(0.6) * (u * v) ** 2))
    distance: Singles = (radius - 1) * np.float32(half_depth)
    return distance


def _paint_belly(
    image: Singles, left: Singles, back: Singles, level: Singles, coarse: Singles, contrast: Contrast, soft: float
) -> Singles:
    """Paint bowel in front and the kidneys at the sides."""
    front = covered(back + np.float32(72.0) + 6 * coarse, 12.0)
    bowel = np.where(coarse > 0.9, np.float32(0.06), np.float32(contrast.bowel) * (1 + np.float32(0.25) * coarse))
    image = image + (bowel - image) * front * (coarse > -0.8)
    kidney = _ellipse(np.abs(left) - 62, back + 16, 27.0, 23.0) + 9 * np.maximum(np.abs(level - 2.6) - 0.9, 0) ** 2
    return image + (np.float32(contrast.organ) - image) * covered(kidney, soft * 2)


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
    streak = np.clip(np.float32(patient.muscle_fat) * (grain * 0.6 + 0.5), 0, 0.85)
    muscle = contrast.muscle + (contrast.fat - contrast.muscle) * streak + np.float32(0.02) * grain
    low = np.clip(-level - 1.0, 0, 3)  # how far below L4/L5
    high = np.clip(level, -2, 4)
    psoas_x, psoas_y = 33 + 3.5 * (1 - high), -22 - 3 * (1 - high)
    psoas_r = np.clip(18 - 3.2 * high, 3, 22)
    bellies = (
        _ellipse(side - 19.5, back - 29, 17.0, np.maximum(17 - 3.5 * low, 4)),
        _ellipse(side - 46, back - 23, np.maximum(23 - 3 * low, 5), np.maximum(19 - 5 * low, 4)),
        _ellipse(side - psoas_x, back - psoas_y, psoas_r, psoas_r * 1.15),
        _ellipse(side - 68, back - 2, 17.0, 10.0) + 20 * np.maximum(np.abs(level) - 2.0, 0),
    )
    between = np.maximum(side - 3.5, np.abs(back - 30) - 16)
    image = image + (np.float32(0.5 * contrast.ligament + 0.5 * contrast.fat) - image) * covered(between, soft * 2)
    for belly in bellies:
        image = image + (muscle - image) * covered(belly + grain * 0.8, soft)
    return image


def _paint_vessels(
    image: Singles, left: Singles, back: Singles, level: Singles, patient: Patient, contrast: Contrast, soft: float
) -> Singles:
    """Paint aorta and vena cava in front of the bodies; below L4 their branches part."""
    in_front = -(patient.canal_half + float(patient.depth[5])) / patient.size - 11.0
    apart = np.clip(-level - 0.6, 0, 3) * 15
    for x, radius in ((9.0, 8.5), (-13.0, 9.5)):
        out = x + np.sign(x) * apart
        vessel = _ellipse(left - out, back - in_front - 0.35 * apart, radius - apart * 0.08, radius - apart * 0.08)
        image = image + (np.float32(contrast.vessel) - image) * covered(vessel, soft)
    return image
