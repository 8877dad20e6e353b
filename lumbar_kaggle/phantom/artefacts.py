"""What the coil and what goes wrong make of an image: sensitivity, fold-over, replicas, dark bands, borders.

Both are applied to the noiseless slice at the acquired resolution."""

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.phantom.settings import Defects, Singles, Stored, Vendor

EVERY = 4  # smooth fields are computed at every fourth pixel


class Coil:
    """Loops under the back, and what the scanner makes of their signal in one series; mm from the canal at L3/L4."""

    def __init__(self, rng: np.random.Generator, vendor: Vendor) -> None:
        loops, apart = int(rng.integers(3, 8)), rng.uniform(65.0, 105.0)
        self.heights = (np.arange(loops) - (loops - 1) / 2) * apart + rng.normal(0.0, 35.0)  # of the loops' middles
        directions = rng.normal(size=(3, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = rng.uniform(160.0, 600.0, (3, 1))
        amplitudes, phases = rng.uniform(0.0, 0.12, (3, 1)), rng.uniform(0.0, 2 * np.pi, (3, 1))
        # [waves, 5] amplitude, phase, and radians per mm to the left, back and up of what remains (standing waves).
        self.waves = np.hstack([amplitudes, phases, directions * (2 * np.pi / lengths)])
        # Part of the signal that comes from the evenly sensitive coil around the body.
        self.body = float(rng.uniform(0.4, 0.9) if rng.random() < 0.25 else rng.uniform(0.0, 0.12))
        corrects, share = rng.random() < vendor.corrected, rng.uniform(0.55, 1.0)
        self.corrected = float(share) if corrects else 0.0  # 1 where the fall-off is evened out
        self.behind = float(rng.uniform(85.0, 130.0))  # distance of the loops to the back
        self.depth = float(rng.uniform(40.0, 120.0))  # how far one loop sees
        self.weights = rng.uniform(0.75, 1.25, loops)

    def sensitivity(self, x: Singles, y: Singles, z: Singles) -> Singles:
        """Return the raw sensitivity, float32 in the shape of `x`: around 1 under the skin of the back."""
        per_depth = np.float32(1 / self.depth)
        away = ((y - self.behind) * per_depth) ** 2 + (0.5 * x * per_depth) ** 2 + 1
        field = np.zeros(x.shape, np.float32)
        for height, weight in zip(self.heights, self.weights, strict=True):
            distance = away + ((z - np.float32(height)) * per_depth) ** 2
            field += np.float32(weight) / (distance * np.sqrt(distance))
        # The row's own middle at the skin is the unit; single loops beyond it are held down.
        reference = 1 + (20.0 * per_depth) ** 2 + (self.heights * per_depth) ** 2
        field /= np.float32((self.weights / reference**1.5).sum())
        field = 2 * field / (1 + field)
        return np.maximum(self.body + (1 - self.body) * field, 0.02)  # so that its correction stays finite

    def gains(self, x: Singles, y: Singles, z: Singles) -> tuple[Singles, Singles]:
        """Return what signal and noise are multiplied by, each float32 in the shape of `x`. `x`, `y`, `z` are mm to the
        left, back and upwards from the canal at L3/L4. The signal's gain is around 1 at its brightest. At the origin
        both are the same; a correction lifts the noise where it lifts the signal."""
        raw = self.sensitivity(x, y, z)
        signal = raw ** np.float32(1 - self.corrected)
        log = np.zeros(x.shape, np.float32)
        for amplitude, phase, left, back, up in self.waves.astype(np.float32):
            log += amplitude * np.cos(phase + left * x + back * y + up * z)
        signal *= np.exp(log)
        zero = np.zeros(1, np.float32)
        here = float(self.sensitivity(zero, zero, zero)[0])
        lifted = np.minimum((raw * (1 / here)) ** np.float32(-self.corrected), 4.0)  # beside the noise at the spine
        return signal, here ** (1 - self.corrected) * lifted


def enlarged(coarse: Singles, shape: tuple[int, ...]) -> Singles:
    """Return values for all pixels of `shape` (rows, columns) from those at every `EVERY`-th, interpolated linearly."""
    step = np.array([[1 / EVERY, 0, 0], [0, 1 / EVERY, 0]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fine = cv2.warpAffine(coarse, step, (shape[1], shape[0]), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return fine.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Artefacts:
    """What one series suffers from; the defaults are nothing."""

    phase_axis: int = 0  # of replicas and fold-over: 0 where the phase is encoded down the columns, 1 along the rows
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

    def fold_over(self, image: Singles, extra: int) -> Singles:
        """Return `image` without its `extra` lines on both sides; they are added on the other side's end. The further a
        line lies outside the field, the less of it is excited: none at the outer end."""
        lines = np.moveaxis(image, self.phase_axis, 0)
        folded = lines[extra : len(lines) - extra].copy()
        if extra and self.wrap:
            excited = np.linspace(0.0, self.wrap, extra, dtype=np.float32)[:, None]
            folded[-extra:] += excited * lines[:extra]
            folded[:extra] += excited[::-1] * lines[-extra:]
        return np.moveaxis(folded, 0, self.phase_axis)

    def band_signal(self, y: Singles, z: Singles) -> Singles | float:
        """Return the part of the signal that the saturation band leaves, at mm behind and above the origin."""
        if not self.band:
            return 1.0
        behind = y + self.band_edge - self.band_lean * z
        return 1 - self.band * _sigmoid(behind * (1 / self.band_softness)).astype(np.float32)

    def add_replicas(self, image: Singles, gain: Singles, x: Singles, y: Singles, rng: np.random.Generator) -> None:
        """Add faint replicas of the breathing front and of the vessels along the phase axis, in place. `image` has the
        coil's `gain` in it; `x` and `y` are mm left of and behind the canal at L3/L4, at every `EVERY`-th pixel."""
        turns = rng.uniform(0.0, 2 * np.pi, 2)
        if not (self.front_ghost or self.vessel_ghost):
            return
        source = np.zeros(image.shape, np.float32)
        if self.front_ghost:
            source += self.front_ghost * image * enlarged(_sigmoid((y + 85.0) * 0.1), image.shape)
        if self.vessel_ghost:
            # Around 1 inside a vessel, 0 outside; their middles and radii are of the order of an adult's, mm.
            aorta = np.exp(-((x - 12.0) ** 2 + (y + 62.0) ** 2) * (1 / 9.0**2))
            cava = np.exp(-((x + 20.0) ** 2 + (y + 58.0) ** 2) * (1 / 10.0**2))
            source += 0.6 * self.vessel_ghost * gain * enlarged(aorta + cava, image.shape)
        shift = max(2, round(self.ghost_shift * image.shape[self.phase_axis]))
        for order, part in ((1, np.cos(turns[0])), (2, 0.5 * np.cos(turns[1]))):
            for sign in (-1, 1):
                image += np.float32(part) * np.roll(source, sign * order * shift, self.phase_axis)

    def blank_border(self, stored: Stored) -> None:
        """Set the stored pixels ``[rows, columns]`` outside a circle, frame or columns to zero, in place."""
        rows, columns = stored.shape
        if self.border == "circle":
            down, across = np.arange(rows)[:, None] - (rows - 1) / 2, np.arange(columns) - (columns - 1) / 2
            stored[down**2 + across**2 > (self.border_size * max(rows, columns) / 2) ** 2] = 0
        elif self.border != "none":
            width = max(1, round(self.border_size * columns))
            stored[:, :width] = stored[:, -width:] = 0
            if self.border == "frame":
                stored[:width] = stored[-width:] = 0


def _sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    """Return 1 where `x` is far below 0, and 0 where it is far above."""
    return 1 / (1 + np.exp(np.clip(x, -30, 30)))


def draw_artefacts(rng: np.random.Generator, kind: str, defects: Defects) -> Artefacts:
    """Draw what a series of a kind suffers from. Every draw is made, so that one share can be changed alone."""
    axial = kind == "axial_t2"
    wrapped, moved, flowing, saturated, clipped, masked, padded, frame = rng.random(8)
    # Against the heart beat of the fluid, sagittal phase mostly runs from head to foot.
    found: dict[str, Any] = {"phase_axis": int(rng.random() < (0.5 if axial else 0.4))}
    wrap, wrap_share = rng.uniform((0.3, 0.04), (1.0, 0.14)).tolist()
    front, vessel, found["ghost_shift"], blur = rng.uniform((0.03, 0.05, 0.08, 0.3), (0.15, 0.35, 0.35, 0.9)).tolist()
    edge, softness = rng.uniform((55.0, 2.0), (95.0, 9.0)).tolist()
    band, lean, excess = rng.uniform((0.6, -0.15, 1.05), (1.0, 0.1, 1.5)).tolist()
    width = rng.random()
    if wrapped < defects.wrap:
        found |= {"wrap": wrap, "wrap_share": wrap_share}
    if moved < defects.motion:
        found |= {"front_ghost": front, "blur": blur}
    if flowing < defects.flow:
        found["vessel_ghost"] = vessel
    if saturated < defects.saturation / (3 if axial else 1):
        found |= {"band": band, "band_edge": edge, "band_lean": lean, "band_softness": softness}
    if clipped < defects.clipped:
        found["clipped"] = excess
    if masked < defects.mask and frame < 0.7:
        found |= {"border": "circle", "border_size": 1.0 + 0.2 * width}
    elif masked < defects.mask:
        found |= {"border": "frame", "border_size": 0.005 + 0.02 * width}
    elif padded < defects.padding:
        found |= {"border": "columns", "border_size": 0.03 + 0.09 * width}
    return Artefacts(**found)
