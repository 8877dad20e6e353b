"""One patient's dimensions: what differs between people beside the 25 grades, in millimetres and degrees.

These are the distractors: disc height, hydration, fat, inborn canal width, wear of facet joints and end
plates vary independently, only loosely tied to the grades, so that none of them gives a grade away.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.phantom.arrays import Floats
from lumbar_kaggle.phantom.population import Grades

N_VERTEBRAE = 13
"""T10 to S5, head to foot; disc k lies between vertebra k and k + 1."""

FIRST_LUMBAR, USUAL_SACRAL = 3, 8
"""Index of L1, and of S1 in a patient with five lumbar vertebrae."""

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

SIX_LUMBAR, SACRALISED = 0.022, 0.03
"""Shares of patients with a lumbarised S1 and with a sacralised L5: 5 % together."""

COUNTED_FROM_BELOW = {"six": 0.7, "sacralised": 0.3}
"""How often a reader takes the lowest mobile disc for L5/S1, against counting from the ribs."""


@dataclass(frozen=True)
class Wear:
    """Degenerative changes that no label grades.

    Attributes:
        osteophyte: ``[12]`` mm by which the rims beside a disc stand out.
        modic: ``[12]`` marrow beside a disc: 0 as elsewhere, 1 watery, 2 fatty, 3 hardened.
        modic_depth: ``[12]`` mm from the end plate.
        schmorl: ``[12, 2]`` depth (mm) of a dent in the end plate above, below the disc; 0 none.
        slip: ``[13]`` mm by which a body has slid forwards.
        fracture: ``[13]`` share of the height that the middle of a body has lost.
        spot: ``[13]`` radius in mm of a fatty spot (haemangioma) in a body; 0 none.
    """

    osteophyte: Floats
    modic: NDArray[np.int64]
    modic_depth: Floats
    schmorl: Floats
    slip: Floats
    fracture: Floats
    spot: Floats


@dataclass(frozen=True)
class Patient:
    """Dimensions of one patient.

    Attributes:
        first_sacral: index of the first vertebra that is shaped like the sacrum: 8, 9 with six
            lumbar-type vertebrae, 7 with a sacralised fifth.
        first_disc: index of the disc that the reader calls L1/L2; the other four follow.
        size: body scale, 1 for an average adult; every millimetre below is already scaled.
        angles: ``[13]`` tilt of each vertebra in radians: how far its upward axis leans to the back.
        height, depth, width: ``[13]`` vertebral bodies, mm.
        wedge: ``[13]`` radians by which the front is opened.
        disc_height: ``[12]`` at the back wall, mm.
        hydration: ``[12]`` of the discs, 0 (dry) to 1.
        pedicle, pedicle_half_width: ``[13]`` mm.
        canal_half: half the front-to-back width of the bony canal, mm.
        sac_share: part of that width which the thecal sac takes where nothing is narrow.
        scoliosis: amplitude (mm), wave length (mm) and phase of the sideways curve.
        origin: ``[3]`` LPS mm of the canal's centre at the L3/L4 disc.
        fat: thickness of the fat under the skin of the back, mm.
        abdomen: depth of the trunk in front of the spine, mm.
        epidural_fat: 0.5 to 1.5 of the average amount.
        marrow_fat, muscle_fat: 0 to 1.
        muscle: 0.8 to 1.2 of the average size of the muscles.
        conus: mm by which the cord ends below (-) or above (+) the L1/L2 disc.
        flavum_share: ``[5]`` share of a canal's narrowing that comes from behind.
        facet_turn: ``[12, 2]`` degrees of the facet joints' planes beside the mean (tropism).
        facet_size, foramen_size: ``[12, 2]`` inborn scale of facet joints and foramina, left and right.
        wear: what no label grades.
        severity: ``[5, 5]`` g, see `population.Grades`.
        texture_seed: for the grain of marrow, muscle and bowel.
    """

    first_sacral: int
    first_disc: int
    size: float
    angles: Floats
    height: Floats
    depth: Floats
    width: Floats
    wedge: Floats
    disc_height: Floats
    hydration: Floats
    pedicle: Floats
    pedicle_half_width: Floats
    canal_half: float
    sac_share: float
    scoliosis: tuple[float, float, float]
    origin: Floats
    fat: float
    abdomen: float
    epidural_fat: float
    marrow_fat: float
    muscle_fat: float
    muscle: float
    conus: float
    flavum_share: Floats
    facet_turn: Floats
    facet_size: Floats
    foramen_size: Floats
    wear: Wear
    severity: Floats
    texture_seed: int

    def disc_severity(self, disc: int) -> Floats:
        """Return ``[5]`` g of the conditions at a disc, zeros outside the five labelled levels."""
        level = disc - self.first_disc
        return self.severity[:, level] if 0 <= level < 5 else np.zeros(5)


def draw_patient(rng: np.random.Generator, grades: Grades) -> Patient:
    """Draw a patient who has the given grades."""
    size = float(np.clip(rng.normal(1.0, 0.06), 0.85, 1.15))
    age = rng.uniform()
    first_sacral, first_disc = _draw_count(rng)
    build = {name: size * _by_vertebra(values, first_sacral) for name, values in _MEANS_MM.items()}
    worst = np.zeros(N_VERTEBRAE - 1)
    worst[first_disc : first_disc + 5] = grades.severity.max(axis=0)
    disc_height = build["disc"][:-1] * np.clip(rng.normal(1.0, 0.16, 12), 0.5, 1.4) * (1 - 0.04 * worst)
    disc_height[first_sacral:] = np.minimum(disc_height[first_sacral:], 2.5)
    hydration = np.clip(1.0 - 0.5 * age + rng.normal(0.0, 0.2, 12) - 0.06 * worst, 0.02, 1.0)
    lumbar = _by_vertebra(WEDGE, first_sacral)
    return Patient(
        first_sacral=first_sacral,
        first_disc=first_disc,
        size=size,
        angles=_angles(rng, first_sacral),
        height=build["height"] * rng.normal(1.0, 0.035, 13) * rng.normal(1.0, 0.03),
        depth=build["depth"] * rng.normal(1.0, 0.025, 13) * rng.normal(1.0, 0.04),
        width=build["width"] * rng.normal(1.0, 0.025, 13),
        wedge=np.radians(lumbar + rng.normal(0.0, 1.3, 13)),
        disc_height=disc_height,
        hydration=hydration,
        pedicle=build["pedicle"] * rng.normal(1.0, 0.03),
        pedicle_half_width=build["pedicle_half_width"] * rng.normal(1.0, 0.07),
        canal_half=float(8.8 * size * np.clip(rng.normal(1.0, 0.07), 0.83, 1.18)),
        sac_share=float(np.clip(rng.normal(0.84, 0.05), 0.7, 0.96)),
        scoliosis=(float(rng.normal(0, 2.2)), float(rng.uniform(170, 330)), float(rng.uniform(0, 2 * np.pi))),
        origin=rng.normal(0.0, (6.0, 12.0, 10.0)),
        fat=float(np.clip(rng.gamma(2.6, 6.0), 4.0, 55.0)),
        abdomen=float(np.clip(rng.normal(120.0, 24.0), 75.0, 190.0)) * size,
        epidural_fat=float(np.clip(rng.normal(1.0, 0.25), 0.5, 1.5)),
        marrow_fat=float(np.clip(0.25 + 0.5 * age + rng.normal(0.0, 0.15), 0.05, 1.0)),
        muscle_fat=float(np.clip(0.02 + 0.5 * age + rng.normal(0.0, 0.14), 0.0, 0.8)),
        muscle=float(np.clip(rng.normal(1.0, 0.09), 0.78, 1.22)),
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
    lean: Floats = np.radians(np.concatenate([thoracic, lumbar, sacral]))
    return lean


def _draw_wear(rng: np.random.Generator, age: float, size: float, first_sacral: int) -> Wear:
    """Draw what comes with age but is not graded; the frequencies are rough ones of older adults."""
    n = N_VERTEBRAE
    movable = np.arange(n - 1) < first_sacral
    osteophyte = size * rng.gamma(1.2, 0.9, n - 1) * (0.3 + age) * movable
    has_modic = (rng.random(n - 1) < 0.03 + 0.14 * age) & movable
    kinds = rng.choice([1, 2, 3], n - 1, p=[0.3, 0.6, 0.1])
    schmorl = size * rng.uniform(1.5, 5.0, (n - 1, 2)) * (rng.random((n - 1, 2)) < 0.05) * movable[:, None]
    slip = size * rng.uniform(-2.0, 5.0, n) * (rng.random(n) < 0.05 * age) * (np.arange(n) < first_sacral)
    fracture = rng.uniform(0.1, 0.45, n) * (rng.random(n) < 0.025 * age) * (np.arange(n) < first_sacral)
    spot = size * rng.uniform(2.5, 8.0, n) * (rng.random(n) < 0.06)
    return Wear(
        osteophyte=np.minimum(osteophyte, 5.0),
        modic=np.where(has_modic, kinds, 0),
        modic_depth=rng.uniform(2.5, 11.0, n - 1),
        schmorl=schmorl,
        slip=slip,
        fracture=fracture,
        spot=spot,
    )
