"""What a recipe is, and the one table of those that there are.

A recipe is a folder of the package with a module ``recipe``, which has what `Recipe` lists. Nothing outside
of that folder names it but `RECIPES`: whoever needs one asks `recipe`, `recipe_of_run` or `load_predictor`.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import pandas as pd

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.dicom.cache import Cache, CacheConfig
from lumbar_kaggle.dicom.preprocess import Summary, Worker, make_pool, scan_sources
from lumbar_kaggle.dicom.preprocess import preprocess as fill
from lumbar_kaggle.inference.base import Predictor
from lumbar_kaggle.inference.bundle import Manifest

RECIPES = {"baseline": "lumbar_kaggle.baseline.recipe", "two-stage": "lumbar_kaggle.two_stage.recipe"}
"""Name → module, imported when it is asked for. A third recipe is a folder and a line here."""


class Report(NamedTuple):
    """What the page of a run shows.

    Attributes:
        template: Jinja template of the recipe, which extends ``report.html`` of the pages.
        content: that it is filled with, beside the pages' own filters and macros.
    """

    template: Path
    content: dict[str, Any]


class Recipe(Protocol):
    """A way to grade studies, from the cache to the bundle; a module of these names.

    Importing it must not bring torch along: the command line asks it for its settings.
    """

    NAME: str
    """In `RECIPES` and in the manifests of its bundles."""

    RUN_FILE: str
    """File of a run's settings in its folder, by which a run is known; no two recipes share it."""

    SETTINGS: type
    """Frozen dataclass of all its settings, see `core.settings`."""

    def configure(self, changes: Mapping[str, Any], source: str = "") -> Any:
        """Return an object of `SETTINGS`: the recipe's own, with some changed.

        Args:
            changes: settings by name, as JSON gives them: of a file, of ``LUMBAR_CONFIG[NAME]``, of a command
                line. A recipe with presets takes the name of one as ``preset``.
            source: named in errors.

        Raises:
            InputError: a setting is unknown, of another type, or out of its range.
        """
        ...

    def preprocess(self, root: Path, cache: Path, **how: Any) -> Summary:
        """Fill the cache that `fit` learns from; see `dicom.preprocess.preprocess`.

        Args:
            root: competition folder.
            cache: where to.
            how: see `fill_cache`.

        Raises:
            InputError: a table is faulty, there are no pictures, or the cache was made with other settings.
            OutOfTime: the budget is spent; the same call goes on.
        """
        ...

    def fit(
        self,
        root: Path,
        cache: Path,
        run: Path,
        budget: Budget,
        settings: Any,
        *,
        label_weights: Path | None = None,
        processes: int | None = None,
    ) -> str:
        """Train, or go on where an earlier call stopped.

        Args:
            root: competition folder.
            cache: of `preprocess`.
            run: folder of all results.
            budget: when it is spent, the call ends, and the same call goes on later.
            settings: of `SETTINGS`.
            label_weights: table of ``row_id, weight``: how much each label counts.
            processes: folds at once; None: one per GPU.

        Returns:
            One line on the result, with the word ``resumable`` where something is left to do.

        Raises:
            InputError: a file is missing or faulty, an argument is not for this recipe, or the run was begun
                with other settings or on other data.
        """
        ...

    def export(self, run: Path, bundle: Path) -> Manifest:
        """Write the bundle of a run, of what is finished in it.

        Raises:
            InputError: nothing is finished, or `bundle` holds something else.
        """
        ...

    def load(self, bundle: Path, manifest: Manifest) -> Predictor:
        """Return the models of a bundle, ready to grade.

        Raises:
            InputError: the bundle is damaged.
        """
        ...

    def report(
        self, run: Path, *, against: Path | None, bundle: Path | None, studies: Sequence[str], folder: Path | None
    ) -> Report:
        """Return what the page shows of a run; see `pages.report.write_report`.

        Raises:
            InputError: nothing is finished in the run, or an argument is not for this recipe.
        """
        ...

    def session(self, kernel: str) -> Callable[..., Any]:
        """Return what one of the recipe's kernels runs on Kaggle, see `session_of`: a function of the session's output
        folder, its ``hours``, the kernel's own parameters and the fingerprint of the ``package`` that is meant."""
        ...


def recipe(name: str) -> Recipe:
    """Return the recipe of a name.

    Raises:
        InputError: there is none.
    """
    if name not in RECIPES:
        raise InputError(f"recipe {name!r} is unknown; the recipes are {', '.join(RECIPES)}")
    return cast(Recipe, import_module(RECIPES[name]))


def recipe_of_run(run: Path) -> Recipe:
    """Return the recipe that a run folder was begun by.

    Raises:
        InputError: it holds no run.
    """
    for name in RECIPES:
        if (run / recipe(name).RUN_FILE).is_file():
            return recipe(name)
    raise InputError(f"{run}: holds no training run; give the --out folder of lumbar train")


def load_predictor(bundle: Path, manifest: Manifest) -> Predictor:
    """Return the predictor of a bundle, by the recipe that made it.

    Raises:
        InputError: the bundle is of a recipe that this version does not know, or damaged.
    """
    if manifest.recipe not in RECIPES:
        raise InputError(f"{bundle}: made by recipe {manifest.recipe!r}, which this version does not know; update it")
    return recipe(manifest.recipe).load(bundle, manifest)


def session_of(sessions: Mapping[str, Callable[..., Any]], kernel: str) -> Callable[..., Any]:
    """Return a kernel's entry of a recipe's table of sessions, or raise InputError: the body of `Recipe.session`."""
    if kernel not in sessions:
        raise InputError(f"kernel {kernel!r} is unknown; the recipe's kernels are {', '.join(sessions)}")
    return sessions[kernel]


def fill_cache(
    root: Path,
    series: pd.DataFrame,
    what: str,
    cache: Path,
    config: CacheConfig,
    worker: Worker,
    *,
    pool_kind: str = "threads",
    workers: int = 8,
    batch_size: int = 64,
    budget: Budget | None = None,
) -> Summary:
    """Cache some series of a competition folder's training split: the body of `Recipe.preprocess`.

    Args:
        root: competition folder.
        series: the rows wanted of `competition.Competition.series`; in an error they are called `what`.
        cache, config, worker: where to, how it is laid out, and what makes an entry.
        pool_kind: ``"threads"`` or ``"processes"``.
        workers, batch_size, budget: see `dicom.preprocess.preprocess`.

    Raises:
        InputError: there are no pictures, or the cache was made with other settings.
        OutOfTime: the budget is spent; the same call goes on.
    """
    if series.empty:
        raise InputError(f"{root / 'train_images'}: holds no {what} that the tables name; download the pictures too")
    with make_pool(pool_kind, workers) as pool:
        sources, folder = scan_sources(series, pool), Cache(cache, config.kind)
        return fill(sources, folder, config, worker, pool, batch_size=batch_size, budget=budget)
