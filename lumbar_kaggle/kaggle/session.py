"""What any kernel needs in its session: inputs, budget, settings, the package's version; and the inference kernel.

Kaggle mounts inputs under two generations of paths (``/kaggle/input/{slug}``, ``/kaggle/input/{type}/{owner}/{slug}``)
and unpacks archives at a depth of its own choice, so inputs are found by marker files. A rehearsal sets environment
variables, and a user may: ``LUMBAR_INPUT``, where the inputs are mounted; ``LUMBAR_HOURS``, the session's limit;
``LUMBAR_CONFIG``, settings by recipe, ``{recipe: {setting: value}}``; ``LUMBAR_SCRATCH``."""

import contextlib
import json
import logging
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError, show_messages
from lumbar_kaggle.core.files import copy_file, read_json
from lumbar_kaggle.core.settings import load_config
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES
from lumbar_kaggle.dicom.preprocess import Summary
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.inference.bundle import BOX, MANIFEST, Manifest
from lumbar_kaggle.inference.predict import GRADED, Outcome, predict
from lumbar_kaggle.kaggle.datasets import package_fingerprint
from lumbar_kaggle.tables.submission import Submission, validate

log = logging.getLogger(__name__)
DEPTH = 5  # How deep to look for inputs: type / owner / slug, an unpacked archive's folder, and the one inside it

# What a session says that ended before its work did.
RESUMABLE = "resumable: push this kernel again with its own output attached"

_WAIT = "wait until its dataset is ready, then push this notebook again"


def find_markers(marker: str, inputs: Path | None = None) -> Iterator[Path]:
    """Yield the folders among the mounted inputs that hold the file `marker`, or ``a/b``; shallow ones first."""
    level = [_mounted(inputs)]
    for _ in range(DEPTH + 1):
        yield from (folder for folder in level if (folder / marker).is_file())
        below = [path for folder in level if folder.is_dir() for path in sorted(folder.iterdir())]
        # Of tens of thousands of images; walking into them would take minutes on the mount.
        level = [path for path in below if path.name not in ("train_images", "test_images") and path.is_dir()]


def find_marker(marker: str, inputs: Path | None = None) -> Path:
    """Return the first folder of `find_markers`; raise `InputError` where there is none."""
    for folder in find_markers(marker, inputs):
        return folder
    raise _not_attached(marker, inputs)


def _not_attached(marker: str, inputs: Path | None) -> InputError:
    return InputError(f"{_mounted(inputs)}: no {marker} within {DEPTH} levels; attach the input that holds it")


def _mounted(inputs: Path | None) -> Path:
    return inputs or Path(os.environ.get("LUMBAR_INPUT", "/kaggle/input"))


def find_competition(inputs: Path | None = None) -> Path:
    """Return the competition's folder among the inputs."""
    return find_marker("test_series_descriptions.csv", inputs)


def find_bundles(inputs: Path | None = None) -> list[Path]:
    """Return the folders of the attached exported models. Those that come with the attached package are none of them: a
    kernel whose own models were forgotten must not grade with others in silence."""
    return [folder for folder in find_markers(MANIFEST, inputs) if folder.parts[-3:] != BOX.parts[-3:]]


def find_bundle(inputs: Path | None = None, fingerprint: str = "") -> Path:
    """Return the folder of the exported models with this `fingerprint`, empty takes the first; raise without it. Kaggle
    silently mounts the previous version of a dataset whose new one was not ready when the notebook was pushed."""
    folders = find_bundles(inputs)
    if not folders:
        raise _not_attached(MANIFEST, inputs)
    found = {"": folders[0]}
    for folder in folders:
        found.setdefault(str(read_json(folder / MANIFEST).get("fingerprint")), folder)
    if fingerprint in found:
        return found[fingerprint]
    others = ", ".join(filter(None, found))
    raise InputError(f"bundle {fingerprint} is not among the inputs, only {others}; {_WAIT}")


def take_up(marker: str, names: tuple[str, ...], working: Path, inputs: Path | None = None) -> None:
    """Copy the folders `names` of earlier sessions' attached outputs, known by `marker`; what is there stays."""
    for earlier in find_markers(marker, inputs):
        for name in names:
            if (earlier / name).is_dir():
                log.info("Going on from %s", earlier / name)
            for path in sorted((earlier / name).rglob("*")):
                target = working / path.relative_to(earlier)
                if path.is_file() and not target.exists():
                    copy_file(path, target)
    repack_checkpoints(working)


def copy_pretrained(arch: str, target: Path, inputs: Path | None = None) -> None:
    """Copy the attached pretrained weights of an architecture, unless they are there; raise where none are attached."""
    name = f"pretrained-{arch}.safetensors"
    if target.is_file():
        return
    for folder in find_markers(name, inputs):
        return copy_file(folder / name, target)
    remedy = f"send it with lumbar ship datasets --pretrained {arch}"
    without = 'train from random weights with the setting weights = "none"'
    raise InputError(f"{name} is not among the inputs; {remedy}, or {without}")


