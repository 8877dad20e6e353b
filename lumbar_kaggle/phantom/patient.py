"""One patient's dimensions, and the course of the spine that follows from them.

The dimensions are the distractors: disc height, hydration, fat, inborn canal width, wear of facet joints and end plates
vary independently, only loosely tied to the 25 grades, so that none of them gives a grade away. A *frame* is an origin
and three unit axes in LPS mm, along which x, y, z are measured: to the left, to the back, and up along the spine."""

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.phantom.grades import Grades
from lumbar_kaggle.phantom.settings import Floats, Singles

STEP = 0.25  # distance between the tabulated points of the centre line, mm
N_VERTEBRAE = 13  # T10 to S5, head to foot; disc k lies between vertebra k and k + 1
FIRST_LUMBAR, USUAL_SACRAL = 3, 8  # index of L1, and of S1 in a patient with five lumbar vertebrae

# Means of adults, T10 to S5 (mm): height at the back wall, depth, width, height of the disc below at its back, half
# the distance of the pedicles' centres, half width of a pedicle. Orders of magnitude of Berry et al., Spine 12:362
# (1987) and Zhou et al., Eur Spine J 9:242 (2000).
_MEANS_MM = {
    "height": (23, 24, 26, 27, 28, 28, 27.5, 25, 29, 24, 20, 17, 14),
    "depth": (29, 30, 31, 32, 33, 34, 35, 35, 31, 21, 14, 11, 9),
    "width": (34, 36, 40, 43, 45, 47, 49, 52, 54, 46, 38, 30, 22),
    "disc": (4.0, 4.5, 5.5, 6.5, 7.5, 8.0, 8.0, 6.5, 2.0, 1.2, 1.0, 1.0, 0.0),
    "pedicle": (13, 13.2, 14, 14.8, 15.4, 16.6, 18.2, 21, 22, 18, 14, 12, 10),
    "pedicle_half_width": (3, 3.2, 3.5, 3.6, 4.0, 4.8, 5.8, 7.5, 9, 7, 5, 4, 3),
}
_WEDGE = (-3, -3, -3, -2, 0, 1, 2, 8, 2, 0, 0, 0, 0)  # degrees by which the bodies are opened to the front


