"""One patient's dimensions: what differs between people beside the 25 grades, in millimetres and degrees.

These are the distractors: disc height, hydration, fat, inborn canal width and body size vary by their own,
only loosely tied to the grades, so that none of them gives a grade away.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.phantom.population import Grades

Floats = NDArray[np.float64]

VERTEBRAE = ("T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5", "S1", "S2", "S3", "S4", "S5")
"""Head to foot; disc k lies between vertebra k and k + 1."""

FIRST_DISC = VERTEBRAE.index("L1")
"""Index of the disc of level ``l1_l2``; the other four follow."""

# Means of adults, T10 to S5 (mm): height at the back wall, depth, width, height of the disc below at its
# back, half the distance of the pedicles' centres, half width of a pedicle; degrees of front wedging.
HEIGHT = (23, 24, 26, 27, 28, 28, 27.5, 25, 29, 24, 20, 17, 14)
DEPTH = (29, 30, 31, 32, 33, 34, 35, 35, 29, 19, 14, 11, 9)
WIDTH = (34, 36, 40, 43, 45, 47, 49, 52, 54, 46, 38, 30, 22)
DISC = (4.0, 4.5, 5.5, 6.5, 7.5, 8.0, 8.0, 6.5, 2.0, 1.2, 1.0, 1.0)
PEDICLE = (13, 13.2, 14, 14.8, 15.4, 16.6, 18.2, 21, 22, 18, 14, 12, 10)
PEDICLE_HALF_WIDTH = (3, 3.2, 3.5, 3.6, 4.0, 4.8, 5.8, 7.5, 9, 7, 5, 4, 3)
WEDGE = (-3, -3, -3, -2, 0, 1, 2, 8, 2, 0, 0, 0, 0)
# Share of the lordosis between neighbours L1 to S1, wedging of the bodies included.
LORDOSIS_SHARES = (0.08, 0.11, 0.17, 0.27, 0.37)


@dataclass(frozen=True)
class Patient:
    """Dimensions of one patient.

    Attributes:
        size: body scale, 1 for an average adult; every millimetre below is already scaled.
        angles: ``[13]`` tilt of each vertebra in radians: how far its upward axis leans to the back.
        height, depth, width: ``[13]`` vertebral bodies, mm.
        wedge: ``[13]`` radians by which the front is opened.
        disc_height: ``[12]`` at the back wall, mm.
        hydration: ``[12]`` of the discs, 0 (dry) to 1.
        pedicle, pedicle_half_width: ``[13]`` mm.
        canal_half: half the front-to-back width of the bony canal, mm.
        scoliosis: amplitude (mm) and phase of the sideways curve.
        origin: ``[3]`` LPS mm of the canal's centre at the L3/L4 disc.
        fat: thickness of the fat under the skin of the back, mm.
        epidural_fat: 0.6 to 1.4 of the average amount.
        marrow_fat, muscle_fat: 0 to 1.
        conus: mm by which the cord ends below (+) or above (-) the L1/L2 disc.
        flavum_share: share of a canal's narrowing that comes from behind.
        severity: ``[5, 5]`` g, see `population.Grades`.
        texture_seed: for the grain of marrow, muscle and bowel.
    """

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
    scoliosis: tuple[float, float]
    origin: Floats
    fat: float
    epidural_fat: float
    marrow_fat: float
    muscle_fat: float
    conus: float
    flavum_share: Floats
    severity: Floats
    texture_seed: int


def draw_patient(rng: np.random.Generator, grades: Grades) -> Patient:
    """Draw a patient who has the given grades."""
    size = float(np.clip(rng.normal(1.0, 0.055), 0.87, 1.13))
    age = rng.uniform()
    worst = grades.severity.max(axis=0)
    return Patient(
        size=size,
        angles=_angles(rng),
        height=size * np.array(HEIGHT) * rng.normal(1.0, 0.03, 13),
        depth=size * np.array(DEPTH) * rng.normal(1.0, 0.02, 13),
        width=size * np.array(WIDTH) * rng.normal(1.0, 0.02, 13),
        wedge=np.radians(np.array(WEDGE) + rng.normal(0.0, 1.0, 13)),
        disc_height=_disc_heights(rng, size, worst),
        hydration=_hydration(rng, age, worst),
        pedicle=size * np.array(PEDICLE),
        pedicle_half_width=size * np.array(PEDICLE_HALF_WIDTH) * rng.normal(1.0, 0.05),
        canal_half=float(8.6 * size * np.clip(rng.normal(1.0, 0.06), 0.87, 1.14)),
        scoliosis=(float(rng.normal(0.0, 1.7)), float(rng.uniform(0.0, 2 * np.pi))),
        origin=rng.normal(0.0, (6.0, 12.0, 10.0)),
        fat=float(np.clip(rng.gamma(3.0, 5.0), 5.0, 45.0)),
        epidural_fat=float(np.clip(rng.normal(1.0, 0.2), 0.6, 1.4)),
        marrow_fat=float(np.clip(0.35 + 0.4 * age + rng.normal(0.0, 0.12), 0.1, 1.0)),
        muscle_fat=float(np.clip(0.05 + 0.4 * age + rng.normal(0.0, 0.12), 0.0, 0.7)),
        conus=float(rng.normal(-12.0, 10.0)),
        flavum_share=rng.uniform(0.35, 0.65, 5),
        severity=grades.severity,
        texture_seed=int(rng.integers(2**31)),
    )


def _angles(rng: np.random.Generator) -> Floats:
    """Return ``[13]`` backward lean of the vertebrae in radians."""
    sacral_slope = rng.normal(38.0, 6.0)
    lordosis = max(20.0, sacral_slope + 10.0 + rng.normal(0.0, 4.0))
    shares = np.array(LORDOSIS_SHARES) * rng.normal(1.0, 0.12, 5)
    s1 = -(sacral_slope + 2.0)
    lumbar = s1 + lordosis * np.cumsum(shares[::-1] / shares.sum())[::-1]  # L1 ... L5
    thoracic = lumbar[0] + np.array([-7.0, -3.0, 0.0])
    # Below S1 the sacrum is bent the other way.
    sacral = s1 + np.array([0.0, 1.0, 9.0, 28.0, 50.0])
    lean: Floats = np.radians(np.concatenate([thoracic, lumbar, sacral]))
    return lean


def _disc_heights(rng: np.random.Generator, size: float, worst: Floats) -> Floats:
    heights = size * np.array(DISC) * np.clip(rng.normal(1.0, 0.12, 12), 0.6, 1.35)
    heights[FIRST_DISC : FIRST_DISC + 5] *= 1.0 - 0.07 * worst
    return heights


def _hydration(rng: np.random.Generator, age: float, worst: Floats) -> Floats:
    hydration = 0.95 - 0.45 * age + rng.normal(0.0, 0.16, 12)
    hydration[FIRST_DISC : FIRST_DISC + 5] -= 0.12 * worst
    clipped: Floats = np.clip(hydration, 0.03, 1.0)
    return clipped
