"""Vendors of scanners: their habits of matrix, intensity scale, filter and header, and one machine of theirs.

The vendors are invented; each represents a family of real scanners. Their shares and matrices add up to
the stored sizes of the competition's sagittal series (512² 33 %, 320² 18 %, 384² 14 %, 448² 9 %, 256² 4 %,
760×640 2 %, 14 % not square) and to the usual axial ones (320, 512, 640, 384, 256, 448).
"""

from dataclasses import dataclass

import numpy as np

Sizes = tuple[tuple[tuple[int, int], float], ...]
"""(rows, columns) in pixels, and how often."""


@dataclass(frozen=True)
class Vendor:
    """One vendor.

    Attributes:
        name: what a header says.
        share: of all studies.
        fields: field strengths in tesla, and how often.
        sagittal, axial: stored sizes, and how often.
        full_scale: lowest and highest stored value of the brightest tissue near the coil, drawn on a
            logarithmic scale; 12 bits hold 4,095.
        corrected: share of series whose coil fall-off the scanner evens out.
        smooth: lowest and highest part of the signal that the window takes at the rim of k-space.
        sharpen: lowest and highest gain that an edge filter adds at the rim of k-space.
        spin_echo: the vendor's word for a fast spin echo.
        window_percentiles: of the pixels, between which the header's window lies.
    """

    name: str
    share: float
    fields: tuple[tuple[float, float], ...]
    sagittal: Sizes
    axial: Sizes
    full_scale: tuple[float, float]
    corrected: float
    smooth: tuple[float, float]
    sharpen: tuple[float, float]
    spin_echo: str
    window_percentiles: tuple[float, float]


@dataclass(frozen=True)
class Machine:
    """The scanner of one study: its vendor, and its field strength in tesla."""

    vendor: Vendor
    tesla: float


def _square(*sizes: tuple[int, float]) -> Sizes:
    return tuple(((size, size), share) for size, share in sizes)


VENDORS = (
    Vendor(
        name="Alpha Imaging",
        share=0.34,
        fields=((1.5, 0.7), (3.0, 0.3)),
        sagittal=_square((512, 0.93), (256, 0.05), (1024, 0.01), (320, 0.01)),
        axial=_square((512, 0.73), (320, 0.13), (256, 0.10), (640, 0.02), (1024, 0.02)),
        full_scale=(900.0, 4000.0),
        corrected=0.35,
        smooth=(0.2, 0.8),
        sharpen=(0.0, 0.8),
        spin_echo="FSE",
        window_percentiles=(0.5, 99.5),
    ),
    Vendor(
        name="Beta Medical",
        share=0.40,
        fields=((1.5, 0.75), (3.0, 0.25)),
        sagittal=(
            *_square((320, 0.42), (384, 0.28), (448, 0.12), (256, 0.04), (768, 0.03), (640, 0.02)),
            *(((384, 288), 0.04), ((448, 336), 0.03), ((320, 260), 0.02)),
        ),
        axial=(
            *_square((320, 0.53), (384, 0.16), (640, 0.17), (256, 0.06), (448, 0.04)),
            *(((320, 260), 0.02), ((288, 384), 0.02)),
        ),
        full_scale=(200.0, 1400.0),
        corrected=0.5,
        smooth=(0.0, 0.4),
        sharpen=(0.0, 0.3),
        spin_echo="TSE",
        window_percentiles=(2.0, 98.5),
    ),
    Vendor(
        name="Gamma Systems",
        share=0.18,
        fields=((1.5, 0.6), (3.0, 0.35), (1.0, 0.05)),
        sagittal=(
            *_square((448, 0.20), (384, 0.16), (320, 0.07), (576, 0.09), (512, 0.06), (528, 0.04)),
            *_square((560, 0.04), (640, 0.03), (672, 0.03), (768, 0.02), (1024, 0.01), (288, 0.02)),
            *_square((224, 0.01)),
            *(((512, 448), 0.09), ((560, 400), 0.07), ((384, 320), 0.06)),
        ),
        axial=(
            *_square((512, 0.20), (640, 0.24), (320, 0.14), (384, 0.13), (448, 0.14), (256, 0.05)),
            *_square((560, 0.04), (768, 0.03), (224, 0.01), (1024, 0.02)),
        ),
        full_scale=(700.0, 3500.0),
        corrected=0.7,
        smooth=(0.0, 0.6),
        sharpen=(0.0, 0.5),
        spin_echo="TSE",
        window_percentiles=(1.0, 99.0),
    ),
    Vendor(
        name="Delta Diagnostics",
        share=0.08,
        fields=((1.5, 0.7), (0.35, 0.15), (1.2, 0.15)),
        sagittal=(
            *_square((448, 0.10), (256, 0.07), (320, 0.05)),
            *(((760, 640), 0.28), ((640, 512), 0.26), ((512, 384), 0.24)),
        ),
        axial=(*_square((640, 0.30), (512, 0.20), (256, 0.20), (320, 0.15)), ((512, 640), 0.15)),
        full_scale=(400.0, 3000.0),
        corrected=0.4,
        smooth=(0.1, 1.0),
        sharpen=(0.0, 1.0),
        spin_echo="FSE",
        window_percentiles=(1.0, 99.8),
    ),
)


def draw_machine(rng: np.random.Generator, vendors: tuple[Vendor, ...]) -> Machine:
    """Draw the scanner of one study."""
    vendor = vendors[draw_index(rng, tuple(vendor.share for vendor in vendors))]
    strength = draw_index(rng, tuple(share for _, share in vendor.fields))
    return Machine(vendor, vendor.fields[strength][0])


def draw_size(rng: np.random.Generator, sizes: Sizes) -> tuple[int, int]:
    """Draw a stored size: rows, columns."""
    return sizes[draw_index(rng, tuple(share for _, share in sizes))][0]


def draw_index(rng: np.random.Generator, shares: tuple[float, ...]) -> int:
    """Draw an index with the given shares; they need not add up to 1."""
    sums = np.cumsum(shares)
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
