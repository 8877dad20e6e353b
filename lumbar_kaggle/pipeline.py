"""Verbs that join several rooms: what the command line, the kernels and the demo call."""

from pathlib import Path

from lumbar_kaggle.baseline.config import BaselineConfig
from lumbar_kaggle.baseline.images import CACHE_CONFIG, image_worker, rank_series
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.dicom.cache import Cache
from lumbar_kaggle.dicom.preprocess import (
    VOLUMES,
    Summary,
    make_pool,
    preprocess,
    scan_sources,
    volume_worker,
)
from lumbar_kaggle.inference.bundle import Manifest
from lumbar_kaggle.tables.competition import read_competition, read_marked
from lumbar_kaggle.tables.reading import read_label_weights
from lumbar_kaggle.two_stage.config import RUN_FILE


def preprocess_folder(
    root: Path,
    cache: Path,
    *,
    kind: str = "baseline",
    pool_kind: str = "threads",
    workers: int = 8,
    batch_size: int = 64,
    budget: Budget | None = None,
) -> Summary:
    """Preprocess the training series of a competition folder.

    Args:
        root: competition folder.
        cache: where to.
        kind: ``"baseline"`` for the middle sagittal T1 slices, ``"volumes"`` for every series.
        pool_kind: ``"threads"`` or ``"processes"``.
        workers, batch_size, budget: see `preprocess.preprocess`.

    Raises:
        InputError: a table is faulty, there are no pictures, or the cache was made with other settings.
        OutOfTime: the budget is spent.
    """
    # Grades are not needed to cache the volumes: a locator learns from coordinates alone.
    series = (read_marked(root) if kind == "volumes" else read_competition(root, "train")).series
    config, worker = VOLUMES, volume_worker
    if kind == "baseline":
        series, config, worker = rank_series(series), CACHE_CONFIG, image_worker
    if series.empty:
        what = "sagittal T1 series" if kind == "baseline" else "series"
        raise InputError(
            f"{root / 'train_images'}: holds no {what} that the tables name; download the pictures too"
        )
    with make_pool(pool_kind, workers) as pool:
        sources = scan_sources(series, pool)
        return preprocess(
            sources, Cache(cache, config.kind), config, worker, pool, batch_size=batch_size, budget=budget
        )


def train_baseline(root: Path, cache: Path, run: Path, budget: Budget, config: BaselineConfig) -> str:
    """Train the baseline recipe, or go on; return one line on the result. See `recipes.baseline.fit.fit`."""
    from lumbar_kaggle.baseline.fit import fit

    return fit(read_competition(root, "train"), cache, run, config, budget).sentence()


def train_two_stage(
    root: Path,
    cache: Path,
    run: Path,
    budget: Budget,
    *,
    preset: str = "cpu",
    changes: Path | None = None,
    weights: str = "",
    label_weights: Path | None = None,
    processes: int | None = None,
) -> str:
    """Train the two-stage recipe, or go on; return one line on the result. See `recipes.two_stage.fit.fit`.

    Args:
        root: competition folder.
        cache: holds its volumes.
        run: run folder.
        budget: time for all of it.
        preset: name of a configuration.
        changes: file of settings in place of the preset's, see `recipes.two_stage.config.change`.
        weights: of the encoders, in place of the configuration's.
        label_weights: table of ``row_id, weight``: how much each label counts.
        processes: folds at once; None: one per GPU.

    Raises:
        InputError: a file is missing or faulty, or the run was begun with other settings.
    """
    from lumbar_kaggle.two_stage import config as configuration
    from lumbar_kaggle.two_stage.fit import fit

    config = configuration.preset(preset)
    config = config if changes is None else configuration.change(config, changes)
    config = config.starting_from(weights) if weights else config
    counts = None if label_weights is None else read_label_weights(label_weights)
    return fit(root, cache, run, config, budget, weights=counts, processes=processes).sentence()


def export_run(run: Path, bundle: Path) -> Manifest:
    """Write the bundle of a run of either recipe.

    Raises:
        InputError: the folder holds no run, or nothing is finished in it.
    """
    if (run / RUN_FILE).is_file():
        from lumbar_kaggle.two_stage.export import export as export_two_stage

        return export_two_stage(run, bundle)
    from lumbar_kaggle.baseline.export import export

    return export(run, bundle)
