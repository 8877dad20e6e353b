"""Verbs that join several rooms: what the command line, the kernels and the demo call."""

from pathlib import Path

from lumbar_kaggle.budget import Budget
from lumbar_kaggle.cache import Cache
from lumbar_kaggle.competition import read_competition, read_marked
from lumbar_kaggle.preprocess import VOLUMES, Summary, make_pool, preprocess, scan_sources, volume_worker
from lumbar_kaggle.recipes.baseline.images import CACHE_CONFIG, choose_series, image_worker


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
        InputError: a table is faulty, or the cache was made with other settings.
        OutOfTime: the budget is spent.
    """
    # Grades are not needed to cache the volumes: a locator learns from coordinates alone.
    series = (read_marked(root) if kind == "volumes" else read_competition(root, "train")).series
    config, worker = VOLUMES, volume_worker
    if kind == "baseline":
        series, config, worker = choose_series(series), CACHE_CONFIG, image_worker
    with make_pool(pool_kind, workers) as pool:
        sources = scan_sources(series, pool)
        return preprocess(
            sources, Cache(cache, config.kind), config, worker, pool, batch_size=batch_size, budget=budget
        )
