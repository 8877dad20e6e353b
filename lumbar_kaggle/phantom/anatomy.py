"""The solids, each placed in LPS mm: bones, facet joints, discs, foramina with their roots.

Every part of a vertebra is rigid in its vertebra's frame; discs, foramina and facet joints lie in the disc's frame."""

from typing import NamedTuple

import numpy as np

from lumbar_kaggle.phantom.patient import N_VERTEBRAE, Patient, Spine, closing
from lumbar_kaggle.phantom.settings import Floats
from lumbar_kaggle.phantom.shapes import Body, Box, Disc, Ellipsoid, Rod, Shape

SIDES = ((0, 1.0), (1, -1.0))  # index in pairs (left, right) and sign of LPS x


class Solid(NamedTuple):
    """A shape in its place."""

    shape: Shape  # in its own frame
    origin: Floats  # [3] LPS mm
    axes: Floats  # [3, 3] unit vectors of the frame's x, y, z (rows)
    tissue: str = "bone"  # what it is made of: bone, disc, or a key of `imaging.TISSUES`
    bone: int = -1  # bones with the same number grow together: no rim between them


class Anatomy:
    """The solids of one patient."""

    def __init__(self, patient: Patient, spine: Spine) -> None:
        self.patient, self.spine, self.size = patient, spine, patient.size

    def bones_and_discs(self) -> list[Solid]:
        """Return, in painting order, what is painted over the canal: discs, bones, facet joints."""
        patient, spine, size = self.patient, self.spine, self.size
        solids = []
        for k, disc in enumerate(Disc(patient, k) for k in range(N_VERTEBRAE - 1)):
            ahead = patient.canal_half + disc.depth / 2 + float(patient.slip[k]) / 2
            solids.append(self._solid(disc, spine.disc_at[k], (0.0, -ahead, 0.0), "disc"))
        ilium = Ellipsoid((9.0 * size, 46.0 * size, 52.0 * size))  # a thin plate at the side of the sacrum
        for _, sign in SIDES:
            place = spine.place(spine.vertebra_at[patient.first_sacral], (sign * 66.0 * size, 6.0, -14.0))
            solids.append(Solid(ilium, place, _turned(-28.0 * sign)))
        for k in range(N_VERTEBRAE):
            solids += self._vertebra(k)
        space = Ellipsoid((7.4 * size, 0.95 * size, 8.0 * size))  # cartilage and fluid between the articular processes
        joints = [(k, *side) for k in range(patient.first_sacral) for side in SIDES]
        return solids + [Solid(space, *self._facet_frame(*joint), "joint") for joint in joints]

    def _solid(self, shape: Shape, along: float, local: tuple[float, float, float], tissue: str = "bone") -> Solid:
        """Return a shape with its middle at `local` (mm) in the frame at `along` mm of the canal's line."""
        return Solid(shape, self.spine.place(along, local), self.spine.frame(along)[1], tissue)

    def foramen(self, k: int, side: int, sign: float) -> list[Solid]:
        """Return, in painting order, what fills a narrowed foramen, its fat, its vessels, and the root that leaves
        through it. Narrowing takes the fat from top to bottom first, then from front to back, and presses the root
        last: the steps of the grading of Lee et al., AJR 194:1095 (2010)."""
        patient, size = self.patient, self.size
        g, inborn = float(patient.disc_severity(k)[1 + side]), float(patient.foramen_size[k, side])
        full_height = inborn * (0.55 * patient.height[k] + 0.42 * patient.disc_height[k]) * 0.78
        half_height = full_height * closing(g, 3.0)
        half_depth = 7.4 * size * inborn * closing(0.85 * g, 2.1)
        up = 0.42 * full_height + 0.45 * (full_height - half_height)
        root_up = 0.42 * full_height + 3.4 * size
        flat = closing(g, 3.6)
        vein = 4.0 * size, 1.3 * size * flat, 1.3 * size * flat
        root = sign * 9.0 * size, -4.5 * size, -7.5 * size
        ganglion = 5.5 * size, 2.9 * size * (0.35 + 0.65 * flat), 3.6 * size * (0.6 + 0.4 * flat)

        def part(shape: Shape, outwards: float, ahead: float, up: float, tissue: str) -> Solid:
            place = sign * patient.foramen_x(k) + sign * outwards * size, -ahead * size, up
            return self._solid(shape, self.spine.disc_at[k], place, tissue)

        return [
            # A little less than the fat of an open foramen, so that it shows only when the fat has gone.
            part(Ellipsoid((10.0 * size, 6.8 * size, 0.95 * full_height)), 0.0, 2.2, up, "ligament"),
            part(Ellipsoid((13.0 * size, half_depth, half_height)), 2.5, 3.0, up, "fat"),
            part(Ellipsoid(vein), 0.0, 5.2, root_up - 5.5 * size, "cortex"),
            part(Rod(root, 1.7 * size), 13.0, 7.5, root_up - 8.0 * size, "nerve"),
            part(Ellipsoid(ganglion), 0.0, 3.6, root_up, "ganglion"),
        ]

    def _facet_frame(self, k: int, side: int, sign: float) -> tuple[Floats, Floats]:
        """Return middle (LPS mm) and axes of a facet joint: it faces backwards and inwards, more so higher up."""
        size, at = self.size, self.spine.disc_at[k]
        x = 0.96 * float(self.patient.pedicle[k]) + 1.0 * size
        middle = self.spine.place(at, (sign * x, 12.8 * size, 1.0 * size))
        turn = 35.0 + 4.0 * min(k - self.patient.first_disc, 4) + self.patient.facet_turn[k, side]
        return middle, _turned(turn * sign) @ self.spine.frame(at)[1]

    def _vertebra(self, k: int) -> list[Solid]:
        """Return body, arch and processes of a vertebra, all one bone, and the vein in its back wall."""
        patient, size, at = self.patient, self.size, self.spine.vertebra_at[k]
        below = k - patient.first_sacral  # 0 and more in the sacrum
        back_wall = -patient.canal_half - float(patient.slip[k])  # mm behind the canal's line
        body = Body(patient, k)
        solids = [self._solid(body, at, (0.0, back_wall + -body.half[1], 0.0))]
        if below < 3:
            # The spinous process hangs at its tip; it is smaller on the lowest lumbar vertebra and on the sacrum.
            length, height = ((14.0, 9.0), (11.0, 7.0), (6.0, 5.0))[min(max(below, -2), 0) + 2]
            plate = Box((2.9 * size, length * size, height * size), 4.0, 0.26)
            behind, up = patient.canal_half + 7.0 * size + plate.half[1], -0.72 * float(patient.height[k]) / 2 - 1.0
            solids.append(self._solid(plate, at, (0.0, behind, up)))
            for side, sign in SIDES:
                solids += self._half_arch(k, sign)
                if below >= 0:
                    width = float(patient.width[k])
                    wing = Ellipsoid((0.42 * width, 0.3 * width, 0.6 * float(patient.height[k])))
                    solids.append(self._solid(wing, at, (sign * 0.62 * width, -6.0, 0.0)))
                if below <= 0:
                    solids += self._articular_processes(k, side, sign)
        solids = [solid._replace(bone=k) for solid in solids]
        if below < 0:
            vein = Ellipsoid((4.0 * size, 4.5 * size, 1.6 * size))
            solids.append(self._solid(vein, at, (0.0, back_wall + -6.5 * size, 0.5), "epidural"))
        return solids

    def _half_arch(self, k: int, sign: float) -> list[Solid]:
        """Return one side's pedicle, pillar, lamina and transverse process."""
        patient, size, at = self.patient, self.size, self.spine.vertebra_at[k]
        half_height, x = float(patient.height[k]) / 2, float(patient.pedicle[k])
        inner = 0.96 * x - 3.5 * size  # of the facet joint below
        front, apex = -patient.canal_half + 2.5 * size, patient.canal_half + 8.6 * size

        def rod(start: tuple[float, float, float], end: tuple[float, float, float], *thick: float) -> Solid:
            """Return a rod between points that are given as mm outwards, back and up."""
            ends = [self.spine.place(at, (sign * outwards, back, up)) for outwards, back, up in (start, end)]
            return _rod(ends[0], ends[1], self.spine.frame(at)[1], *thick)

        box = Box((float(patient.pedicle_half_width[k]), 12.0 * size, 0.5 * half_height), 3.5)
        solids = [
            self._solid(box, at, (sign * x, front, 0.42 * half_height)),
            rod((x, 4.0 * size, 0.2 * half_height), (inner, 13.0 * size, -half_height - 2.0 * size), 4.2 * size, 1.4),
            rod((inner, 12.5 * size, -0.8 * half_height), (0.0, apex, -0.85 * half_height), 2.9 * size, 3.0),
        ]
        if k < patient.first_sacral:
            tip = x + 24.0 * size, 7.0 * size, 0.3 * half_height
            solids.append(rod((x + 3.0 * size, 1.0, 0.35 * half_height), tip, 2.6 * size, 1.7))
        return solids

    def _articular_processes(self, k: int, side: int, sign: float) -> list[Solid]:
        """Return the process sent up to the facet joint above, with its foot, and the one sent down to that below.
        Degenerated joints grow: forwards and upwards into the foramen, inwards over the recess."""
        patient, spine, solids = self.patient, self.spine, []
        if k > 0:
            narrow, recess = patient.disc_severity(k - 1)[[1 + side, 3 + side]]
            size = self.size * float(patient.facet_size[k - 1, side])
            thick = 5.0 * size + 0.75 * narrow + 0.55 * recess
            shape = Ellipsoid((8.0 * size + 0.35 * recess, thick, 10.0 * size + 0.9 * narrow))
            disc_axes = spine.frame(spine.disc_at[k - 1])[1]
            middle, axes = self._facet_frame(k - 1, side, sign)
            middle = middle - axes[1] * (5.0 * size + 0.35 * narrow) + disc_axes[0] * (-sign * 0.55 * recess)
            foot = spine.place(spine.vertebra_at[k], (sign * patient.pedicle[k], 3.0 * size, 4.0 * size))
            solids += [_rod(foot, middle, disc_axes, 4.4 * size, 1.2), Solid(shape, middle, axes)]
        if k < patient.first_sacral:
            wear = float(patient.disc_severity(k)[[1 + side, 3 + side]].mean())
            size = self.size * float(patient.facet_size[k, side])
            middle, axes = self._facet_frame(k, side, sign)
            shape = Ellipsoid((8.4 * size + 0.4 * wear, 6.2 * size + 0.4 * wear, 11.5 * size))
            solids.append(Solid(shape, middle + axes[1] * (6.2 * size), axes))
        return solids


def _turned(degrees: float) -> Floats:
    """Return the axes of a frame that is turned about z."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1.0]])


def _rod(start: Floats, end: Floats, axes: Floats, radius: float, stretch: float) -> Solid:
    """Return a bony rod between two LPS points."""
    x, y, z = (axes @ (end - start) / 2).tolist()
    return Solid(Rod((x, y, z), radius, stretch), (start + end) / 2, axes)
