"""Solid shapes with smooth edges: what vertebrae and facet joints are made of.

A shape gives, for points in its own frame (x left, y back, z up; mm), the distance from its surface: negative inside,
roughly in millimetres, good enough near the surface to paint an edge that is one pixel wide.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lumbar_kaggle.phantom.settings import Singles


def covered(distance: Singles, softness: float) -> Singles:
    """Return which part (0 to 1) of a pixel lies inside; the edge is `softness` mm wide."""
    return np.clip(0.5 - distance * np.float32(1 / softness), 0, 1)


def covered_through(distance: Singles, softness: float) -> Singles:
    """Return which part of each voxel lies inside, for distances at several heights ``[heights, ...]``.

    Where a surface runs slanting through the slice its edge is widened to the step between two heights, so that a
    slice's few planes blend into one edge and not into a staircase.
    """
    step = np.abs(distance[-1] - distance[0]) * np.float32(1 / max(len(distance) - 1, 1))
    return np.clip(0.5 - distance / np.maximum(step, np.float32(softness)), 0, 1)


def painted(under: Singles, over: Singles | float, part: Singles) -> Singles:
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


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with the half axes `a`, `b`, `c` along x, y, z."""

    a: float
    b: float
    c: float

    def extent(self) -> tuple[float, float, float]:
        """Return half sizes in mm of a box around the origin that holds the shape."""
        return self.a, self.b, self.c

    def distance(self, x: Singles, y: Singles, z: Singles) -> Singles:
        """Return mm from the surface, negative inside, for points of any shape."""
        scales = np.float32(1 / self.a), np.float32(1 / self.b), np.float32(1 / self.c)
        u, v, w = (axis * scale for axis, scale in zip((x, y, z), scales, strict=True))
        near = np.sqrt(u * u + v * v + w * w)
        u, v, w = (axis * scale for axis, scale in zip((u, v, w), scales, strict=True))
        return near * (near - 1) / (np.sqrt(u * u + v * v + w * w) + np.float32(1e-6))


@dataclass(frozen=True)
class Box:
    """A box with half sizes `a`, `b`, `c` and rounded edges, sheared backwards going down by `lean`."""

    a: float
    b: float
    c: float
    rounding: float
    lean: float = 0.0

    def extent(self) -> tuple[float, float, float]:
        return self.a, self.b, self.c + abs(self.lean) * self.b

    def distance(self, x: Singles, y: Singles, z: Singles) -> Singles:
        r = min(self.rounding, self.a, self.b, self.c)
        z = z + np.float32(self.lean) * y
        p, q, s = (np.abs(axis) - np.float32(half - r) for axis, half in ((x, self.a), (y, self.b), (z, self.c)))
        inside = np.minimum(np.maximum(np.maximum(p, q), s), 0)
        p, q, s = (np.maximum(axis, 0) for axis in (p, q, s))
        return np.sqrt(p * p + q * q + s * s) + inside - np.float32(r)


@dataclass(frozen=True)
class Rod:
    """A rod from `-half` to `+half` along a vector, `stretch` times as high (z) as it is thick."""

    half: tuple[float, float, float]
    radius: float
    stretch: float = 1.0

    def extent(self) -> tuple[float, float, float]:
        x, y, z = (abs(h) for h in self.half)
        return x + self.radius, y + self.radius, z + self.radius * self.stretch

    def distance(self, x: Singles, y: Singles, z: Singles) -> Singles:
        hx, hy, hz = (np.float32(h) for h in self.half)
        squeeze = np.float32(1 / self.stretch)
        hz, z = hz * squeeze, z * squeeze
        along = (x * hx + y * hy + z * hz) * np.float32(1 / float(hx * hx + hy * hy + hz * hz))
        along = np.clip(along, -1, 1)
        dx, dy, dz = x - along * hx, y - along * hy, z - along * hz
        return np.sqrt(dx * dx + dy * dy + dz * dz) - np.float32(self.radius)


def _oval(x: Singles, y: Singles) -> Singles:
    """Return the radius of scaled points in a superellipse, 1 on its edge: the shape of an end plate."""
    u, v = x * x, y * y
    return np.sqrt(np.sqrt(u * u + v * v + 1.35 * u * v))  # between an ellipse and a box


def _rounded(sideways: Singles, upwards: Singles, radius: float) -> Singles:
    """Return the distance from the solid inside both surfaces, its edge rounded."""
    p, q = sideways + np.float32(radius), upwards + np.float32(radius)
    outside = np.sqrt(np.maximum(p, 0) ** 2 + np.maximum(q, 0) ** 2)
    return outside + np.minimum(np.maximum(p, q), 0) - np.float32(radius)


