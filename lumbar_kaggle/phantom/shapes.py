"""Solid shapes with smooth edges: what vertebrae and facet joints are made of.

A shape gives, for points in its own frame (x left, y back, z up; mm), the distance from its surface: negative
inside, roughly in millimetres, good enough near the surface to paint an edge that is one pixel wide.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lumbar_kaggle.phantom.arrays import Singles


class Shape(Protocol):
    """A solid around the origin of its frame."""

    @property
    def extent(self) -> tuple[float, float, float]:
        """Half sizes in mm of a box around the origin that holds the shape."""

    def distance(self, x: Singles, y: Singles, z: Singles) -> Singles:
        """Return mm from the surface, negative inside, for points of any shape."""


def covered(distance: Singles, softness: float) -> Singles:
    """Return which part (0 to 1) of a pixel lies inside; the edge is `softness` mm wide."""
    part: Singles = np.clip(np.float32(0.5) - distance * np.float32(1 / softness), 0, 1)
    return part


def covered_through(distance: Singles, softness: float) -> Singles:
    """Return which part of each voxel lies inside, for distances at several heights ``[heights, ...]``.

    Where a surface runs slanting through the slice its edge is widened to the step between two heights, so
    that a slice's few planes blend into one edge and not into a staircase.
    """
    step = np.abs(distance[-1] - distance[0]) * np.float32(1 / max(len(distance) - 1, 1))
    wide = np.maximum(step, np.float32(softness))
    part: Singles = np.clip(np.float32(0.5) - distance / wide, 0, 1)
    return part


def painted(under: Singles, over: Singles | float, part: Singles) -> Singles:
    """Return brightness with another painted over the given part (0 to 1) of each pixel."""
    result: Singles = under + (over - under) * part
    return result


def bump(x: Singles, centre: float, width: float) -> Singles:
    """Return a smooth hill of height 1 (a normal curve without its constant)."""
    scaled = (x - np.float32(centre)) * np.float32(1 / width)
    hill: Singles = np.exp(np.float32(-0.5) * scaled * scaled)
    return hill


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with the half axes `a`, `b`, `c` along x, y, z."""

    a: float
    b: float
    c: float

    @property
    def extent(self) -> tuple[float, float, float]:
        return self.a, self.b, self.c

    def distance(self, x: Singles, y: Singles, z: Singles) -> Singles:
        u, v, w = x * np.float32(1 / self.a), y * np.float32(1 / self.b), z * np.float32(1 / self.c)
        near = np.sqrt(u * u + v * v + w * w)
        u, v, w = u * np.float32(1 / self.a), v * np.float32(1 / self.b), w * np.float32(1 / self.c)
        slope = np.sqrt(u * u + v * v + w * w) + np.float32(1e-6)
        result: Singles = near * (near - 1) / slope
        return result


@dataclass(frozen=True)
class Box:
    """A box with half sizes `a`, `b`, `c` and rounded edges, sheared backwards going down by `lean`."""

    a: float
    b: float
    c: float
    rounding: float = 2.0
    lean: float = 0.0

    @property
    def extent(self) -> tuple[float, float, float]:
        return self.a, self.b, self.c + abs(self.lean) * self.b

    def distance(self, x: Singles, y: Singles, z: Singles) -> Singles:
        r = min(self.rounding, self.a, self.b, self.c)
        z = z + np.float32(self.lean) * y
        px = np.abs(x) - np.float32(self.a - r)
        py = np.abs(y) - np.float32(self.b - r)
        pz = np.abs(z) - np.float32(self.c - r)
        inside = np.minimum(np.maximum(np.maximum(px, py), pz), 0)
        px, py, pz = np.maximum(px, 0), np.maximum(py, 0), np.maximum(pz, 0)
        result: Singles = np.sqrt(px * px + py * py + pz * pz) + inside - np.float32(r)
        return result


@dataclass(frozen=True)
class Rod:
    """A rod from `-half` to `+half` along a vector, `stretch` times as high (z) as it is thick."""

    half: tuple[float, float, float]
    radius: float
    stretch: float = 1.0

    @property
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
        result: Singles = np.sqrt(dx * dx + dy * dy + dz * dz) - np.float32(self.radius)
        return result


def _oval(x: Singles, y: Singles) -> Singles:
    """Return the radius of scaled points in a superellipse, 1 on its edge."""
    u, v = x * x, y * y
    # Between an ellipse and a box: the shape of an end plate.
    radius: Singles = np.sqrt(np.sqrt(u * u + v * v + np.float32(1.35) * u * v))
    return radius


def _rounded(sideways: Singles, upwards: Singles, radius: float) -> Singles:
    """Return the distance from the solid inside both surfaces, its edge rounded."""
    p, q = sideways + np.float32(radius), upwards + np.float32(radius)
    outside = np.sqrt(np.maximum(p, 0) ** 2 + np.maximum(q, 0) ** 2)
    result: Singles = outside + np.minimum(np.maximum(p, q), 0) - np.float32(radius)
    return result


