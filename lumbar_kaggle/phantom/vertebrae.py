"""The bones: bodies, arches and processes, sacral and iliac wings, and the facet joints.

Every part of a vertebra is rigid in its vertebra's frame; facet joints are placed in the frame of their disc.
"""

from dataclasses import replace

import numpy as np

from lumbar_kaggle.phantom.anatomy import SIDES, Marrow, Solid, Tissue
from lumbar_kaggle.phantom.arrays import Floats
from lumbar_kaggle.phantom.patient import N_VERTEBRAE, Patient
from lumbar_kaggle.phantom.shapes import Body, Box, Ellipsoid, Rod
from lumbar_kaggle.phantom.spine import Spine


def bones(patient: Patient, spine: Spine) -> list[Solid]:
    """Return, in painting order, the bones and the spaces of the facet joints."""
    solids = _pelvis(patient, spine)
    for k in range(N_VERTEBRAE):
        solids += _vertebra(patient, spine, k)
    for k in range(patient.first_sacral):
        solids += [_facet_space(patient, spine, k, side, sign) for side, sign in SIDES]
    return solids


def facet_x(patient: Patient, disc: int) -> float:
    """Return mm from the middle to the facet joints at a disc."""
    return 0.96 * float(patient.pedicle[disc])


def _vertebra(patient: Patient, spine: Spine, k: int) -> list[Solid]:
    """Return one vertebra: body, arch, processes; all one bone."""
    sacral = k >= patient.first_sacral
    solids = [_body(patient, spine, k)]
    if k < patient.first_sacral + 3:
        solids.append(_spinous(patient, spine, k))
        for side, sign in SIDES:
            solids += _half_arch(patient, spine, k, sign)
            if sacral:
                solids.append(_wing(patient, spine, k, sign))
            if 0 < k <= patient.first_sacral:
                solids += _superior_process(patient, spine, k - 1, side, sign)
            if k < patient.first_sacral:
                solids.append(_inferior_process(patient, spine, k, side, sign))
    solids = [replace(solid, bone=k) for solid in solids]
    if not sacral:
        axes = spine.frame(spine.vertebra_at[k])[1]
        vein = Ellipsoid(4.0 * patient.size, 4.5 * patient.size, 1.6 * patient.size)
        solids.append(
            Solid(vein, _place_body(patient, spine, k, (0.0, -6.5 * patient.size, 0.5)), axes, Tissue.VEIN)
        )
    return solids


def _place_body(patient: Patient, spine: Spine, k: int, local: tuple[float, float, float]) -> Floats:
    """Return LPS mm of a point given from the middle of the body's back wall."""
    back = -patient.canal_half - float(patient.wear.slip[k])
    return spine.place(spine.vertebra_at[k], (local[0], back + local[1], local[2]))


def _body(patient: Patient, spine: Spine, k: int) -> Solid:
    wear, sacral = patient.wear, k >= patient.first_sacral
    above, below = max(k - 1, 0), min(k, N_VERTEBRAE - 2)
    shape = Body(
        a=float(patient.width[k]) / 2,
        b=float(patient.depth[k]) / 2,
        c=float(patient.height[k]) / 2,
        wedge=float(patient.wedge[k]),
        hollow=0.5 if sacral else 1.6,
        taper=0.16 if sacral else 0.02,
        lips=(float(wear.osteophyte[above]), float(wear.osteophyte[below])),
        dents=(float(wear.schmorl[above, 1]), float(wear.schmorl[below, 0])),
        crush=float(wear.fracture[k]),
    )
    radius = float(wear.spot[k])
    marrow = Marrow(
        half_height=shape.c,
        modic=(int(wear.modic[above]), int(wear.modic[below])),
        depth=(float(wear.modic_depth[above]), float(wear.modic_depth[below])),
        spot=(0.3 * shape.a * np.cos(7 * k), 0.3 * shape.b * np.sin(5 * k), 0.3 * shape.c, radius),
    )
    axes = spine.frame(spine.vertebra_at[k])[1]
    origin = _place_body(patient, spine, k, (0.0, -shape.b, 0.0))
    return Solid(shape, origin, axes, Tissue.BONE, marrow=marrow)


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
    inner = facet_x(patient, k) - 3.5 * size
    apex = patient.canal_half + 8.6 * size

    def place(left: float, back: float, up: float) -> Floats:
        return spine.place(at, (sign * left, back, up))

    pedicle = Box(float(patient.pedicle_half_width[k]), 12.0 * size, 0.5 * half_height, 3.5)
    centre = place(x, -patient.canal_half + 2.5 * size, 0.42 * half_height)
    pillar = place(x, 4.0 * size, 0.2 * half_height), place(inner, 13.0 * size, -half_height - 2.0 * size)
    lamina = place(inner, 12.5 * size, -0.8 * half_height), place(0.0, apex, -0.85 * half_height)
    solids = [
        Solid(pedicle, centre, spine.frame(at)[1], Tissue.BONE),
        _rod(spine, at, pillar, 4.2 * size, 1.4),
        _rod(spine, at, lamina, 2.9 * size, 3.0),
    ]
    if k < patient.first_sacral:
        tip = place(x + 24.0 * size, 7.0 * size, 0.3 * half_height)
        transverse = place(x + 3.0 * size, 1.0, 0.35 * half_height), tip
        solids.append(_rod(spine, at, transverse, 2.6 * size, 1.7))
    return solids


