"""Settings of a rehearsal; light enough to be imported for ``lumbar --help``."""

from dataclasses import dataclass, field
from typing import Any

from lumbar_kaggle.errors import InputError
from lumbar_kaggle.ship.kernels import BASELINE, RECIPES

VARIANTS = ("plain", "cut", "hidden", "all")

SMALL_RECIPES: dict[str, dict[str, Any]] = {
    "baseline": {
        "targets": ["l4_l5"],
        "arch": "mobilenetv3_small_050",
        "weights": "none",
        "image_size": 64,
        "batch_size": 8,
        "folds": 2,
        "short_epochs": 1,
        "middle_epochs": 1,
        "long_epochs": 2,
        "lr_find_iterations": 30,
        "mixed_precision": False,
    },
    "two-stage": {
        "preset": "t4x2-gold",
        "locate": {
            "folds": 2,
            "epochs": 4,
            "batch_size": 8,
            "pixel_mm": 2.5,
            "picture": [128, 96],
            "channels": [8, 16, 24, 32, 48],
            "slices": 2,
        },
        "grade": {
            "backbones": ["small_resnet", "small_resnet"],
            "weights": ["none", "none"],
            "sagittal_px": 32,
            "axial_px": 32,
            "slices": [3, 3, 3, 3],
            "features": 16,
            "folds": 2,
            "epochs": 2,
            "predict_turns": [0.0],
            "workers": 0,
        },
    },
}
"""The recipes at a size that minutes suffice for: the baseline with one level's five targets and a small
network, the two-stage recipe with all three models of the largest preset, each a small one."""


def _option(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class RehearsalSettings:
    """What is rehearsed, and within which limits; the limits' defaults are Kaggle's."""

    variant: str = _option(
        "plain",
        "plain: the whole chain; cut: a training kernel is cut and resumed; hidden: the notebook meets a "
        "larger and nastier test set; all: all three",
        choices=VARIANTS,
    )
    recipe: str = _option(BASELINE, "whose kernels are played", choices=RECIPES)
    studies: int = _option(16, "training studies of the phantom", metavar="N")
    test_studies: int = _option(3, "test studies of the phantom", metavar="M")
    hidden_studies: int = _option(40, "test studies of the hidden set; Kaggle's has about 722", metavar="H")
    seed: int = _option(1, "of the phantom", metavar="S")
    minutes: float = _option(15.0, "limit of a session that has 12 hours on Kaggle", metavar="MIN")
    config: str = _option(
        "",
        "JSON file of settings, {recipe: {setting: value}}; empty: a small size",
        metavar="FILE",
    )
    sandbox: str = _option("auto", "bwrap, unshare, plain, or auto: the best that works", metavar="KIND")
    cores: int = _option(4, "processors of a session, as far as there are", metavar="N")
    memory_gb: float = _option(31.0, "address space of a session's process in GiB", metavar="GB")
    disk_gb: float = _option(20.0, "size of a session's working folder in GiB", metavar="GB")

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise InputError(f"variant is {self.variant!r}; it must be one of {', '.join(VARIANTS)}")
        if self.recipe not in RECIPES:
            raise InputError(f"recipe is {self.recipe!r}; it must be one of {', '.join(RECIPES)}")
        for name in ("studies", "test_studies", "cores", "minutes", "memory_gb", "disk_gb"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be more than 0")
