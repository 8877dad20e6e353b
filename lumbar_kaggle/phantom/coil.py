"""Where the receiver coil sees well: an array under the back, the scanner's correction, slow waves."""

from dataclasses import dataclass

import cv2
import numpy as np

from lumbar_kaggle.phantom.settings import Floats, Singles, Vendor

LEAST = 0.02
"""Sensitivity is never below this, so that its correction stays finite."""

MOST_LIFTED = 4.0
"""A correction lifts noise at most so much above that at the spine."""

EVERY = 4
"""Smooth fields are computed at every fourth pixel."""


@dataclass(frozen=True)
class Coil:
    """A row of loops that lie flat under the back, and what the scanner makes of their signal.

    Distances are mm from the canal at L3/L4.

    Attributes:
        behind: distance of the loops to the back.
        depth: how far one loop sees.
        heights: ``[loops]`` of the loops' middles, upwards.
        weights: ``[loops]``.
        body: part of the signal that comes from the evenly sensitive coil around the body.
        corrected: 0 where the fall-off stays in the image, 1 where it is evened out.
        waves: ``[waves, 5]`` amplitude, phase, and radians per mm to the left, back and upwards of the slow
            variations that remain (standing waves, imperfect correction).
    """

    behind: float
    depth: float
    heights: Floats
    weights: Floats
    body: float
    corrected: float
    waves: Floats


def draw_coil(rng: np.random.Generator, vendor: Vendor) -> Coil:
    """Draw the coil of one series."""
    loops = int(rng.integers(3, 8))
    apart = rng.uniform(65.0, 105.0)
    heights = np.array([(k - (loops - 1) / 2) * apart for k in range(loops)]) + rng.normal(0.0, 35.0)
    directions = rng.normal(size=(3, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = rng.uniform(160.0, 600.0, (3, 1))
    amplitudes = rng.uniform(0.0, 0.12, (3, 1))
    phases = rng.uniform(0.0, 2 * np.pi, (3, 1))
    uniform = rng.random() < 0.25
    body = rng.uniform(0.4, 0.9) if uniform else rng.uniform(0.0, 0.12)
    corrects = rng.random() < vendor.corrected
    share = rng.uniform(0.55, 1.0)
    return Coil(
        behind=float(rng.uniform(85.0, 130.0)),
        depth=float(rng.uniform(40.0, 120.0)),
        heights=heights,
        weights=rng.uniform(0.75, 1.25, loops),
        body=float(body),
        corrected=float(share) if corrects else 0.0,
        waves=np.hstack([amplitudes, phases, directions * (2 * np.pi / lengths)]),
    )


def sensitivity(coil: Coil, x: Singles, y: Singles, z: Singles) -> Singles:
    """Return the raw sensitivity, float32 in the shape of `x`: about 1 under the skin of the back.

    Args:
        coil: the coil.
        x, y, z: mm to the left, to the back and upwards from the canal at L3/L4.
    """
    per_depth = np.float32(1 / coil.depth)
    away = ((y - np.float32(coil.behind)) * per_depth) ** 2 + (0.5 * x * per_depth) ** 2 + 1
    field = np.zeros(x.shape, np.float32)
    for height, weight in zip(coil.heights, coil.weights, strict=True):
        distance = away + ((z - np.float32(height)) * per_depth) ** 2
        field += np.float32(weight) / (distance * np.sqrt(distance))
    # The row's own middle at the skin is the unit; single loops beyond it are held down.
    reference = 1 + (20.0 * per_depth) ** 2 + (coil.heights * per_depth) ** 2
    field /= np.float32((coil.weights / reference**1.5).sum())
    field = 2 * field / (1 + field)
    both: Singles = np.float32(coil.body) + np.float32(1 - coil.body) * field
    np.maximum(both, np.float32(LEAST), out=both)
    return both


def gains(coil: Coil, x: Singles, y: Singles, z: Singles) -> tuple[Singles, Singles]:
    """Return what signal and noise are multiplied by, each float32 in the shape of `x`.

    The signal's gain is about 1 at its brightest. At the origin both are the same, so that a noise is
    given as part of the spine's brightness; a correction lifts the noise where it lifts the signal.
    """
    raw = sensitivity(coil, x, y, z)
    signal = raw ** np.float32(1 - coil.corrected)
    log = np.zeros(x.shape, np.float32)
    for amplitude, phase, left, back, up in coil.waves.astype(np.float32):
        log += amplitude * np.cos(phase + left * x + back * y + up * z)
    signal *= np.exp(log)
    here = at_origin(coil)
    lifted = np.minimum((raw * np.float32(1 / here)) ** np.float32(-coil.corrected), MOST_LIFTED)
    noise: Singles = np.float32(here ** (1 - coil.corrected)) * lifted
    return signal, noise


def at_origin(coil: Coil) -> float:
    """Return the raw sensitivity at the canal at L3/L4."""
    zero = np.zeros(1, np.float32)
    return float(sensitivity(coil, zero, zero, zero)[0])


def enlarged(coarse: Singles, shape: tuple[int, ...]) -> Singles:
    """Return values given at every `EVERY`-th pixel for all pixels of `shape`, by linear interpolation.

    Args:
        coarse: ``[ceil(rows / EVERY), ceil(columns / EVERY)]``; value (i, j) belongs to pixel
            (i * EVERY, j * EVERY).
        shape: rows, columns.
    """
    step = np.array([[1 / EVERY, 0, 0], [0, 1 / EVERY, 0]])
    size = (shape[1], shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fine = cv2.warpAffine(coarse, step, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return fine.astype(np.float32, copy=False)
