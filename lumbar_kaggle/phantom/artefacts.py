"""What the coil and what goes wrong make of an image: sensitivity, fold-over, replicas, dark bands, borders.

Which series has what is drawn with the plan of the scan (`draw_artefacts`), its coil with its setting; both
are applied to the noiseless slice at the acquired resolution.
"""

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.phantom.planes import Plane
from lumbar_kaggle.phantom.settings import Defects, Floats, Singles, Vendor

# Left, back and radius (mm) of the great vessels from the canal at L3/L4, of the order of an adult's.
AORTA, CAVA = (12.0, -62.0, 9.0), (-20.0, -58.0, 10.0)
LEAST = 0.02  # sensitivity is never below this, so that its correction stays finite
MOST_LIFTED = 4.0  # a correction lifts noise at most so much above that at the spine
EVERY = 4  # smooth fields are computed at every fourth pixel


@dataclass(frozen=True)
class Coil:
    """Loops under the back, and what the scanner makes of their signal; mm from the canal at L3/L4."""

    behind: float  # distance of the loops to the back
    depth: float  # how far one loop sees
    heights: Floats  # [loops] of the loops' middles, upwards
    weights: Floats  # [loops]
    body: float  # part of the signal that comes from the evenly sensitive coil around the body
    corrected: float  # 0 where the fall-off stays in the image, 1 where it is evened out
    # [waves, 5] amplitude, phase, and radians per mm to the left, back and upwards of the slow variations
    # that remain (standing waves, imperfect correction).
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
    """Return the raw sensitivity, float32 in the shape of `x`: around 1 under the skin of the back."""
    per_depth = np.float32(1 / coil.depth)
    away = ((y - coil.behind) * per_depth) ** 2 + (0.5 * x * per_depth) ** 2 + 1
    field = np.zeros(x.shape, np.float32)
    for height, weight in zip(coil.heights, coil.weights, strict=True):
        distance = away + ((z - np.float32(height)) * per_depth) ** 2
        field += np.float32(weight) / (distance * np.sqrt(distance))
    # The row's own middle at the skin is the unit; single loops beyond it are held down.
    reference = 1 + (20.0 * per_depth) ** 2 + (coil.heights * per_depth) ** 2
    field /= np.float32((coil.weights / reference**1.5).sum())
    field = 2 * field / (1 + field)
    return np.maximum(coil.body + (1 - coil.body) * field, LEAST)


def gains(coil: Coil, x: Singles, y: Singles, z: Singles) -> tuple[Singles, Singles]:
    """Return what signal and noise are multiplied by, each float32 in the shape of `x`.

    `x`, `y`, `z` are mm to the left, to the back and upwards from the canal at L3/L4. The signal's gain is
    around 1 at its brightest. At the origin both are the same, so that a noise is given as part of the
    spine's brightness; a correction lifts the noise where it lifts the signal.
    """
    raw = sensitivity(coil, x, y, z)
    signal = raw ** np.float32(1 - coil.corrected)
    log = np.zeros(x.shape, np.float32)
    for amplitude, phase, left, back, up in coil.waves.astype(np.float32):
        log += amplitude * np.cos(phase + left * x + back * y + up * z)
    signal *= np.exp(log)
    zero = np.zeros(1, np.float32)
    here = float(sensitivity(coil, zero, zero, zero)[0])
    lifted = np.minimum((raw * (1 / here)) ** np.float32(-coil.corrected), MOST_LIFTED)
    return signal, here ** (1 - coil.corrected) * lifted


