"""Brightness of the tissues in each weighting, 0 (air) to 1 (the brightest)."""

from dataclasses import dataclass, fields, replace
from enum import Enum

import numpy as np


class Weighting(Enum):
    """How a series is weighted."""

    T1 = "T1"
    T2 = "T2"
    STIR = "STIR"


@dataclass(frozen=True)
class Contrast:
    """Signal of each tissue."""

    fat: float
    marrow_fatty: float
    marrow_red: float
    cortex: float
    disc_wet: float
    disc_dry: float
    annulus: float
    csf: float
    nerve: float
    cord: float
    ganglion: float
    ligament: float
    epidural: float  # epidural veins and fat, mixed
    muscle: float
    vessel: float
    joint: float
    organ: float
    bowel: float
    skin: float


CONTRASTS = {
    Weighting.T1: Contrast(
        fat=0.95, marrow_fatty=0.68, marrow_red=0.42, cortex=0.11, disc_wet=0.31, disc_dry=0.27,
        annulus=0.21, csf=0.13, nerve=0.30, cord=0.36, ganglion=0.36, ligament=0.23,
        epidural=0.42, muscle=0.28, vessel=0.10, joint=0.24, organ=0.36, bowel=0.30,
        skin=0.45,
    ),
    Weighting.T2: Contrast(
        fat=0.74, marrow_fatty=0.47, marrow_red=0.30, cortex=0.08, disc_wet=0.66, disc_dry=0.15,
        annulus=0.10, csf=0.98, nerve=0.36, cord=0.40, ganglion=0.46, ligament=0.13,
        epidural=0.50, muscle=0.19, vessel=0.06, joint=0.62, organ=0.42, bowel=0.34,
        skin=0.35,
    ),
    Weighting.STIR: Contrast(
        fat=0.10, marrow_fatty=0.10, marrow_red=0.20, cortex=0.04, disc_wet=0.62, disc_dry=0.12,
        annulus=0.08, csf=0.98, nerve=0.36, cord=0.38, ganglion=0.52, ligament=0.10,
        epidural=0.22, muscle=0.24, vessel=0.12, joint=0.60, organ=0.50, bowel=0.36,
        skin=0.20,
    ),
}  # fmt: skip


def draw_contrast(rng: np.random.Generator, weighting: Weighting) -> Contrast:
    """Return the tissues' signals for one series: each varies by some per cent between scanners."""
    mean = CONTRASTS[weighting]
    drawn = {
        field.name: float(np.clip(getattr(mean, field.name) * rng.normal(1.0, 0.07), 0.02, 1.0))
        for field in fields(mean)
    }
    return replace(mean, **drawn)
