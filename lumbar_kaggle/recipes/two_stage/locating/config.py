"""The configuration of the locator."""

from dataclasses import dataclass, field
from typing import Any

from lumbar_kaggle.errors import InputError


def _option(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class LocateConfig:
    """Everything that determines what the locator learns, besides the data."""

    folds: int = _option(5, "folds of the cross-validation, 2 or more", metavar="N")
    epochs: int = _option(
        12, "passes over the labelled slices; 0: use --weights as they are, train nothing", metavar="N"
    )
    batch_size: int = _option(16, "slices per training step", metavar="N")
    lr: float = _option(3e-3, "greatest learning rate", metavar="RATE")
    pixel_mm: float = _option(2.0, "mm per pixel of the network's sagittal picture", metavar="MM")
    picture: tuple[int, ...] = _option((160, 128), "rows and columns of it, multiples of 16", metavar="PX")
    channels: tuple[int, ...] = _option((8, 16, 32, 48, 64), "of the network's five scales", metavar="N")
    slices: int = _option(6, "slices of one series or level that are learned from, at most", metavar="N")
    mixed_precision: bool = _option(True, "16-bit floats where there is a GPU")
    seed: int = _option(2024, "of everything random", metavar="N")

    def __post_init__(self) -> None:
        for name, least in {"folds": 2, "epochs": 0, "batch_size": 2, "slices": 1}.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        if len(self.picture) != 2 or any(side % 16 or side < 32 for side in self.picture):
            raise InputError(f"picture is {self.picture}; it must be two multiples of 16, 32 or more")
        if len(self.channels) != 5:
            raise InputError(f"channels are {self.channels}; the network has five scales")