def enlarged(coarse: Singles, shape: tuple[int, ...]) -> Singles:
    """Return values for all pixels of `shape` (rows, columns), by linear interpolation.

    They are given at every `EVERY`-th pixel, ``[ceil(rows / EVERY), ceil(columns / EVERY)]``.
    """
    step = np.array([[1 / EVERY, 0, 0], [0, 1 / EVERY, 0]])
    size = (shape[1], shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fine = cv2.warpAffine(coarse, step, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return fine.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Artefacts:
    """What one series suffers from; the defaults are nothing."""

    # 0 when the phase is encoded down the columns, 1 when along the rows; replicas and fold-over follow it.
    phase_axis: int = 0
    wrap: float = 0.0  # brightness, 0 to 1, of what folds over
    wrap_share: float = 0.0  # part of the field, on each side, that folds over
    front_ghost: float = 0.0  # brightness of the replicas of the breathing front,
    vessel_ghost: float = 0.0  # and of the vessels
    ghost_shift: float = 0.0  # distance of the replicas, part of the field
    blur: float = 0.0  # standard deviation in acquired pixels
    band: float = 0.0  # part of the signal that a saturation band takes, 0 to 1
    band_edge: float = 0.0  # mm in front of the canal at L3/L4 where the band begins
    band_lean: float = 0.0  # mm that the edge moves to the back per mm upwards
    band_softness: float = 1.0  # mm
    clipped: float = 0.0  # factor by which the brightest tissue exceeds the range; 0 where it does not
    border: Literal["none", "circle", "frame", "columns"] = "none"  # shape of a part that is set to zero
    border_size: float = 0.0  # radius in half image widths, or width in parts of the image


def draw_artefacts(rng: np.random.Generator, kind: str, defects: Defects) -> Artefacts:
    """Draw what a series of one of `targets.SERIES_KINDS` suffers from.

    The number of draws does not depend on the outcome of any, so one share can be changed alone.
    """
    axial = kind == "axial_t2"
    wrapped, moved, flowing, saturated, clipped, masked, padded, frame = rng.random(8)
    # Against the heart beat of the fluid, sagittal phase mostly runs from head to foot.
    phase = int(rng.random() < (0.5 if axial else 0.4))
    wrap, wrap_share = rng.uniform((0.3, 0.04), (1.0, 0.14)).tolist()
    front, vessel, shift, blur = rng.uniform((0.03, 0.05, 0.08, 0.3), (0.15, 0.35, 0.35, 0.9)).tolist()
    edge, softness = rng.uniform((55.0, 2.0), (95.0, 9.0)).tolist()
    band, lean, excess = rng.uniform((0.6, -0.15, 1.05), (1.0, 0.1, 1.5)).tolist()
    width = rng.random()
    found: dict[str, Any] = {}
    if wrapped < defects.wrap:
        found |= {"wrap": wrap, "wrap_share": wrap_share}
    if moved < defects.motion:
        found |= {"front_ghost": front, "blur": blur}
    if flowing < defects.flow:
        found |= {"vessel_ghost": vessel}
    if saturated < defects.saturation / (3 if axial else 1):
        found |= {"band": band, "band_edge": edge, "band_lean": lean, "band_softness": softness}
    if clipped < defects.clipped:
        found |= {"clipped": excess}
    if masked < defects.mask and frame < 0.7:
        found |= {"border": "circle", "border_size": 1.0 + 0.2 * width}
    elif masked < defects.mask:
        found |= {"border": "frame", "border_size": 0.005 + 0.02 * width}
    elif padded < defects.padding:
        found |= {"border": "columns", "border_size": 0.03 + 0.09 * width}
    return Artefacts(phase_axis=phase, ghost_shift=shift, **found)


def widened(plane: Plane, artefacts: Artefacts) -> tuple[Plane, int]:
    """Return the plane with what folds over on both sides, and the number of lines added on each."""
    axis = artefacts.phase_axis
    extra = round(artefacts.wrap_share * plane.shape[axis]) if artefacts.wrap else 0
    if not extra:
        return plane, 0
    direction = plane.orientation[3:] if axis == 0 else plane.orientation[:3]
    shape = (plane.shape[0] + 2 * extra * (axis == 0), plane.shape[1] + 2 * extra * (axis == 1))
    corner = plane.position - extra * plane.spacing[axis] * direction
    return Plane(corner, plane.orientation, plane.spacing, shape), extra


def fold_over(image: Singles, extra: int, artefacts: Artefacts) -> Singles:
    """Return `image` without its `extra` lines on both sides; they are added on the other side's end.

    The further a line lies outside the field, the less of it is excited: none at the outer end.
    """
    if not extra:
        return image
    lines = np.moveaxis(image, artefacts.phase_axis, 0)
    folded = lines[extra:-extra].copy()
    if artefacts.wrap:
        excited = np.linspace(0.0, artefacts.wrap, extra, dtype=np.float32)[:, None]
        folded[-extra:] += excited * lines[:extra]
        folded[:extra] += excited[::-1] * lines[-extra:]
    return np.moveaxis(folded, 0, artefacts.phase_axis)


def band_signal(y: Singles, z: Singles, artefacts: Artefacts) -> Singles | float:
    """Return the part of the signal that the saturation band leaves, at mm behind and above the origin."""
    if not artefacts.band:
        return 1.0
    behind = y + artefacts.band_edge - artefacts.band_lean * z
    inside = (1 / (1 + np.exp(np.clip(behind * (1 / artefacts.band_softness), -30, 30)))).astype(np.float32)
    return 1 - artefacts.band * inside


def add_replicas(
    image: Singles, gain: Singles, coarse: tuple[Singles, Singles], artefacts: Artefacts, rng: np.random.Generator
) -> None:
    """Add faint replicas of the breathing front and of the vessels along the phase axis, in place.

    `image` is ``[rows, columns]`` with the coil's `gain` in it; `coarse` is mm to the left and to the back of
    the canal at L3/L4, at every `EVERY`-th pixel.
    """
    turns = rng.uniform(0.0, 2 * np.pi, 2)
    if not (artefacts.front_ghost or artefacts.vessel_ghost):
        return
    x, y = coarse
    source = np.zeros(image.shape, np.float32)
    if artefacts.front_ghost:
        front = 1 / (1 + np.exp(np.clip((y + 85.0) * 0.1, -30, 30)))
        source += artefacts.front_ghost * image * enlarged(front, image.shape)
    if artefacts.vessel_ghost:
        # Around 1 inside a vessel, 0 outside.
        aorta, cava = (
            np.exp(-((x - left) ** 2 + (y - back) ** 2) * (1 / radius**2)) for left, back, radius in (AORTA, CAVA)
        )
        source += 0.6 * artefacts.vessel_ghost * gain * enlarged(0 + aorta + cava, image.shape)
    shift = max(2, round(artefacts.ghost_shift * image.shape[artefacts.phase_axis]))
    for order, part in ((1, np.cos(turns[0])), (2, 0.5 * np.cos(turns[1]))):
        for sign in (-1, 1):
            image += np.float32(part) * np.roll(source, sign * order * shift, artefacts.phase_axis)


def blank_border(stored: NDArray[np.uint16], artefacts: Artefacts) -> None:
    """Set the stored pixels ``[rows, columns]`` outside a circle, frame or columns to zero, in place."""
    rows, columns = stored.shape
    if artefacts.border == "circle":
        radius = artefacts.border_size * max(rows, columns) / 2
        down = np.arange(rows)[:, None] - (rows - 1) / 2
        across = np.arange(columns) - (columns - 1) / 2
        stored[down**2 + across**2 > radius**2] = 0
    elif artefacts.border != "none":
        width = max(1, round(artefacts.border_size * columns))
        stored[:, :width] = stored[:, -width:] = 0
        if artefacts.border == "frame":
            stored[:width] = stored[-width:] = 0