class Patient:
    """Dimensions of one patient who has the given grades, `varied`: see `_vary`; every millimetre is already scaled by
    `size`. Arrays have one value for each vertebra ``[13]`` or disc ``[12]``, pairs of them for left and right."""

    def __init__(self, rng: np.random.Generator, grades: Grades, *, varied: bool = False) -> None:
        def near(spread: float, least: float, most: float, mean: float = 1.0) -> float:
            return float(np.clip(rng.normal(mean, spread), least, most))

        self.severity = grades.severity  # [5, 5] g, see `grades.Grades`
        self.size = near(0.06, 0.85, 1.15)  # body scale, 1 for an average adult
        age = rng.uniform()
        # The first vertebra like the sacrum: 8, or 9, 7 (six, four lumbar ones); the disc that the reader calls L1/L2.
        self.first_sacral, self.first_disc = _draw_count(rng)
        mean = {name: self.size * _by_vertebra(values, self.first_sacral) for name, values in _MEANS_MM.items()}
        worst = np.zeros(N_VERTEBRAE - 1)
        worst[self.first_disc : self.first_disc + 5] = grades.severity.max(axis=0)
        # mm, at the back wall
        self.disc_height = mean["disc"][:-1] * np.clip(rng.normal(1.0, 0.16, 12), 0.5, 1.4) * (1 - 0.04 * worst)
        self.disc_height[self.first_sacral :] = np.minimum(self.disc_height[self.first_sacral :], 2.5)
        self.hydration = np.clip(1.0 - 0.5 * age + rng.normal(0.0, 0.2, 12) - 0.06 * worst, 0.02, 1.0)  # 0 is dry
        self.angles = _draw_angles(rng, self.first_sacral)  # radians by which the upward axis leans to the back
        self.height = mean["height"] * rng.normal(1.0, 0.035, 13) * rng.normal(1.0, 0.03)  # of the bodies, mm
        self.depth = mean["depth"] * rng.normal(1.0, 0.025, 13) * rng.normal(1.0, 0.04)
        self.width = mean["width"] * rng.normal(1.0, 0.025, 13)
        # Radians by which the front is opened.
        self.wedge = np.radians(_by_vertebra(_WEDGE, self.first_sacral) + rng.normal(0.0, 1.3, 13))
        self.pedicle = mean["pedicle"] * rng.normal(1.0, 0.03)  # mm from the middle
        self.pedicle_half_width = mean["pedicle_half_width"] * rng.normal(1.0, 0.07)
        self.canal_half = float(8.8 * self.size * near(0.07, 0.83, 1.18))  # half the bony canal's depth, mm
        self.sac_share = near(0.05, 0.7, 0.96, mean=0.84)  # of that depth, where nothing is narrow
        # Amplitude (mm), wave length (mm) and phase of the sideways curve.
        self.scoliosis = float(rng.normal(0, 2.2)), float(rng.uniform(170, 330)), float(rng.uniform(0, 2 * np.pi))
        self.origin = rng.normal(0.0, (6.0, 12.0, 10.0))  # [3] LPS mm of the canal's centre at the L3/L4 disc
        self.fat = float(np.clip(rng.gamma(2.6, 6.0), 4.0, 55.0))  # thickness under the skin of the back, mm
        self.abdomen = near(24.0, 75.0, 190.0, mean=120.0) * self.size  # depth of the trunk before the spine, mm
        self.epidural_fat = near(0.25, 0.5, 1.5)  # amount, 1 on average
        self.marrow_fat = float(np.clip(0.25 + 0.5 * age + rng.normal(0.0, 0.15), 0.05, 1.0))  # share
        self.muscle_fat = float(np.clip(0.02 + 0.5 * age + rng.normal(0.0, 0.14), 0.0, 0.8))  # share
        self.muscle = near(0.09, 0.78, 1.22)  # size, 1 on average
        self.conus = float(rng.normal(10.0, 11.0))  # mm by which the cord ends above (+) the L1/L2 disc
        self.flavum_share = rng.uniform(0.3, 0.7, 5)  # of a canal's narrowing that comes from behind, five levels
        self.facet_turn = rng.normal(0.0, 6.0, (12, 2))  # degrees beside the facet joints' mean planes (tropism)
        self.facet_size = np.clip(rng.normal(1.0, 0.06) * rng.normal(1.0, 0.09, (12, 2)), 0.75, 1.3)  # inborn scale
        self.foramen_size = np.clip(rng.normal(1.0, 0.06) * rng.normal(1.0, 0.07, (12, 2)), 0.78, 1.25)
        # The same in all patients, but those that are `varied`, and alone not scaled: how far along the line (mm) a
        # canal's narrowing reaches and how far above the disc's middle it lies, in front and behind ``[2, 5]``; mm by
        # which a disc's whole back edge stands out, of fat that parts the sac from L5/S1, by which the sac ends higher.
        self.narrow_reach, self.narrow_above = np.full((2, 5), 5.5), np.zeros((2, 5))
        self.bulge, self.sunk, self.sac_end = np.full(12, 0.3), 2.6, 0.0
        self._draw_wear(rng, age)
        self.texture_seed = int(rng.integers(2**31))  # of the grain of marrow, muscle and bowel
        if varied:
            self._vary(np.random.default_rng([self.texture_seed, 1]), age, worst)

    def _draw_wear(self, rng: np.random.Generator, age: float) -> None:
        """Draw what comes with age but is not graded; the frequencies are rough ones of older adults."""
        n, size = N_VERTEBRAE, self.size
        above = np.arange(n) < self.first_sacral
        movable = above[:-1]
        # mm by which the rims beside a disc stand out
        self.osteophyte = np.minimum(size * rng.gamma(1.2, 0.9, n - 1) * (0.3 + age) * movable, 5.0)
        has_modic = (rng.random(n - 1) < 0.03 + 0.14 * age) & movable
        # Marrow beside a disc: 0 as elsewhere, 1 watery, 2 fatty, 3 hardened.
        self.modic = np.where(has_modic, rng.choice([1, 2, 3], n - 1, p=[0.3, 0.6, 0.1]), 0)
        # [12, 2] depth (mm) of a dent in the end plate above, below the disc
        self.schmorl = size * rng.uniform(1.5, 5.0, (n - 1, 2)) * (rng.random((n - 1, 2)) < 0.05) * movable[:, None]
        self.slip = size * rng.uniform(-2.0, 5.0, n) * (rng.random(n) < 0.05 * age) * above  # mm forwards
        # Share of the height that the middle of a body has lost, radius in mm of a fatty spot (haemangioma) in it.
        self.fracture = rng.uniform(0.1, 0.45, n) * (rng.random(n) < 0.025 * age) * above
        self.spot = size * rng.uniform(2.5, 8.0, n) * (rng.random(n) < 0.06)
        self.modic_depth = rng.uniform(2.5, 11.0, n - 1)  # mm from the end plate

    def _vary(self, rng: np.random.Generator, age: float, worst: Floats) -> None:
        """Draw the canals anew as they differ between real patients: most are narrowed from the front, by a disc that
        is dark, low and bulges, over a short stretch; the sac parts from L5/S1 more or less. The numbers are ours, set
        by eye beside real slices (docs/real_mri.md)."""
        central = np.zeros(N_VERTEBRAE - 1)
        central[self.first_disc : self.first_disc + 5] = self.severity[0]
        dry = 0.5 * age + 0.1 * np.minimum(worst, 3.0) + 0.12 * np.minimum(central, 3.0)
        self.hydration = np.clip(1.05 - dry + rng.normal(0.0, 0.17, 12), 0.02, 1.0)
        self.disc_height *= 1 - 0.05 * np.minimum(worst, 3.0) * rng.random(12)
        self.bulge = 0.3 + self.size * rng.uniform(0.0, 2.0, 12) * (1.0 - self.hydration)
        self.flavum_share = np.clip(rng.beta(1.2, 2.4, 5), 0.02, 0.8)
        self.narrow_reach = np.stack([rng.uniform(2.8, 6.5, 5), rng.uniform(3.5, 9.0, 5)])
        self.narrow_above = rng.normal([[0.0], [1.5]], [[1.3], [2.0]], (2, 5))
        self.sunk, self.sac_end = rng.uniform(0.8, 6.5), rng.normal(0.0, 14.0)
        self.epidural_fat = rng.uniform(0.3, 2.0)
        self.sac_share = float(np.clip(rng.normal(0.84, 0.07), 0.62, 0.98))

    def disc_severity(self, disc: int) -> Floats:
        """Return ``[5]`` g of the conditions at a disc, zeros outside the five labelled levels."""
        level = disc - self.first_disc
        return self.severity[:, level] if 0 <= level < 5 else np.zeros(5)

    def recess_x(self, disc: int) -> float:
        """Return mm from the middle to the lateral recess at a disc."""
        return 0.53 * float(self.pedicle[disc + 1])

    def foramen_x(self, disc: int) -> float:
        """Return mm from the middle to the foramina at a disc."""
        return float(self.pedicle[disc : disc + 2].mean())


