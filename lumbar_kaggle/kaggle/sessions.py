"""What the Kaggle kernels run: the same verbs as the command line, with paths found in the session.

Two environment variables change what a kernel does; a rehearsal sets them, a user may: ``LUMBAR_HOURS``,
the session's limit, and ``LUMBAR_CONFIG``, settings by recipe: ``{"baseline": {"arch": "convnext_nano"}}``.
"""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lumbar_kaggle.baseline.config import BaselineConfig
from lumbar_kaggle.baseline.export import export
from lumbar_kaggle.baseline.fit import FitResult, fit
from lumbar_kaggle.core.budget import Budget, OutOfTime, usable_cores
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import copy_file
from lumbar_kaggle.core.settings import Config, from_dict
from lumbar_kaggle.inference.predict import GRADED, Outcome, predict
from lumbar_kaggle.kaggle.contents import package_fingerprint
from lumbar_kaggle.kaggle.first import write_first_submission
from lumbar_kaggle.kaggle.paths import CACHE_MARKER, RUN_MARKER, find_bundle, find_competition, find_marker
from lumbar_kaggle.kaggle.repack import repack_checkpoints
from lumbar_kaggle.pages.report import write_report
from lumbar_kaggle.pipeline import preprocess_folder
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.tables.submission import validate

SPARE_MINUTES = 30.0
"""Kept of a session's limit for the clean stop; less of a session of under five hours."""

RESUMABLE = "resumable: push this kernel again with its own output attached"
"""What a session says that ended before its work did."""


def session_hours(default: float) -> float:
    """Return the session's limit: ``LUMBAR_HOURS`` where it is set, `default` otherwise.

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
    return hours


def session_config(recipe: str, kind: type[Config], settings: Mapping[str, Any] | None = None) -> Config:
    """Return a recipe's configuration: its defaults, changed by `settings`, changed by ``LUMBAR_CONFIG``.

    Args:
        recipe: the key in ``LUMBAR_CONFIG``, for example ``baseline``.
        kind: the recipe's configuration class.
        settings: where they differ from its defaults, by name.

    Raises:
        InputError: ``LUMBAR_CONFIG`` is not JSON of the form above, or a setting is unknown.
    """
    return from_dict({**(settings or {}), **session_settings(recipe)}, kind, "SETTINGS and LUMBAR_CONFIG")


def session_settings(recipe: str) -> dict[str, Any]:
    """Return what ``LUMBAR_CONFIG`` sets of a recipe.

    Raises:
        InputError: it is not JSON of the form above.
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


def session_budget(default: float) -> Budget:
    """Return the budget of a session that Kaggle ends after `default` hours, or ``LUMBAR_HOURS``."""
    hours = session_hours(default)
    return Budget(hours, reserve_minutes=min(SPARE_MINUTES, hours * 6))


def preprocess_session(working: Path, *, hours: float, package: str = "", inputs: Path | None = None) -> bool:
    """Fill the baseline's cache until the budget ends, going on from an attached earlier output.

    Args:
        working: the session's output folder; ``cache`` goes there.
        hours: the session's limit, unless ``LUMBAR_HOURS`` gives another.
        package: fingerprint of the package that is meant; empty takes any.
        inputs: where the inputs are mounted.

    Returns:
        Whether the cache is complete.

    Raises:
        InputError: the competition is not attached, or the package is another version.
    """
    budget = session_budget(hours)
    check_package(package)
    competition = find_competition(inputs)
    _take_up(working, inputs)
    return _preprocess(competition, working, budget)


