"""The solid structures of a patient, each placed in LPS mm: bones, discs, foramina, joints.

The bodies and everything behind them are rigid in their vertebra's frame; a disc and its two foramina are
placed in the disc's frame. What runs along the whole canal is in `canal`, the trunk around it in `trunk`.
"""

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.phantom.patient import FIRST_DISC, VERTEBRAE, Patient
from lumbar_kaggle.phantom.shapes import Body, Box, Disc, Ellipsoid, Rod, Shape
from lumbar_kaggle.phantom.spine import Spine

Floats = NDArray[np.float64]

FIRST_SACRAL = VERTEBRAE.index("S1")
SIDES = ((0, 1.0), (1, -1.0))
"""Index in pairs (left, right) and sign of LPS x."""


class Tissue(Enum):
    """What a solid is made of; the value is the field of `tissues.Contrast`, bone and disc aside."""

    BONE = "bone"
    DISC = "disc"
    FAT = "fat"
    LIGAMENT = "ligament"
    GANGLION = "ganglion"
    NERVE = "nerve"
    JOINT = "joint"
    VEIN = "epidural"


@dataclass(frozen=True)
class Solid:
    """A shape in its place.

    Attributes:
        shape: in its own frame.
        origin: ``[3]`` LPS mm.
        axes: ``[3, 3]`` unit vectors of the frame's x, y, z (rows).
        tissue: what it is made of.
        amount: hydration of a disc, 0 to 1.
        bone: bones with the same number grow together: no rim between them.
    """

    shape: Shape
    origin: Floats
    axes: Floats
    tissue: Tissue
    amount: float = 1.0
    bone: int = -1


def closing(g: float, scale: float) -> float:
    """Return the part of a space that is left at severity `g`: 1 at 0, falling smoothly."""
    return float(np.exp(-((max(g, 0.0) / scale) ** 1.2)))


def behind_canal(patient: Patient, spine: Spine) -> list[Solid]:
    """Return, in painting order, what is painted before the canal: the foramina and the roots in them."""
    solids = []
    for k in range(FIRST_DISC - 2, FIRST_DISC + 5):
        for side, sign in SIDES:
            solids += _foramen(patient, spine, k, side, sign)
    return solids


def before_canal(patient: Patient, spine: Spine) -> list[Solid]:
    """Return, in painting order, what is painted after the canal: discs, vertebrae, joints."""
    solids = [_disc(patient, spine, k) for k in range(len(VERTEBRAE) - 1)]
    solids += _pelvis(patient, spine)
    for k in range(len(VERTEBRAE)):
        solids += _vertebra(patient, spine, k)
    for k in range(FIRST_SACRAL):
        solids += [_joint_space(patient, spine, k, sign) for _, sign in SIDES]
    return solids


def foramen_point(patient: Patient, spine: Spine, level: int, sign: float) -> Floats:
    """Return LPS mm ``[3]`` of the middle of a foramen."""
    k = FIRST_DISC + level
    up = 6.5 * patient.size
    return spine.place(spine.disc_at[k], (sign * _foramen_x(patient, k), -4.0 * patient.size, up))


def recess_point(patient: Patient, spine: Spine, level: int, sign: float) -> Floats:
    """Return LPS mm ``[3]`` of the entrance of a lateral recess, under the facet joint."""
    x = sign * recess_x(patient, FIRST_DISC + level)
    return spine.place(spine.level_at(level), (x, -3.5 * patient.size, 0.0))


def recess_x(patient: Patient, disc: int) -> float:
    """Return mm from the middle to the lateral recess at a disc."""
    return 0.53 * float(patient.pedicle[disc + 1])


def disc_severity(patient: Patient, disc: int) -> Floats:
    """Return ``[5]`` g of the conditions at a disc, zeros outside L1/L2 to L5/S1."""
    level = disc - FIRST_DISC
    return patient.severity[:, level] if 0 <= level < 5 else np.zeros(5)


def _foramen_x(patient: Patient, disc: int) -> float:
    return float(patient.pedicle[disc : disc + 2].mean())


def _foramen(patient: Patient, spine: Spine, k: int, side: int, sign: float) -> list[Solid]:
    """Return the foramen's ligaments, its fat, and the root's ganglion below the upper pedicle."""
    g = disc_severity(patient, k)[1 + side]
    size = patient.size
    x = sign * _foramen_x(patient, k)
    at = spine.disc_at[k]
    axes = spine.frame(at)[1]
    half_height = 10.5 * size * closing(g, 3.2)
    half_depth = 6.2 * size * closing(0.85 * g, 2.2)
    up = (15.0 * size - half_height) * 0.9
    root_up = up + 0.25 * half_height
    flat = closing(g, 4.5)
    surround = Ellipsoid(9.0 * size, 8.0 * size, 13.5 * size)
    fat = Ellipsoid(8.5 * size, half_depth, half_height)
    ganglion = Ellipsoid(5.5 * size, 2.6 * size * flat, 3.2 * size * (0.5 + 0.5 * flat))
    return [
        Solid(surround, spine.place(at, (x, -2.0, 2.0)), axes, Tissue.LIGAMENT),
        Solid(fat, spine.place(at, (x, -3.2 * size, up)), axes, Tissue.FAT),
        Solid(ganglion, spine.place(at, (x, -4.2 * size, root_up)), axes, Tissue.GANGLION),
    ]


