"""What any kernel needs in its session: budget, settings, the package's version; and the inference kernel.

Environment variables change what a kernel does; a rehearsal sets them, a user may: ``LUMBAR_HOURS``, the
session's limit; ``LUMBAR_CONFIG``, settings by recipe, ``{recipe: {setting: value}}``; ``LUMBAR_SCRATCH``.
What the kernels of a recipe run is in the recipe's own folder.
"""

import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json
from lumbar_kaggle.core.messages import show_messages
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES
from lumbar_kaggle.dicom.preprocess import Summary
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.inference.predict import GRADED, Outcome, predict
from lumbar_kaggle.kaggle.datasets import package_fingerprint
from lumbar_kaggle.kaggle.inputs import BUNDLE_MARKER, find_bundle, find_competition, find_markers
from lumbar_kaggle.tables.submission import Submission, validate

log = logging.getLogger(__name__)

SPARE_MINUTES = 30.0
"""Kept of a session's limit for the clean stop; less of a session of under five hours."""

RESUMABLE = "resumable: push this kernel again with its own output attached"
"""What a session says that ended before its work did."""


def begin_session(hours: float, package: str) -> Budget:
    """Show messages, check the package, and return the session's budget.

    Args:
        hours: the session's limit, unless ``LUMBAR_HOURS`` gives another.
        package: fingerprint of the package that is meant; empty takes any.

    Raises:
        InputError: the package is another, or ``LUMBAR_HOURS`` is not a number.
    """
    show_messages()
    budget = session_budget(hours)
    check_package(package)
    return budget


def session_budget(default: float) -> Budget:
    """Return the budget of a session that Kaggle ends after `default` hours, or ``LUMBAR_HOURS``.

    Raises:
        InputError: ``LUMBAR_HOURS`` is not a number.
    """
    text = os.environ.get("LUMBAR_HOURS", "")
    try:
        hours = float(text) if text else default
    except ValueError:
        hours = math.nan
    if not 0 <= hours < math.inf:
        raise InputError(f"LUMBAR_HOURS is {text!r}; it must be a number of hours")
    return Budget(hours, reserve_minutes=min(SPARE_MINUTES, hours * 6))


def session_settings(recipe: str) -> dict[str, Any]:
    """Return what ``LUMBAR_CONFIG`` sets of a recipe.

    Raises:
        InputError: it is not JSON of the form ``{recipe: {setting: value}}``.
    """
    text = os.environ.get("LUMBAR_CONFIG", "") or "{}"
    try:
        every = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"LUMBAR_CONFIG is not JSON ({error}); give {{recipe: {{key: value}}}}") from None
    values = every.get(recipe, {}) if isinstance(every, dict) else None
    if not isinstance(values, dict):
        raise InputError(f"LUMBAR_CONFIG is {text!r}; it must be of the form {{recipe: {{setting: value}}}}")
    return values


def scratch_folder() -> Path:
    """Return a folder whose content is lost with the session: in ``LUMBAR_SCRATCH``, or ``/kaggle/tmp``."""
    folder = Path(os.environ.get("LUMBAR_SCRATCH", "/kaggle/tmp")) / "lumbar"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_package(fingerprint: str) -> None:
    """Compare this package with the one that the notebook was pushed with.

    Raises:
        InputError: it is another: Kaggle silently mounts the previous version of a dataset whose new
            one was not ready.
    """
    own = package_fingerprint()
    if fingerprint not in ("", own):
        raise InputError(
            f"the attached package is {own}, not {fingerprint}; wait until its dataset is ready, "
            "then push this notebook again"
        )


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
    """Grade the test studies with the attached bundle and write ``submission.csv``.

    A complete submission of priors is there before anything that can fail is begun.

    Args:
        working: the session's output folder.
        hours: the session's limit, unless ``LUMBAR_HOURS`` gives another.
        bundle, package: fingerprints of what is meant; empty takes any.
        inputs: where the inputs are mounted.

    Raises:
        InputError: an input is not attached or another version, or the submission is not valid.
    """
    show_messages()
    budget = session_budget(hours)
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
    faults = validate(outcome.path, competition)
    if faults:
        raise InputError(str(faults[0]))
    return outcome


def _prior(inputs: Path | None) -> pd.DataFrame:
    """Return the first attached bundle's prior; without one, all three severities are equally likely."""
    values = np.full((len(TARGET_NAMES), len(SEVERITIES)), 1 / len(SEVERITIES))
    for folder in list(find_markers(BUNDLE_MARKER, inputs))[:1]:
        try:
            prior = read_json(folder / BUNDLE_MARKER)["prior"]
            values = np.array([prior[name] for name in TARGET_NAMES], dtype=np.float64)
        except (InputError, KeyError, TypeError, ValueError) as error:
            # Its own check will name the fault; this file must be there before that.
            log.warning("%s: no prior in it (%r)", folder / BUNDLE_MARKER, error)
    return pd.DataFrame(values, index=pd.Index(TARGET_NAMES, name="target"), columns=list(SEVERITIES))
