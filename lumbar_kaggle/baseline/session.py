"""What the kernels of the baseline run on Kaggle: fill its cache, then train, export and report."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lumbar_kaggle.baseline.config import BaselineConfig
from lumbar_kaggle.baseline.export import export
from lumbar_kaggle.baseline.recipe import NAME, preprocess
from lumbar_kaggle.baseline.run import FitResult, fit
from lumbar_kaggle.core.budget import Budget, usable_cores
from lumbar_kaggle.core.settings import from_dict
from lumbar_kaggle.kaggle.inputs import copy_pretrained, find_competition, take_up
from lumbar_kaggle.kaggle.session import RESUMABLE, begin_session, preprocessed, session_settings
from lumbar_kaggle.pages.report import write_report
from lumbar_kaggle.tables.competition import read_competition

log = logging.getLogger(__name__)

RUN_MARKER = "run/config.json"
CACHE_MARKER = "cache/baseline/config.json"
"""Files by which an earlier session's output is known."""


def preprocess_session(working: Path, *, hours: float, package: str = "", inputs: Path | None = None) -> bool:
    """Fill the cache until the budget ends, going on from an attached earlier output; tell if it is complete.

    Arguments are those of `train_baseline_session`.

    Raises:
        InputError: the competition is not attached, or the package is another version.
    """
    budget, competition = begin_session(hours, package), find_competition(inputs)
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
        hours, package: see `kaggle.session.begin_session`.
        settings: of `BaselineConfig`, where they differ from its defaults.
        inputs: where the inputs are mounted.

    Raises:
        InputError: the competition or the pretrained weights are not attached, or a setting is unknown.
    """
    budget = begin_session(hours, package)
    values = {**(settings or {}), **session_settings(NAME)}
    config = from_dict(values, BaselineConfig, "SETTINGS and LUMBAR_CONFIG")
    competition = find_competition(inputs)
    _take_up(working, inputs)
    if config.weights == "auto":
        # The hub is out of reach.
        config = replace(config, weights=f"pretrained-{config.arch}.safetensors")
        copy_pretrained(config.arch, working / config.weights, inputs)
    run = working / "run"
    if not _preprocess(competition, working, budget):
        return FitResult(run, (), config.targets)
    # The weights are named relative to the output folder, since the next session may have another one.
    with contextlib.chdir(working):
        result = fit(read_competition(competition, "train"), working / "cache", run, config, budget)
    log.info("%s", result.sentence())
    if result.finished:
        log.info("Bundle %s", export(run, working / "bundle").fingerprint)
        write_report(run, working / "report.html")
    if result.unfinished:
        log.info(RESUMABLE)
    return result


def _preprocess(competition: Path, working: Path, budget: Budget) -> bool:
    workers = 4 * usable_cores()
    return preprocessed(lambda: preprocess(competition, working / "cache", workers=workers, budget=budget))


def _take_up(working: Path, inputs: Path | None) -> None:
    take_up(RUN_MARKER, ("run", "cache", "bundle"), working, inputs)
    take_up(CACHE_MARKER, ("cache",), working, inputs)


SESSIONS: dict[str, Callable[..., Any]] = {"preprocess": preprocess_session, "train-baseline": train_baseline_session}
"""What each kernel runs, see `inference.recipes.Recipe.session`."""