def _wing(patient: Patient, spine: Spine, k: int, sign: float) -> Solid:
    """Return one side of the sacrum beside its body."""
    width, at = float(patient.width[k]), spine.vertebra_at[k]
    wing = Ellipsoid(0.42 * width, 0.3 * width, 0.6 * float(patient.height[k]))
    return Solid(wing, spine.place(at, (sign * 0.62 * width, -6.0, 0.0)), spine.frame(at)[1], Tissue.BONE)


def _spinous(patient: Patient, spine: Spine, k: int) -> Solid:
    """Return the spinous process: a plate in the middle, thicker and hanging at its tip."""
    at, size = spine.vertebra_at[k], patient.size
    below = k - patient.first_sacral
    length = (6.0 if below >= 0 else 11.0 if below == -1 else 14.0) * size
    height = (5.0 if below >= 0 else 7.0 if below == -1 else 9.0) * size
    shape = Box(2.9 * size, length, height, 4.0, 0.26)
    foot = patient.canal_half + 7.0 * size
    origin = spine.place(at, (0.0, foot + length, -0.72 * float(patient.height[k]) / 2 - 1.0))
    return Solid(shape, origin, spine.frame(at)[1], Tissue.BONE)


def _superior_process(patient: Patient, spine: Spine, k: int, side: int, sign: float) -> list[Solid]:
    """Return the process that vertebra k + 1 sends up to its facet joint with k, and its foot.

    Degenerated facet joints grow: forwards and upwards into the foramen, inwards over the recess.
    """
    g = patient.disc_severity(k)
    narrow, recess = g[1 + side], g[3 + side]
    size = patient.size * float(patient.facet_size[k, side])
    axes = _facet_axes(patient, spine, k, side, sign)
    thick = 5.0 * size + 0.75 * narrow + 0.55 * recess
    shape = Ellipsoid(8.0 * size + 0.35 * recess, thick, 10.0 * size + 0.9 * narrow)
    inwards = spine.frame(spine.disc_at[k])[1][0] * (-sign * 0.55 * recess)
    middle = _facet_middle(patient, spine, k, sign) - axes[1] * (5.0 * size + 0.35 * narrow) + inwards
    process = Solid(shape, middle, axes, Tissue.BONE)
    foot = spine.place(spine.vertebra_at[k + 1], (sign * patient.pedicle[k + 1], 3.0 * size, 4.0 * size))
    return [_rod(spine, spine.disc_at[k], (foot, middle), 4.4 * size, 1.2), process]


def _inferior_process(patient: Patient, spine: Spine, k: int, side: int, sign: float) -> Solid:
    """Return the process that vertebra k sends down to its facet joint with k + 1."""
    wear = float(patient.disc_severity(k)[[1 + side, 3 + side]].mean())
    size = patient.size * float(patient.facet_size[k, side])
    axes = _facet_axes(patient, spine, k, side, sign)
    shape = Ellipsoid(8.4 * size + 0.4 * wear, 6.2 * size + 0.4 * wear, 11.5 * size)
    return Solid(shape, _facet_middle(patient, spine, k, sign) + axes[1] * (6.2 * size), axes, Tissue.BONE)


def _facet_middle(patient: Patient, spine: Spine, k: int, sign: float) -> Floats:
    """Return LPS mm ``[3]`` of the middle of a facet joint."""
    size = patient.size
    across = sign * (facet_x(patient, k) + 1.0 * size)
    return spine.place(spine.disc_at[k], (across, 12.8 * size, 1.0 * size))


def _facet_axes(patient: Patient, spine: Spine, k: int, side: int, sign: float) -> Floats:
    """Return the frame of a facet joint: it faces backwards and inwards, more to the front lower down."""
    lumbar = k - patient.first_disc
    turn = np.radians(35.0 + 4.0 * min(lumbar, 4) + patient.facet_turn[k, side]) * sign
    turned = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1.0]])
    axes: Floats = turned @ spine.frame(spine.disc_at[k])[1]
    return axes


def _facet_space(patient: Patient, spine: Spine, k: int, side: int, sign: float) -> Solid:
    """Return cartilage and fluid between the processes."""
    shape = Ellipsoid(7.4 * patient.size, 0.95 * patient.size, 8.0 * patient.size)
    middle, axes = _facet_middle(patient, spine, k, sign), _facet_axes(patient, spine, k, side, sign)
    return Solid(shape, middle, axes, Tissue.JOINT)


def _pelvis(patient: Patient, spine: Spine) -> list[Solid]:
    """Return the two iliac wings, thin plates at the sides of the sacrum."""
    at = spine.vertebra_at[patient.first_sacral]
    solids = []
    for _, sign in SIDES:
        turn = np.radians(28.0) * sign
        axes = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1.0]])
        plate = Ellipsoid(9.0 * patient.size, 46.0 * patient.size, 52.0 * patient.size)
        origin = spine.place(at, (sign * 66.0 * patient.size, 6.0, -14.0))
        solids.append(Solid(plate, origin, axes, Tissue.BONE))
    return solids