def closing(g: float, scale: float) -> float:
    """Return the part of a space that is left at severity `g`: 1 at 0, falling smoothly."""
    return float(np.exp(-((max(g, 0.0) / scale) ** 1.2)))


def _draw_count(rng: np.random.Generator) -> tuple[int, int]:
    """Return the index of the first sacral vertebra and of the disc that the reader calls L1/L2."""
    kind, reader = rng.random(2)
    # 2.2 % of patients have a lumbarised S1, 3 % a sacralised L5; 0.7 and 0.3 are how often a reader then takes the
    # lowest mobile disc for L5/S1, against counting from the ribs.
    if kind < 0.022:
        return USUAL_SACRAL + 1, FIRST_LUMBAR + int(reader < 0.7)
    if kind < 0.022 + 0.03:
        return USUAL_SACRAL - 1, FIRST_LUMBAR - int(reader < 0.3)
    return USUAL_SACRAL, FIRST_LUMBAR


def _by_vertebra(values: tuple[float, ...], first_sacral: int) -> Floats:
    """Return ``[13]`` means of a patient whose sacrum begins at `first_sacral`."""
    means, s1 = np.array(values, dtype=np.float64), USUAL_SACRAL
    if first_sacral > s1:  # a second vertebra like L5, the sacrum shifted down
        return np.concatenate([means[:s1], means[s1 - 1 : -1]])
    if first_sacral < s1:  # L5 half-way to S1, its disc rudimentary
        means[s1 - 1] = 0.5 * (means[s1 - 1] + means[s1])
    return means


def _draw_angles(rng: np.random.Generator, first_sacral: int) -> Floats:
    """Return ``[13]`` backward lean of the vertebrae in radians."""
    slope = rng.normal(38.0, 8.0)
    lordosis = max(15.0, slope + 10.0 + rng.normal(0.0, 6.0))
    # Share of the lordosis between neighbours, the last of them lumbosacral, wedging of the bodies included.
    shares = np.array((0.06, 0.08, 0.11, 0.17, 0.27, 0.37)[-(first_sacral - FIRST_LUMBAR) :])
    shares = shares * np.clip(rng.normal(1.0, 0.18, len(shares)), 0.4, 1.6)
    s1 = -(slope + 2.0)
    lumbar = s1 + lordosis * np.cumsum(shares[::-1] / shares.sum())[::-1]
    thoracic = lumbar[0] + np.array([-7.0, -3.0, 0.0]) + rng.normal(0.0, 2.0)
    bend = rng.uniform(0.6, 1.3)
    sacral = s1 + bend * np.array([0.0, 1.0, 9.0, 28.0, 50.0, 66.0])[: N_VERTEBRAE - first_sacral]
    return np.radians(np.concatenate([thoracic, lumbar, sacral]))