def _disc(patient: Patient, spine: Spine, k: int) -> Solid:
    g = disc_severity(patient, k)
    fused = k >= FIRST_SACRAL
    depth, width = (
        1.05 * sizes[k + 1] if fused else sizes[k : k + 2].mean() for sizes in (patient.depth, patient.width)
    )
    at = spine.disc_at[k]
    opening = patient.angles[k] - patient.angles[k + 1] - patient.wedge[k : k + 2].mean()
    share = 1.0 - (patient.flavum_share[k - FIRST_DISC] if FIRST_DISC <= k < FIRST_SACRAL else 0.5)
    central = 2 * patient.canal_half * (1.0 - closing(g[0], 2.3)) * share
    bulge = (0.3, 0.75 * central, 1.3 * g[3], 1.3 * g[4], 1.2 * g[1], 1.2 * g[2])
    shape = Disc(
        a=float(width) / 2 + 0.6,
        b=float(depth) / 2 + 0.5,
        height=float(patient.disc_height[k]),
        opening=float(opening),
        bulge=bulge,
        joint_x=recess_x(patient, k),
        foramen_x=_foramen_x(patient, k),
    )
    origin = spine.place(at, (0.0, -patient.canal_half - float(depth) / 2, 0.0))
    return Solid(shape, origin, spine.frame(at)[1], Tissue.DISC, float(patient.hydration[k]))


def _vertebra(patient: Patient, spine: Spine, k: int) -> list[Solid]:
    """Return one vertebra: body, arch, processes; all one bone."""
    at, axes = spine.vertebra_at[k], spine.frame(spine.vertebra_at[k])[1]
    sacral = k >= FIRST_SACRAL
    shape = Body(
        a=float(patient.width[k]) / 2,
        b=float(patient.depth[k]) / 2,
        c=float(patient.height[k]) / 2,
        wedge=float(patient.wedge[k]),
        hollow=0.5 if sacral else 1.8,
        taper=0.16 if sacral else 0.02,
    )
    solids = [Solid(shape, spine.place(at, (0.0, -patient.canal_half - shape.b, 0.0)), axes, Tissue.BONE)]
    if k < FIRST_SACRAL + 3:
        solids.append(_spinous(patient, spine, k))
        for side, sign in SIDES:
            solids += _half_arch(patient, spine, k, sign)
            if sacral:
                wing = Ellipsoid(0.42 * patient.width[k], 0.3 * patient.width[k], 0.6 * patient.height[k])
                middle = spine.place(at, (sign * 0.62 * patient.width[k], -6.0, 0.0))
                solids.append(Solid(wing, middle, axes, Tissue.BONE))
            if 0 < k <= FIRST_SACRAL:
                solids.append(_superior_process(patient, spine, k - 1, side, sign))
            if k < FIRST_SACRAL:
                solids.append(_inferior_process(patient, spine, k, side, sign))
    solids = [replace(solid, bone=k) for solid in solids]
    if not sacral:
        vein = Ellipsoid(4.0 * patient.size, 4.5 * patient.size, 1.7 * patient.size)
        wall = spine.place(at, (0.0, -patient.canal_half - 1.0, 0.5))
        solids.append(Solid(vein, wall, axes, Tissue.VEIN))
    return solids


def _rod(spine: Spine, at: float, ends: tuple[Floats, Floats], radius: float, stretch: float) -> Solid:
    """Return a bony rod between two LPS points, in the orientation of the frame at `at`."""
    axes = spine.frame(at)[1]
    half = axes @ (ends[1] - ends[0]) / 2
    shape = Rod((float(half[0]), float(half[1]), float(half[2])), radius, stretch)
    return Solid(shape, (ends[0] + ends[1]) / 2, axes, Tissue.BONE)


