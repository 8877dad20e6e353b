"""Settings of a rehearsal; light enough to be imported for ``lumbar --help``."""

from dataclasses import dataclass
from typing import Any

from lumbar_kaggle.core.settings import check_settings, option
from lumbar_kaggle.kaggle.kernels import BASELINE, RECIPES

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


@dataclass(frozen=True)
class RehearsalSettings:
    """What is rehearsed, and within which limits; the limits' defaults are Kaggle's."""

    variant: str = option(
        "plain",
        "plain: the whole chain; cut: a training kernel is cut and resumed; hidden: the notebook meets a "
        "larger and nastier test set; all: all three",
        choices=VARIANTS,
    )
    recipe: str = option(BASELINE, "whose kernels are played", choices=RECIPES)
    studies: int = option(16, "training studies of the phantom", metavar="N", least=1)
    test_studies: int = option(3, "test studies of the phantom", metavar="M", least=1)
    hidden_studies: int = option(
        40, "test studies of the hidden set; Kaggle's has about 722", metavar="H", least=1
    )
    seed: int = option(1, "of the phantom", metavar="S", least=0)
    minutes: float = option(15.0, "limit of a session that has 12 hours on Kaggle", metavar="MIN", above=0)
    config: str = option(
        "",
        "JSON file of settings, {recipe: {setting: value}}; empty: a small size",
        metavar="FILE",
    )
    sandbox: str = option("auto", "bwrap, unshare, plain, or auto: the best that works", metavar="KIND")
    cores: int = option(4, "processors of a session, as far as there are", metavar="N", least=1)
    memory_gb: float = option(31.0, "address space of a session's process in GiB", metavar="GB", above=0)
    disk_gb: float = option(20.0, "size of a session's working folder in GiB", metavar="GB", above=0)

    def __post_init__(self) -> None:
        check_settings(self)
