"""A two-stage run → a bundle: networks of both stages in 16 bits, and the blend."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, digest, read_csv, read_json, sha256_file
from lumbar_kaggle.core.settings import check_settings, from_dict, load_config
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES
from lumbar_kaggle.dicom.preprocess import VOLUMES
from lumbar_kaggle.inference.bundle import MANIFEST, Manifest, open_bundle, write_manifest
from lumbar_kaggle.scoring.blend import load_blend, save_blend
from lumbar_kaggle.training.weights import export_weights
from lumbar_kaggle.two_stage.config import RERUN, RUN_FILE, GradeConfig, TwoStageConfig, grade_folder
from lumbar_kaggle.two_stage.locate.training import network_file

log = logging.getLogger(__name__)

RECIPE = "two-stage"

BLEND = "weights/blend.json"


@dataclass(frozen=True)
class GradeModel:
    """One model of the second stage in a bundle: its settings and its folds' weight files."""

    config: GradeConfig
    folds: tuple[str, ...]

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class Models:
    """`bundle.Manifest.models` of this recipe: the weight files of both stages.

    Attributes:
        sagittal, axial: of the locator's networks.
        grade: the models to blend.
        source: digest of the run; see `bundle.open_bundle`.
    """

    sagittal: tuple[str, ...]
    axial: list[str]
    grade: tuple[GradeModel, ...]
    source: str = ""

    def __post_init__(self) -> None:
        check_settings(self)


def read_models(bundle: Path, manifest: Manifest) -> Models:
    """Return what a bundle of this recipe says of its models.

    Raises:
        InputError: something is missing or cannot be; the manifest is named.
    """
    models = from_dict(manifest.models, Models, f"{bundle / MANIFEST}, models")
    files = [name for model in models.grade for name in model.folds]
    manifest.check_files(bundle, [*models.sagittal, *models.axial, *files])
    return models


@alone_on("bundle", file=True)
def export(run: Path, bundle: Path) -> Manifest:
    """Write the bundle of a run's finished folds; without a blend, the models' plain mean is what counts.

    Args:
        run: the run folder; some folds may be missing.
        bundle: folder to write; the manifest comes last, so an interrupted export is no bundle.

    Raises:
        InputError: no fold of one of the stages is finished, or `bundle` is a folder with other content.
    """
    config = load_config(run / RUN_FILE, TwoStageConfig)
    files = _finished(run, config)
    blend = run / "blend.json"
    settings = [grade_folder(run, number) / "grade.json" for number in _models(files)]
    sources = [*files.values(), *settings, *([blend] if blend.is_file() else [])]
    source = digest([sha256_file(path) for path in sources])
    before = open_bundle(bundle, source)
    if before is not None:
        return before
    log.info("Exporting %d networks into %s", len(files), bundle)
    for name, path in files.items():
        export_weights(path, bundle / name)
    if blend.is_file():
        save_blend(bundle / BLEND, load_blend(blend))
    return write_manifest(
        bundle,
        recipe=RECIPE,
        config=asdict(config),
        targets=list(TARGET_NAMES),
        contract=asdict(VOLUMES),
        prior=read_csv(grade_folder(run, _models(files)[0]) / "prior.csv", SEVERITIES, RERUN, index_col="target"),
        metrics=_metrics(run),
        weights=[*files, *([BLEND] if blend.is_file() else [])],
        models={
            "sagittal": [name for name in files if name.startswith("weights/sagittal")],
            "axial": [name for name in files if name.startswith("weights/axial")],
            "grade": [
                {"config": read_json(path), "folds": [name for name in files if _model(name) == number]}
                for path, number in zip(settings, _models(files), strict=True)
            ],
            "source": source,
        },
    )


def _finished(run: Path, config: TwoStageConfig) -> dict[str, Path]:
    """Return the networks that are trained: name in the bundle → file of the run."""
    files = {}
    for plane in ("sagittal", "axial"):
        for fold in range(config.locate.folds):
            path = network_file(run / "locator", plane, fold)
            files[f"weights/{plane}-{fold}.safetensors"] = path
    for number, model in enumerate(config.grade, start=1):
        for fold in range(model.folds):
            path = grade_folder(run, number) / f"fold-{fold}.safetensors"
            files[f"weights/grade-{number}-{fold}.safetensors"] = path
    there = {name: path for name, path in files.items() if path.is_file()}
    for stage, wanted in (("locator", "weights/sagittal"), ("second stage", "weights/grade")):
        if not any(name.startswith(wanted) for name in there):
            raise InputError(f"{run}: no fold of the {stage} is finished; run lumbar train again to go on")
    return there


def _model(name: str) -> int | None:
    """Return the number of the model that a weight file belongs to; None for the locator's."""
    parts = Path(name).stem.split("-")
    return int(parts[1]) if parts[0] == "grade" else None


def _models(files: dict[str, Path]) -> list[int]:
    return sorted({number for name in files if (number := _model(name)) is not None})


def _metrics(run: Path) -> dict[str, Any]:
    figures = run / "locator" / "figures.csv"
    if not figures.is_file():
        return {}
    table = read_csv(figures, ("kind",), RERUN, keep_default_na=False)
    overall = table[table["kind"] == "all"].iloc[0]
    return {"locator": {name: float(overall[name]) for name in ("median_mm", "within_10_mm", "off_by_level")}}
