"""What a training's time and memory go into: fastai callbacks around every batch."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from fastai.callback.core import Callback
from fastcore.foundation import defaults
from torch.utils._pytree import tree_leaves


@dataclass
class Figures:
    """What was measured of a training.

    Attributes:
        name: of the recipe's part.
        steps, images: batches, and pictures that a network was given in them.
        wait_s: from the end of a batch to the next one, which is the loader's.
        work_s: of the batches.
        half: whether in 16 bits.
        peak_gb: of the device's memory.
        resumed: whether it was stopped and went on.
        finished: whether it came to its end in its time.
        difference: greatest one between probabilities of the device and of the CPU; None without any.
    """

    name: str
    steps: int = 0
    images: int = 0
    wait_s: float = 0.0
    work_s: float = 0.0
    half: bool = False
    peak_gb: float | None = None
    resumed: bool = False
    finished: bool = False
    difference: float | None = None

    def row(self) -> str:
        """Return the line of the table."""
        wall = max(self.wait_s + self.work_s, 1e-9)
        cells = [
            self.name + ("" if self.finished else " (out of time)"),
            f"{self.steps}",
            f"{self.steps / wall:.2f}",
            f"{self.images / wall:,.0f}",
            f"{self.wait_s / wall:.0%}",
            "–" if self.peak_gb is None else f"{self.peak_gb:.1f} GB",
            "on" if self.half else "off",
            "yes" if self.resumed else "no",
            "–" if self.difference is None else f"{self.difference:.1e}",
        ]
        return f"| {' | '.join(cells)} |"


HEADING = (
    "| training | steps | steps/s | images/s | waits for data | peak memory | 16 bits | resumed "
    "| device − CPU |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


class Arrival(Callback):  # type: ignore[misc]
    """Notes when a batch is there, before anything else is done with it."""

    order = -1000

    def __init__(self, figures: Figures, device: torch.device) -> None:
        self.figures, self.device = figures, device
        self.at = 0.0

    def before_train(self) -> None:
        """Begin to wait."""
        self.at = self.now()

    def before_batch(self) -> None:
        """End waiting; begin to work."""
        if self.training:
            self.figures.wait_s += self.pass_s()

    def pass_s(self) -> float:
        """Return the seconds since the last call."""
        before, self.at = self.at, self.now()
        return self.at - before

    def now(self) -> float:
        """Return the time at which the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Departure(Callback):  # type: ignore[misc]
    """Notes when a batch is done with, after everything else."""

    order = 1000

    def __init__(self, arrival: Arrival) -> None:
        self.arrival = arrival

    def after_batch(self) -> None:
        """End working; begin to wait."""
        if self.training:
            figures = self.arrival.figures
            figures.work_s += self.arrival.pass_s()
            figures.steps += 1
            # Crops are [batch, sides, slices, px, px], other pictures [batch, channels, px, px].
            tensors = tree_leaves(self.xb)
            figures.images += sum(math.prod(x.shape[:-2]) for x in tensors if x.dim() == 5)
            figures.images += sum(len(x) for x in tensors if x.dim() == 4)
            figures.half = hasattr(self.learn, "mixed_precision")


@contextmanager
def metered(figures: Figures, device: torch.device) -> Iterator[None]:
    """Measure whatever fastai trains meanwhile."""
    arrival, before = Arrival(figures, device), list(defaults.callbacks)
    defaults.callbacks = [*before, arrival, Departure(arrival)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        yield
    finally:
        defaults.callbacks = before
        if device.type == "cuda":
            figures.peak_gb = torch.cuda.max_memory_allocated(device) / 1e9
