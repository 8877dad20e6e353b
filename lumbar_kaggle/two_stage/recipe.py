"""The two-stage recipe: see `inference.recipes.Recipe`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.dicom.preprocess import VOLUMES, Summary, volume_worker
from lumbar_kaggle.inference.base import Predictor
from lumbar_kaggle.inference.bundle import Manifest
from lumbar_kaggle.inference.recipes import Report, fill_cache
from lumbar_kaggle.tables.competition import read_marked
from lumbar_kaggle.tables.reading import read_label_weights
from lumbar_kaggle.two_stage import config as configuration
from lumbar_kaggle.two_stage.config import RUN_FILE as RUN_FILE
from lumbar_kaggle.two_stage.config import TwoStageConfig

NAME = "two-stage"
SETTINGS = TwoStageConfig
PRESETS = tuple(configuration.PRESETS)


def configure(changes: Mapping[str, Any], source: str = "") -> TwoStageConfig:
    """Return a preset (``preset``, by default ``cpu``) with other settings, see `config.changed`."""
    preset, rest = "cpu", changes
    if isinstance(changes, Mapping):
        preset, rest = str(changes.get("preset", preset)), {k: v for k, v in changes.items() if k != "preset"}
    return configuration.changed(configuration.preset(preset), rest, source)


def preprocess(root: Path, cache: Path, **how: Any) -> Summary:
    """Cache the volume of every series."""
    # Grades are not needed for it: a locator learns from coordinates alone.
    return fill_cache(root, read_marked(root).series, "series", cache, VOLUMES, volume_worker, **how)


def fit(
    root: Path,
    cache: Path,
    run: Path,
    budget: Budget,
    settings: TwoStageConfig,
    *,
    label_weights: Path | None = None,
    processes: int | None = None,
) -> str:
    """Train both stages and blend, or go on."""
    from lumbar_kaggle.two_stage.fit import fit as fit_run

    weights = None if label_weights is None else read_label_weights(label_weights)
    return fit_run(root, cache, run, settings, budget, weights=weights, processes=processes)


def export(run: Path, bundle: Path) -> Manifest:
    """Write the bundle of a run's finished folds."""
    from lumbar_kaggle.two_stage.export import export as export_run

    return export_run(run, bundle)


def load(bundle: Path, manifest: Manifest) -> Predictor:
    """Return the predictor of a bundle."""
    from lumbar_kaggle.two_stage.predictor import TwoStagePredictor

    return TwoStagePredictor(bundle, manifest)


def report(run: Path, **choices: Any) -> Report:
    """Return what the page of a run shows."""
    from lumbar_kaggle.two_stage.report import report as report_of

    return report_of(run, **choices)


def session(kernel: str) -> Callable[..., Any]:
    """Return what a kernel of the two-stage recipe runs."""
    from lumbar_kaggle.two_stage import session as sessions

    known: dict[str, Callable[..., Any]] = {
        "train-locate": sessions.train_locate_session,
        "train-grade": sessions.train_grade_session,
        "blend": sessions.blend_session,
    }
    return known[kernel]
