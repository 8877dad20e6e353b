"""What runs along the canal: the thecal sac with its fluid, the cord, the roots, and the fat around.

Everything is tabulated along the centre line of the canal and evaluated in its curved coordinates: mm to
the left, to the back, and along (see `patient.CentreLine.curved`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.phantom.anatomy import SIDES, closing, recess_x
from lumbar_kaggle.phantom.patient import STEP, Patient, Spine
from lumbar_kaggle.phantom.settings import Floats, Singles
from lumbar_kaggle.phantom.shapes import covered, covered_through, ellipse, painted
from lumbar_kaggle.phantom.tissues import Contrast

# Half sizes in mm of the band around the centre line that holds everything painted here.
REACH_BACK, REACH_SIDE = 20.0, 27.0
ABSENT = 99.0  # position, far outside, of what is not there
SAC_HALF_WIDTH, ROOTLET_RADIUS, ROOT_RADIUS = 8.6, 0.8, 1.9  # mm


@dataclass(frozen=True)
class Sac:
    """Tables along the centre line, float32; index = mm along the line / `STEP`."""

    bounds: Singles  # [4, n] extent of the sac: front, back (mm behind the line), left, right half width
    bony: Singles  # [3, n] front, back and half width of the bony canal, mm
    # [2, n] inner surface of the ligamentum flavum: its place in the middle (mm behind the line), and how far
    # it comes forward per mm to the side.
    arch: Singles
    ligament: Singles  # [n] 1 where a disc lies in front and the ligamentum flavum behind, 0 between
    caudal: Singles  # [n] 0 down to L5, rising to 1 in the sacrum, where fat takes the sac's place
    cord: Singles  # [n] radius of the cord, 0 below the conus
    rootlets: Singles  # [m, 2, n] position as part of the sac's half width and half depth, or `ABSENT`
    roots: Singles  # [r, 2, n] mm left and back of the roots outside the sac, or `ABSENT`
    root_depth: Singles  # [r, n] front-to-back radius of these roots, mm
    # [2 sides, 4, n] of the fat around the root in the lateral recess: middle (left, back), half width and
    # half depth, mm.
    recess_fat: Singles


def build_sac(patient: Patient, spine: Spine, rng: np.random.Generator) -> Sac:
    """Return the tables of one patient's canal."""
    along = (np.arange(len(spine.points)) * STEP).astype(np.float64)
    near = np.stack([_hill(along - spine.level_at(level), 5.5) for level in range(5)])
    start, end = spine.vertebra_at[patient.first_sacral - 1], spine.vertebra_at[patient.first_sacral]
    caudal = np.clip((start - along) / (start - end), 0, 1)
    bounds, crowding = _bounds(patient, spine, along, near, caudal)
    half_width = np.interp(along, spine.vertebra_at[::-1], _inner(patient)[::-1])
    rear = patient.canal_half + 7.0 * patient.size
    bony = np.stack([0 * along - patient.canal_half, 0 * along + rear, half_width + 0.5])
    discs = np.stack([_hill(along - at, 8.0) for at in spine.disc_at[: patient.first_sacral]])
    tip = spine.level_at(0) + patient.conus
    tables = (
        bounds,
        bony,
        _arch(patient, spine, along, bounds),
        np.clip(discs.sum(axis=0) * 1.25, 0, 1),
        caudal,
        # The cord is full above, then a cone that ends at the conus.
        4.4 * patient.size * np.clip((along - tip) / 30.0, 0, 1) ** 0.6,
        _rootlets(patient, spine, along, crowding, rng),
        *_roots(patient, spine, along),
        _recess_fat(patient, spine, along, half_width),
    )
    return Sac(*(table.astype(np.float32) for table in tables))


def _inner(patient: Patient) -> Floats:
    """Return ``[13]`` mm from the middle to the inner side of the pedicles."""
    return patient.pedicle - patient.pedicle_half_width


def _hill(distance: Floats, width: float) -> Floats:
    """Return 1 in the middle, falling off on both sides; flatter on top than a normal curve."""
    return np.exp(-0.5 * (np.abs(distance) / width) ** 2.6)


