"""Brightness of the tissues in each weighting, from their relaxation times, 0 (air) to 1 (the brightest).

Signals follow the spin-echo equation ``PD (1 - exp(-TR/T1)) exp(-TE/T2)``, with inversion for STIR
(Bernstein, King, Zhou: Handbook of MRI Pulse Sequences, 2004, ch. 14). Relaxation times are rounded from
published ones at 1.5 T (Stanisz et al., Magn Reson Med 54:507, 2005; de Bazelaire et al., Radiology 230:652,
2004); those of fat are lengthened, as trains of echoes do. Timing and field strength vary between scanners,
so whole contrasts vary together as they do in hospitals; each tissue then varies a little by its own.
"""

from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Any, NamedTuple

import numpy as np


class Weighting(Enum):
    """How a series is weighted."""

    T1 = "T1"
    T2 = "T2"
    STIR = "STIR"


def _tissue(density: float, t1: float, t2: float) -> Any:
    """Return a field of `Contrast` that knows proton density (0 to 1) and relaxation times in ms."""
    return field(metadata={"relaxation": (density, t1, t2)})


@dataclass(frozen=True)
class Contrast:
    """Signal of each tissue; beside it, its proton density and relaxation times at 1.5 T.

    ``epidural`` is the mixture of fat and veins around the sac; flow voids most of ``vessel``. `flow` is how
    much pulsation darkens parts of the fluid, 0 to 1.
    """

    fat: float = _tissue(0.95, 285, 125)
    marrow_fatty: float = _tissue(0.88, 340, 105)
    marrow_red: float = _tissue(0.70, 760, 72)
    marrow_water: float = _tissue(0.85, 1100, 110)
    cortex: float = _tissue(0.10, 500, 25)
    disc_wet: float = _tissue(0.95, 1350, 140)
    disc_dry: float = _tissue(0.72, 950, 52)
    annulus: float = _tissue(0.50, 900, 44)
    csf: float = _tissue(1.00, 4000, 1700)
    nerve: float = _tissue(0.80, 1000, 78)
    cord: float = _tissue(0.80, 900, 90)
    ganglion: float = _tissue(0.86, 1100, 95)
    ligament: float = _tissue(0.48, 820, 45)
    epidural: float = _tissue(0.85, 560, 110)
    muscle: float = _tissue(0.82, 950, 50)
    vessel: float = _tissue(0.20, 1200, 100)
    joint: float = _tissue(0.85, 1800, 130)
    organ: float = _tissue(0.85, 900, 85)
    bowel: float = _tissue(0.80, 850, 75)
    skin: float = _tissue(0.60, 600, 60)
    flow: float = 0.0


TISSUES = {one.name: one.metadata["relaxation"] for one in fields(Contrast) if one.metadata}
"""Name → proton density, T1 and T2 of every tissue."""


class Timing(NamedTuple):
    """Of one sequence, ms; `inversion` 0 for none. `field` stretches T1 beside 1.5 T."""

    repetition: float
    echo: float
    inversion: float = 0.0
    field: float = 1.0


_RANGES = {
    Weighting.T1: ((380.0, 820.0), (8.0, 20.0), (0.0, 0.0)),
    Weighting.T2: ((2300.0, 6000.0), (78.0, 132.0), (0.0, 0.0)),
    Weighting.STIR: ((2800.0, 5600.0), (28.0, 82.0), (135.0, 190.0)),
}


def contrast_of(timing: Timing) -> Contrast:
    """Return the tissues' signals, the magnitudes of a spin echo, scaled so that the brightest is 0.97."""
    signals = {}
    for name, (density, t1, t2) in TISSUES.items():
        t1 *= timing.field
        recovered = 1.0 - np.exp(-timing.repetition / t1)
        if timing.inversion:
            recovered = 1.0 - 2.0 * np.exp(-timing.inversion / t1) + np.exp(-timing.repetition / t1)
        signals[name] = float(density * abs(recovered) * np.exp(-timing.echo / t2))
    top = max(signals.values())
    return Contrast(**{name: 0.97 * value / top for name, value in signals.items()})


def draw_contrast(rng: np.random.Generator, weighting: Weighting) -> Contrast:
    """Return the tissues' signals for one series of one scanner."""
    repetition, echo, inversion = (rng.uniform(*limits) for limits in _RANGES[weighting])
    timing = Timing(repetition, echo, inversion, float(rng.choice([1.0, 1.12, 1.25])))
    values = asdict(contrast_of(timing))
    for name in TISSUES:
        values[name] = float(np.clip(values[name] * np.exp(rng.normal(0.0, 0.12)), 0.015, 1.05))
    # Slow or gated blood is not void everywhere.
    values["vessel"] = float(rng.uniform(0.02, 0.12) if rng.random() < 0.7 else rng.uniform(0.12, 0.4))
    values["flow"] = float(rng.uniform(0.0, 0.6) if weighting is not Weighting.T1 else 0.0)
    return Contrast(**values)