def train_baseline_session(
    working: Path,
    *,
    hours: float,
    settings: Mapping[str, Any] | None = None,
    package: str = "",
    inputs: Path | None = None,
) -> FitResult:
    """Train until the budget ends, export and report what is finished.

    An earlier session's output among the inputs is copied first, so training goes on from it; a cache
    that is not there, or not complete, is made.

    Args:
        working: the session's output folder; ``cache``, ``run``, ``bundle`` and ``report.html`` go there.
        hours: the session's limit, unless ``LUMBAR_HOURS`` gives another.
        settings: of `BaselineConfig`, where they differ from its defaults.
        package: fingerprint of the package that is meant; empty takes any.
        inputs: where the inputs are mounted.

    Raises:
        InputError: the competition or the pretrained weights are not attached, or a setting is unknown.
    """
    budget = session_budget(hours)
    check_package(package)
    config = session_config("baseline", BaselineConfig, settings)
    competition = find_competition(inputs)
    _take_up(working, inputs)
    config = _with_weights(config, working, inputs)
    run = working / "run"
    if not _preprocess(competition, working, budget):
        return FitResult(run, (), config.targets)
    # The weights are named relative to the output folder, since the next session may have another one.
    with contextlib.chdir(working):
        train = read_competition(competition, "train")
        result = fit(train, working / "cache", run, config, budget)
    _conclude(result, working)
    return result


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
    budget = session_budget(hours)
    competition, out = find_competition(inputs), working / "submission.csv"
    write_first_submission(competition, out, inputs)
    check_package(package)
    outcome = predict(competition, find_bundle(inputs, bundle), out, budget, strict=False)
    print(f"{outcome.path}: {outcome.sentence()}")
    if not (outcome.log["status"] == GRADED).any():
        # Not an error: the priors still score, where a notebook that fails does not.
        print("NO STUDY AT ALL WAS GRADED: look into the log before you submit this version")
    faults = validate(outcome.path, competition)
    if faults:
        raise InputError(str(faults[0]))
    return outcome


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


def copy_pretrained(arch: str, target: Path, inputs: Path | None = None) -> None:
    """Copy the attached pretrained weights of an architecture, unless they are there.

    Args:
        arch: its name.
        target: file to write.
        inputs: where the inputs are mounted.

    Raises:
        InputError: they are not attached.
    """
    name = f"pretrained-{arch}.safetensors"
    if target.is_file():
        return
    try:
        copy_file(find_marker(name, inputs) / name, target)
    except InputError:
        raise InputError(
            f"{name} is not among the inputs; send it with lumbar ship datasets "
            f"--pretrained {arch}, "
            'or train from random weights with the setting weights = "none"'
        ) from None


def _conclude(result: FitResult, working: Path) -> None:
    """Export and report what is finished, and say whether something is left."""
    print(result.sentence())
    if result.finished:
        print(f"Bundle {export(result.run, working / 'bundle').fingerprint}")
        write_report(result.run, working / "report.html")
    if result.unfinished:
        print(RESUMABLE)


def _preprocess(competition: Path, working: Path, budget: Budget) -> bool:
    try:
        summary = preprocess_folder(competition, working / "cache", workers=4 * usable_cores(), budget=budget)
    except OutOfTime:
        print(RESUMABLE)
        return False
    print(summary.sentence())
    return True


def _take_up(working: Path, inputs: Path | None) -> None:
    """Copy what an earlier session's attached output holds: the run and its cache, or a cache alone."""
    for marker, names in ((RUN_MARKER, ("run", "cache", "bundle")), (CACHE_MARKER, ("cache",))):
        try:
            earlier = find_marker(marker, inputs)
        except InputError:
            continue
        for name in names:
            if (earlier / name).is_dir() and not (working / name).exists():
                print(f"Going on from {earlier / name}")
                shutil.copytree(earlier / name, working / name, copy_function=copy_file)
    repack_checkpoints(working)


def _with_weights(config: BaselineConfig, working: Path, inputs: Path | None) -> BaselineConfig:
    """Copy the attached pretrained weights into `working`, in place of the hub's, which is out of reach."""
    if config.weights != "auto":
        return config
    name = f"pretrained-{config.arch}.safetensors"
    copy_pretrained(config.arch, working / name, inputs)
    return replace(config, weights=name)
