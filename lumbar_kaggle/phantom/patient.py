"""One patient's dimensions, and the course of the spine that follows from them.

The dimensions are what differs between people beside the 25 grades, in millimetres and degrees. They are the
distractors: disc height, hydration, fat, inborn canal width, wear of facet joints and end plates vary
independently, only loosely tied to the grades, so that none of them gives a grade away.

A *frame* is an origin and three unit axes: to the patient's left, to the back, and upwards along the spine,
all in LPS mm. Local coordinates (x, y, z) are measured along them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.phantom.grades import Grades
from lumbar_kaggle.phantom.settings import Floats, Singles

STEP = 0.25  # distance between the tabulated points of the centre line, mm
N_VERTEBRAE = 13  # T10 to S5, head to foot; disc k lies between vertebra k and k + 1
FIRST_LUMBAR, USUAL_SACRAL = 3, 8  # index of L1, and of S1 in a patient with five lumbar vertebrae

# Means of adults, T10 to S5 (mm): height at the back wall, depth, width, height of the disc below at its
# back, half the distance of the pedicles' centres, half width of a pedicle; degrees of front wedging.
# Orders of magnitude of Berry et al., Spine 12:362 (1987) and Zhou et al., Eur Spine J 9:242 (2000).
_MEANS_MM = {
    "height": (23, 24, 26, 27, 28, 28, 27.5, 25, 29, 24, 20, 17, 14),
    "depth": (29, 30, 31, 32, 33, 34, 35, 35, 31, 21, 14, 11, 9),
    "width": (34, 36, 40, 43, 45, 47, 49, 52, 54, 46, 38, 30, 22),
    "disc": (4.0, 4.5, 5.5, 6.5, 7.5, 8.0, 8.0, 6.5, 2.0, 1.2, 1.0, 1.0, 0.0),
    "pedicle": (13, 13.2, 14, 14.8, 15.4, 16.6, 18.2, 21, 22, 18, 14, 12, 10),
    "pedicle_half_width": (3, 3.2, 3.5, 3.6, 4.0, 4.8, 5.8, 7.5, 9, 7, 5, 4, 3),
}
WEDGE = (-3, -3, -3, -2, 0, 1, 2, 8, 2, 0, 0, 0, 0)
# Share of the lordosis between neighbours, the last of them lumbosacral, wedging of the bodies included.
LORDOSIS_SHARES = (0.06, 0.08, 0.11, 0.17, 0.27, 0.37)

# Shares of patients with a lumbarised S1 and with a sacralised L5: 5 % together.
SIX_LUMBAR, SACRALISED = 0.022, 0.03
COUNTED_FROM_BELOW = {"six": 0.7, "sacralised": 0.3}
"""How often a reader takes the lowest mobile disc for L5/S1, against counting from the ribs."""


@dataclass(frozen=True)
class Wear:
    """Degenerative changes that no label grades."""

    osteophyte: Floats  # [12] mm by which the rims beside a disc stand out
    modic: NDArray[np.int64]  # [12] marrow beside a disc: 0 as elsewhere, 1 watery, 2 fatty, 3 hardened
    modic_depth: Floats  # [12] mm from the end plate
    schmorl: Floats  # [12, 2] depth (mm) of a dent in the end plate above, below the disc; 0 none
    slip: Floats  # [13] mm by which a body has slid forwards
    fracture: Floats  # [13] share of the height that the middle of a body has lost
    spot: Floats  # [13] radius in mm of a fatty spot (haemangioma) in a body; 0 none


@dataclass(frozen=True)
class Patient:
    """Dimensions of one patient; every millimetre is already scaled by `size`."""

    # The first vertebra that is shaped like the sacrum: 8, 9 with six lumbar-type vertebrae, 7 with a
    # sacralised fifth; and the disc that the reader calls L1/L2, the other four follow.
    first_sacral: int
    first_disc: int
    size: float  # body scale, 1 for an average adult
    angles: Floats  # [13] radians by which each vertebra's upward axis leans to the back
    height: Floats  # [13] of the vertebral bodies, mm, as depth and width
    depth: Floats
    width: Floats
    wedge: Floats  # [13] radians by which the front is opened
    disc_height: Floats  # [12] at the back wall, mm
    hydration: Floats  # [12] of the discs, 0 (dry) to 1
    pedicle: Floats  # [13] mm from the middle, as the half width
    pedicle_half_width: Floats
    canal_half: float  # half the front-to-back width of the bony canal, mm
    sac_share: float  # part of that width which the thecal sac takes where nothing is narrow
    scoliosis: tuple[float, float, float]  # amplitude (mm), wave length (mm), phase of the sideways curve
    origin: Floats  # [3] LPS mm of the canal's centre at the L3/L4 disc
    fat: float  # thickness of the fat under the skin of the back, mm
    abdomen: float  # depth of the trunk in front of the spine, mm
    epidural_fat: float  # 0.5 to 1.5 of the average amount
    marrow_fat: float  # 0 to 1
    muscle_fat: float  # 0 to 1
    muscle: float  # 0.8 to 1.2 of the average size of the muscles
    conus: float  # mm by which the cord ends below (-) or above (+) the L1/L2 disc
    flavum_share: Floats  # [5] share of a canal's narrowing that comes from behind
    facet_turn: Floats  # [12, 2] degrees of the facet joints' planes beside the mean (tropism)
    facet_size: Floats  # [12, 2] inborn scale of the facet joints, left and right
    foramen_size: Floats  # [12, 2] the same of the foramina
    wear: Wear
    severity: Floats  # [5, 5] g, see `grades.Grades`
    texture_seed: int  # of the grain of marrow, muscle and bowel

    def disc_severity(self, disc: int) -> Floats:
        """Return ``[5]`` g of the conditions at a disc, zeros outside the five labelled levels."""
        level = disc - self.first_disc
        return self.severity[:, level] if 0 <= level < 5 else np.zeros(5)


def draw_patient(rng: np.random.Generator, grades: Grades) -> Patient:
    """Draw a patient who has the given grades."""

    def near(spread: float, least: float, most: float, mean: float = 1.0, size: Any = None) -> Any:
        return np.clip(rng.normal(mean, spread, size), least, most)

    size = float(near(0.06, 0.85, 1.15))
    age = rng.uniform()
    first_sacral, first_disc = _draw_count(rng)
    build = {name: size * _by_vertebra(values, first_sacral) for name, values in _MEANS_MM.items()}
    worst = np.zeros(N_VERTEBRAE - 1)
    worst[first_disc : first_disc + 5] = grades.severity.max(axis=0)
    disc_height = build["disc"][:-1] * near(0.16, 0.5, 1.4, size=12) * (1 - 0.04 * worst)
    disc_height[first_sacral:] = np.minimum(disc_height[first_sacral:], 2.5)
    hydration = np.clip(1.0 - 0.5 * age + rng.normal(0.0, 0.2, 12) - 0.06 * worst, 0.02, 1.0)
    lumbar = _by_vertebra(WEDGE, first_sacral)
    return Patient(
        first_sacral,
        first_disc,
        size,
        angles=_angles(rng, first_sacral),
        height=build["height"] * rng.normal(1.0, 0.035, 13) * rng.normal(1.0, 0.03),
        depth=build["depth"] * rng.normal(1.0, 0.025, 13) * rng.normal(1.0, 0.04),
        width=build["width"] * rng.normal(1.0, 0.025, 13),
        wedge=np.radians(lumbar + rng.normal(0.0, 1.3, 13)),
        disc_height=disc_height,
        hydration=hydration,
        pedicle=build["pedicle"] * rng.normal(1.0, 0.03),
        pedicle_half_width=build["pedicle_half_width"] * rng.normal(1.0, 0.07),
        canal_half=float(8.8 * size * near(0.07, 0.83, 1.18)),
        sac_share=float(near(0.05, 0.7, 0.96, mean=0.84)),
        scoliosis=(float(rng.normal(0, 2.2)), float(rng.uniform(170, 330)), float(rng.uniform(0, 2 * np.pi))),
        origin=rng.normal(0.0, (6.0, 12.0, 10.0)),
        fat=float(np.clip(rng.gamma(2.6, 6.0), 4.0, 55.0)),
        abdomen=float(near(24.0, 75.0, 190.0, mean=120.0)) * size,
        epidural_fat=float(near(0.25, 0.5, 1.5)),
        marrow_fat=float(np.clip(0.25 + 0.5 * age + rng.normal(0.0, 0.15), 0.05, 1.0)),
        muscle_fat=float(np.clip(0.02 + 0.5 * age + rng.normal(0.0, 0.14), 0.0, 0.8)),
        muscle=float(near(0.09, 0.78, 1.22)),
        conus=float(rng.normal(10.0, 11.0)),
        flavum_share=rng.uniform(0.3, 0.7, 5),
        facet_turn=rng.normal(0.0, 6.0, (12, 2)),
        facet_size=np.clip(rng.normal(1.0, 0.06) * rng.normal(1.0, 0.09, (12, 2)), 0.75, 1.3),
        foramen_size=np.clip(rng.normal(1.0, 0.06) * rng.normal(1.0, 0.07, (12, 2)), 0.78, 1.25),
        wear=_draw_wear(rng, age, size, first_sacral),
        severity=grades.severity,
        texture_seed=int(rng.integers(2**31)),
    )


def _draw_count(rng: np.random.Generator) -> tuple[int, int]:
    """Return the index of the first sacral vertebra and of the disc that the reader calls L1/L2."""
    kind, reader = rng.random(2)
    if kind < SIX_LUMBAR:
        return USUAL_SACRAL + 1, FIRST_LUMBAR + int(reader < COUNTED_FROM_BELOW["six"])
    if kind < SIX_LUMBAR + SACRALISED:
        return USUAL_SACRAL - 1, FIRST_LUMBAR - int(reader < COUNTED_FROM_BELOW["sacralised"])
    return USUAL_SACRAL, FIRST_LUMBAR


def _by_vertebra(values: tuple[float, ...], first_sacral: int) -> Floats:
    """Return ``[13]`` means of a patient whose sacrum begins at `first_sacral`."""
    means = np.array(values, dtype=np.float64)
    s1 = USUAL_SACRAL
    if first_sacral > s1:  # a second vertebra like L5, the sacrum shifted down
        return np.concatenate([means[:s1], means[s1 - 1 : -1]])
    if first_sacral < s1:  # L5 half-way to S1, its disc rudimentary
        means[s1 - 1] = 0.5 * (means[s1 - 1] + means[s1])
    return means


def _angles(rng: np.random.Generator, first_sacral: int) -> Floats:
    """Return ``[13]`` backward lean of the vertebrae in radians."""
    slope = rng.normal(38.0, 8.0)
    lordosis = max(15.0, slope + 10.0 + rng.normal(0.0, 6.0))
    shares = np.array(LORDOSIS_SHARES[-(first_sacral - FIRST_LUMBAR) :])
    shares = shares * np.clip(rng.normal(1.0, 0.18, len(shares)), 0.4, 1.6)
    s1 = -(slope + 2.0)
    lumbar = s1 + lordosis * np.cumsum(shares[::-1] / shares.sum())[::-1]
    thoracic = lumbar[0] + np.array([-7.0, -3.0, 0.0]) + rng.normal(0.0, 2.0)
    bend = rng.uniform(0.6, 1.3)
    sacral = s1 + bend * np.array([0.0, 1.0, 9.0, 28.0, 50.0, 66.0])[: N_VERTEBRAE - first_sacral]
    return np.radians(np.concatenate([thoracic, lumbar, sacral]))


def _draw_wear(rng: np.random.Generator, age: float, size: float, first_sacral: int) -> Wear:
    """Draw what comes with age but is not graded; the frequencies are rough ones of older adults."""
    n = N_VERTEBRAE
    above = np.arange(n) < first_sacral
    movable = above[:-1]
    osteophyte = size * rng.gamma(1.2, 0.9, n - 1) * (0.3 + age) * movable
    has_modic = (rng.random(n - 1) < 0.03 + 0.14 * age) & movable
    kinds = rng.choice([1, 2, 3], n - 1, p=[0.3, 0.6, 0.1])
    schmorl = size * rng.uniform(1.5, 5.0, (n - 1, 2)) * (rng.random((n - 1, 2)) < 0.05) * movable[:, None]
    slip = size * rng.uniform(-2.0, 5.0, n) * (rng.random(n) < 0.05 * age) * above
    fracture = rng.uniform(0.1, 0.45, n) * (rng.random(n) < 0.025 * age) * above
    spot = size * rng.uniform(2.5, 8.0, n) * (rng.random(n) < 0.06)
    modic, modic_depth = np.where(has_modic, kinds, 0), rng.uniform(2.5, 11.0, n - 1)
    return Wear(np.minimum(osteophyte, 5.0), modic, modic_depth, schmorl, slip, fracture, spot)


@dataclass(frozen=True)
class Spine:
    """Centre line of the canal, tabulated from the foot end to the head end."""

    points: Floats  # [n, 3] LPS mm, every `STEP` mm along the line
    axes: Floats  # [n, 3, 3] unit vectors to the left, back and up (rows) at each point
    vertebra_at: Floats  # [13] mm along the line
    disc_at: Floats  # [12] mm along the line
    first_disc: int  # index of the disc of level 0

    def frame(self, along: float) -> tuple[Floats, Floats]:
        """Return origin ``[3]`` and axes ``[3, 3]`` at `along` mm of the line."""
        k = int(np.clip(round(along / STEP), 0, len(self.points) - 1))
        return self.points[k], self.axes[k]

    def place(self, along: float, local: tuple[float, float, float]) -> Floats:
        """Return the LPS mm ``[3]`` of a point given in the frame at `along`."""
        origin, axes = self.frame(along)
        return origin + np.asarray(local) @ axes

    def level_at(self, level: int) -> float:
        """Return mm along the line of the disc of level 0 (``l1_l2``) to 4; -1 and 5 are beside."""
        return float(self.disc_at[self.first_disc + level])


def build_spine(patient: Patient) -> Spine:
    """Return the course of a patient's spine."""
    gaps = -np.diff(patient.angles)  # how much the lean falls from one vertebra to the next below
    # The canal runs on the inner side of the lordosis, behind the wall where heights are measured.
    bodies = (patient.height[:-1] + patient.height[1:]) / 2
    spacing = bodies + patient.disc_height - gaps * patient.canal_half
    below = np.concatenate([[0.0], np.cumsum(spacing)])
    vertebra_at = below[-1] + 40.0 - below
    body_end = vertebra_at[:-1] - patient.height[:-1] / 2
    disc_at = body_end - (spacing - bodies) / 2
    along = np.arange(0.0, vertebra_at[0] + 60.0, STEP)
    lean = np.interp(along, vertebra_at[::-1], patient.angles[::-1])
    # Smoothed along the line by a normal of 6 mm, ends held.
    reach = int(4 * 6.0 / STEP)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * STEP / 6.0) ** 2)
    lean = np.convolve(np.pad(lean, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
    amplitude, wave, phase = patient.scoliosis
    turn = 2 * np.pi / wave
    sideways = amplitude * np.sin(turn * along + phase)
    roll = amplitude * turn * np.cos(turn * along + phase)
    up = np.stack([roll, np.sin(lean), np.cos(lean)], axis=1)
    points = np.cumsum(up, axis=0) * STEP
    points[:, 0] = sideways
    left = np.stack([np.ones_like(lean), -roll * np.sin(lean), -roll * np.cos(lean)], axis=1)
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    axes = np.stack([left, np.cross(up, left), up], axis=1)
    middle = round(float(disc_at[FIRST_LUMBAR + 2]) / STEP)
    return Spine(points - points[middle] + patient.origin, axes, vertebra_at, disc_at, patient.first_disc)


class CentreLine:
    """Lookup of `Spine` in single precision, for whole images.

    Points between the table's entries are carried to the nearest one's frame, which is exact to the
    first order.
    """

    def __init__(self, spine: Spine) -> None:
        self._points = spine.points.astype(np.float32).T
        self._axes = np.ascontiguousarray(spine.axes.transpose(1, 2, 0), dtype=np.float32)
        self._offsets = np.einsum("nk,nak->an", spine.points, spine.axes).astype(np.float32)
        z = np.arange(np.floor(spine.points[0, 2]), np.ceil(spine.points[-1, 2]), STEP)
        self._z0 = np.float32(z[0])
        course = np.stack([np.interp(z, spine.points[:, 2], spine.points[:, k]) for k in (0, 1)])
        self._course = course.astype(np.float32)
        self._start = np.interp(z, spine.points[:, 2], np.arange(len(spine.points))).astype(np.int32)

    def at_height(self, z: Singles) -> tuple[Singles, Singles]:
        """Return x and y (mm) of the line at heights `z` of any shape; its ends are held."""
        index = self._index(z)
        return self._course[0].take(index), self._course[1].take(index)

    def curved(self, points: Singles) -> tuple[Singles, Singles, Singles]:
        """Return (left, back, along) in mm of ``[3, n]`` points near the line, each ``[n]``."""
        nearest = self._start.take(self._index(points[2]))
        for _ in range(2):
            ahead = self._along(points, nearest, 2)
            nearest += np.rint(ahead * np.float32(1 / STEP)).astype(np.int32)
            np.clip(nearest, 0, self._points.shape[1] - 1, out=nearest)
        left, back, ahead = (self._along(points, nearest, axis) for axis in range(3))
        return left, back, nearest.astype(np.float32) * np.float32(STEP) + ahead

    def _along(self, points: Singles, nearest: NDArray[np.int32], axis: int) -> Singles:
        """Return the coordinate of points along one axis of the frames at table entries `nearest`."""
        direction = self._axes[axis].take(nearest, axis=1)
        return np.einsum("kn,kn->n", points, direction) - self._offsets[axis].take(nearest)

    def _index(self, z: Singles) -> NDArray[np.int32]:
        index = ((z - self._z0) * np.float32(1 / STEP)).astype(np.int32)
        return np.clip(index, 0, self._course.shape[1] - 1)