@dataclass(frozen=True)
class Body:
    """A vertebral body: waisted, with hollow end plates and a slightly hollow back wall.

    Attributes:
        a, b, c: half width, half depth, half height at the back, mm.
        wedge: angle by which the front is opened, radians.
        hollow: depth of each end plate's dish, mm.
        taper: how it narrows towards the foot (sacrum), part of its size.
        lips: how far the upper and the lower rim stand out in front and at the sides, mm.
        dents: depth of a round dent in the upper and the lower end plate, mm.
        crush: part of the height that is lost in the front half and the middle.
    """

    a: float
    b: float
    c: float
    wedge: float = 0.0
    hollow: float = 1.6
    taper: float = 0.0
    lips: tuple[float, float] = (0.0, 0.0)
    dents: tuple[float, float] = (0.0, 0.0)
    crush: float = 0.0

    @property
    def extent(self) -> tuple[float, float, float]:
        lip = max(self.lips)
        return 1.1 * self.a + lip, 1.1 * self.b + lip, self.c + abs(self.wedge) * self.b + 0.5

    def distance(self, x: Singles, y: Singles, z: Singles) -> Singles:
        level = z * np.float32(1 / self.c)
        waist = 1 - np.float32(0.08) * np.clip(1 - level * level, 0, 1) + np.float32(self.taper) * level
        back = np.clip(y * np.float32(1 / self.b), 0, 1)
        y_wall = y + np.float32(1.3) * bump(x, 0.0, self.a / 3) * back
        radius = _oval(x / (waist * np.float32(self.a)), y_wall / (waist * np.float32(self.b)))
        half_height = np.float32(self.c) + np.float32(self.wedge / 2) * (np.float32(self.b) - y)
        half_height -= np.float32(self.hollow) * np.clip(1 - radius * radius, 0, 1)
        if self.crush:
            half_height *= 1 - np.float32(self.crush) * np.clip(np.float32(0.8) - back, 0, 1)
        half_height = self._dented(half_height, x, y, z)
        sideways = (radius - 1) * np.float32(min(self.a, self.b))
        if max(self.lips) > 0.3:
            lip = np.where(z > 0, np.float32(self.lips[0]), np.float32(self.lips[1]))
            near = np.clip(1 - (half_height - np.abs(z)) * np.float32(1 / 4.5), 0, 1)
            sideways = sideways - lip * near * near * (1 - np.float32(0.8) * back)
        return _rounded(sideways, np.abs(z) - half_height, 1.8)

    def _dented(self, half_height: Singles, x: Singles, y: Singles, z: Singles) -> Singles:
        if max(self.dents) == 0:
            return half_height
        depth = np.where(z > 0, np.float32(self.dents[0]), np.float32(self.dents[1]))
        dented: Singles = half_height - depth * bump(x, 0.2 * self.a, 4.5) * bump(y, 0.1 * self.b, 4.0)
        return dented


@dataclass(frozen=True)
class Disc:
    """A disc, larger than the gap that it fills: the bodies are painted over it.

    Attributes:
        a, b: half width and half depth, mm.
        height: at the back wall, mm.
        opening: angle between the end plates, radians.
        bulge: how far the back edge stands out, mm: all along, centrally, and then left and right under
            the facet joint (subarticular) and in the foramen.
        recess_x, foramen_x: where those two are, mm from the middle.
        ahead: how far the front edge stands out, mm.
    """

    a: float
    b: float
    height: float
    opening: float
    bulge: tuple[float, ...]
    recess_x: float
    foramen_x: float
    ahead: float = 0.0

    @property
    def extent(self) -> tuple[float, float, float]:
        out = sum(abs(b) for b in self.bulge)
        return self.a, self.b + out + self.ahead, self.height / 2 + 4.5 + max(self.opening, 0.0) * self.b

    def radius(self, x: Singles, y: Singles) -> Singles:
        """Return the scaled distance from the axis, 1 on the bulging rim."""
        everywhere, central, left, right, left_far, right_far = self.bulge
        stand_out = np.float32(everywhere) + np.float32(central) * bump(x, 0.0, 6.0)
        stand_out += np.float32(left) * bump(x, self.recess_x, 4.0)
        stand_out += np.float32(right) * bump(x, -self.recess_x, 4.0)
        stand_out += np.float32(left_far) * bump(x, self.foramen_x, 4.5)
        stand_out += np.float32(right_far) * bump(x, -self.foramen_x, 4.5)
        stand_out -= np.float32(1.3) * bump(x, 0.0, self.a / 3)
        back = np.clip(y * np.float32(1 / self.b), -1, 1)
        shift = np.where(back > 0, stand_out, np.float32(self.ahead)) * back
        return _oval(x * np.float32(1 / self.a), (y - shift) * np.float32(1 / self.b))

    def distance(self, x: Singles, y: Singles, z: Singles) -> Singles:
        ahead = np.maximum(np.float32(self.b) - y, 0)
        radius = self.radius(x, y)
        half_height = np.float32(self.height / 2 + 0.8) + np.float32(self.opening / 2) * ahead
        half_height += np.float32(3.5) * np.clip((np.float32(0.95) - radius) * 8, 0, 1)
        rim = (radius - 1) * np.float32(self.b)
        return _rounded(rim, np.abs(z) - half_height, 1.5)