@dataclass(frozen=True)
class Body:
    """A vertebral body: waisted, with hollow end plates and a slightly hollow back wall; mm."""

    a: float  # half width
    b: float  # half depth
    c: float  # half height at the back
    wedge: float  # angle by which the front is opened, radians
    hollow: float  # depth of each end plate's dish
    taper: float  # how it narrows towards the foot (sacrum), part of its size
    lips: tuple[float, float]  # by which the upper, lower rim stands out in front and aside
    dents: tuple[float, float]  # depth of a round dent in the upper, lower end plate
    crush: float  # part of the height that is lost in the front half and the middle
    # Its marrow: kind beside the upper and the lower end plate, see `Patient.modic`; depth that each reaches; middle
    # (x, y, z) and radius of a fatty spot, radius 0: none.
    modic: tuple[int, int]
    modic_depth: tuple[float, float]
    spot: tuple[float, float, float, float]

    def extent(self) -> tuple[float, float, float]:
        lip = max(self.lips)
        return 1.1 * self.a + lip, 1.1 * self.b + lip, self.c + abs(self.wedge) * self.b + 0.5

    def distance(self, x: Singles, y: Singles, z: Singles) -> Singles:
        level = z * np.float32(1 / self.c)
        waist = 1 - 0.08 * np.clip(1 - level * level, 0, 1) + np.float32(self.taper) * level
        back = np.clip(y * np.float32(1 / self.b), 0, 1)
        y_wall = y + 1.3 * bump(x, 0.0, self.a / 3) * back
        radius = _oval(x / (waist * np.float32(self.a)), y_wall / (waist * np.float32(self.b)))
        half_height = np.float32(self.c) + np.float32(self.wedge / 2) * (np.float32(self.b) - y)
        half_height -= np.float32(self.hollow) * np.clip(1 - radius * radius, 0, 1)
        if self.crush:
            half_height *= 1 - np.float32(self.crush) * np.clip(0.8 - back, 0, 1)
        if max(self.dents) > 0:
            depth = np.where(z > 0, np.float32(self.dents[0]), np.float32(self.dents[1]))
            half_height = half_height - depth * bump(x, 0.2 * self.a, 4.5) * bump(y, 0.1 * self.b, 4.0)
        sideways = (radius - 1) * np.float32(min(self.a, self.b))
        if max(self.lips) > 0.3:
            lip = np.where(z > 0, np.float32(self.lips[0]), np.float32(self.lips[1]))
            near = np.clip(1 - (half_height - np.abs(z)) * np.float32(1 / 4.5), 0, 1)
            sideways = sideways - lip * near * near * (1 - 0.8 * back)
        return _rounded(sideways, np.abs(z) - half_height, 1.8)


@dataclass(frozen=True)
class Disc:
    """A disc, larger than the gap that it fills: the bodies are painted over it; mm."""

    a: float  # half width
    b: float  # half depth
    height: float  # at the back wall
    opening: float  # angle between the end plates, radians
    # How far the back edge stands out: all along, centrally, and then left and right under the facet joint
    # (subarticular) and in the foramen; and where those two are, from the middle.
    bulge: tuple[float, ...]
    recess_x: float
    foramen_x: float
    ahead: float  # how far the front edge stands out
    hydration: float  # 0 (dry) to 1

    def extent(self) -> tuple[float, float, float]:
        out = sum(abs(b) for b in self.bulge)
        return self.a, self.b + out + self.ahead, self.height / 2 + 4.5 + max(self.opening, 0.0) * self.b

    def radius(self, x: Singles, y: Singles) -> Singles:
        """Return the scaled distance from the axis, 1 on the bulging rim."""
        everywhere, *bulges = self.bulge
        places = (0.0, self.recess_x, -self.recess_x, self.foramen_x, -self.foramen_x)
        stand_out: Any = np.float32(everywhere)
        for bulge, place, width in zip(bulges, places, (6.0, 4.0, 4.0, 4.5, 4.5), strict=True):
            stand_out = stand_out + np.float32(bulge) * bump(x, place, width)
        stand_out -= 1.3 * bump(x, 0.0, self.a / 3)
        back = np.clip(y * np.float32(1 / self.b), -1, 1)
        shift = np.where(back > 0, stand_out, np.float32(self.ahead)) * back
        return _oval(x * np.float32(1 / self.a), (y - shift) * np.float32(1 / self.b))

    def distance(self, x: Singles, y: Singles, z: Singles) -> Singles:
        radius = self.radius(x, y)
        half_height = np.float32(self.height / 2 + 0.8)
        half_height = half_height + np.float32(self.opening / 2) * np.maximum(np.float32(self.b) - y, 0)
        half_height += 3.5 * np.clip((0.95 - radius) * 8, 0, 1)
        return _rounded((radius - 1) * np.float32(self.b), np.abs(z) - half_height, 1.5)


Shape = Ellipsoid | Box | Rod | Body | Disc
