"""What each verb of the ``lumbar`` command takes, and what it does: call one function, say what came out.

A verb is a frozen dataclass; its fields are its options.
"""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.settings import check_settings, option

MOST = 1_000_000
"""Of studies, processes and the like; more is a slip of the finger."""

Said = str | tuple[str, int]
"""What is printed, and the exit code where it is not 0."""

COMPETITION = "competition folder"
VOLUMES = "cache made by lumbar preprocess --kind volumes"
NOISE = "row_id, weight: as of lumbar blend --noise"


def argument(text: str, default: Any = MISSING, **more: Any) -> Any:
    """Return an option that is given by its place; see `core.settings.option`."""
    return option(default, text, positional=True, **more)


def needed(text: str, **more: Any) -> Any:
    """Return an option that must be given."""
    return option(MISSING, text, **more)


def count(default: int | None, text: str, **more: Any) -> Any:
    """Return an option that is a number of things, at least one."""
    return option(default, text, **{"metavar": "N", "least": 1, "most": MOST, **more})


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A verb.

    Attributes:
        settings: dataclass whose fields are options too.
        changes: those of them that are given, by name.
    """

    settings: ClassVar[type | None] = None
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_settings(self)

    @classmethod
    def settings_kind(cls, words: Sequence[str]) -> type | None:
        """Return `settings`, as far as it depends on the words of the command line."""
        return cls.settings

    def __call__(self) -> Said:
        """Do it, and return what there is to say.

        Raises:
            InputError: a file or a setting is not what it should be.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Training(Verb):
    """A verb that trains within a time budget."""

    folder: Path = argument(COMPETITION)
    cache: Path = needed(VOLUMES)
    out: Path = needed("run folder")
    hours: float | None = option(None, "time budget; then stop cleanly, resumable", metavar="H", above=0)
    reserve_minutes: float = option(5.0, "kept for the clean stop", metavar="MIN", least=0)
    processes: int | None = count(None, "folds trained at once; none: one per GPU, or one")

    def budget(self) -> Budget:
        """Return the budget, which begins now."""
        return Budget(self.hours, reserve_minutes=self.reserve_minutes)
