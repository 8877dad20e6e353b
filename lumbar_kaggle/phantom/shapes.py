"""Solid shapes with smooth edges: what vertebrae, discs and facet joints are made of.

A shape gives, for points in its own frame (x left, y back, z up; mm), the distance from its surface: negative inside,
roughly in millimetres, good enough near the surface to paint an edge that is one pixel wide."""

from typing import Any

import numpy as np

from lumbar_kaggle.phantom.patient import N_VERTEBRAE, Patient, closing
from lumbar_kaggle.phantom.settings import Singles

Sizes = tuple[float, float, float]


def covered(distance: Singles, softness: float) -> Singles:
    """Return which part (0 to 1) of a pixel lies inside; the edge is `softness` mm wide."""
    return np.clip(0.5 - distance * np.float32(1 / softness), 0, 1)


def covered_through(distance: Singles, softness: float) -> Singles:
    """Return which part of each voxel lies inside, for distances at several heights ``[heights, ...]``. Where a surface
    runs slanting through the slice its edge is as wide as the step between two heights: no staircase."""
    step = np.abs(distance[-1] - distance[0]) * np.float32(1 / max(len(distance) - 1, 1))
    return np.clip(0.5 - distance / np.maximum(step, np.float32(softness)), 0, 1)


def painted(under: Any, over: Any, part: Any) -> Any:
    """Return brightness with another painted over the given part (0 to 1) of each pixel."""
    return under + (over - under) * part


def ellipse(x: Singles, y: Singles, half_x: float | Singles, half_y: float | Singles) -> Singles:
    """Return mm from the edge of an ellipse around the origin, negative inside."""
    radius = np.sqrt((x / half_x) ** 2 + (y / half_y) ** 2)
    return (radius - 1) * np.minimum(half_x, half_y)


def bump(x: Singles, centre: float, width: float) -> Singles:
    """Return a smooth hill of height 1 (a normal curve without its constant)."""
    scaled = (x - np.float32(centre)) * np.float32(1 / width)
    return np.exp(-0.5 * scaled * scaled)


class Shape:
    """A solid around the origin of its frame: half its sizes along x, y, z, and those of a box that holds it; mm."""

    def __init__(self, half: Sizes, extent: Sizes | None = None) -> None:
        self.half, self.extent = half, extent or half

    def distance(self, x: Singles, y: Singles, z: Singles) -> Singles:
        """Return mm from the surface, negative inside, for points of any shape."""
        raise NotImplementedError


class Ellipsoid(Shape):
    """An ellipsoid."""

    def distance(self, x: Singles, y: Singles, z: Singles) -> Singles:
        a, b, c = (np.float32(1 / half) for half in self.half)
        u, v, w = x * a, y * b, z * c
        near = np.sqrt(u * u + v * v + w * w)
        u, v, w = u * a, v * b, w * c
        return near * (near - 1) / (np.sqrt(u * u + v * v + w * w) + np.float32(1e-6))


class Box(Shape):
    """A box with rounded edges, sheared backwards going down by `lean`."""

    def __init__(self, half: Sizes, rounding: float, lean: float = 0.0) -> None:
        super().__init__(half, (half[0], half[1], half[2] + abs(lean) * half[1]))
        self.rounding, self.lean = rounding, lean

    def distance(self, x: Singles, y: Singles, z: Singles) -> Singles:
        r = min(self.rounding, *self.half)
        z = z + np.float32(self.lean) * y
        u, v, w = (np.abs(axis) - np.float32(half - r) for axis, half in zip((x, y, z), self.half, strict=True))
        inside = np.minimum(np.maximum(np.maximum(u, v), w), 0)
        u, v, w = (np.maximum(axis, 0) for axis in (u, v, w))
        return np.sqrt(u * u + v * v + w * w) + inside - np.float32(r)


class Rod(Shape):
    """A rod from minus to plus the vector `half`, `stretch` times as high (z) as it is thick."""

    def __init__(self, half: Sizes, radius: float, stretch: float = 1.0) -> None:
        x, y, z = (abs(part) for part in half)
        super().__init__(half, (x + radius, y + radius, z + radius * stretch))
        self.radius, self.stretch = radius, stretch

    def distance(self, x: Singles, y: Singles, z: Singles) -> Singles:
        a, b, c = (np.float32(half) for half in self.half)
        squeeze = np.float32(1 / self.stretch)
        c, z = c * squeeze, z * squeeze
        along = (x * a + y * b + z * c) * np.float32(1 / float(a * a + b * b + c * c))
        along = np.clip(along, -1, 1)
        u, v, w = x - along * a, y - along * b, z - along * c
        return np.sqrt(u * u + v * v + w * w) - np.float32(self.radius)


def _oval(x: Singles, y: Singles) -> Singles:
    """Return the radius of scaled points in a superellipse, 1 on its edge: the shape of an end plate."""
    u, v = x * x, y * y
    return np.sqrt(np.sqrt(u * u + v * v + 1.35 * u * v))  # between an ellipse and a box


def _rounded(sideways: Singles, upwards: Singles, radius: float) -> Singles:
    """Return the distance from the solid inside both surfaces, its edge rounded."""
    p, q = sideways + np.float32(radius), upwards + np.float32(radius)
    outside = np.sqrt(np.maximum(p, 0) ** 2 + np.maximum(q, 0) ** 2)
    return outside + np.minimum(np.maximum(p, q), 0) - np.float32(radius)