def repack_checkpoints(root: Path) -> list[Path]:
    """Turn every ``*.pt`` folder below a writable `root` back into the file that torch wrote; return these files.
    Kaggle unpacks archives, and a torch checkpoint is a zip: its members are stored, not compressed, under one top
    folder of any name, which may have been left out."""
    unpacked = [path for path in root.rglob("*.pt") if path.is_dir()]
    for folder in unpacked:
        (marker,) = folder.rglob("data.pkl")
        packed = folder.with_suffix(".packed")
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(path for path in marker.parent.rglob("*") if path.is_file()):
                archive.write(path, f"{folder.stem}/{path.relative_to(marker.parent).as_posix()}")
        shutil.rmtree(folder)
        packed.rename(folder)
    return unpacked


def begin_session(hours: float, package: str) -> Budget:
    """Show messages, check the package by `check_package`, and return the session's budget."""
    show_messages()
    check_package(package)
    return session_budget(hours)


def session_budget(default: float) -> Budget:
    """Return the budget of a session that Kaggle ends after `default` hours, or ``LUMBAR_HOURS``, a number."""
    text = os.environ.get("LUMBAR_HOURS") or str(default)
    with contextlib.suppress(ValueError):
        if 0 <= (hours := float(text)) < math.inf:
            return Budget(hours, reserve_minutes=min(30.0, hours * 6))  # for the clean stop; less of a short session
    raise InputError(f"LUMBAR_HOURS is {text!r}; it must be a number of hours")


def session_settings(recipe: str) -> dict[str, Any]:
    """Return what ``LUMBAR_CONFIG`` sets of a recipe; raise `InputError` where it is not JSON of that form."""
    text = os.environ.get("LUMBAR_CONFIG") or "{}"
    with contextlib.suppress(json.JSONDecodeError, AttributeError):
        if isinstance(values := json.loads(text).get(recipe, {}), dict):
            return values
    raise InputError(f"LUMBAR_CONFIG is {text!r}; it must be JSON of the form {{recipe: {{setting: value}}}}")


def scratch_folder() -> Path:
    """Return a folder whose content is lost with the session: in ``LUMBAR_SCRATCH``, or ``/kaggle/tmp``."""
    folder = Path(os.environ.get("LUMBAR_SCRATCH", "/kaggle/tmp")) / "lumbar"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_package(fingerprint: str) -> None:
    """Raise `InputError` where this is not the package that is meant, empty takes any; see `find_bundle` for why."""
    own = package_fingerprint()
    if fingerprint not in ("", own):
        raise InputError(f"the attached package is {own}, not {fingerprint}; {_WAIT}")


def preprocessed(work: Callable[[], Summary]) -> bool:
    """Let `work` fill a cache; say what came of it, and return whether it came to its end in time."""
    try:
        log.info("%s", work().sentence())
    except OutOfTime:
        log.info(RESUMABLE)
        return False
    return True


def inference_session(
    working: Path, *, hours: float = 9.0, bundle: str = "", package: str = "", inputs: Path | None = None
) -> Outcome:
    """Grade the test studies with the attached bundle and write ``submission.csv`` into the folder `working`. A
    complete submission of priors is there before anything that can fail is begun. `bundle` and `package` are the
    fingerprints of what is meant, empty takes any; ``LUMBAR_HOURS`` overrules `hours`. Raises `InputError` where an
    input is missing or another version, or the submission is not valid."""
    budget = begin_session(hours, "")
    competition, out = find_competition(inputs), working / "submission.csv"
    if not out.is_file():
        Submission(out, find_studies(competition, strict=False).studies, _prior(inputs)).write()
        log.info("%s: complete, with the prior in every row", out)
    check_package(package)
    outcome = predict(competition, find_bundle(inputs, bundle), out, budget, strict=False)
    log.info("%s: %s", outcome.path, outcome.sentence())
    if not (outcome.log["status"] == GRADED).any():
        # Not an error: the priors still score, where a notebook that fails does not.
        log.warning("NO STUDY AT ALL WAS GRADED: look into the log before you submit this version")
    for fault in validate(outcome.path, competition):
        raise InputError(str(fault))
    return outcome


def _prior(inputs: Path | None) -> pd.DataFrame:
    """Return the first attached bundle's prior; without one, all three severities are equally likely."""
    for folder in find_bundles(inputs)[:1]:
        try:
            return load_config(folder / MANIFEST, Manifest).prior_table()
        except (InputError, KeyError, ValueError) as error:
            # Its own check will name the fault; this file must be there before that.
            log.warning("%s: no prior in it (%r)", folder / MANIFEST, error)
    columns = list(SEVERITIES)
    return pd.DataFrame(1 / len(columns), index=pd.Index(TARGET_NAMES, name="target"), columns=columns)
