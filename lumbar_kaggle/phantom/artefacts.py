"""What goes wrong in an image: fold-over, replicas of what moves, dark bands, borders.

Which series has what is drawn with the plan of the scan (`draw_artefacts`), the rest is applied to the
noiseless slice at the acquired resolution.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.phantom.coil import enlarged
from lumbar_kaggle.phantom.planes import Plane
from lumbar_kaggle.phantom.settings import Defects, Singles

AORTA, CAVA = (12.0, -62.0, 9.0), (-20.0, -58.0, 10.0)
"""Left, back and radius (mm) of the great vessels from the canal at L3/L4, of the order of an adult's."""


@dataclass(frozen=True)
class Artefacts:
    """What one series suffers from; the defaults are nothing.

    Attributes:
        phase_axis: 0 when the phase is encoded down the columns, 1 when along the rows; replicas and
            fold-over run along it.
        wrap: brightness, 0 to 1, of what folds over.
        wrap_share: part of the field, on each side, that folds over.
        front_ghost, vessel_ghost: brightness of the replicas of the breathing front and of the vessels.
        ghost_shift: distance of the replicas, part of the field.
        blur: standard deviation in acquired pixels.
        band: part of the signal that a saturation band takes, 0 to 1.
        band_edge: mm in front of the canal at L3/L4 where the band begins.
        band_lean: mm that the edge moves to the back per mm upwards.
        band_softness: mm.
        clipped: factor by which the brightest tissue exceeds the range; 0 where it does not.
        border: shape of a part that is set to zero.
        border_size: radius in half image widths, or width in parts of the image.
    """

    phase_axis: int = 0
    wrap: float = 0.0
    wrap_share: float = 0.0
    front_ghost: float = 0.0
    vessel_ghost: float = 0.0
    ghost_shift: float = 0.0
    blur: float = 0.0
    band: float = 0.0
    band_edge: float = 0.0
    band_lean: float = 0.0
    band_softness: float = 1.0
    clipped: float = 0.0
    border: Literal["none", "circle", "frame", "columns"] = "none"
    border_size: float = 0.0


def draw_artefacts(rng: np.random.Generator, kind: str, defects: Defects) -> Artefacts:
    """Draw what a series of one of `targets.SERIES_KINDS` suffers from.

    The number of draws does not depend on the outcome of any, so one share can be changed alone.
    """
    axial = kind == "axial_t2"
    wrapped, moved, flowing, saturated, clipped, masked, padded, frame = rng.random(8)
    # Against the heart beat of the fluid, sagittal phase mostly runs from head to foot.
    phase = int(rng.random() < (0.5 if axial else 0.4))
    wrap, wrap_share = rng.uniform((0.3, 0.04), (1.0, 0.14))
    front, vessel, shift, blur = rng.uniform((0.03, 0.05, 0.08, 0.3), (0.15, 0.35, 0.35, 0.9))
    edge, softness = rng.uniform((55.0, 2.0), (95.0, 9.0))
    band, lean, excess = rng.uniform((0.6, -0.15, 1.05), (1.0, 0.1, 1.5))
    width = rng.random()
    found = Artefacts(phase_axis=phase, ghost_shift=float(shift))
    if wrapped < defects.wrap:
        found = replace(found, wrap=float(wrap), wrap_share=float(wrap_share))
    if moved < defects.motion:
        found = replace(found, front_ghost=float(front), blur=float(blur))
    if flowing < defects.flow:
        found = replace(found, vessel_ghost=float(vessel))
    if saturated < defects.saturation / (3 if axial else 1):
        found = replace(found, band=float(band), band_edge=float(edge))
        found = replace(found, band_lean=float(lean), band_softness=float(softness))
    if clipped < defects.clipped:
        found = replace(found, clipped=float(excess))
    if masked < defects.mask and frame < 0.7:
        found = replace(found, border="circle", border_size=1.0 + 0.2 * float(width))
    elif masked < defects.mask:
        found = replace(found, border="frame", border_size=0.005 + 0.02 * float(width))
    elif padded < defects.padding:
        found = replace(found, border="columns", border_size=0.03 + 0.09 * float(width))
    return found


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
    behind = y + np.float32(artefacts.band_edge) - np.float32(artefacts.band_lean) * z
    steep = np.float32(1 / artefacts.band_softness)
    inside = (1 / (1 + np.exp(np.clip(behind * steep, -30, 30)))).astype(np.float32)
    return 1 - np.float32(artefacts.band) * inside


def add_replicas(
    image: Singles,
    gain: Singles,
    coarse: tuple[Singles, Singles],
    artefacts: Artefacts,
    rng: np.random.Generator,
) -> None:
    """Add faint replicas of the breathing front and of the vessels along the phase axis, in place.

    Args:
        image: ``[rows, columns]`` signal, with the coil's gain.
        gain: ``[rows, columns]`` of the coil.
        coarse: mm to the left and to the back of the canal at L3/L4, at every `coil.EVERY`-th pixel.
        artefacts: the brightness of the replicas.
        rng: for the phase of the movement in this slice.
    """
    turns = rng.uniform(0.0, 2 * np.pi, 2)
    if not (artefacts.front_ghost or artefacts.vessel_ghost):
        return
    x, y = coarse
    source = np.zeros(image.shape, np.float32)
    if artefacts.front_ghost:
        front = 1 / (1 + np.exp(np.clip((y + 85.0) * 0.1, -30, 30)))
        source += np.float32(artefacts.front_ghost) * image * enlarged(front, image.shape)
    if artefacts.vessel_ghost:
        lumen = sum(_lumen(x, y, vessel) for vessel in (AORTA, CAVA))
        assert not isinstance(lumen, int)
        source += np.float32(0.6 * artefacts.vessel_ghost) * gain * enlarged(lumen, image.shape)
    shift = max(2, round(artefacts.ghost_shift * image.shape[artefacts.phase_axis]))
    for order, part in ((1, np.cos(turns[0])), (2, 0.5 * np.cos(turns[1]))):
        for sign in (-1, 1):
            image += np.float32(part) * np.roll(source, sign * order * shift, artefacts.phase_axis)


def _lumen(x: Singles, y: Singles, vessel: tuple[float, float, float]) -> Singles:
    """Return about 1 inside a vessel that runs along the body, 0 outside."""
    left, back, radius = vessel
    squares = (x - np.float32(left)) ** 2 + (y - np.float32(back)) ** 2
    return np.exp(-squares * np.float32(1 / radius**2))


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
