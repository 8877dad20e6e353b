"""The two-stage recipe: see `inference.recipes.Recipe`."""

from pathlib import Path
from typing import Any

from lumbar_kaggle.dicom.preprocess import VOLUMES, Summary, volume_worker
from lumbar_kaggle.inference.recipes import fill_cache, later
from lumbar_kaggle.tables.competition import read_marked
from lumbar_kaggle.two_stage import config

NAME, RUN_FILE = "two-stage", config.RUN_FILE
SETTINGS, PRESETS, configure = config.TwoStageConfig, tuple(config.PRESETS), config.configure

fit = later("lumbar_kaggle.two_stage.fit:fit")
export = later("lumbar_kaggle.two_stage.bundle:export")
load = later("lumbar_kaggle.two_stage.bundle:TwoStagePredictor")
report = later("lumbar_kaggle.two_stage.pages:report")
session = later("lumbar_kaggle.two_stage.session:of_kernel")


def preprocess(root: Path, cache: Path, **how: Any) -> Summary:
    """Cache the volume of every series; grades are not needed, a locator learns from coordinates alone."""
    return fill_cache(root, read_marked(root, rows=False).series, "series", cache, VOLUMES, volume_worker, **how)
