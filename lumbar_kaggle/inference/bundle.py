"""The exported models: ``bundle.json`` and safetensors files, checked by hash, free of pickle.

Loading a bundle executes nothing from it."""

import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lumbar_kaggle import __version__
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import AnyPath, digest, read_json, sha256_file, write_json
from lumbar_kaggle.core.settings import from_dict
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES, TARGETS, row_id
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.inference.base import Explanation, Study, study_rows
from lumbar_kaggle.inference.recipes import load_predictor

log = logging.getLogger(__name__)

MANIFEST = "bundle.json"
BOX = Path(__file__).parents[1] / "models" / "two-stage"
FORMAT = 1  # raised when a bundle of an earlier format can no longer be read


@dataclass(frozen=True)
class Manifest:
    """Content of ``bundle.json``."""

    format: int  # see `FORMAT`
    recipe: str  # name of the recipe that made it and can load it
    version: str  # of this package when it was made
    fingerprint: str  # identifies the content, that is everything else in the manifest
    config: dict[str, Any]  # of the recipe
    targets: list[str]  # that have models; the others get the prior
    input: dict[str, Any]  # what the models take: series, slice, size, window, normalisation
    prior: dict[str, list[float]]  # per target the weighted prior [3] of the training labels
    metrics: dict[str, Any]  # figures of the training run
    weights: dict[str, str]  # weight file, relative to the bundle → its SHA-256
    models: dict[str, Any]  # how the recipe uses the weight files

    @property
    def networks(self) -> list[str]:
        """The weight files that are networks; a blend's few numbers are JSON."""
        return [name for name in self.weights if name.endswith(".safetensors")]

    def check_files(self, bundle: Path, names: Iterable[str]) -> None:
        """Raise `InputError` where a file is to be used that is not among the hashed `weights`."""
        for name in names:
            if name not in self.weights:
                raise InputError(f"{bundle / MANIFEST}: {name} is used but is not among the weights; export it again")

    def prior_table(self) -> pd.DataFrame:
        """Return the prior as `metric.weighted_prior` does."""
        values = np.array([self.prior[name] for name in TARGET_NAMES], dtype=np.float64)
        return pd.DataFrame(values, index=pd.Index(TARGET_NAMES, name="target"), columns=list(SEVERITIES))


def open_bundle(bundle: Path, source: str) -> Manifest | None:
    """Make a folder ready for an export of what `source` identifies: ``models["source"]`` of the new manifest. A bundle
    of the same source is left as it is, and its manifest returned; one of another is removed, and None returned. Raises
    `InputError` where the folder holds something else."""
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
    bundle: Path, *, contract: dict[str, Any], prior: pd.DataFrame, weights: list[str], **content: Any
) -> Manifest:
    """Hash the weight files that lie in `bundle` and write its manifest, which completes it. The contract is
    `Manifest.input`, the prior as from `metric.weighted_prior`, weights are file names relative to the bundle; the rest
    of the content is ``recipe, config, targets, metrics, models``, see `Manifest`."""
    shares = prior.loc[list(TARGET_NAMES), list(SEVERITIES)].to_numpy().tolist()
    content |= {
        "format": FORMAT,
        "version": __version__,
        "input": contract,
        "prior": dict(zip(TARGET_NAMES, shares, strict=True)),
        "weights": {name: sha256_file(bundle / name) for name in sorted(weights)},
    }
    manifest = Manifest(fingerprint=digest(content), **content)
    write_json(bundle / MANIFEST, asdict(manifest))
    return manifest