def _bounds(patient: Patient, spine: Spine, along: Floats, near: Floats, caudal: Floats) -> tuple[Floats, Floats]:
    """Return the sac's extent ``[4, n]`` and the crowding ``[n]`` (0 none, 1 and more severe)."""
    size, depth = patient.size, 2 * patient.canal_half * patient.sac_share
    lost, width, crowding = np.zeros((2, len(along))), np.ones((2, len(along))), np.zeros(len(along))
    for level in range(5):
        g = patient.severity[:, level]
        from_behind = patient.flavum_share[level]
        loss = depth * (1 - closing(g[0], 2.3))
        lost += np.stack([loss * (1 - from_behind) * near[level], loss * from_behind * near[level]])
        for side, _ in SIDES:
            narrowing = 1 - closing(g[0], 3.6) * (1 - 0.09 * min(g[3 + side], 3.0))
            width[side] *= 1 - narrowing * near[level]
        crowding += max(g[0] - 0.7, 0.0) / 1.3 * near[level]
    sacral = patient.first_sacral
    ends = [spine.vertebra_at[sacral + 2], spine.vertebra_at[sacral + 1]]
    taper = np.interp(along, [*ends, spine.vertebra_at[sacral - 1]], [0.02, 0.5, 1.0])
    sunk = 2.6 * size * caudal  # fat in front pushes the sac back at L5/S1
    front = sunk - depth / 2 * taper + lost[0]
    back = sunk + depth / 2 * taper - lost[1]
    half = SAC_HALF_WIDTH * size * taper * width
    return np.stack([front, np.maximum(back, front + 0.3), half[0], half[1]]), crowding


def _arch(patient: Patient, spine: Spine, along: Floats, bounds: Floats) -> Floats:
    """Return the inner surface of the ligamentum flavum: in front of it lies fat, then the sac ``[2, n]``."""
    pad = np.full(len(along), 0.7)
    slope = np.full(len(along), 0.42)
    for k in range(patient.first_sacral):
        g = float(patient.disc_severity(k)[0])
        near = _hill(along - spine.disc_at[k] - 3.0, 8.5)
        pad += 4.2 * patient.size * patient.epidural_fat * closing(g, 2.4) * near
        slope += (0.1 + 0.05 * min(g, 3.0)) * near
    return np.stack([bounds[1] + pad, slope])


def _rootlets(patient: Patient, spine: Spine, along: Floats, crowding: Floats, rng: np.random.Generator) -> Floats:
    """Return the cauda equina: two rootlets a side for each root L2 to S5, sinking to the back."""
    tip = spine.level_at(0) + patient.conus
    crowd = np.clip(crowding, 0, 1)
    rootlets = []
    for order in range(7):  # L2 leaves first and lies outermost; the sacral roots end in the middle
        leaves = spine.disc_at[min(patient.first_disc + order, len(spine.disc_at) - 1)]
        across = 0.78 - 0.11 * order
        for _, sign in SIDES:
            for forward in (0.0, 0.28):
                wave = 0.05 * np.sin(along / rng.uniform(12, 25) + rng.uniform(0, 6.3))
                to_wall = _hill(np.maximum(along - leaves - 4.0, 0.0), 14.0)
                left = sign * (across + (0.86 - across) * to_wall) + wave + rng.normal(0, 0.03)
                rest = 0.72 - 0.45 * across**2 - forward * (0.4 + across) + rng.normal(0, 0.06)
                back = rest * (1 - to_wall) + wave
                # Squeezed roots fill the whole sac.
                back = back * (1 - crowd) + crowd * rng.uniform(-0.75, 0.8)
                seen = (along > leaves) & (along < tip + 25.0)
                rootlets.append(np.where(seen, np.stack([left, back]), ABSENT))
    return np.stack(rootlets)


