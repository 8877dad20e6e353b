"""The configuration of the whole recipe, of both its stages, and its presets."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.settings import Validated, from_dict, option

_COUNT: dict[str, Any] = {"metavar": "N", "least": 1}
_WEIGHT: dict[str, Any] = {"metavar": "W", "least": 0, "most": 1000}
_MM: dict[str, Any] = {"metavar": "MM", "least": 0, "most": 100}
_SHARE: dict[str, Any] = {"metavar": "P", "least": 0, "most": 1}

# In a run folder the configuration, the first stage and its annotated points; what else is there: see `fit`.
RUN_FILE, LOCATOR, ANNOTATED = "two_stage.json", "locator", "annotated.csv"
RERUN = "delete it and run lumbar train again"  # what to do where a table of a run is damaged


class Result(NamedTuple):
    """What the training of a stage came to: what its command prints, with the word ``resumable`` when something is left
    to do, and whether all that was asked for is done."""

    text: str
    finished: bool


def network_file(folder: Path, name: str, fold: int) -> Path:
    """Return the weights' file of a fold; `name` is ``sagittal`` or ``axial`` of the locator, ``fold`` of a grader."""
    return folder / f"{name}-{fold}.safetensors"


@dataclass(frozen=True)
class LocateConfig(Validated):
    """Everything that determines what the locator learns, besides the data."""

    folds: int = option(5, "folds of the cross-validation, 2 or more", metavar="N", least=2, most=100)
    epochs: int = option(12, "passes over labelled slices; 0: take trained weights", metavar="N", least=0, most=10_000)
    batch_size: int = option(16, "slices per training step", metavar="N", least=2, most=4096)
    lr: float = option(3e-3, "greatest learning rate", metavar="RATE", above=0, most=10)
    pixel_mm: float = option(2.0, "mm per pixel of the network's sagittal picture", metavar="MM", least=0.1, most=20)
    picture: tuple[int, ...] = option(
        (160, 128), "rows and columns of it, multiples of 16", metavar="PX", count=2, least=32, most=1024
    )
    channels: tuple[int, ...] = option((8, 16, 32, 48, 64), "of the five scales", count=5, most=1024, **_COUNT)
    slices: int = option(6, "slices of one series or level that are learned from, at most", most=1000, **_COUNT)
    mixed_precision: bool = option(True, "16-bit floats where there is a GPU")
    seed: int = option(2024, "of everything random", metavar="N", least=0, most=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(side % 16 for side in self.picture):
            raise InputError(f"picture is {self.picture}; each must be a multiple of 16")


@dataclass(frozen=True)
class GradeConfig(Validated):
    """Everything that determines what the second stage learns, besides the data and the located points. Settings per
    view come in the order of `views.VIEWS`: canal, foramen, axial middle, axial side."""

    backbones: tuple[str, ...] = option(
        ("small_resnet",) * 2,
        "encoder of the sagittal and of the axial slices: small_resnet, or a torchvision or timm model",
        metavar="NAME",
        count=2,
    )
    weights: tuple[str, ...] = option(
        ("none",) * 2,
        "their first weights: none, auto (from the hub), a file, or a folder of files by the models' names",
        metavar="none|auto|FILE|FOLDER",
        count=2,
    )
    sagittal_px: int = option(64, "side of the sagittal crops in px", metavar="PX", least=16, most=512)
    axial_px: int = option(64, "side of the axial crops in px", metavar="PX", least=16, most=512)
    size_mm: tuple[float, ...] = option(
        (44.0, 40.0, 64.0, 44.0), "side of the crops in mm, per view", metavar="MM", count=4, above=0, most=1000
    )
    slices: tuple[int, ...] = option((5, 5, 3, 3), "slices per view, odd", count=4, most=63, **_COUNT)
    step_mm: float = option(4.0, "wanted distance of slices; denser ones are thinned", metavar="MM", above=0, most=100)
    reach_mm: float = option(6.0, "a point further from any slice is not in the picture", **_MM)
    margin_mm: float = option(6.0, "cached around each crop, for shifts and turns", **_MM)
    extra_slices: int = option(1, "cached on both sides of each window, for shifts", metavar="N", least=0, most=15)
    align: bool = option(True, "turn the sagittal crops so that the spine runs upright")

    features: int = option(128, "width of a view's description, even", metavar="N", least=8, most=4096)
    sequence: str = option("gru", "what joins the slices of a view", choices=("gru", "none"))
    level_input: bool = option(True, "tell the heads which level it is")
    axial_for_canal: bool = option(False, "let the canal's head see the axial views")
    dropout: float = option(0.2, "before the heads", **_SHARE)
    view_dropout: float = option(0.1, "share of views taken away in training", **_SHARE)
    slice_dropout: float = option(0.0, "share of views that training leaves one slice of", **_SHARE)

    folds: int = option(5, "folds of the cross-validation, 2 or more", metavar="N", least=2, most=100)
    epochs: int = option(10, "passes over the levels of the training studies", most=10_000, **_COUNT)
    batch_size: int = option(16, "levels of studies per step", metavar="N", least=2, most=4096)
    accumulate: int = option(1, "steps whose gradients are added up before the weights change", most=4096, **_COUNT)
    lr: float = option(2e-3, "greatest learning rate", metavar="RATE", above=0, most=10)
    weight_decay: float = option(0.02, "of the optimiser", metavar="RATE", least=0, most=10)
    ema: float = option(0.98, "decay of the weights' moving average; 0: none", metavar="RATE", least=0, most=1)
    mixup: float = option(0.0, "alpha of mixup's beta distribution; 0: none", metavar="ALPHA", least=0, most=100)
    mixed_precision: bool = option(True, "16-bit floats where there is a GPU")
    channels_last: bool = option(True, "memory order that convolutions like")

    severity_weights: bool = option(True, "weights 1, 2 and 4 in the loss, as in the score")
    group_weights: tuple[float, ...] = option((1.5, 1.0, 1.0), "loss of canal, foramina, recesses", count=3, **_WEIGHT)
    view_loss: float = option(0.3, "weight of the heads that see one view only", **_WEIGHT)
    slice_loss: float = option(0.2, "weight of the loss on the slice attention", **_WEIGHT)

    shift_mm: float = option(2.0, "standard deviation of shifts in the plane", **_MM)
    slice_shift: tuple[float, ...] = option((0.7, 0.3), "probabilities of windows shifted by 0, 1, … slices", **_SHARE)
    turn_degrees: float = option(8.0, "standard deviation of turns", metavar="DEG", least=0, most=180)
    scale: float = option(0.08, "standard deviation of the logarithm of scales", metavar="S", least=0, most=1)
    contrast: float = option(0.15, "standard deviation of gains and gammas, logarithmic", metavar="S", least=0, most=1)
    noise: float = option(0.05, "greatest noise, of the crop's own standard deviation", metavar="S", least=0, most=10)
    style: float = option(0.0, "strength of random tone curves, shading and blur", metavar="S", least=0, most=2)
    mirror: bool = option(False, "mirror half of the patients, labels included")
    flip_predictions: bool = option(False, "predict as the mean over the patient and his mirror image")
    predict_turns: tuple[float, ...] = option(
        (0.0,), "predict as the mean over crops turned by these degrees", metavar="DEG", least=-180, most=180
    )

    fallback: bool = option(False, "answer nearer to the prior where pictures are unlike those of the training")
    workers: int = option(0, "processes that load crops", metavar="N", least=0, most=256)
    seed: int = option(2024, "of everything random", metavar="N", least=0, most=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(number % 2 == 0 for number in self.slices):
            raise InputError(f"slices are {self.slices}; each must be odd")
        if self.features % 2:
            # Half of it is each direction's of the recurrence along the slices.
            raise InputError(f"features is {self.features}; it must be even")
        if len(self.slice_shift) > self.extra_slices + 1 or abs(sum(self.slice_shift) - 1) > 1e-6:
            wanted = f"probabilities that add up to 1, for shifts up to extra_slices, which is {self.extra_slices}"
            raise InputError(f"slice_shift is {self.slice_shift}; give {wanted}")

    def unmoved(self) -> "GradeConfig":
        """Return the settings to predict with: windows are not shifted, so no slices are cut beside them."""
        return replace(self, extra_slices=0, slice_shift=(1.0,))


@dataclass(frozen=True)
class TwoStageConfig(Validated):
    """Settings of both stages; of the second as many as there are models to blend."""

    locate: LocateConfig
    grade: tuple[GradeConfig, ...]
    from_models: bool = option(False, "start both stages from the models that come with the package")

    def models(self, run: Path) -> list[tuple[int, Path, GradeConfig]]:
        """Return of each model of the second stage its number, from 1, its folder in a run folder, and its settings."""
        return [(number, run / f"grade-{number}", one) for number, one in enumerate(self.grade, start=1)]


_T4_LOCATE = LocateConfig(epochs=20, batch_size=32, pixel_mm=1.25, picture=(256, 208), channels=(16, 32, 64, 96, 128))

_T4 = GradeConfig(
    backbones=("tf_efficientnetv2_s",) * 2,
    weights=("auto",) * 2,
    sagittal_px=128,
    axial_px=128,
    size_mm=(50.0, 45.0, 70.0, 45.0),
    slices=(7, 7, 5, 5),
    extra_slices=2,
    axial_for_canal=True,
    features=256,
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
_CONVNEXT = replace(_T4, backbones=("convnext_small",) * 2, batch_size=6, accumulate=5, lr=2e-4, epochs=8)
_RESNET = replace(
    _T4, backbones=("resnet18",) * 2, sagittal_px=96, axial_px=96, batch_size=32, accumulate=1, lr=1e-3, epochs=8
)

_CPU = TwoStageConfig(LocateConfig(folds=4, epochs=8, slices=4), (GradeConfig(folds=4, epochs=8),))

PRESETS = {
    "cpu": TwoStageConfig(
        replace(_CPU.locate, epochs=2, lr=1e-3), (replace(_CPU.grade[0], epochs=3, lr=1e-3),), from_models=True
    ),
    "cpu-scratch": _CPU,
    "t4x2-single": TwoStageConfig(_T4_LOCATE, (_T4,)),
    "t4x2-gold": TwoStageConfig(_T4_LOCATE, (_T4, _CONVNEXT, _RESNET)),
}
"""A laptop, from the models in the box or from random weights; one backbone and the whole recipe for two 16 GB cards.
Sizes and rates of the latter are those that the competition's gold solutions report; the batches leave a third of a
card's memory free (docs/two_stage.md has the sums). On the phantom mirroring and axial views for the canal changed
nothing measurable (RESULTS.md), so the first two are without; the T4 presets are for the real set, where entrants found
a use for each."""


def preset(name: str) -> TwoStageConfig:
    """Return a preset; InputError: there is none of that name."""
    if name not in PRESETS:
        raise InputError(f"preset {name!r} is unknown; known are {', '.join(PRESETS)}")
    return PRESETS[name]


def configure(changes: Mapping[str, Any], source: str = "") -> TwoStageConfig:
    """Return a preset, by default ``cpu-scratch``, with other settings: ``{"preset": …, "locate": {…}, "grade": {…},
    "from_models": …}``. The settings of ``grade`` are for all its models. InputError: no such content, named by its
    `source`, or an unknown or wrong setting."""
    changed = dict(changes) if isinstance(changes, Mapping) else {"": changes}
    config = asdict(preset(str(changed.pop("preset", "cpu-scratch"))))
    stages = [changed.get(stage, {}) for stage in ("locate", "grade")]
    if not set(changed) <= set(config) or not all(isinstance(values, Mapping) for values in stages):
        raise InputError(f'{source}: give an object with "locate", "grade" or both, each with settings')
    locate, grade = config["locate"] | stages[0], [one | stages[1] for one in config["grade"]]
    return from_dict({**config, **changed, "locate": locate, "grade": grade}, TwoStageConfig, source)
