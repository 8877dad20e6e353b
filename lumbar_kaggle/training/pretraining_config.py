"""The configuration of ``lumbar pretrain``."""

from dataclasses import dataclass

from lumbar_kaggle.core.settings import check_settings, option

HELD_OUT = 10
"""One patient in ten is kept aside and tells whether it learns."""


@dataclass(frozen=True)
class PretrainConfig:
    """What determines the weights."""

    arch: str = option("resnet10t", "any torchvision or timm model", metavar="NAME")
    patients: int = option(5000, "patients to draw, 20 or more", metavar="N", least=2 * HELD_OUT, most=1_000_000)
    image_size: int = option(96, "side of the input in px", metavar="PX", least=32, most=1024)
    batch_size: int = option(48, "images per training step", metavar="N", least=2, most=4096)
    epochs: int = option(3, "passes over the patients", metavar="N", least=1, most=10_000)
    lr: float = option(3e-3, "greatest learning rate", metavar="RATE", above=0, most=10)
    seed: int = option(20_000_001, "of the patients and the training", metavar="N", least=0, most=2**63 - 1)

    def __post_init__(self) -> None:
        check_settings(self)
