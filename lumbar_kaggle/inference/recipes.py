"""What a recipe is, and the one table of those that there are.

A recipe is a folder of the package with a module ``recipe``, which has what `Recipe` lists. Nothing outside of that
folder names it but `RECIPES`: whoever needs one asks `recipe`, `recipe_of_run` or `load_predictor`."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import pandas as pd

from lumbar_kaggle.core.budget import Budget, give_memory_back
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.dicom.cache import Cache, CacheConfig
from lumbar_kaggle.dicom.pools import Pools
from lumbar_kaggle.dicom.preprocess import Summary, Worker, scan_sources
from lumbar_kaggle.dicom.preprocess import preprocess as fill
from lumbar_kaggle.inference.base import Predictor

if TYPE_CHECKING:  # a bundle is loaded by its recipe
    from lumbar_kaggle.inference.bundle import Manifest

# Name → module, imported when it is asked for. A third recipe is a folder and an entry here.
RECIPES = {"baseline": "lumbar_kaggle.baseline.recipe", "two-stage": "lumbar_kaggle.two_stage.recipe"}


class Report(NamedTuple):
    """What the page of a run shows."""

    template: Path  # Jinja, the recipe's own, which extends ``report.html`` of the pages
    content: dict[str, Any]  # that it is filled with, beside the pages' own filters and macros


class Recipe(Protocol):
    """A way to grade studies, from the cache to the bundle; a module of these names. Importing it must not bring torch
    along: the command line asks it for its settings. All its functions raise `InputError` where a file is missing or
    faulty, or an argument is not for this recipe."""

    NAME: str  # in `RECIPES` and in the manifests of its bundles
    RUN_FILE: str  # of a run's settings in its folder, by which a run is known; no two recipes share it
    SETTINGS: type  # frozen dataclass of all its settings, see `core.settings`
    PRESETS: tuple[str, ...]  # names of its presets, if any

    def configure(self, changes: Mapping[str, Any], source: str = "") -> Any:
        """Return an object of `SETTINGS`: the recipe's own, with some changed. Changes are settings by name, as JSON
        gives them: of a file, of ``LUMBAR_CONFIG[NAME]``, of a command line. A recipe with presets takes the name of
        one as ``preset``. Errors name the `source`."""

    def preprocess(self, root: Path, cache: Path, **how: Any) -> Summary:
        """Fill the cache that `fit` learns from, of the competition folder `root`; see `fill_cache`."""

    def fit(
        self,
        root: Path,
        cache: Path,
        run: Path,
        budget: Budget,
        settings: Any,
        *,
        label_weights: Path | None = None,
        soft_labels: Path | None = None,
        processes: int | None = None,
    ) -> str:
        """Train, or go on where an earlier call stopped: when the budget is spent, the call ends. `cache` is what
        `preprocess` made of the competition folder `root`; the `run` folder of all results belongs to the settings, of
        `SETTINGS`, and the data that it was begun with. `label_weights` is a table of ``row_id, weight``: how much each
        label counts; `soft_labels` are predictions that training takes for labels, see `submission.read_soft_labels`;
        `processes` are folds at once, None: one per GPU. Returns one line on the result, with the word ``resumable``
        where something is left to do."""

    def export(self, run: Path, bundle: Path) -> "Manifest":
        """Write the bundle of a run, of what is finished in it; `bundle` may hold nothing else."""

    def load(self, bundle: Path, manifest: "Manifest") -> Predictor:
        """Return the models of a bundle, ready to grade."""

    def report(
        self, run: Path, *, against: Path | None, bundle: Path | None, studies: Sequence[str], folder: Path | None
    ) -> Report:
        """Return what the page shows of a run in which something is finished; see `pages.render.write_report`."""

    def session(self, kernel: str) -> Callable[..., Any]:
        """Return what one of the recipe's kernels runs on Kaggle, see `session_of`: a function of the session's output
        folder, its ``hours``, the kernel's own parameters and the fingerprint of the ``package`` that is meant."""
        ...


def recipe(name: str) -> Recipe:
    """Return the recipe of a name; raise `InputError` where there is none."""
    if name not in RECIPES:
        raise InputError(f"recipe {name!r} is unknown; the recipes are {', '.join(RECIPES)}")
    return cast(Recipe, import_module(RECIPES[name]))


def later(place: str) -> Callable[..., Any]:
    """Return the function at ``module:name``; the module, and torch with it, is imported when it is called."""
    return lambda *arguments, **options: resolve_name(place)(*arguments, **options)


def check_preset(name: str, preset: str) -> None:
    """Raise `InputError` where a recipe has no preset of that name; those that there are are named."""
    if preset not in recipe(name).PRESETS:
        known = "; ".join(f"{one} has {', '.join(names)}" for one in RECIPES if (names := recipe(one).PRESETS))
        raise InputError(f"preset {preset!r} is unknown to the recipe {name}; {known}")


def recipe_of_run(run: Path) -> Recipe:
    """Return the recipe that a run folder was begun by; raise `InputError` where it holds no run."""
    for name in RECIPES:
        if (run / recipe(name).RUN_FILE).is_file():
            return recipe(name)
    raise InputError(f"{run}: holds no training run; give the --out folder of lumbar train")


def load_predictor(bundle: Path, manifest: "Manifest") -> Predictor:
    """Return the predictor of a bundle; raise `InputError` where this version does not know its recipe."""
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
    pool_kind: str = "auto",
    workers: int | None = None,
    **how: Any,
) -> Summary:
    """Cache some series of a competition folder's training split: the body of `Recipe.preprocess`. Series are the rows
    wanted of `competition.Competition.series`, in an error they are called `what`; for `pool_kind` and `workers` see
    `dicom.pools.Pools`; the rest goes to `dicom.preprocess.preprocess`. Raises `InputError` where there are no
    pictures, or the cache was made with other settings, `OutOfTime` when the budget is spent."""
    if series.empty:
        raise InputError(f"{root / 'train_images'}: holds no {what} that the tables name; download the pictures too")
    give_memory_back()  # what the tables took grows with the set; what follows hardly does
    with Pools(pool_kind, workers) as pools:
        sources, folder = scan_sources(series, pools.threads), Cache(cache, config.kind)
        return fill(sources, folder, config, worker, pools, **how)