def _half_arch(patient: Patient, spine: Spine, k: int, sign: float) -> list[Solid]:
    """Return one side's pedicle, pillar, lamina and transverse process."""
    size, at = patient.size, spine.vertebra_at[k]
    x, half_height = float(patient.pedicle[k]), float(patient.height[k]) / 2
    inner = facet_x(patient, k) - 3.0 * size

    def place(left: float, back: float, up: float) -> Floats:
        return spine.place(at, (sign * left, back, up))

    pedicle = Box(float(patient.pedicle_half_width[k]), 13.0 * size, 0.5 * half_height, 3.5)
    centre = place(x, -patient.canal_half + 2.5 * size, 0.42 * half_height)
    pillar = place(x, 4.0 * size, 0.2 * half_height), place(inner, 12.5 * size, -half_height - 3.0 * size)
    lamina = place(inner, 13.0 * size, -0.8 * half_height), place(0.0, 18.5 * size, -0.85 * half_height)
    solids = [
        Solid(pedicle, centre, spine.frame(at)[1], Tissue.BONE),
        _rod(spine, at, pillar, 3.8 * size, 1.3),
        _rod(spine, at, lamina, 2.8 * size, 3.2),
    ]
    if k < FIRST_SACRAL:
        tip = place(x + 24.0 * size, 7.0 * size, 0.3 * half_height)
        transverse = place(x + 3.0 * size, 1.0, 0.35 * half_height), tip
        solids.append(_rod(spine, at, transverse, 2.6 * size, 1.7))
    return solids


def _spinous(patient: Patient, spine: Spine, k: int) -> Solid:
    at, size = spine.vertebra_at[k], patient.size
    sacral = k >= FIRST_SACRAL
    length = 6.0 * size if sacral else (11.0 if k == FIRST_SACRAL - 1 else 14.5) * size
    height = 5.0 * size if sacral else (7.5 if k == FIRST_SACRAL - 1 else 9.5) * size
    shape = Box(2.8 * size, length, height, 3.5, 0.22)
    origin = spine.place(at, (0.0, 15.5 * size + length, -0.7 * patient.height[k] / 2 - 1.0))
    return Solid(shape, origin, spine.frame(at)[1], Tissue.BONE)


def facet_x(patient: Patient, disc: int) -> float:
    """Return mm from the middle to the facet joints at a disc."""
    return 0.96 * float(patient.pedicle[disc])


def _superior_process(patient: Patient, spine: Spine, k: int, side: int, sign: float) -> Solid:
    """Return the process that vertebra k + 1 sends up to its joint with k.

    Worn joints grow: forwards and upwards into the foramen, inwards over the recess.
    """
    g = disc_severity(patient, k)
    size, narrow, recess = patient.size, g[1 + side], g[3 + side]
    foot = spine.place(spine.vertebra_at[k + 1], (sign * patient.pedicle[k + 1], 3.0 * size, 5.0 * size))
    across = sign * (facet_x(patient, k) + 4.2 * size - 0.9 * recess)
    back = (10.0 - 0.9 * narrow - 0.7 * recess) * size
    tip = spine.place(spine.disc_at[k], (across, back, (6.0 + 1.6 * narrow) * size))
    return _rod(spine, spine.disc_at[k], (foot, tip), (5.2 + 0.5 * narrow + 0.35 * recess) * size, 1.2)


def _inferior_process(patient: Patient, spine: Spine, k: int, side: int, sign: float) -> Solid:
    """Return the process that vertebra k sends down to its joint with k + 1."""
    wear = disc_severity(patient, k)[[1 + side, 3 + side]].mean()
    size, at = patient.size, spine.disc_at[k]
    thick = (6.0 + 0.4 * wear) * size
    middle = spine.place(at, (sign * (facet_x(patient, k) - 3.8 * size), 16.0 * size, 1.0 * size))
    return Solid(Ellipsoid(thick, thick, 11.0 * size), middle, spine.frame(at)[1], Tissue.BONE)


def _joint_space(patient: Patient, spine: Spine, k: int, sign: float) -> Solid:
    """Return cartilage and fluid between the processes; it looks backwards and inwards."""
    size, at = patient.size, spine.disc_at[k]
    turn = np.radians(35.0 + 4.0 * min(k - FIRST_DISC, 4)) * sign
    turned = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1.0]])
    middle = spine.place(at, (sign * (facet_x(patient, k) + 0.4 * size), 12.8 * size, 1.0 * size))
    shape = Ellipsoid(5.0 * size, 1.0 * size, 7.5 * size)
    return Solid(shape, middle, turned @ spine.frame(at)[1], Tissue.JOINT)


def _pelvis(patient: Patient, spine: Spine) -> list[Solid]:
    """Return the two iliac wings, thin plates at the sides of the sacrum."""
    at = spine.vertebra_at[FIRST_SACRAL]
    solids = []
    for _, sign in SIDES:
        turn = np.radians(28.0) * sign
        axes = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1.0]])
        plate = Ellipsoid(9.0 * patient.size, 46.0 * patient.size, 52.0 * patient.size)
        origin = spine.place(at, (sign * 66.0 * patient.size, 6.0, -14.0))
        solids.append(Solid(plate, origin, axes, Tissue.BONE))
    return solids
