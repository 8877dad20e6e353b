"""The two-stage recipe: see `inference.recipes.Recipe`."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from lumbar_kaggle.dicom.preprocess import VOLUMES, Summary, volume_worker
from lumbar_kaggle.inference.recipes import fill_cache, session_of
from lumbar_kaggle.tables.competition import read_marked
from lumbar_kaggle.two_stage import config
from lumbar_kaggle.two_stage.config import RUN_FILE as RUN_FILE
from lumbar_kaggle.two_stage.config import TwoStageConfig
from lumbar_kaggle.two_stage.config import configure as configure

NAME = "two-stage"
SETTINGS = TwoStageConfig
PRESETS = tuple(config.PRESETS)


def preprocess(root: Path, cache: Path, **how: Any) -> Summary:
    """Cache the volume of every series; grades are not needed, a locator learns from coordinates alone."""
    return fill_cache(root, read_marked(root).series, "series", cache, VOLUMES, volume_worker, **how)


def _later(module: str, name: str) -> Callable[..., Any]:
    """Return a function of another module of this folder, which is imported, and torch with it, when it is called."""

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(import_module(f"lumbar_kaggle.two_stage.{module}"), name)(*arguments, **options)

    return call


fit, report = _later("fit", "fit"), _later("pages", "report")
export, load = _later("bundle", "export"), _later("bundle", "TwoStagePredictor")


def session(kernel: str) -> Callable[..., Any]:
    """Return what a kernel runs on Kaggle."""
    from lumbar_kaggle.two_stage.session import SESSIONS

    return session_of(SESSIONS, kernel)
