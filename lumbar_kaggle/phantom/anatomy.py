"""What lies between the bones, each placed in LPS mm: discs, foramina with their roots; the labelled points.

Discs and foramina are placed in the disc's frame. Bones are in `vertebrae`, what runs along the whole canal
in `canal`, the trunk around it in `trunk`.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np

from lumbar_kaggle.phantom.arrays import Floats
from lumbar_kaggle.phantom.patient import N_VERTEBRAE, Patient
from lumbar_kaggle.phantom.shapes import Disc, Ellipsoid, Rod, Shape
from lumbar_kaggle.phantom.spine import Spine

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
    CORTEX = "cortex"


@dataclass(frozen=True)
class Marrow:
    """What differs inside one body.

    Attributes:
        half_height: mm, of the body.
        modic: kind beside the upper and the lower end plate, see `patient.Wear`.
        depth: mm that each reaches.
        spot: middle (x, y, z) and radius of a fatty spot, mm; radius 0 for none.
    """

    half_height: float
    modic: tuple[int, int]
    depth: tuple[float, float]
    spot: tuple[float, float, float, float]


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
        marrow: of a body.
    """

    shape: Shape
    origin: Floats
    axes: Floats
    tissue: Tissue
    amount: float = 1.0
    bone: int = -1
    marrow: Marrow | None = None


def closing(g: float, scale: float) -> float:
    """Return the part of a space that is left at severity `g`: 1 at 0, falling smoothly."""
    return float(np.exp(-((max(g, 0.0) / scale) ** 1.2)))


def foramen_point(patient: Patient, spine: Spine, level: int, sign: float) -> Floats:
    """Return LPS mm ``[3]`` of the middle of a foramen; levels -1 and 5 are those beside."""
    k = spine.first_disc + level
    return spine.place(
        spine.disc_at[k], (sign * foramen_x(patient, k), -4.0 * patient.size, 6.5 * patient.size)
    )


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
    solids = []
    for k in range(1, patient.first_sacral):
        for side, sign in SIDES:
            solids += _foramen(patient, spine, k, side, sign)
    return solids


def discs(patient: Patient, spine: Spine) -> list[Solid]:
    """Return the discs; the bodies are painted over them."""
    return [_disc(patient, spine, k) for k in range(N_VERTEBRAE - 1)]


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
    ganglion = Ellipsoid(5.5 * size, 2.9 * size * (0.35 + 0.65 * flat), 3.6 * size * (0.6 + 0.4 * flat))
    vein = Ellipsoid(4.0 * size, 1.3 * size * flat, 1.3 * size * flat)
    root = Rod((sign * 9.0 * size, -4.5 * size, -7.5 * size), 1.7 * size)

    def put(shape: Shape, left: float, back: float, up: float, tissue: Tissue) -> Solid:
        return Solid(shape, spine.place(at, (x + sign * left * size, -back * size, up)), axes, tissue)

    return [
        put(surround, 0.0, 2.2, up, Tissue.LIGAMENT),
        put(fat, 2.5, 3.0, up, Tissue.FAT),
        put(vein, 0.0, 5.2, root_up - 5.5 * size, Tissue.CORTEX),
        put(root, 13.0, 7.5, root_up - 8.0 * size, Tissue.NERVE),
        put(ganglion, 0.0, 3.6, root_up, Tissue.GANGLION),
    ]


def _disc(patient: Patient, spine: Spine, k: int) -> Solid:
    g = patient.disc_severity(k)
    fused = k >= patient.first_sacral
    depth, width = (
        1.05 * sizes[k + 1] if fused else sizes[k : k + 2].mean() for sizes in (patient.depth, patient.width)
    )
    at = spine.disc_at[k]
    opening = patient.angles[k] - patient.angles[k + 1] - patient.wedge[k : k + 2].mean()
    level = k - patient.first_disc
    share = 1.0 - (patient.flavum_share[level] if 0 <= level < 5 else 0.5)
    central = 2 * patient.canal_half * (1.0 - closing(g[0], 2.3)) * share
    rim = 0.5 * float(patient.wear.osteophyte[k])
    bulge = (0.3, 0.75 * central, 1.3 * g[3], 1.3 * g[4], 1.25 * g[1], 1.25 * g[2])
    shape = Disc(
        a=float(width) / 2 + 0.6 + rim,
        b=float(depth) / 2 + 0.5,
        height=float(patient.disc_height[k]),
        opening=float(opening),
        bulge=tuple(float(part) for part in bulge),
        recess_x=recess_x(patient, k),
        foramen_x=foramen_x(patient, k),
        ahead=rim,
    )
    slip = float(patient.wear.slip[k])
    origin = spine.place(at, (0.0, -patient.canal_half - float(depth) / 2 - slip / 2, 0.0))
    return Solid(shape, origin, spine.frame(at)[1], Tissue.DISC, float(patient.hydration[k]))
