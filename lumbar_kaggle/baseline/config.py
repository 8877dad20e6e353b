"""The one configuration object of the baseline recipe."""

from dataclasses import dataclass

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.settings import check_settings, option
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, TARGET_NAMES


@dataclass(frozen=True)
class BaselineConfig:
    """Everything that determines what a baseline run makes, besides the data.

    The defaults are the report's where it states a value. Each field's help says what it means.
    """

    targets: tuple[str, ...] = option(TARGET_NAMES, "targets, conditions or levels to train, by name", metavar="NAME")
    protocol: str = option(
        "honest",
        "honest: split by study, then upsample the training part; report: upsample first, as the report did",
        choices=("honest", "report"),
    )
    arch: str = option("resnet34", "any torchvision or timm model", metavar="NAME")
    weights: str = option("auto", "pretrained weights: auto (from the hub), none, or a file", metavar="auto|none|FILE")
    image_size: int = option(256, "side of the network's input in px", metavar="PX", least=32, most=1024)
    batch_size: int = option(64, "images per training step", metavar="N", least=2, most=4096)
    folds: int = option(5, "folds of the cross-validation, 2 or more", metavar="N", least=2, most=100)
    short_epochs: int = option(4, "epochs of the short cross-validated run", metavar="N", least=1, most=10_000)
    middle_epochs: int = option(
        5, "epochs when the short run's accuracy is 0.91 to 0.95", metavar="N", least=1, most=10_000
    )
    long_epochs: int = option(10, "epochs when it is below 0.91", metavar="N", least=1, most=10_000)
    patience: int = option(
        3, "report protocol: epochs without a better validation loss before stopping", metavar="N", least=1
    )
    lr: float | None = option(None, "learning rate; none: the finder's valley", metavar="RATE", above=0, most=10)
    lr_find_iterations: int = option(
        100, "steps of the learning-rate finder, 30 or more", metavar="N", least=30, most=100_000
    )
    mixed_precision: bool = option(True, "16-bit floats where there is a GPU")
    seed: int = option(2024, "of everything random", metavar="N", least=0, most=2**63 - 1)

    def __post_init__(self) -> None:
        check_settings(self)
        object.__setattr__(self, "targets", expand_targets(self.targets))


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
