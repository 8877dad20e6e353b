"""A run → a bundle: the kept folds' weights in 16 bits, the calibration and the prior."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lumbar_kaggle.baseline.calibration import Calibration
from lumbar_kaggle.baseline.images import CACHE_CONFIG
from lumbar_kaggle.baseline.run import RERUN, fold_folder, read_results, read_run
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, digest, read_csv, read_json
from lumbar_kaggle.core.settings import check_settings, from_dict, option
from lumbar_kaggle.core.targets import SEVERITIES, target
from lumbar_kaggle.inference.bundle import MANIFEST, Manifest, open_bundle, write_manifest

RECIPE = "baseline"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fold:
    """One classifier of a bundle: its weight file, and the severities its training part held."""

    file: str
    severities_seen: tuple[int, ...] = option((0, 1, 2), "of its training part", least=0, most=2)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class Models:
    """`bundle.Manifest.models` of this recipe.

    Attributes:
        arch: of all networks.
        folds: per target its classifiers.
        calibration: per score group.
        source: digest of the run; see `bundle.open_bundle`.
    """

    arch: str
    folds: dict[str, list[Fold]]
    calibration: dict[str, Calibration]
    source: str = ""


def read_models(bundle: Path, manifest: Manifest) -> Models:
    """Return what a bundle of this recipe says of its models.

    Raises:
        InputError: something is missing or cannot be; the manifest is named.
    """
    path = bundle / MANIFEST
    models = from_dict(manifest.models, Models, f"{path}, models")
    for name in manifest.targets:
        if not models.folds.get(name):
            raise InputError(f"{path}, models: target {name} has no fold; export it again")
        manifest.check_files(bundle, [fold.file for fold in models.folds[name]])
        if target(name).score_group not in models.calibration:
            raise InputError(f"{path}, models: target {name} has no calibration; export it again")
    return models


@alone_on("bundle", file=True)
def export(run: Path, bundle: Path) -> Manifest:
    """Write the bundle of a run's finished targets.

    A bundle that was already made from the same results is left as it is. Weights are rounded to 16
    bits, half the size at no measurable cost in the probabilities.

    Args:
        run: the run folder; it may still have unfinished targets.
        bundle: folder to write; the manifest comes last, so an interrupted export is no bundle.

    Raises:
        InputError: no finished target, a run by the report's protocol, or a folder with other content.
    """
    config, results = read_run(run), read_results(run)
    if config.protocol != "honest":
        raise InputError(f"{run}: trained by the report's protocol, which is for comparison; export an honest run")
    if not results:
        raise InputError(f"{run}: no target is finished yet; run lumbar train again to go on")
    calibration = read_json(run / "calibration.json")
    prior = read_csv(run / "prior.csv", SEVERITIES, RERUN, index_col="target")
    # Without how long training took: the same models make the same bundle, resumed or not, on any day.
    timeless = [
        {**one, "folds": [{k: v for k, v in fold.items() if k != "seconds_per_epoch"} for fold in one["folds"]]}
        for one in results
    ]
    source = digest([timeless, calibration, prior.to_numpy().tolist(), asdict(config)])
    before = open_bundle(bundle, source)
    if before is not None:
        return before
    log.info("Exporting %d targets into %s", len(results), bundle)
    folds = {result["target"]: _export_target(run, bundle, result) for result in tqdm(results, unit="target")}
    return write_manifest(
        bundle,
        recipe=RECIPE,
        config=asdict(config),
        targets=list(folds),
        contract={**asdict(CACHE_CONFIG), "image_size": config.image_size, "scale": "0 to 1, then mean and std"},
        prior=prior,
        metrics={result["target"]: _figures(result) for result in results},
        weights=[fold["file"] for entries in folds.values() for fold in entries],
        models={"arch": config.arch, "folds": folds, "calibration": calibration, "source": source},
    )


def _export_target(run: Path, bundle: Path, result: dict[str, Any]) -> list[dict[str, Any]]:
    # Here and not above: torch takes seconds to import.
    from lumbar_kaggle.training.encoders import export_weights

    entries = []
    for record in result["folds"]:
        name = f"weights/{result['target']}-fold-{record['fold']}.safetensors"
        export_weights(fold_folder(run, result, record["fold"]) / "weights.safetensors", bundle / name)
        entries.append({"file": name, "severities_seen": record["severities_seen"]})
    return entries


def _figures(result: dict[str, Any]) -> dict[str, float]:
    accuracies = [record["accuracy"] for record in result["folds"]]
    return {"accuracy": sum(accuracies) / len(accuracies), "folds": float(len(accuracies))}