def read_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest and check every weight file against its hash. Raises `InputError`: no bundle, one of
    another format, a value that cannot be, or a file that is missing, was changed or lies outside of the bundle."""
    path = bundle / MANIFEST
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the folder that lumbar export wrote")
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a bundle of format {FORMAT}; export it again with this version")
    manifest = from_dict(content, Manifest, f"{path}: not a bundle's manifest; export it again")
    for name in TARGET_NAMES:
        values = manifest.prior.get(name, [])
        if len(values) != len(SEVERITIES) or min(values) <= 0 or abs(sum(values) - 1) > 1e-6:
            wanted = "it must be three numbers above 0 whose sum is 1; export it again"
            raise InputError(f"{path}: the prior of {name} is {values[:4]}; {wanted}")
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


class Bundle:
    """Exported models, loaded and checked, from the folder that ``lumbar export`` wrote. Raises `InputError` where that
    is no bundle, or a damaged one."""

    def __init__(self, path: AnyPath) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        self._predictor = load_predictor(self.path, self.manifest)

    def __repr__(self) -> str:
        made = self.manifest
        return (
            f"Bundle {made.fingerprint}: recipe {made.recipe}, {len(made.networks)} networks, "
            f"{len(made.targets)} of {len(TARGETS)} targets"
        )

    def predict(self, studies: Study | Sequence[Study]) -> pd.DataFrame:
        """Grade a study, or several; return 25 rows per study in the order of `targets.TARGETS`. Columns are ``row_id,
        study_id, condition, level``, the probabilities ``normal_mild, moderate, severe`` (sum 1), ``graded`` (False
        where they are the prior's, since no model could tell) and ``reason`` (what of the study was missing). With
        ``row_id`` and the probabilities alone it is a submission."""
        every = [studies] if isinstance(studies, Study) else list(studies)
        prior = self.manifest.prior_table().to_numpy(dtype=np.float64)
        parts = []
        for study, prediction in zip(every, self._predictor.predict(every), strict=True):
            part = pd.DataFrame(TARGETS, columns=["condition", "level"])
            part.insert(0, "row_id", [row_id(study.study_id, name) for name in TARGET_NAMES])
            part.insert(1, "study_id", study.study_id)
            graded = np.asarray(np.isfinite(prediction.probabilities).all(axis=1))
            part[list(SEVERITIES)] = np.where(graded[:, None], prediction.probabilities, prior)
            parts.append(part.assign(graded=graded, reason=prediction.reason))
        return pd.concat(parts, ignore_index=True)

    def explain(self, study: Study, targets: Sequence[str] | None = None) -> Explanation:
        """Grade one study and show where the models looked; `targets`: see `Predictor.explain`."""
        return self._predictor.explain(study, targets)


def load_bundle(path: AnyPath | None = None) -> Bundle:
    """Load exported models, see `Bundle`, by default those that come with the package."""
    return Bundle(given_or_box(path))


def models_in_the_box() -> Path:
    """Return the bundle that comes with the package; raise `InputError` where this copy of the package has none."""
    if not (BOX / MANIFEST).is_file():
        raise InputError(f"{BOX}: this copy of the package has come without its models; give a bundle of lumbar export")
    return BOX


def given_or_box(bundle: AnyPath | None) -> Path:
    """Return the bundle that was given, or else that of `models_in_the_box`, and say so."""
    if bundle is not None:
        return Path(bundle)
    box = models_in_the_box()
    made = read_manifest(box)
    log.info(
        f"No --bundle is given: grading with the models in the box, {made.recipe} {made.fingerprint}; "
        "see lumbar_kaggle/models/README.md"
    )
    return box


def explain_studies(
    folder: Path, study_ids: Sequence[str], graders: Bundle, targets: Sequence[str] | None = None
) -> list[Explanation]:
    """Explain some studies of a competition folder (its test split) or a folder of studies, in the given order. Notes
    name files relative to the folder. Raises `InputError` where there is no such study."""
    competition = find_studies(folder)
    studies = [study_rows(competition, study_id) for study_id in study_ids]
    explained = [graders.explain(study, targets) for study in studies]
    return [replace(one, notes=tuple(note.replace(f"{folder}/", "") for note in one.notes)) for one in explained]
