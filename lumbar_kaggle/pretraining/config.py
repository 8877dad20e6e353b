"""The configuration of ``lumbar pretrain``."""

from dataclasses import dataclass, field

from lumbar_kaggle.errors import InputError

HELD_OUT = 10
"""One patient in ten is kept aside and tells whether it learns."""


@dataclass(frozen=True)
class PretrainConfig:
    """What determines the weights."""

    arch: str = field(
        default="resnet10t", metadata={"help": "any torchvision or timm model", "metavar": "NAME"}
    )
    patients: int = field(default=5000, metadata={"help": "patients to draw, 20 or more", "metavar": "N"})
    image_size: int = field(default=96, metadata={"help": "side of the input in px", "metavar": "PX"})
    batch_size: int = field(default=48, metadata={"help": "images per training step", "metavar": "N"})
    epochs: int = field(default=3, metadata={"help": "passes over the patients", "metavar": "N"})
    lr: float = field(default=3e-3, metadata={"help": "greatest learning rate", "metavar": "RATE"})
    seed: int = field(
        default=20_000_001, metadata={"help": "of the patients and the training", "metavar": "N"}
    )

    def __post_init__(self) -> None:
        if self.patients < 2 * HELD_OUT:
            raise InputError(f"patients is {self.patients}; it must be {2 * HELD_OUT} or more")
