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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError, show_messages
from lumbar_kaggle.core.files import copy_file, read_json
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES
from lumbar_kaggle.dicom.preprocess import Summary
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.inference.bundle import BOX, MANIFEST
from lumbar_kaggle.inference.predict import GRADED, Outcome, predict
from lumbar_kaggle.kaggle.datasets import package_fingerprint
from lumbar_kaggle.tables.submission import Submission, validate

log = logging.getLogger(__name__)
DEPTH = 5  # How deep to look for inputs: type / owner / slug, an unpacked archive's folder, and the one inside it

# What a session says that ended before its work did.
RESUMABLE = "resumable: push this kernel again with its own output attached"

_WAIT = "wait until its dataset is ready, then push this notebook again"


def find_markers(marker: str) -> Iterator[Path]:
    """Yield the folders among the mounted inputs that hold the file `marker`, or ``a/b``; shallow ones first."""
    level = [_mounted()]
    for _ in range(DEPTH + 1):
        yield from (folder for folder in level if (folder / marker).is_file())
        below = [path for folder in level if folder.is_dir() for path in sorted(folder.iterdir())]
        # Of tens of thousands of images; walking into them would take minutes on the mount.
        level = [path for path in below if path.name not in ("train_images", "test_images") and path.is_dir()]


def _not_attached(marker: str) -> InputError:
    return InputError(f"{_mounted()}: no {marker} within {DEPTH} levels; attach the input that holds it")


def _mounted() -> Path:
    return Path(os.environ.get("LUMBAR_INPUT", "/kaggle/input"))


def find_competition() -> Path:
    """Return the competition's folder among the inputs; raise `InputError` where there is none."""
    marker = "test_series_descriptions.csv"
    for folder in find_markers(marker):
        return folder
    raise _not_attached(marker)


def find_bundle(fingerprint: str = "") -> Path:
    """Return the folder of the exported models with this `fingerprint`, empty takes the first; raise without it. Kaggle
    silently mounts the previous version of a dataset whose new one was not ready when the notebook was pushed. What
    comes with the attached package does not count: without its own models a kernel must not grade with others."""
    folders = [folder for folder in find_markers(MANIFEST) if folder.parts[-3:] != BOX.parts[-3:]]
    if not folders:
        raise _not_attached(MANIFEST)
    found = [str(read_json(folder / MANIFEST).get("fingerprint")) for folder in folders]
    if fingerprint and fingerprint not in found:
        raise InputError(f"bundle {fingerprint} is not among the inputs, only {', '.join(found)}; {_WAIT}")
    return folders[found.index(fingerprint) if fingerprint else 0]


def take_up(marker: str, names: tuple[str, ...], working: Path) -> None:
    """Copy the folders `names` of earlier sessions' attached outputs, known by `marker`; what is there stays."""
    for earlier in find_markers(marker):
        for name in names:
            if (earlier / name).is_dir():
                log.info("Going on from %s", earlier / name)
            for path in sorted((earlier / name).rglob("*")):
                target = working / path.relative_to(earlier)
                if path.is_file() and not target.exists():
                    copy_file(path, target)


def copy_pretrained(arch: str, target: Path) -> None:
    """Copy the attached pretrained weights of an architecture, unless they are there; raise where none are attached."""
    name = f"pretrained-{arch}.safetensors"
    if target.is_file():
        return
    for folder in find_markers(name):
        return copy_file(folder / name, target)
    remedy = f"send it with lumbar ship datasets --pretrained {arch}"
    without = 'train from random weights with the setting weights = "none"'
    raise InputError(f"{name} is not among the inputs; {remedy}, or {without}")


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


def inference_session(working: Path, *, hours: float = 9.0, bundle: str = "", package: str = "") -> Outcome:
    """Grade the test studies with the attached bundle and write ``submission.csv`` into the folder `working`. A
    complete submission, of thirds, is there before anything that can fail is begun. `bundle` and `package` are the
    fingerprints of what is meant, empty takes any; ``LUMBAR_HOURS`` overrules `hours`. Raises `InputError` where an
    input is missing or another version, or the submission is not valid."""
    budget = begin_session(hours, "")
    competition, out = find_competition(), working / "submission.csv"
    if not out.is_file():
        thirds = pd.DataFrame(1 / 3, index=pd.Index(TARGET_NAMES, name="target"), columns=list(SEVERITIES))
        Submission(out, find_studies(competition, strict=False).studies, thirds).write()
        log.info("%s: complete, with thirds in every row", out)
    check_package(package)
    outcome = predict(competition, find_bundle(bundle), out, budget, strict=False)
    log.info("%s: %s", outcome.path, outcome.sentence())
    if not (outcome.log["status"] == GRADED).any():
        # Not an error: the priors still score, where a notebook that fails does not.
        log.warning("NO STUDY AT ALL WAS GRADED: look into the log before you submit this version")
    for fault in validate(outcome.path, competition):
        raise InputError(str(fault))
    return outcome
