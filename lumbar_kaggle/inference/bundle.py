"""The exported models: ``bundle.json`` and safetensors files, checked by hash, free of pickle.

Loading a bundle executes nothing from it.
"""

import logging
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lumbar_kaggle import __version__
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, read_json, sha256_file, write_json
from lumbar_kaggle.core.settings import from_dict
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES

log = logging.getLogger(__name__)

MANIFEST = "bundle.json"
FORMAT = 1
"""Raised when a bundle of an earlier format can no longer be read."""


@dataclass(frozen=True)
class Manifest:
    """Content of ``bundle.json``.

    Attributes:
        format: see `FORMAT`.
        recipe: name of the recipe that made it and can load it.
        version: of this package when it was made.
        fingerprint: identifies the content, that is everything else in the manifest.
        config: the recipe's configuration.
        targets: names of the targets that have models; the others get the prior.
        input: what the models take: series, slice, size, window, normalisation.
        prior: per target name the weighted prior ``[3]`` of the training labels.
        metrics: figures of the training run.
        weights: per weight file, relative to the bundle: its SHA-256.
        models: recipe-specific description of how the weight files are used.
    """

    format: int
    recipe: str
    version: str
    fingerprint: str
    config: dict[str, Any]
    targets: list[str]
    input: dict[str, Any]
    prior: dict[str, list[float]]
    metrics: dict[str, Any]
    weights: dict[str, str]
    models: dict[str, Any]

    @property
    def networks(self) -> list[str]:
        """The weight files that are networks; a blend's few numbers are JSON."""
        return [name for name in self.weights if name.endswith(".safetensors")]

    def check_files(self, bundle: Path, names: Iterable[str]) -> None:
        """Raise where a file is to be used that is not among the hashed `weights`.

        Raises:
            InputError: the first such name.
        """
        for name in names:
            if name not in self.weights:
                raise InputError(f"{bundle / MANIFEST}: {name} is used but is not among the weights; export it again")

    def prior_table(self) -> pd.DataFrame:
        """Return the prior as `metric.weighted_prior` does."""
        values = np.array([self.prior[name] for name in TARGET_NAMES], dtype=np.float64)
        return pd.DataFrame(values, index=pd.Index(TARGET_NAMES, name="target"), columns=list(SEVERITIES))


def open_bundle(bundle: Path, source: str) -> Manifest | None:
    """Make a folder ready for an export.

    Args:
        bundle: the folder; a bundle of another source in it is removed.
        source: identifies what is exported; the new manifest must hold it as ``models["source"]``.

    Returns:
        The manifest of a bundle that was already made from the same source; else None.

    Raises:
        InputError: the folder holds something else.
    """
    if (bundle / MANIFEST).is_file():
        before = read_manifest(bundle)
        if before.models.get("source") == source:
            log.info(f"The bundle in {bundle} is already made from this run")
            return before
        (bundle / MANIFEST).unlink()
        shutil.rmtree(bundle / "weights", ignore_errors=True)
    elif bundle.is_dir() and any(path.name[0] != "." and path.name != "weights" for path in bundle.iterdir()):
        raise InputError(f"{bundle}: the folder holds something else; choose an empty one for the bundle")
    return None


def write_manifest(
    bundle: Path,
    *,
    recipe: str,
    config: dict[str, Any],
    targets: list[str],
    contract: dict[str, Any],
    prior: pd.DataFrame,
    metrics: dict[str, Any],
    weights: list[str],
    models: dict[str, Any],
) -> Manifest:
    """Hash the weight files that lie in `bundle` and write its manifest, which completes it.

    Args:
        bundle: the folder.
        recipe, config, targets, metrics, models: see `Manifest`.
        contract: see `Manifest.input`.
        prior: as from `metric.weighted_prior`.
        weights: file names relative to `bundle`.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "recipe": recipe,
        "version": __version__,
        "config": config,
        "targets": targets,
        "input": contract,
        "prior": dict(
            zip(TARGET_NAMES, prior.loc[list(TARGET_NAMES), list(SEVERITIES)].to_numpy().tolist(), strict=True)
        ),
        "metrics": metrics,
        "weights": {name: sha256_file(bundle / name) for name in sorted(weights)},
        "models": models,
    }
    manifest = Manifest(fingerprint=digest(content), **content)
    write_json(bundle / MANIFEST, asdict(manifest))
    return manifest


def read_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest and check every weight file against its hash.

    Raises:
        InputError: no bundle, one of another format, a value that cannot be, or a file that is missing, was
            changed or lies outside of the bundle.
    """
    path = bundle / MANIFEST
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the folder that lumbar export wrote")
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a bundle of format {FORMAT}; export it again with this version")
    manifest = from_dict(content, Manifest, f"{path}: not a bundle's manifest; export it again")
    _check_prior(path, manifest.prior)
    strange = [name for name in manifest.targets if name not in TARGET_NAMES]
    if strange or len(set(manifest.targets)) < len(manifest.targets):
        raise InputError(f"{path}: targets are not different ones of the 25 ({strange[:1]}); export it again")
    for name, expected in manifest.weights.items():
        file = bundle / name
        if not file.resolve().is_relative_to(bundle.resolve()):
            raise InputError(f"{path}: the weight file {name!r} lies outside of the bundle; export it again")
        if not file.is_file():
            raise InputError(f"{file}: no such file; the bundle is incomplete, copy it again")
        if sha256_file(file) != expected:
            raise InputError(f"{file}: its SHA-256 is not the manifest's; the file was changed, copy it again")
    if digest({key: value for key, value in content.items() if key != "fingerprint"}) != manifest.fingerprint:
        raise InputError(f"{path}: its content is not that of its fingerprint; it was changed, copy it again")
    return manifest


def _check_prior(path: Path, prior: dict[str, list[float]]) -> None:
    """Raise where a target has no prior, or one that would make an invalid submission."""
    for name in TARGET_NAMES:
        values = prior.get(name, [])
        if len(values) != len(SEVERITIES) or min(values) <= 0 or abs(sum(values) - 1) > 1e-6:
            raise InputError(
                f"{path}: the prior of {name} is {values[:4]}; it must be three numbers above 0 whose sum "
                "is 1; export it again"
            )
