"""The course of the spine: the centre line of the canal, and the frame of every vertebra and disc.

A *frame* is an origin and three unit axes: to the patient's left, to the back, and upwards along the
spine, all in LPS mm. Local coordinates (x, y, z) are measured along them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.phantom.patient import FIRST_LUMBAR, Patient
from lumbar_kaggle.phantom.settings import Floats, Singles

STEP = 0.25
"""Distance between the tabulated points of the centre line, mm."""


@dataclass(frozen=True)
class Spine:
    """Centre line of the canal, tabulated from the foot end to the head end."""

    points: Floats  # [n, 3] LPS mm, every `STEP` mm along the line
    axes: Floats  # [n, 3, 3] unit vectors to the left, back and up (rows) at each point
    vertebra_at: Floats  # [13] mm along the line
    disc_at: Floats  # [12] mm along the line
    first_disc: int  # index of the disc of level 0

    def frame(self, along: float) -> tuple[Floats, Floats]:
        """Return origin ``[3]`` and axes ``[3, 3]`` at `along` mm of the line."""
        k = int(np.clip(round(along / STEP), 0, len(self.points) - 1))
        return self.points[k], self.axes[k]

    def place(self, along: float, local: tuple[float, float, float]) -> Floats:
        """Return the LPS mm ``[3]`` of a point given in the frame at `along`."""
        origin, axes = self.frame(along)
        return origin + np.asarray(local) @ axes

    def level_at(self, level: int) -> float:
        """Return mm along the line of the disc of level 0 (``l1_l2``) to 4; -1 and 5 are beside."""
        return float(self.disc_at[self.first_disc + level])


def build_spine(patient: Patient) -> Spine:
    """Return the course of a patient's spine."""
    gaps = -np.diff(patient.angles)  # how much the lean falls from one vertebra to the next below
    # The canal runs on the inner side of the lordosis, behind the wall where heights are measured.
    bodies = (patient.height[:-1] + patient.height[1:]) / 2
    spacing = bodies + patient.disc_height - gaps * patient.canal_half
    below = np.concatenate([[0.0], np.cumsum(spacing)])
    vertebra_at = below[-1] + 40.0 - below
    body_end = vertebra_at[:-1] - patient.height[:-1] / 2
    disc_at = body_end - (spacing - bodies) / 2
    along = np.arange(0.0, vertebra_at[0] + 60.0, STEP)
    lean = np.interp(along, vertebra_at[::-1], patient.angles[::-1])
    # Smoothed along the line by a normal of 6 mm, ends held.
    reach = int(4 * 6.0 / STEP)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * STEP / 6.0) ** 2)
    lean = np.convolve(np.pad(lean, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
    amplitude, wave, phase = patient.scoliosis
    turn = 2 * np.pi / wave
    sideways = amplitude * np.sin(turn * along + phase)
    roll = amplitude * turn * np.cos(turn * along + phase)
    up = np.stack([roll, np.sin(lean), np.cos(lean)], axis=1)
    points = np.cumsum(up, axis=0) * STEP
    points[:, 0] = sideways
    left = np.stack([np.ones_like(lean), -roll * np.sin(lean), -roll * np.cos(lean)], axis=1)
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    axes = np.stack([left, np.cross(up, left), up], axis=1)
    middle = round(float(disc_at[FIRST_LUMBAR + 2]) / STEP)
    return Spine(points - points[middle] + patient.origin, axes, vertebra_at, disc_at, patient.first_disc)


class CentreLine:
    """Lookup of `Spine` in single precision, for whole images.

    Points between the table's entries are carried to the nearest one's frame, which is exact to the
    first order.
    """

    def __init__(self, spine: Spine) -> None:
        self._points = spine.points.astype(np.float32).T
        self._axes = np.ascontiguousarray(spine.axes.transpose(1, 2, 0), dtype=np.float32)
        self._offsets = np.einsum("nk,nak->an", spine.points, spine.axes).astype(np.float32)
        z = np.arange(np.floor(spine.points[0, 2]), np.ceil(spine.points[-1, 2]), STEP)
        self._z0 = np.float32(z[0])
        course = np.stack([np.interp(z, spine.points[:, 2], spine.points[:, k]) for k in (0, 1)])
        self._course = course.astype(np.float32)
        self._start = np.interp(z, spine.points[:, 2], np.arange(len(spine.points))).astype(np.int32)

    def at_height(self, z: Singles) -> tuple[Singles, Singles]:
        """Return x and y (mm) of the line at heights `z` of any shape; its ends are held."""
        index = self._index(z)
        return self._course[0].take(index), self._course[1].take(index)

    def curved(self, points: Singles) -> tuple[Singles, Singles, Singles]:
        """Return (left, back, along) in mm of ``[3, n]`` points near the line, each ``[n]``."""
        nearest = self._start.take(self._index(points[2]))
        for _ in range(2):
            ahead = self._along(points, nearest, 2)
            nearest += np.rint(ahead * np.float32(1 / STEP)).astype(np.int32)
            np.clip(nearest, 0, self._points.shape[1] - 1, out=nearest)
        left, back, ahead = (self._along(points, nearest, axis) for axis in range(3))
        return left, back, nearest.astype(np.float32) * np.float32(STEP) + ahead

    def _along(self, points: Singles, nearest: NDArray[np.int32], axis: int) -> Singles:
        """Return the coordinate of points along one axis of the frames at table entries `nearest`."""
        direction = self._axes[axis].take(nearest, axis=1)
        return np.einsum("kn,kn->n", points, direction) - self._offsets[axis].take(nearest)

    def _index(self, z: Singles) -> NDArray[np.int32]:
        index = ((z - self._z0) * np.float32(1 / STEP)).astype(np.int32)
        return np.clip(index, 0, self._course.shape[1] - 1)
