"""Grade lumbar-spine MRI: the RSNA 2024 Lumbar Spine Degenerative Classification, end to end.

    >>> import lumbar_kaggle as lk
    >>> study = lk.read_study("competition", "4003253")  # doctest: +SKIP
    >>> lk.load_bundle("bundle").predict(study)          # doctest: +SKIP

What is listed in ``__all__`` is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lumbar_kaggle import scoring as score
    from lumbar_kaggle.core.errors import InputError as InputError
    from lumbar_kaggle.dicom.volume import Volume as Volume
    from lumbar_kaggle.inference.base import Study as Study
    from lumbar_kaggle.inference.public import Bundle as Bundle
    from lumbar_kaggle.inference.public import load_bundle as load_bundle
    from lumbar_kaggle.inference.public import open_competition as Competition
    from lumbar_kaggle.inference.public import read_series as read_series
    from lumbar_kaggle.inference.public import read_study as read_study

__version__ = "0.2.0"

_PUBLIC = {
    "Bundle": ("inference.public", "Bundle"),
    "Competition": ("inference.public", "open_competition"),
    "InputError": ("core.errors", "InputError"),
    "Study": ("inference.base", "Study"),
    "Volume": ("dicom.volume", "Volume"),
    "load_bundle": ("inference.public", "load_bundle"),
    "read_series": ("inference.public", "read_series"),
    "read_study": ("inference.public", "read_study"),
    "score": ("scoring", ""),
}
"""Name → where it is; empty: the package of that name, which can be called."""

__all__ = [
    "Bundle",
    "Competition",
    "InputError",
    "Study",
    "Volume",
    "load_bundle",
    "read_series",
    "read_study",
    "score",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    found = import_module(f"{__name__}.{module}")
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
