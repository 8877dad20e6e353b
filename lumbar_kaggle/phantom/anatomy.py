"""The solids, each placed in LPS mm: bones, facet joints, discs, foramina with their roots; labelled points.

Every part of a vertebra is rigid in its vertebra's frame; discs, foramina and facet joints are placed in the
disc's frame. What runs along the whole canal is in `sac`, the trunk around the spine in `trunk`.
"""

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from lumbar_kaggle.phantom.patient import N_VERTEBRAE, Patient, Spine
from lumbar_kaggle.phantom.settings import Floats
from lumbar_kaggle.phantom.shapes import Body, Box, Disc, Ellipsoid, Rod, Shape

SIDES = ((0, 1.0), (1, -1.0))  # index in pairs (left, right) and sign of LPS x


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
    CORTEX = "cortex"


@dataclass(frozen=True)
class Marrow:
    """What differs inside one body, mm."""

    half_height: float  # of the body
    modic: tuple[int, int]  # kind beside the upper and the lower end plate, see `patient.Wear`
    depth: tuple[float, float]  # that each reaches
    spot: tuple[float, float, float, float]  # middle (x, y, z) and radius of a fatty spot; radius 0: none


@dataclass(frozen=True)
class Solid:
    """A shape in its place."""

    shape: Shape  # in its own frame
    origin: Floats  # [3] LPS mm
    axes: Floats  # [3, 3] unit vectors of the frame's x, y, z (rows)
    tissue: Tissue
    amount: float = 1.0  # hydration of a disc, 0 to 1
    bone: int = -1  # bones with the same number grow together: no rim between them
    marrow: Marrow | None = None  # of a body


def closing(g: float, scale: float) -> float:
    """Return the part of a space that is left at severity `g`: 1 at 0, falling smoothly."""
    return float(np.exp(-((max(g, 0.0) / scale) ** 1.2)))


def foramen_point(patient: Patient, spine: Spine, level: int, sign: float) -> Floats:
    """Return LPS mm ``[3]`` of the middle of a foramen; levels -1 and 5 are those beside."""
    k = spine.first_disc + level
    local = sign * foramen_x(patient, k), -4.0 * patient.size, 6.5 * patient.size
    return spine.place(spine.disc_at[k], local)


def recess_point(patient: Patient, spine: Spine, level: int, sign: float) -> Floats:
    """Return LPS mm ``[3]`` of the entrance of a lateral recess, under the facet joint."""
    x = sign * recess_x(patient, spine.first_disc + level)
    return spine.place(spine.level_at(level), (x, -3.5 * patient.size, 0.0))


def recess_x(patient: Patient, disc: int) -> float:
    """Return mm from the middle to the lateral recess at a disc."""
    return 0.53 * float(patient.pedicle[disc + 1])


def foramen_x(patient: Patient, disc: int) -> float:
    """Return mm from the middle to the foramina at a disc."""
    return float(patient.pedicle[disc : disc + 2].mean())


def foramina(patient: Patient, spine: Spine) -> list[Solid]:
    """Return, in painting order, what is painted before the canal: the foramina and the roots in them."""
    discs = range(1, patient.first_sacral)
    return [part for k in discs for side, sign in SIDES for part in _foramen(patient, spine, k, side, sign)]


def bones_and_discs(patient: Patient, spine: Spine) -> list[Solid]:
    """Return, in painting order, what is painted over the canal: discs, bones, facet joints."""
    solids = [_disc(patient, spine, k) for k in range(N_VERTEBRAE - 1)]
    solids += [_ilium(patient, spine, sign) for _, sign in SIDES]
    for k in range(N_VERTEBRAE):
        solids += _Vertebra(patient, spine, k).solids()
    for k in range(patient.first_sacral):
        for side, sign in SIDES:
            # Cartilage and fluid between the processes.
            space = Ellipsoid(7.4 * patient.size, 0.95 * patient.size, 8.0 * patient.size)
            solids.append(Solid(space, *_facet_frame(patient, spine, k, side, sign), Tissue.JOINT))
    return solids


