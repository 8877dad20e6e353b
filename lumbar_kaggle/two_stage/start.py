"""Trained networks that a training starts from: a bundle's, or those of a locator's run; and whether they fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, sha256_file
from lumbar_kaggle.core.settings import Validated, from_dict
from lumbar_kaggle.inference.bundle import MANIFEST, Manifest, models_in_the_box, read_manifest
from lumbar_kaggle.two_stage.config import GradeConfig, TwoStageConfig

START = "starting weights"  # what `settings.tie` calls them

# Settings that weights belong to: of the locator, which may be taken as it is, also what it sees.
LOCATOR_SHAPE = ("channels", "pixel_mm", "picture")
GRADER_SHAPE = ("backbones", "features", "sequence", "level_input", "axial_for_canal")


@dataclass(frozen=True)
class GradeModel(Validated):
    """One model of the second stage in a bundle: its settings and its folds' weight files."""

    config: GradeConfig
    folds: tuple[str, ...]


@dataclass(frozen=True)
class Models(Validated):
    """`bundle.Manifest.models` of this recipe: the weight files of the locator and of the models to blend. `source` is
    the digest of the run; see `bundle.open_bundle`."""

    sagittal: tuple[str, ...]
    axial: list[str]
    grade: tuple[GradeModel, ...]
    source: str = ""


def parse_models(bundle: Path, manifest: Manifest) -> tuple[TwoStageConfig, Models]:
    """Return what the manifest of a bundle says of its networks; InputError: it is of another recipe, or damaged."""
    if manifest.recipe != "two-stage":
        raise InputError(f"{bundle}: made by the recipe {manifest.recipe}; give a bundle of a two-stage run")
    config = from_dict(manifest.config, TwoStageConfig, f"{bundle / MANIFEST}, config")
    models = from_dict(manifest.models, Models, f"{bundle / MANIFEST}, models")
    files = [name for model in models.grade for name in model.folds]
    manifest.check_files(bundle, [*models.sagittal, *models.axial, *files])
    return config, models


def identity(weights: Path | None) -> dict[str, str]:
    """Return what a run that starts from a bundle or a locator's run is tied to; empty text: from random weights."""
    if weights is None:
        return {START: ""}
    if (weights / MANIFEST).is_file():
        return {START: read_manifest(weights).fingerprint}
    return {START: digest([sha256_file(path) for path in sorted(weights.glob("*.safetensors"))])}


def box_for(config: TwoStageConfig) -> Path | None:
    """Return the bundle that a run of these settings starts from; None: it starts from random weights. InputError: the
    package has come without its models, or these are of another architecture."""
    if not config.from_models:
        return None
    box = models_in_the_box()
    check_fits(box, parse_models(box, read_manifest(box))[0].locate, config.locate, LOCATOR_SHAPE)
    for one in config.grade:
        starting_grader(box, one, 0)
    return box


def check_fits(source: Path, there: Any, wanted: Any, shape: Sequence[str]) -> None:
    """Raise InputError where the settings `wanted` are of another network than those of the weights in `source`."""
    if other := [f"{name} {getattr(there, name)}" for name in shape if getattr(there, name) != getattr(wanted, name)]:
        raise InputError(f"{source}: its networks have {' and '.join(other)}; set the same, or start from others")


def starting_grader(bundle: Path, config: GradeConfig, fold: int) -> tuple[Path, GradeConfig]:
    """Return the weights that a fold of a model starts from, of the first model in the bundle whose architecture it
    has, and that model's settings. InputError: there is none, or no usable bundle."""
    models, shape = parse_models(bundle, read_manifest(bundle))[1].grade, attrgetter(*GRADER_SHAPE)
    chosen = next((one for one in models if shape(one.config) == shape(config)), models[0])
    check_fits(bundle, chosen.config, config, GRADER_SHAPE)
    return bundle / chosen.folds[fold % len(chosen.folds)], chosen.config
