"""What the kernels of the baseline run on Kaggle: fill its cache, then train, export and report."""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lumbar_kaggle.baseline import recipe
from lumbar_kaggle.baseline.run import fit
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.inference.recipes import session_of
from lumbar_kaggle.kaggle import session
from lumbar_kaggle.pages.render import write_report
from lumbar_kaggle.tables.competition import read_competition

log = logging.getLogger(__name__)


def preprocess_session(working: Path, *, hours: float, package: str = "") -> bool:
    """Fill the cache until the budget ends; tell if it is complete. Arguments: see `train_baseline_session`."""
    return _preprocess(working, *_begin(working, hours, package))


def train_baseline_session(working: Path, *, hours: float, settings: Mapping[str, Any] = {}, package: str = "") -> bool:
    """Train until the budget ends, export and report what is finished; tell if that is all. An earlier session's output
    among the inputs is copied first, so training goes on from it; a cache that is not complete is made. `working`, the
    session's output folder, receives ``cache``, ``run``, ``bundle`` and ``report.html``. For hours and package see
    `kaggle.session.begin_session`. Raises `InputError` where the competition or the pretrained weights are not
    attached, or a setting is unknown."""
    budget, competition = _begin(working, hours, package)
    values = {**settings, **session.session_settings(recipe.NAME)}
    config = recipe.configure(values, "SETTINGS and LUMBAR_CONFIG")
    if config.weights == "auto":
        config = replace(config, weights=f"pretrained-{config.arch}.safetensors")  # the hub is out of reach
        session.copy_pretrained(config.arch, working / config.weights)
    run = working / "run"
    if not _preprocess(working, budget, competition):
        return False
    # The weights are named relative to the output folder, since the next session may have another one.
    with contextlib.chdir(working):
        result = fit(read_competition(competition, "train"), working / "cache", run, config, budget)
    log.info("%s", result.sentence())
    if result.targets:
        log.info("Bundle %s", recipe.export(run, working / "bundle").fingerprint)
        write_report(run, working / "report.html")
    if result.unfinished:
        log.info(session.RESUMABLE)
    return not result.unfinished


def _begin(working: Path, hours: float, package: str) -> tuple[Budget, Path]:
    """Return the session's budget and the competition; take up earlier output, known by one of its files."""
    budget, competition = session.begin_session(hours, package), session.find_competition()
    session.take_up(f"run/{recipe.RUN_FILE}", ("run", "cache", "bundle"), working)
    session.take_up("cache/baseline/config.json", ("cache",), working)
    return budget, competition


def _preprocess(working: Path, budget: Budget, competition: Path) -> bool:
    fill = partial(recipe.preprocess, competition, working / "cache", budget=budget)
    return session.preprocessed(fill)


of_kernel = partial(session_of, {"preprocess": preprocess_session, "train-baseline": train_baseline_session})
