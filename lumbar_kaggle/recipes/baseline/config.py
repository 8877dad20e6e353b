"""The one configuration object of the baseline recipe."""

from dataclasses import dataclass, field
from typing import Any

from lumbar_kaggle.errors import InputError
from lumbar_kaggle.targets import CONDITIONS, LEVELS, TARGET_NAMES


def _option(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class BaselineConfig:
    """Everything that determines what a baseline run makes, besides the data.

    The defaults are the report's where it states a value. Each field's help says what it means.
    """

    targets: tuple[str, ...] = _option(
        TARGET_NAMES, "targets, conditions or levels to train, by name", metavar="NAME"
    )
    protocol: str = _option(
        "honest",
        "honest: split by study, then upsample the training part; report: upsample first, as the report did",
        choices=("honest", "report"),
    )
    arch: str = _option("resnet34", "any torchvision or timm model", metavar="NAME")
    weights: str = _option(
        "auto", "pretrained weights: auto (from the hub), none, or a file", metavar="auto|none|FILE"
    )
    image_size: int = _option(256, "side of the network's input in px", metavar="PX")
    batch_size: int = _option(64, "images per training step", metavar="N")
    folds: int = _option(5, "folds of the cross-validation, 2 or more", metavar="N")
    short_epochs: int = _option(4, "epochs of the short cross-validated run", metavar="N")
    middle_epochs: int = _option(5, "epochs when the short run's accuracy is 0.91 to 0.95", metavar="N")
    long_epochs: int = _option(10, "epochs when it is below 0.91", metavar="N")
    patience: int = _option(
        3, "report protocol: epochs without a better validation loss before stopping", metavar="N"
    )
    lr: float | None = _option(None, "learning rate; none: the finder's valley", metavar="RATE")
    lr_find_iterations: int = _option(100, "steps of the learning-rate finder, 30 or more", metavar="N")
    mixed_precision: bool = _option(True, "16-bit floats where there is a GPU")
    seed: int = _option(2024, "of everything random", metavar="N")

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", expand_targets(self.targets))
        least = {"image_size": 32, "batch_size": 2, "folds": 2, "lr_find_iterations": 30, "patience": 1}
        least |= {"short_epochs": 1, "middle_epochs": 1, "long_epochs": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {value} or more")
        if self.protocol not in ("honest", "report"):
            raise InputError(f"protocol is {self.protocol!r}; it must be honest or report")


KEEP_ABOVE = 0.95
"""A short run more accurate than this is kept as it is (the report's rule)."""

MIDDLE_FROM = 0.91
"""From here to `KEEP_ABOVE` the middle number of epochs, below it the long one (the report's rule)."""


def epochs_after_short_run(accuracy: float, config: BaselineConfig) -> int | None:
    """Apply the report's rule: how many epochs to train after the short cross-validated run.

    Args:
        accuracy: mean over the folds, 0 to 1.

    Returns:
        None when the short run is kept.
    """
    if accuracy > KEEP_ABOVE:
        return None
    return config.middle_epochs if accuracy >= MIDDLE_FROM else config.long_epochs


def expand_targets(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the targets that are named, by themselves, their condition or their level.

    >>> len(expand_targets(("spinal_canal_stenosis", "l5_s1")))
    9

    Raises:
        InputError: a name is none of these.
    """
    for name in names:
        if name not in (*TARGET_NAMES, *CONDITIONS, *LEVELS):
            raise InputError(
                f"target {name!r} is unknown; give a target such as {TARGET_NAMES[0]}, "
                f"a condition such as {CONDITIONS[0]} or a level such as {LEVELS[0]}"
            )

    def wanted(target: str) -> bool:
        return any(target == name or target.startswith(f"{name}_") or target.endswith(name) for name in names)

    return tuple(target for target in TARGET_NAMES if wanted(target))