class Spine:
    """Course of a patient's spine: the centre line of the canal, tabulated from the foot end to the head end. `points`
    ``[n, 3]`` are LPS mm every `STEP` mm along the line, `axes` ``[n, 3, 3]`` unit vectors to the left, back and up
    (rows) at each; `vertebra_at` ``[13]`` and `disc_at` ``[12]`` are mm along the line."""

    def __init__(self, patient: Patient) -> None:
        self.first_disc = patient.first_disc
        gaps = -np.diff(patient.angles)  # how much the lean falls from one vertebra to the next below
        # The canal runs on the inner side of the lordosis, behind the wall where heights are measured.
        bodies = (patient.height[:-1] + patient.height[1:]) / 2
        spacing = bodies + patient.disc_height - gaps * patient.canal_half
        below = np.concatenate([[0.0], np.cumsum(spacing)])
        self.vertebra_at: Floats = below[-1] + 40.0 - below
        self.disc_at: Floats = self.vertebra_at[:-1] - patient.height[:-1] / 2 - (spacing - bodies) / 2
        along = np.arange(0.0, self.vertebra_at[0] + 60.0, STEP)
        lean = np.interp(along, self.vertebra_at[::-1], patient.angles[::-1])
        reach = int(4 * 6.0 / STEP)  # smoothed along the line by a normal of 6 mm, ends held
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * STEP / 6.0) ** 2)
        lean = np.convolve(np.pad(lean, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
        amplitude, wave, phase = patient.scoliosis
        turn = 2 * np.pi / wave
        roll = amplitude * turn * np.cos(turn * along + phase)
        up = np.stack([roll, np.sin(lean), np.cos(lean)], axis=1)
        points = np.cumsum(up, axis=0) * STEP
        points[:, 0] = amplitude * np.sin(turn * along + phase)
        left = np.stack([np.ones_like(lean), -roll * np.sin(lean), -roll * np.cos(lean)], axis=1)
        up /= np.linalg.norm(up, axis=1, keepdims=True)
        left /= np.linalg.norm(left, axis=1, keepdims=True)
        self.axes: Floats = np.stack([left, np.cross(up, left), up], axis=1)
        self.points: Floats = points - points[round(float(self.disc_at[FIRST_LUMBAR + 2]) / STEP)] + patient.origin
        # The same in single precision, for whole images.
        self._axes = np.ascontiguousarray(self.axes.transpose(1, 2, 0), dtype=np.float32)
        self._offsets = np.einsum("nk,nak->an", self.points, self.axes).astype(np.float32)
        x, y, heights = self.points.T
        z = np.arange(np.floor(heights[0]), np.ceil(heights[-1]), STEP)
        self._z0 = np.float32(z[0])
        self._course = np.stack([np.interp(z, heights, x), np.interp(z, heights, y)]).astype(np.float32)
        self._start = np.interp(z, heights, np.arange(len(heights))).astype(np.int32)

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

    def at_height(self, z: Singles) -> Singles:
        """Return x and y (mm) ``[2, ...]`` of the line at heights `z` of any shape; its ends are held."""
        return self._course.take(self._index(z), axis=1)

    def curved(self, points: Singles) -> tuple[Singles, Singles, Singles]:
        """Return (left, back, along) in mm of ``[3, n]`` points near the line, each ``[n]``. Points between the table's
        entries are carried to the nearest one's frame, exact to the first order."""

        def coordinate(axis: int) -> Singles:
            direction = self._axes[axis].take(nearest, axis=1)
            return np.einsum("kn,kn->n", points, direction) - self._offsets[axis].take(nearest)

        nearest = self._start.take(self._index(points[2]))
        for _ in range(2):
            nearest += np.rint(coordinate(2) * np.float32(1 / STEP)).astype(np.int32)
            np.clip(nearest, 0, len(self.points) - 1, out=nearest)
        left, back, ahead = (coordinate(axis) for axis in range(3))
        return left, back, nearest.astype(np.float32) * np.float32(STEP) + ahead

    def _index(self, z: Singles) -> NDArray[np.int32]:
        return np.clip(((z - self._z0) * np.float32(1 / STEP)).astype(np.int32), 0, self._course.shape[1] - 1)
