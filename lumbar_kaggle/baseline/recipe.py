"""The baseline as a recipe: see `inference.recipes.Recipe`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lumbar_kaggle.baseline.config import BaselineConfig
from lumbar_kaggle.baseline.images import CACHE_CONFIG, image_worker, rank_series
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.settings import from_dict
from lumbar_kaggle.dicom.preprocess import Summary
from lumbar_kaggle.inference.base import Predictor
from lumbar_kaggle.inference.bundle import Manifest
from lumbar_kaggle.inference.recipes import Report, fill_cache, session_of
from lumbar_kaggle.tables.competition import read_competition

NAME = "baseline"
RUN_FILE = "config.json"
SETTINGS = BaselineConfig


def configure(changes: Mapping[str, Any], source: str = "") -> BaselineConfig:
    """Return the configuration, with some settings changed."""
    return from_dict(dict(changes), BaselineConfig, source)


def preprocess(root: Path, cache: Path, **how: Any) -> Summary:
    """Cache the middle slice of each study's sagittal T1 series."""
    series = rank_series(read_competition(root, "train").series)
    return fill_cache(root, series, "sagittal T1 series", cache, CACHE_CONFIG, image_worker, **how)


def fit(
    root: Path,
    cache: Path,
    run: Path,
    budget: Budget,
    settings: BaselineConfig,
    *,
    label_weights: Path | None = None,
    processes: int | None = None,
) -> str:
    """Train every target of the configuration, or go on."""
    from lumbar_kaggle.baseline.run import fit as fit_run

    for option, value in (("--label-weights", label_weights), ("--processes", processes)):
        if value is not None:
            raise InputError(f"{option} is for --recipe two-stage")
    return fit_run(read_competition(root, "train"), cache, run, settings, budget).sentence()


def export(run: Path, bundle: Path) -> Manifest:
    """Write the bundle of a run's finished targets."""
    from lumbar_kaggle.baseline.export import export as export_run

    return export_run(run, bundle)


def load(bundle: Path, manifest: Manifest) -> Predictor:
    """Return the predictor of a bundle."""
    from lumbar_kaggle.baseline.predictor import BaselinePredictor

    return BaselinePredictor(bundle, manifest)


def report(run: Path, **choices: Any) -> Report:
    """Return what the page of a run shows."""
    from lumbar_kaggle.baseline.report import report as report_of

    return report_of(run, **choices)


def session(kernel: str) -> Callable[..., Any]:
    """Return what a kernel runs on Kaggle."""
    from lumbar_kaggle.baseline.session import SESSIONS

    return session_of(SESSIONS, kernel)