def _foramen(patient: Patient, spine: Spine, k: int, side: int, sign: float) -> list[Solid]:
    """Return what fills a narrowed foramen, its fat, its vessels, and the root that leaves through it.

    Narrowing takes the fat from top to bottom first, then from front to back, and presses the root last: the
    steps of the grading of Lee et al., AJR 194:1095 (2010).
    """
    g = float(patient.disc_severity(k)[1 + side])
    at, axes = spine.disc_at[k], spine.frame(spine.disc_at[k])[1]
    size, inborn = patient.size, float(patient.foramen_size[k, side])
    x = sign * foramen_x(patient, k)
    full_height = inborn * (0.55 * patient.height[k] + 0.42 * patient.disc_height[k]) * 0.78
    half_height = full_height * closing(g, 3.0)
    half_depth = 7.4 * size * inborn * closing(0.85 * g, 2.1)
    up = 0.42 * full_height + 0.45 * (full_height - half_height)
    root_up = 0.42 * full_height + 3.4 * size
    flat = closing(g, 3.6)
    # A little less than the fat of an open foramen, so that it shows only when the fat has gone.
    surround = Ellipsoid(10.0 * size, 6.8 * size, 0.95 * full_height)
    fat = Ellipsoid(13.0 * size, half_depth, half_height)
    vein = Ellipsoid(4.0 * size, 1.3 * size * flat, 1.3 * size * flat)
    root = Rod((sign * 9.0 * size, -4.5 * size, -7.5 * size), 1.7 * size)
    ganglion = Ellipsoid(5.5 * size, 2.9 * size * (0.35 + 0.65 * flat), 3.6 * size * (0.6 + 0.4 * flat))
    parts: tuple[tuple[Shape, float, float, float, Tissue], ...] = (
        (surround, 0.0, 2.2, up, Tissue.LIGAMENT),
        (fat, 2.5, 3.0, up, Tissue.FAT),
        (vein, 0.0, 5.2, root_up - 5.5 * size, Tissue.CORTEX),
        (root, 13.0, 7.5, root_up - 8.0 * size, Tissue.NERVE),
        (ganglion, 0.0, 3.6, root_up, Tissue.GANGLION),
    )
    return [
        Solid(shape, spine.place(at, (x + sign * outwards * size, -ahead * size, height)), axes, tissue)
        for shape, outwards, ahead, height, tissue in parts
    ]


def _disc(patient: Patient, spine: Spine, k: int) -> Solid:
    """Return a disc; the bodies are painted over it."""
    g = patient.disc_severity(k)
    fused = k >= patient.first_sacral
    depth, width = (
        float(1.05 * sizes[k + 1] if fused else sizes[k : k + 2].mean()) for sizes in (patient.depth, patient.width)
    )
    at = spine.disc_at[k]
    opening = patient.angles[k] - patient.angles[k + 1] - patient.wedge[k : k + 2].mean()
    level = k - patient.first_disc
    share = 1.0 - (patient.flavum_share[level] if 0 <= level < 5 else 0.5)
    central = 2 * patient.canal_half * (1.0 - closing(g[0], 2.3)) * share
    rim = 0.5 * float(patient.wear.osteophyte[k])
    bulge = (0.3, 0.75 * central, 1.3 * g[3], 1.3 * g[4], 1.25 * g[1], 1.25 * g[2])
    shape = Disc(
        a=width / 2 + 0.6 + rim,
        b=depth / 2 + 0.5,
        height=float(patient.disc_height[k]),
        opening=float(opening),
        bulge=bulge,
        recess_x=recess_x(patient, k),
        foramen_x=foramen_x(patient, k),
        ahead=rim,
    )
    origin = spine.place(at, (0.0, -patient.canal_half - depth / 2 - float(patient.wear.slip[k]) / 2, 0.0))
    return Solid(shape, origin, spine.frame(at)[1], Tissue.DISC, float(patient.hydration[k]))


def _ilium(patient: Patient, spine: Spine, sign: float) -> Solid:
    """Return one iliac wing, a thin plate at the side of the sacrum."""
    turn = np.radians(28.0) * sign
    axes = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1.0]])
    plate = Ellipsoid(9.0 * patient.size, 46.0 * patient.size, 52.0 * patient.size)
    at = spine.vertebra_at[patient.first_sacral]
    return Solid(plate, spine.place(at, (sign * 66.0 * patient.size, 6.0, -14.0)), axes, Tissue.BONE)


