"""The configuration of the locator."""

from dataclasses import dataclass

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.settings import check_settings, option


@dataclass(frozen=True)
class LocateConfig:
    """Everything that determines what the locator learns, besides the data."""

    folds: int = option(5, "folds of the cross-validation, 2 or more", metavar="N", least=2, most=100)
    epochs: int = option(
        12,
        "passes over the labelled slices; 0: use --weights as they are, train nothing",
        metavar="N",
        least=0,
        most=10_000,
    )
    batch_size: int = option(16, "slices per training step", metavar="N", least=2, most=4096)
    lr: float = option(3e-3, "greatest learning rate", metavar="RATE", above=0, most=10)
    pixel_mm: float = option(
        2.0, "mm per pixel of the network's sagittal picture", metavar="MM", least=0.1, most=20
    )
    picture: tuple[int, ...] = option(
        (160, 128), "rows and columns of it, multiples of 16", metavar="PX", count=2, least=32, most=1024
    )
    channels: tuple[int, ...] = option(
        (8, 16, 32, 48, 64), "of the network's five scales", metavar="N", count=5, least=1, most=1024
    )
    slices: int = option(
        6, "slices of one series or level that are learned from, at most", metavar="N", least=1, most=1000
    )
    mixed_precision: bool = option(True, "16-bit floats where there is a GPU")
    seed: int = option(2024, "of everything random", metavar="N", least=0, most=2**63 - 1)

    def __post_init__(self) -> None:
        check_settings(self)
        if any(side % 16 for side in self.picture):
            raise InputError(f"picture is {self.picture}; each must be a multiple of 16")
