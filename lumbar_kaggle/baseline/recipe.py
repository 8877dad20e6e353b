"""The baseline as a recipe, see `inference.recipes.Recipe`, and its settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumbar_kaggle.baseline.images import CACHE_CONFIG, image_worker, rank_series
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.settings import Validated, from_dict, option
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, TARGET_NAMES, TARGETS
from lumbar_kaggle.dicom.preprocess import Summary
from lumbar_kaggle.inference.recipes import check_preset, fill_cache, later
from lumbar_kaggle.tables.competition import read_competition

NAME = "baseline"
RUN_FILE = "config.json"


@dataclass(frozen=True)
class BaselineConfig(Validated):
    """Everything that determines what a baseline run makes, besides the data; by default as the report has it."""

    targets: tuple[str, ...] = option(TARGET_NAMES, "targets, conditions or levels to train, by name", metavar="NAME")
    protocol: str = option(
        "honest",
        "honest: split by study, then upsample the training part; report: upsample first, as the report did",
        choices=("honest", "report"),
    )
    arch: str = option("resnet34", "any torchvision or timm model", metavar="NAME")
    weights: str = option("auto", "pretrained weights: auto (from the hub), none, or a file", metavar="auto|none|FILE")
    frozen: bool = option(False, "train the head alone, on the pretrained body's features of the plain pictures")
    image_size: int = option(256, "side of the network's input in px", metavar="PX", least=32, most=1024)
    batch_size: int = option(64, "images per training step", metavar="N", least=2, most=4096)
    folds: int = option(5, "folds of the cross-validation, 2 or more", metavar="N", least=2, most=100)
    short_epochs: int = option(4, "epochs of the short cross-validated run", metavar="N", least=1, most=10_000)
    middle_epochs: int = option(5, "epochs when its accuracy is 0.91 to 0.95", metavar="N", least=1, most=10_000)
    long_epochs: int = option(10, "epochs when its accuracy is below 0.91", metavar="N", least=1, most=10_000)
    patience: int = option(3, "report protocol: epochs without a lower loss before stopping", metavar="N", least=1)
    lr: float | None = option(None, "learning rate; none: the finder's valley", metavar="RATE", above=0, most=10)
    lr_find_iterations: int = option(100, "steps of the learning-rate finder", metavar="N", least=30, most=100_000)
    mixed_precision: bool = option(True, "16-bit floats where there is a GPU")
    seed: int = option(2024, "of everything random", metavar="N", least=0, most=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "targets", expand_targets(self.targets))

    def epochs_after_short_run(self, accuracy: float) -> int | None:
        """Return how many epochs the report's rule trains after a short run of that mean accuracy; None: it is kept."""
        if accuracy > 0.95:
            return None
        return self.middle_epochs if accuracy >= 0.91 else self.long_epochs


# A laptop: with the body that `lumbar pretrain` makes as weights, all targets train in minutes.
_PRESETS = {"cpu": {"arch": "tf_efficientnet_lite0", "image_size": 160, "frozen": True, "lr": 2e-4}}

SETTINGS = BaselineConfig
PRESETS = tuple(_PRESETS)

export = later("lumbar_kaggle.baseline.bundle:export")
load = later("lumbar_kaggle.baseline.bundle:BaselinePredictor")
report = later("lumbar_kaggle.baseline.report:report")
session = later("lumbar_kaggle.baseline.session:of_kernel")


def expand_targets(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the targets that are named, by themselves, their condition or their level; raise `InputError` if none is.

    >>> len(expand_targets(("spinal_canal_stenosis", "l5_s1")))
    9
    """
    unknown = [name for name in names if name not in (*TARGET_NAMES, *CONDITIONS, *LEVELS)]
    if unknown:
        others = f"a condition such as {CONDITIONS[0]} or a level such as {LEVELS[0]}"
        raise InputError(f"target {unknown[0]!r} is unknown; give a target such as {TARGET_NAMES[0]}, {others}")
    return tuple(target.name for target in TARGETS if {target.name, *target} & set(names))


def configure(changes: Mapping[str, Any], source: str = "") -> BaselineConfig:
    """Return the configuration, or that of a ``preset``, with some settings changed."""
    changed = dict(changes) if isinstance(changes, Mapping) else {"": changes}
    preset = changed.pop("preset", None)
    if preset is not None:
        check_preset(NAME, preset)
        changed = {**_PRESETS[preset], **changed}
    return from_dict(changed, BaselineConfig, source)


def preprocess(root: Path, cache: Path, **how: Any) -> Summary:
    """Cache the middle slice of each study's sagittal T1 series."""
    series = rank_series(read_competition(root, rows=False).series)
    return fill_cache(root, series, "sagittal T1 series", cache, CACHE_CONFIG, image_worker, **how)


def fit(root: Path, cache: Path, run: Path, budget: Budget, settings: BaselineConfig, **not_for_it: Any) -> str:
    """Train every target of the configuration, or go on."""
    from lumbar_kaggle.baseline.run import fit as fit_run

    for name, value in not_for_it.items():
        if value is not None:
            raise InputError(f"--{name.replace('_', '-')} is for --recipe two-stage")
    return fit_run(read_competition(root, "train"), cache, run, settings, budget).sentence()