def _roots(patient: Patient, spine: Spine, along: Floats) -> tuple[Floats, Floats]:
    """Return the course of the roots L2 to S1 from the sac through the recess to below the pedicle."""
    size, courses, depths = patient.size, [], []
    for level in range(5):
        k = patient.first_disc + level + 1
        pedicle, inner = patient.pedicle[k], _inner(patient)[k]
        disc, body = spine.level_at(level), spine.vertebra_at[k]
        knots = [body - 12.0 * size, body - 2.0, body + 4.0, disc - 3.0, disc + 9.0]
        for side, sign in SIDES:
            g = patient.severity[3 + side, level]
            recess = recess_x(patient, k - 1)
            pressed = 0.35 * min(g, 3.0)  # inwards and back by the disc
            left = sign * np.interp(
                along, knots, [0.95 * pedicle, inner - 0.5, inner - 2.2, recess - 1.5 * pressed, 6.5 * size]
            )
            back = np.interp(along, knots, [-4.5, -4.6, -4.5, -3.5 + pressed, -1.5])
            seen = (along > knots[0]) & (along < knots[-1])
            courses.append(np.where(seen, np.stack([left, back]), ABSENT))
            flat = 1 - (1 - closing(g, 2.6)) * _hill(along - disc + 2.0, 8.0)
            depths.append(ROOT_RADIUS * size * flat)
    return np.stack(courses), np.stack(depths)


def _recess_fat(patient: Patient, spine: Spine, along: Floats, inner: Floats) -> Floats:
    """Return, per side, middle and half sizes of the fat in the lateral recesses ``[2, 4, n]``."""
    fat = np.zeros((2, 4, len(along)))
    fat[:, 2:] = 0.05
    for side, sign in SIDES:
        fat[side, 0] = sign * (inner - 1.8)
        fat[side, 1] = -3.8
        for level in range(5):
            g = patient.severity[3 + side, level]
            here = _hill(along - spine.level_at(level) + 3.0, 9.0)
            fat[side, 2] += 4.4 * patient.size * here * closing(g, 2.6)
            fat[side, 3] += 4.2 * patient.size * here * closing(g, 1.9)
    return fat


def paint_canal(
    values: Singles, place: tuple[Singles, Singles, Singles], sac: Sac, contrast: Contrast, softness: float
) -> Singles:
    """Return the brightness ``[heights, n]`` of pixels near the line with the canal painted over it.

    `place` is three ``[heights, n]``: mm left, back, along; edges are `softness` mm wide.
    """
    left, back, along = place
    index = np.clip((along * np.float32(1 / STEP)).astype(np.int32), 0, sac.cord.shape[0] - 1)
    apex, slope = sac.arch.take(index, axis=1)
    behind = back - apex + slope * np.abs(left)  # mm behind the inner surface of the ligamentum flavum
    values = _paint_space(values, (left, back, behind), index, sac, contrast, softness)
    front, rear, half_left, half_right = sac.bounds.take(index, axis=1)
    half_depth, middle = (rear - front) / 2, (rear + front) / 2
    u = left / np.where(left > 0, half_left, half_right)
    v = (back - middle) / half_depth
    # Flatter than an ellipse in front, where the sac lies on the discs.
    flat = np.where(v < 0, v * v * (0.75 + 0.25 * v * v), v * v)
    distance = (np.sqrt(u * u + flat) - 1) * np.minimum(half_depth, half_left)
    distance = np.maximum(distance, 0.85 * behind + 0.3)
    values = painted(values, contrast.ligament, covered_through(distance - 0.45, softness))
    part = covered_through(distance, softness).ravel()
    inside = np.flatnonzero(part > 0)
    here = tuple(axis.ravel()[inside] for axis in (u, v, half_left, half_depth, along))
    fluid = _paint_fluid(here, index.ravel()[inside], sac, contrast, softness)
    flat_values = values.ravel()
    flat_values[inside] += (fluid - flat_values[inside]) * part[inside]
    flat_place = left.ravel(), back.ravel()
    _paint_roots(flat_values, flat_place, index.ravel(), sac, contrast, softness)
    return flat_values.reshape(values.shape)


