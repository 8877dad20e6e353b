"""What the options of several verbs have in common."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.settings import Validated, option
from lumbar_kaggle.inference import DEFAULT_RECIPE

Said = str | tuple[str, int]
"""What is printed, and the exit code where it is not 0."""

Verb = Callable[..., Said]

COMPETITION, STUDIES, RUN = "competition folder", "competition folder, or any folder of studies", "run of lumbar train"
NOISE = "row_id, weight: as of lumbar blend --noise"
SOFT = "predictions in place of labels: an earlier run's oof.csv, a phantom's oracle.csv"
TABLE = "labels, with the columns of train.csv"
PREDICTIONS = "predictions: row_id, normal_mild, moderate, severe; any conditions, any rows"
BUNDLE = "bundle of lumbar export; none: the models that come with the package"
POOLS = ("auto", "threads", "processes")


def argument(text: str, default: Any = MISSING, **more: Any) -> Any:
    """Return an option that is given by its place; see `core.settings.option`."""
    return option(default, text, positional=True, **more)


def needed(text: str, **more: Any) -> Any:
    """Return an option that must be given."""
    return option(MISSING, text, **more)


def count(default: int | None, text: str, **more: Any) -> Any:
    """Return an option that is a number of things, from one to a million: more is a slip of the finger."""
    return option(default, text, **{"metavar": "N", "least": 1, "most": 1_000_000, **more})


SCHEDULER = option(None, "dask scheduler whose workers do it, as tcp://HOST:8786", metavar="ADDRESS")


@dataclass(frozen=True)
class Training(Validated):
    """The options that every verb has which trains within a time budget."""

    folder: Path = argument(COMPETITION)
    cache: Path = needed("made by lumbar preprocess; for all but the baseline with --kind volumes")
    out: Path = needed("run folder")
    hours: float | None = option(None, "time budget; then stop cleanly, resumable", metavar="H", above=0)
    reserve_minutes: float = option(5.0, "kept for the clean stop", metavar="MIN", least=0)
    processes: int | None = count(None, "folds trained at once; none: one per GPU, or one")
    scheduler: str | None = SCHEDULER

    def budget(self) -> Budget:
        """Return the budget, which begins now."""
        return Budget(self.hours, reserve_minutes=self.reserve_minutes)


def named_recipe(words: Sequence[str]) -> type:
    """Return the settings of the recipe that the words of a command line name."""
    from lumbar_kaggle.inference.recipes import recipe

    named = [after for word, after in pairwise(words) if word == "--recipe"]
    named += [word.partition("=")[2] for word in words if word.startswith("--recipe=")]
    return recipe(named[-1] if named else DEFAULT_RECIPE).SETTINGS