class Body(Shape):
    """A vertebral body and its marrow: waisted, with hollow end plates and a slightly hollow back wall."""

    def __init__(self, patient: Patient, k: int) -> None:
        a, b, c = float(patient.width[k]) / 2, float(patient.depth[k]) / 2, float(patient.height[k]) / 2
        sacral = k >= patient.first_sacral
        discs = [max(k - 1, 0), min(k, N_VERTEBRAE - 2)]  # pairs below are for the upper and the lower one's end plate
        self.wedge = float(patient.wedge[k])  # radians by which the front is opened
        self.hollow = 0.5 if sacral else 1.6  # depth of each end plate's dish
        self.taper = 0.16 if sacral else 0.02  # how it narrows towards the foot, part of its size
        self.lips = patient.osteophyte[discs].tolist()  # mm by which the rim stands out in front and aside
        lip = max(self.lips)
        super().__init__((a, b, c), (1.1 * a + lip, 1.1 * b + lip, c + abs(self.wedge) * b + 0.5))
        self.dents = patient.schmorl[discs, [1, 0]].tolist()  # depth of a round dent
        self.crush = float(patient.fracture[k])  # part of the height that is lost in the front half and the middle
        self.modic, self.modic_depth = patient.modic[discs].tolist(), patient.modic_depth[discs].tolist()
        # Middle (x, y, z) and radius of a fatty spot, radius 0: none.
        self.spot = 0.3 * a * np.cos(7 * k), 0.3 * b * np.sin(5 * k), 0.3 * c, float(patient.spot[k])

    def distance(self, x: Singles, y: Singles, z: Singles) -> Singles:
        a, b, c = self.half
        level = z * np.float32(1 / c)
        waist = 1 - 0.08 * np.clip(1 - level * level, 0, 1) + np.float32(self.taper) * level
        back = np.clip(y * np.float32(1 / b), 0, 1)
        y_wall = y + 1.3 * bump(x, 0.0, a / 3) * back
        radius = _oval(x / (waist * np.float32(a)), y_wall / (waist * np.float32(b)))
        half_height = np.float32(c) + np.float32(self.wedge / 2) * (np.float32(b) - y)
        half_height -= np.float32(self.hollow) * np.clip(1 - radius * radius, 0, 1)
        if self.crush:
            half_height *= 1 - np.float32(self.crush) * np.clip(0.8 - back, 0, 1)
        if max(self.dents) > 0:
            depth = np.where(z > 0, *np.array(self.dents, np.float32))
            half_height = half_height - depth * bump(x, 0.2 * a, 4.5) * bump(y, 0.1 * b, 4.0)
        sideways = (radius - 1) * np.float32(min(a, b))
        if max(self.lips) > 0.3:
            near = np.clip(1 - (half_height - np.abs(z)) * np.float32(1 / 4.5), 0, 1)
            sideways = sideways - np.where(z > 0, *np.array(self.lips, np.float32)) * near * near * (1 - 0.8 * back)
        return _rounded(sideways, np.abs(z) - half_height, 1.8)


class Disc(Shape):
    """A disc, larger than the gap that it fills: the bodies are painted over it."""

    def __init__(self, patient: Patient, k: int) -> None:
        sizes, g, level = np.stack([patient.depth, patient.width]), patient.disc_severity(k), k - patient.first_disc
        sizes = 1.05 * sizes[:, k + 1] if k >= patient.first_sacral else sizes[:, k : k + 2].mean(axis=1)
        self.depth, width = sizes.tolist()  # without what stands out
        share = 1.0 - (patient.flavum_share[level] if 0 <= level < 5 else 0.5)
        central = 2 * patient.canal_half * (1.0 - closing(g[0], 2.3)) * share
        self.ahead = 0.5 * float(patient.osteophyte[k])  # mm by which the front edge stands out
        a, b, c = width / 2 + 0.6 + self.ahead, self.depth / 2 + 0.5, float(patient.disc_height[k]) / 2
        # Radians between the end plates.
        self.opening = float(patient.angles[k] - patient.angles[k + 1] - patient.wedge[k : k + 2].mean())
        # mm by which the back edge stands out: all along, centrally, and then left and right under the facet joint
        # (subarticular) and in the foramen; and where those two are, from the middle.
        self.bulge = (float(patient.bulge[k]), 0.75 * central, 1.3 * g[3], 1.3 * g[4], 1.25 * g[1], 1.25 * g[2])
        out = sum(abs(bulge) for bulge in self.bulge)
        super().__init__((a, b, c), (a, b + out + self.ahead, c + 4.5 + max(self.opening, 0.0) * b))
        self.recess_x, self.foramen_x = patient.recess_x(k), patient.foramen_x(k)
        self.hydration = float(patient.hydration[k])

    def radius(self, x: Singles, y: Singles) -> Singles:
        """Return the scaled distance from the axis, 1 on the bulging rim."""
        a, b, _ = self.half
        everywhere, *bulges = self.bulge
        places = (0.0, self.recess_x, -self.recess_x, self.foramen_x, -self.foramen_x)
        stand_out: Any = np.float32(everywhere)
        for bulge, place, width in zip(bulges, places, (6.0, 4.0, 4.0, 4.5, 4.5), strict=True):
            stand_out = stand_out + np.float32(bulge) * bump(x, place, width)
        stand_out -= 1.3 * bump(x, 0.0, a / 3)
        back = np.clip(y * np.float32(1 / b), -1, 1)
        shift = np.where(back > 0, stand_out, np.float32(self.ahead)) * back
        return _oval(x * np.float32(1 / a), (y - shift) * np.float32(1 / b))

    def distance(self, x: Singles, y: Singles, z: Singles) -> Singles:
        (_, b, c), radius = self.half, self.radius(x, y)
        half_height = np.float32(c + 0.8) + np.float32(self.opening / 2) * np.maximum(np.float32(b) - y, 0)
        half_height += 3.5 * np.clip((0.95 - radius) * 8, 0, 1)
        return _rounded((radius - 1) * np.float32(b), np.abs(z) - half_height, 1.5)