def _facet_x(patient: Patient, disc: int) -> float:
    """Return mm from the middle to the facet joints at a disc."""
    return 0.96 * float(patient.pedicle[disc])


def _facet_frame(patient: Patient, spine: Spine, k: int, side: int, sign: float) -> tuple[Floats, Floats]:
    """Return middle (LPS mm) and axes of a facet joint: it faces backwards and inwards, more so higher up."""
    size, at = patient.size, spine.disc_at[k]
    middle = spine.place(at, (sign * (_facet_x(patient, k) + 1.0 * size), 12.8 * size, 1.0 * size))
    turn = np.radians(35.0 + 4.0 * min(k - patient.first_disc, 4) + patient.facet_turn[k, side]) * sign
    turned = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1.0]])
    return middle, turned @ spine.frame(at)[1]


class _Vertebra:
    """Builder of vertebra `k`: body, arch, processes; all one bone."""

    def __init__(self, patient: Patient, spine: Spine, k: int) -> None:
        self.patient, self.spine, self.k = patient, spine, k
        self.size, self.at = patient.size, spine.vertebra_at[k]
        self.axes = spine.frame(self.at)[1]
        self.below = k - patient.first_sacral  # 0 and more in the sacrum
        self.half_height = float(patient.height[k]) / 2

    def solids(self) -> list[Solid]:
        """Return the vertebra's parts in painting order."""
        k, solids = self.k, [self.body()]
        if self.below < 3:
            solids.append(self.spinous_process())
            for side, sign in SIDES:
                solids += self.half_arch(sign)
                if self.below >= 0:
                    solids.append(self.sacral_wing(sign))
                if k > 0 >= self.below:
                    solids += self.superior_process(side, sign)
                if self.below < 0:
                    solids.append(self.inferior_process(side, sign))
        solids = [replace(solid, bone=k) for solid in solids]
        if self.below < 0:
            vein = Ellipsoid(4.0 * self.size, 4.5 * self.size, 1.6 * self.size)
            solids.append(self.bone(vein, (0.0, self.back_wall() + -6.5 * self.size, 0.5), Tissue.VEIN))
        return solids

    def place(self, local: tuple[float, float, float]) -> Floats:
        return self.spine.place(self.at, local)

    def bone(self, shape: Shape, local: tuple[float, float, float], tissue: Tissue = Tissue.BONE) -> Solid:
        return Solid(shape, self.place(local), self.axes, tissue)

    def rod(self, ends: tuple[Floats, Floats], radius: float, stretch: float, axes: Floats) -> Solid:
        """Return a bony rod between two LPS points."""
        x, y, z = (axes @ (ends[1] - ends[0]) / 2).tolist()
        return Solid(Rod((x, y, z), radius, stretch), (ends[0] + ends[1]) / 2, axes, Tissue.BONE)

    def back_wall(self) -> float:
        """Return mm behind the canal's line of the body's back wall, which slips."""
        return -self.patient.canal_half - float(self.patient.wear.slip[self.k])

    def body(self) -> Solid:
        patient, wear, k = self.patient, self.patient.wear, self.k
        sacral, above, below = self.below >= 0, max(k - 1, 0), min(k, N_VERTEBRAE - 2)
        shape = Body(
            a=float(patient.width[k]) / 2,
            b=float(patient.depth[k]) / 2,
            c=self.half_height,
            wedge=float(patient.wedge[k]),
            hollow=0.5 if sacral else 1.6,
            taper=0.16 if sacral else 0.02,
            lips=(float(wear.osteophyte[above]), float(wear.osteophyte[below])),
            dents=(float(wear.schmorl[above, 1]), float(wear.schmorl[below, 0])),
            crush=float(wear.fracture[k]),
        )
        spot = (0.3 * shape.a * np.cos(7 * k), 0.3 * shape.b * np.sin(5 * k), 0.3 * shape.c, float(wear.spot[k]))
        modic = int(wear.modic[above]), int(wear.modic[below])
        depth = float(wear.modic_depth[above]), float(wear.modic_depth[below])
        solid = self.bone(shape, (0.0, self.back_wall() + -shape.b, 0.0))
        return replace(solid, marrow=Marrow(shape.c, modic, depth, spot))

    def half_arch(self, sign: float) -> list[Solid]:
        """Return one side's pedicle, pillar, lamina and transverse process."""
        size, half_height = self.size, self.half_height
        x = float(self.patient.pedicle[self.k])
        inner = _facet_x(self.patient, self.k) - 3.5 * size
        front, apex = -self.patient.canal_half + 2.5 * size, self.patient.canal_half + 8.6 * size

        def place(outwards: float, back: float, up: float) -> Floats:
            return self.place((sign * outwards, back, up))

        box = Box(float(self.patient.pedicle_half_width[self.k]), 12.0 * size, 0.5 * half_height, 3.5)
        pillar = place(x, 4.0 * size, 0.2 * half_height), place(inner, 13.0 * size, -half_height - 2.0 * size)
        lamina = place(inner, 12.5 * size, -0.8 * half_height), place(0.0, apex, -0.85 * half_height)
        solids = [
            self.bone(box, (sign * x, front, 0.42 * half_height)),
            self.rod(pillar, 4.2 * size, 1.4, self.axes),
            self.rod(lamina, 2.9 * size, 3.0, self.axes),
        ]
        if self.below < 0:
            tip = place(x + 24.0 * size, 7.0 * size, 0.3 * half_height)
            transverse = place(x + 3.0 * size, 1.0, 0.35 * half_height), tip
            solids.append(self.rod(transverse, 2.6 * size, 1.7, self.axes))
        return solids

    def sacral_wing(self, sign: float) -> Solid:
        """Return one side of the sacrum beside its body."""
        width = float(self.patient.width[self.k])
        wing = Ellipsoid(0.42 * width, 0.3 * width, 0.6 * float(self.patient.height[self.k]))
        return self.bone(wing, (sign * 0.62 * width, -6.0, 0.0))

    def spinous_process(self) -> Solid:
        """Return a plate in the middle, thicker and hanging at its tip."""
        kind = min(max(self.below, -2), 0)  # above the lowest lumbar vertebra, that one, the sacrum
        length, height = ((14.0, 9.0), (11.0, 7.0), (6.0, 5.0))[kind + 2]
        length, height = length * self.size, height * self.size
        foot = self.patient.canal_half + 7.0 * self.size
        up = -0.72 * float(self.patient.height[self.k]) / 2 - 1.0
        return self.bone(Box(2.9 * self.size, length, height, 4.0, 0.26), (0.0, foot + length, up))

    def superior_process(self, side: int, sign: float) -> list[Solid]:
        """Return the process sent up to the facet joint with the vertebra above, and its foot.

        Degenerated facet joints grow: forwards and upwards into the foramen, inwards over the recess.
        """
        k = self.k - 1
        g = self.patient.disc_severity(k)
        narrow, recess = g[1 + side], g[3 + side]
        size = self.size * float(self.patient.facet_size[k, side])
        thick = 5.0 * size + 0.75 * narrow + 0.55 * recess
        shape = Ellipsoid(8.0 * size + 0.35 * recess, thick, 10.0 * size + 0.9 * narrow)
        disc_axes = self.spine.frame(self.spine.disc_at[k])[1]
        middle, axes = _facet_frame(self.patient, self.spine, k, side, sign)
        middle = middle - axes[1] * (5.0 * size + 0.35 * narrow) + disc_axes[0] * (-sign * 0.55 * recess)
        foot = self.place((sign * self.patient.pedicle[self.k], 3.0 * size, 4.0 * size))
        return [self.rod((foot, middle), 4.4 * size, 1.2, disc_axes), Solid(shape, middle, axes, Tissue.BONE)]

    def inferior_process(self, side: int, sign: float) -> Solid:
        """Return the process sent down to the facet joint with the vertebra below."""
        wear = float(self.patient.disc_severity(self.k)[[1 + side, 3 + side]].mean())
        size = self.size * float(self.patient.facet_size[self.k, side])
        middle, axes = _facet_frame(self.patient, self.spine, self.k, side, sign)
        shape = Ellipsoid(8.4 * size + 0.4 * wear, 6.2 * size + 0.4 * wear, 11.5 * size)
        return Solid(shape, middle + axes[1] * (6.2 * size), axes, Tissue.BONE)