def _paint_space(
    values: Singles, place: tuple[Singles, ...], index: NDArray[np.int32], sac: Sac, contrast: Contrast, softness: float
) -> Singles:
    """Paint the space between bone and sac: veins, fat, the ligamentum flavum."""
    left, back, behind = place
    front, rear, half = sac.bony.take(index, axis=1)
    caudal = sac.caudal.take(index)
    # From its inner surface back to the laminae.
    lamina = back - rear + 1.6 + 0.4 * np.abs(left)
    outer = np.maximum(behind - 1.0 - 12.0 * sac.ligament.take(index), lamina)
    walls = np.maximum(np.maximum(front - back, outer), np.abs(left) - half - 2.0)
    # Veins lie in front of the sac; behind it and towards the foramina there is fat.
    fatty = np.clip(np.maximum(back * 0.5 + 1, np.abs(left) * 0.2 - 1), 0, 1)
    fatty = np.maximum(fatty, caudal)
    fill = contrast.epidural + (np.float32(0.95 * contrast.fat) - np.float32(contrast.epidural)) * fatty
    values = painted(values, fill.astype(np.float32), covered_through(walls, softness))
    flavum = np.maximum(np.maximum(-behind, outer), np.abs(left) - half - 4.0)
    flavum = np.maximum(flavum, (caudal - 0.6) * 10)
    values = painted(values, contrast.ligament, covered_through(flavum, softness))
    # The ligament on the back of the bodies and discs.
    behind_body = np.maximum(np.abs(back - front) - 0.6, np.abs(left) - 7.0)
    values = painted(values, contrast.ligament, covered_through(behind_body, softness) * 0.8)
    for x, y, half_x, half_y in sac.recess_fat.take(index, axis=2):
        spot = ellipse(left - x, back - y, half_x, half_y)
        values = painted(values, contrast.fat * 0.9, covered(spot, softness))
    return values


def _paint_fluid(
    place: tuple[Singles, ...], index: NDArray[np.int32], sac: Sac, contrast: Contrast, softness: float
) -> Singles:
    """Return the brightness inside the sac: fluid with its pulsation, cord, rootlets."""
    u, v, half_width, half_depth, along = place
    # Pulsating fluid loses signal in clouds, mostly behind the cord and roots and between the discs.
    wave = np.sin(along * 0.19) * np.sin(2.1 * u + along * 0.07)
    cloud = np.clip(wave * 0.9 + 0.5 * v - 0.15, 0, 1)
    fluid = np.float32(contrast.csf) * (1 - np.float32(contrast.flow) * cloud)
    cord = sac.cord.take(index)
    x, y = u * half_width, (v + 0.05) * half_depth
    distance = np.sqrt(x * x + (y * 1.25) ** 2) - cord
    fluid = painted(fluid, contrast.cord, covered(distance, softness) * (cord > 0.3))
    for rootlet_left, rootlet_back in sac.rootlets.take(index, axis=2):
        dx, dy = (u - rootlet_left) * half_width, (v - rootlet_back) * half_depth
        part = covered(np.sqrt(dx * dx + dy * dy) - np.float32(ROOTLET_RADIUS), softness)
        fluid = painted(fluid, contrast.nerve, part)
    return fluid


def _paint_roots(
    values: Singles, place: tuple[Singles, ...], index: NDArray[np.int32], sac: Sac, contrast: Contrast, softness: float
) -> None:
    """Paint the roots between sac and foramen, flattened where their recess is narrow; in place."""
    left, back = place
    for course, depth in zip(sac.roots, sac.root_depth, strict=True):
        x = course[0].take(index)
        here = np.flatnonzero(np.abs(left - x) < 4.0)
        at = index[here]
        y = (back[here] - course[1].take(at)) * (np.float32(ROOT_RADIUS) / depth.take(at))
        distance = np.sqrt((left[here] - x[here]) ** 2 + y * y) - np.float32(ROOT_RADIUS)
        values[here] = painted(values[here], contrast.nerve, covered(distance, softness))
