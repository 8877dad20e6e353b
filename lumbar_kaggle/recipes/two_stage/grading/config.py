"""The configuration of the second stage, and its presets."""

from dataclasses import dataclass, field, replace
from typing import Any

from lumbar_kaggle.errors import InputError


def _option(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class GradeConfig:
    """Everything that determines what the second stage learns, besides the data and the located points.

    Settings per view come in the order of `views.VIEWS`: canal, foramen, axial middle, axial side.
    """

    backbones: tuple[str, ...] = _option(
        ("small_resnet", "small_resnet"),
        "encoder of the sagittal and of the axial slices: small_resnet, or a torchvision or timm model",
        metavar="NAME",
    )
    weights: tuple[str, ...] = _option(
        ("none", "none"),
        "their first weights: none, auto (from the hub), a file, or a folder of files by the models' names",
        metavar="none|auto|FILE|FOLDER",
    )
    sagittal_px: int = _option(64, "side of the sagittal crops in px", metavar="PX")
    axial_px: int = _option(64, "side of the axial crops in px", metavar="PX")
    size_mm: tuple[float, ...] = _option(
        (44.0, 40.0, 64.0, 44.0), "side of the crops in mm, per view", metavar="MM"
    )
    slices: tuple[int, ...] = _option((5, 5, 3, 3), "slices per view, odd", metavar="N")
    step_mm: float = _option(4.0, "wanted distance of the slices; denser stacks are thinned", metavar="MM")
    reach_mm: float = _option(6.0, "a point further from any slice is not in the picture", metavar="MM")
    margin_mm: float = _option(6.0, "cached around each crop, for shifts and turns", metavar="MM")
    extra_slices: int = _option(1, "cached on both sides of each window, for shifts", metavar="N")
    align: bool = _option(True, "turn the sagittal crops so that the spine runs upright")

    features: int = _option(128, "width of a view's description", metavar="N")
    sequence: str = _option("gru", "what joins the slices of a view", choices=("gru", "none"))
    level_input: bool = _option(True, "tell the heads which level it is")
    axial_for_canal: bool = _option(False, "let the canal's head see the axial views")
    dropout: float = _option(0.2, "before the heads", metavar="P")
    view_dropout: float = _option(0.1, "share of views taken away in training", metavar="P")

    folds: int = _option(5, "folds of the cross-validation, 2 or more", metavar="N")
    epochs: int = _option(10, "passes over the levels of the training studies", metavar="N")
    batch_size: int = _option(16, "levels of studies per step", metavar="N")
    accumulate: int = _option(1, "steps whose gradients are added up before the weights change", metavar="N")
    lr: float = _option(2e-3, "greatest learning rate", metavar="RATE")
    weight_decay: float = _option(0.02, "of the optimiser", metavar="RATE")
    ema: float = _option(0.98, "decay of the weights' moving average; 0: none", metavar="RATE")
    mixup: float = _option(0.0, "alpha of mixup's beta distribution; 0: none", metavar="ALPHA")
    mixed_precision: bool = _option(True, "16-bit floats where there is a GPU")
    channels_last: bool = _option(True, "memory order that convolutions like")

    severity_weights: bool = _option(True, "weights 1, 2 and 4 in the loss, as in the score")
    group_weights: tuple[float, ...] = _option(
        (1.5, 1.0, 1.0), "of canal, foramina and recesses in the loss", metavar="W"
    )
    view_loss: float = _option(0.3, "weight of the heads that see one view only", metavar="W")
    slice_loss: float = _option(0.2, "weight of the loss on the slice attention", metavar="W")

    shift_mm: float = _option(2.0, "standard deviation of shifts in the plane", metavar="MM")
    slice_shift: tuple[float, ...] = _option(
        (0.7, 0.3), "probabilities of windows shifted by 0, 1, … slices", metavar="P"
    )
    turn_degrees: float = _option(8.0, "standard deviation of turns", metavar="DEG")
    scale: float = _option(0.08, "standard deviation of the logarithm of scales", metavar="S")
    contrast: float = _option(0.15, "standard deviation of gains and gammas, logarithmic", metavar="S")
    noise: float = _option(0.05, "greatest noise, of the crop's own standard deviation", metavar="S")
    mirror: bool = _option(False, "mirror half of the patients, labels included")
    flip_predictions: bool = _option(False, "predict as the mean over the patient and his mirror image")
    predict_turns: tuple[float, ...] = _option(
        (0.0,), "predict as the mean over crops turned by these degrees", metavar="DEG"
    )

    workers: int = _option(0, "processes that load crops", metavar="N")
    seed: int = _option(2024, "of everything random", metavar="N")

    def __post_init__(self) -> None:
        self._check_lengths()
        least = {"folds": 2, "epochs": 1, "batch_size": 2, "accumulate": 1, "extra_slices": 0, "features": 8}
        least |= {"sagittal_px": 16, "axial_px": 16, "workers": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {value} or more")
        if any(number < 1 or number % 2 == 0 for number in self.slices):
            raise InputError(f"slices are {self.slices}; each must be odd")
        if self.sequence not in ("gru", "none"):
            raise InputError(f"sequence is {self.sequence!r}; it must be gru or none")
        if len(self.slice_shift) > self.extra_slices + 1 or abs(sum(self.slice_shift) - 1) > 1e-6:
            raise InputError(
                f"slice_shift is {self.slice_shift}; give probabilities that add up to 1, "
                f"for shifts up to extra_slices, which is {self.extra_slices}"
            )
        for name in ("dropout", "view_dropout", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")

    def _check_lengths(self) -> None:
        lengths = {"backbones": 2, "weights": 2, "size_mm": 4, "slices": 4, "group_weights": 3}
        for name, length in lengths.items():
            if len(getattr(self, name)) != length:
                raise InputError(f"{name} has {len(getattr(self, name))} values; it needs {length}")


_T4 = GradeConfig(
    backbones=("tf_efficientnetv2_s", "tf_efficientnetv2_s"),
    weights=("auto", "auto"),
    sagittal_px=128,
    axial_px=128,
    size_mm=(50.0, 45.0, 70.0, 45.0),
    slices=(7, 7, 5, 5),
    extra_slices=2,
    axial_for_canal=True,
    features=256,
    epochs=10,
    batch_size=8,
    accumulate=4,
    lr=5e-4,
    weight_decay=0.01,
    ema=0.995,
    mixup=0.4,
    shift_mm=3.0,
    slice_shift=(0.6, 0.3, 0.1),
    turn_degrees=10.0,
    mirror=True,
    flip_predictions=True,
    predict_turns=(-8.0, 0.0, 8.0),
    workers=2,
)

PRESETS: dict[str, tuple[GradeConfig, ...]] = {
    "cpu": (GradeConfig(folds=4, epochs=8),),
    "t4x2-single": (_T4,),
    "t4x2-gold": (
        _T4,
        replace(
            _T4,
            backbones=("convnext_small", "convnext_small"),
            batch_size=6,
            accumulate=5,
            lr=2e-4,
            epochs=8,
        ),
        replace(
            _T4,
            backbones=("resnet18", "resnet18"),
            sagittal_px=96,
            axial_px=96,
            batch_size=32,
            accumulate=1,
            lr=1e-3,
            epochs=8,
        ),
    ),
}
"""Named configurations, one or several backbones each: a laptop; one backbone and the whole recipe for two
16 GB cards. Sizes and rates of the latter are those that the competition's gold solutions report; the
batches leave a third of a card's memory free (docs/two_stage.md has the sums). On the phantom mirroring
and axial views for the canal changed nothing measurable (RESULTS.md), so ``cpu`` is without; the T4 presets
are for the real set, where entrants found a use for each."""


def preset(name: str) -> tuple[GradeConfig, ...]:
    """Return the configurations of a preset, one per backbone.

    Raises:
        InputError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise InputError(f"preset {name!r} is unknown; known are {', '.join(PRESETS)}")
    return PRESETS[name]
