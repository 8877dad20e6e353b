"""What runs along the canal: the thecal sac with its fluid, the cord, the roots, and the fat around.

All is tabulated along the canal's centre line and evaluated in its curved coordinates (`patient.Spine.curved`)."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.phantom.anatomy import SIDES
from lumbar_kaggle.phantom.patient import STEP, Patient, Spine, closing
from lumbar_kaggle.phantom.settings import Contrast, Floats, Singles
from lumbar_kaggle.phantom.shapes import covered, covered_through, ellipse, painted

# Half sizes in mm of the band around the centre line that holds everything painted here.
REACH_BACK, REACH_SIDE = 20.0, 27.0
ABSENT = 99.0  # position, far outside, of what is not there
SAC_HALF_WIDTH, ROOTLET_RADIUS, ROOT_RADIUS = 8.6, 0.8, 1.9  # mm


class Sac:
    """The canal of one patient: tables along the centre line, float32; index n = mm along the line / `STEP`."""

    def __init__(self, patient: Patient, spine: Spine, rng: np.random.Generator) -> None:
        along = np.arange(0.0, len(spine.points)) * STEP
        self._patient, self._spine, self._along = patient, spine, along
        size, sacral, tip = patient.size, patient.first_sacral, spine.level_at(0) + patient.conus
        start, end = spine.vertebra_at[sacral - 1], spine.vertebra_at[sacral]
        caudal = np.clip((start - along) / (start - end), 0, 1)  # rises in the sacrum, where fat takes the sac's place
        bounds, crowding = self._bounds(caudal)
        self.bounds = bounds.astype(np.float32)
        # Front, back and half width [n] of the bony canal, mm, the latter up to the inner side of the pedicles.
        self._front, self._rear = np.float32(-patient.canal_half), np.float32(patient.canal_half + 7.0 * size)
        inner = patient.pedicle - patient.pedicle_half_width
        half_width = np.interp(along, spine.vertebra_at[::-1], inner[::-1])
        # Inner surface of the ligamentum flavum, before which lies fat: mm behind the line, and forwards per mm aside.
        pad, slope = np.full(len(along), 0.7), np.full(len(along), 0.42)
        for k, at in enumerate(spine.disc_at[:sacral]):
            g, near = float(patient.disc_severity(k)[0]), _hill(along - at - 3.0, 8.5)
            pad += 4.2 * size * patient.epidural_fat * closing(g, 2.4) * near
            slope += (0.1 + 0.05 * min(g, 3.0)) * near
        # 1 where a disc lies in front and the ligamentum flavum behind, 0 between
        discs = np.clip(np.sum([_hill(along - at, 8.0) for at in spine.disc_at[:sacral]], axis=0) * 1.25, 0, 1)
        cord = 4.4 * size * np.clip((along - tip) / 30.0, 0, 1) ** 0.6  # radius: full above, then a cone to the conus
        self._tables = np.array([bounds[1] + pad, slope, half_width + 0.5, discs, caudal, cord], np.float32)
        self._rootlets = self._draw_rootlets(crowding, tip, rng)
        self._roots, self._recess_fat = self._make_recesses(inner, half_width)

    def _bounds(self, caudal: Floats) -> tuple[Floats, Floats]:
        """Return the sac's extent: front, back (mm behind the line), left and right half width ``[4, n]``. Beside it is
        the crowding of its roots ``[n]``: 0 none, 1 and more severe."""
        patient, spine, along = self._patient, self._spine, self._along
        depth = 2 * patient.canal_half * patient.sac_share
        lost, width, crowding = np.zeros((2, len(along))), np.ones((2, len(along))), np.zeros(len(along))
        for level in range(5):
            g, above = patient.severity[:, level], along - spine.level_at(level)
            near, loss = _hill(above, 5.5), depth * (1 - closing(g[0], 2.3))
            for end, share in enumerate((1 - patient.flavum_share[level], patient.flavum_share[level])):
                place, reach = patient.narrow_above[end, level], patient.narrow_reach[end, level]
                lost[end] += loss * share * _hill(above - place, reach)
            for side, _ in SIDES:
                width[side] *= 1 - (1 - closing(g[0], 3.6) * (1 - 0.09 * min(g[3 + side], 3.0))) * near
            crowding += max(g[0] - 0.7, 0.0) / 1.3 * near
        sacral = patient.first_sacral
        ends = spine.vertebra_at[[sacral + 2, sacral + 1, sacral - 1]] + patient.sac_end
        taper = np.interp(along, ends, [0.02, 0.5, 1.0])
        sunk = patient.sunk * patient.size * caudal  # fat in front pushes the sac back at L5/S1
        front = sunk - depth / 2 * taper + lost[0]
        back = np.maximum(sunk + depth / 2 * taper - lost[1], front + 0.3)
        return np.stack([front, back, *(SAC_HALF_WIDTH * patient.size * taper * width)]), crowding

    def _draw_rootlets(self, crowding: Floats, tip: float, rng: np.random.Generator) -> Singles:
        """Return the cauda equina ``[m, 2, n]``: two rootlets a side for each root L2 to S5, sinking to the back. They
        are places as part of the sac's half width and half depth, or `ABSENT`."""
        along, crowd, rootlets = self._along, np.clip(crowding, 0, 1), []
        for order in range(7):  # L2 leaves first and lies outermost; the sacral roots end in the middle
            leaves = self._spine.disc_at[min(self._patient.first_disc + order, len(self._spine.disc_at) - 1)]
            across = 0.78 - 0.11 * order
            to_wall = _hill(np.maximum(along - leaves - 4.0, 0.0), 14.0)
            seen = (along > leaves) & (along < tip + 25.0)
            for sign, forward in product((1.0, -1.0), (0.0, 0.28)):
                wave = 0.05 * np.sin(along / rng.uniform(12, 25) + rng.uniform(0, 6.3))
                left = sign * (across + (0.86 - across) * to_wall) + wave + rng.normal(0, 0.03)
                rest = 0.72 - 0.45 * across**2 - forward * (0.4 + across) + rng.normal(0, 0.06)
                # Squeezed roots fill the whole sac.
                back = (rest * (1 - to_wall) + wave) * (1 - crowd) + crowd * rng.uniform(-0.75, 0.8)
                rootlets.append(np.where(seen, np.stack([left, back]), ABSENT))
        return np.array(rootlets, np.float32)

    def _make_recesses(self, inner: Floats, half_width: Floats) -> tuple[Singles, Singles]:
        """Return the roots L2 to S1 from the sac through the recess to below the pedicle, and the fat around them. Of a
        root it is mm left and back, or `ABSENT`, and its radius from front to back in mm ``[r, 3, n]``; of the fat on
        either side left, back, half width and half depth, mm ``[2, 4, n]``."""
        patient, along, size, roots = self._patient, self._along, self._patient.size, []
        fat = np.full((2, 4, len(along)), 0.05)
        for level, (side, sign) in product(range(5), SIDES):
            k = patient.first_disc + level + 1
            disc, body = self._spine.level_at(level), self._spine.vertebra_at[k]
            g = patient.severity[3 + side, level]
            pressed = 0.35 * min(g, 3.0)  # inwards and back by the disc
            under = patient.recess_x(k - 1) - 1.5 * pressed
            knots = [body - 12.0 * size, body - 2.0, body + 4.0, disc - 3.0, disc + 9.0]
            course = [0.95 * patient.pedicle[k], inner[k] - 0.5, inner[k] - 2.2, under, 6.5 * size]
            left = sign * np.interp(along, knots, course)
            back = np.interp(along, knots, [-4.5, -4.6, -4.5, -3.5 + pressed, -1.5])
            seen = (along > knots[0]) & (along < knots[-1])
            flat = 1 - (1 - closing(g, 2.6)) * _hill(along - disc + 2.0, 8.0)
            roots.append([*np.where(seen, np.stack([left, back]), ABSENT), ROOT_RADIUS * size * flat])
            here = _hill(along - disc + 3.0, 9.0)
            fat[side, 0], fat[side, 1] = sign * (half_width - 1.8), -3.8
            fat[side, 2] += 4.4 * size * here * closing(g, 2.6)
            fat[side, 3] += 4.2 * size * here * closing(g, 1.9)
        return np.array(roots, np.float32), fat.astype(np.float32)

    def paint(self, values: Singles, place: tuple[Singles, ...], contrast: Contrast, soft: float) -> Singles:
        """Return the brightness ``[heights, n]`` of pixels near the line with the canal painted over it. `place` is
        three ``[heights, n]``: mm left, back, along; edges are `soft` mm wide."""
        left, back, along = place
        index = np.clip((along * np.float32(1 / STEP)).astype(np.int32), 0, self._tables.shape[1] - 1)
        apex, slope, *space = self._tables[:5].take(index, axis=1)
        behind = back - apex + slope * np.abs(left)  # mm behind the inner surface of the ligamentum flavum
        values = self._paint_space(values, (left, back, behind), space, contrast, soft)
        for x, y, half_x, half_y in self._recess_fat.take(index, axis=2):
            distance = ellipse(left - x, back - y, half_x, half_y)
            values = painted(values, contrast["fat"] * 0.9, covered(distance, soft))
        front, rear, half_left, half_right = self.bounds.take(index, axis=1)
        half_depth, middle = (rear - front) / 2, (rear + front) / 2
        u, v = left / np.where(left > 0, half_left, half_right), (back - middle) / half_depth
        # Flatter than an ellipse in front, where the sac lies on the discs.
        flat = np.where(v < 0, v * v * (0.75 + 0.25 * v * v), v * v)
        distance = (np.sqrt(u * u + flat) - 1) * np.minimum(half_depth, half_left)
        distance = np.maximum(distance, 0.85 * behind + 0.3)
        values = painted(values, contrast["ligament"], covered_through(distance - 0.45, soft)).ravel()
        part = covered_through(distance, soft).ravel()
        inside = np.flatnonzero(part > 0)
        here = tuple(axis.ravel()[inside] for axis in (u, v, half_left, half_depth, along))
        fluid = self._fluid(here, index.ravel()[inside], contrast, soft)
        values[inside] += (fluid - values[inside]) * part[inside]
        # The roots between sac and foramen, flattened where their recess is narrow.
        flat_left, flat_back, flat_index = left.ravel(), back.ravel(), index.ravel()
        for root_left, root_back, depth in self._roots:
            x = flat_left - root_left.take(flat_index)
            near = np.flatnonzero(np.abs(x) < 4.0)
            at = flat_index[near]
            y = (flat_back[near] - root_back.take(at)) * (np.float32(ROOT_RADIUS) / depth.take(at))
            distance = np.sqrt(x[near] ** 2 + y * y) - np.float32(ROOT_RADIUS)
            values[near] = painted(values[near], contrast["nerve"], covered(distance, soft))
        return values.reshape(left.shape)

    def _paint_space(
        self, values: Singles, place: tuple[Singles, ...], space: list[Singles], contrast: Contrast, soft: float
    ) -> Singles:
        """Paint the space between bone and sac: veins, fat, the ligamentum flavum."""
        (left, back, behind), (half, disc, caudal) = place, space
        # From its inner surface back to the laminae.
        outer = np.maximum(behind - 1.0 - 12.0 * disc, back - self._rear + 1.6 + 0.4 * np.abs(left))
        walls = np.maximum(np.maximum(self._front - back, outer), np.abs(left) - half - 2.0)
        # Veins lie in front of the sac; behind it and towards the foramina there is fat.
        fatty = np.maximum(np.clip(np.maximum(back * 0.5 + 1, np.abs(left) * 0.2 - 1), 0, 1), caudal)
        fill = painted(np.float32(contrast["epidural"]), np.float32(0.95 * contrast["fat"]), fatty)
        values = painted(values, fill, covered_through(walls, soft))
        flavum = np.maximum(np.maximum(np.maximum(-behind, outer), np.abs(left) - half - 4.0), (caudal - 0.6) * 10)
        values = painted(values, contrast["ligament"], covered_through(flavum, soft))
        # The ligament on the back of the bodies and discs.
        posterior = np.maximum(np.abs(back - self._front) - 0.6, np.abs(left) - 7.0)
        return painted(values, contrast["ligament"], covered_through(posterior, soft) * 0.8)

    def _fluid(self, place: tuple[Singles, ...], index: NDArray[np.int32], contrast: Contrast, soft: float) -> Singles:
        """Return the brightness inside the sac: fluid with its pulsation, cord, rootlets."""
        u, v, half_width, half_depth, along = place
        # Pulsating fluid loses signal in clouds, mostly behind the cord and roots and between the discs.
        wave = np.sin(along * 0.19) * np.sin(2.1 * u + along * 0.07)
        cloud = np.clip(wave * 0.9 + 0.5 * v - 0.15, 0, 1)
        fluid = np.float32(contrast["csf"]) * (1 - np.float32(contrast["flow"]) * cloud)
        cord = self._tables[5].take(index)
        x, y = u * half_width, (v + 0.05) * half_depth
        distance = np.sqrt(x * x + (y * 1.25) ** 2) - cord
        fluid = painted(fluid, contrast["cord"], covered(distance, soft) * (cord > 0.3))
        for left, back in self._rootlets.take(index, axis=2):
            dx, dy = (u - left) * half_width, (v - back) * half_depth
            distance = np.sqrt(dx * dx + dy * dy) - np.float32(ROOTLET_RADIUS)
            fluid = painted(fluid, contrast["nerve"], covered(distance, soft))
        return fluid


def _hill(distance: Floats, width: float) -> Floats:
    """Return 1 in the middle, falling off on both sides; flatter on top than a normal curve."""
    return np.exp(-0.5 * (np.abs(distance) / width) ** 2.6)
