"""Verbs of a recipe, by its name; goes once every caller asks `inference.recipes` itself."""

from pathlib import Path
from typing import Any

from lumbar_kaggle.baseline.config import BaselineConfig
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.files import read_json
from lumbar_kaggle.dicom.preprocess import Summary
from lumbar_kaggle.inference.bundle import Manifest
from lumbar_kaggle.inference.recipes import recipe, recipe_of_run


def preprocess_folder(root: Path, cache: Path, *, kind: str = "baseline", **how: Any) -> Summary:
    """Preprocess the training series of a competition folder; see `Recipe.preprocess`."""
    return recipe("two-stage" if kind == "volumes" else kind).preprocess(root, cache, **how)


def train_baseline(root: Path, cache: Path, run: Path, budget: Budget, config: BaselineConfig) -> str:
    """Train the baseline recipe, or go on; see `Recipe.fit`."""
    return recipe("baseline").fit(root, cache, run, budget, config)


def train_two_stage(
    root: Path,
    cache: Path,
    run: Path,
    budget: Budget,
    *,
    preset: str = "cpu",
    changes: Path | None = None,
    **options: Any,
) -> str:
    """Train the two-stage recipe, or go on; see `Recipe.fit`."""
    two_stage, content = recipe("two-stage"), {} if changes is None else read_json(changes)
    chosen = {"preset": preset, **content} if isinstance(content, dict) else content
    settings = two_stage.configure(chosen, str(changes))
    return two_stage.fit(root, cache, run, budget, settings, **options)


def export_run(run: Path, bundle: Path) -> Manifest:
    """Write the bundle of a run; see `Recipe.export`."""
    return recipe_of_run(run).export(run, bundle)
