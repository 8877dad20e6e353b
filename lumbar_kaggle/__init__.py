"""Grade lumbar-spine MRI: the RSNA 2024 Lumbar Spine Degenerative Classification, end to end.

    >>> import lumbar_kaggle as lk
    >>> study = lk.read_study("competition", "4003253")  # doctest: +SKIP
    >>> lk.load_bundle("bundle").predict(study)          # doctest: +SKIP

What is listed in ``__all__`` is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lumbar_kaggle.core.errors import InputError as InputError
    from lumbar_kaggle.dicom.volume import Volume as Volume
    from lumbar_kaggle.inference.base import Study as Study
    from lumbar_kaggle.inference.base import open_competition as Competition
    from lumbar_kaggle.inference.base import read_series as read_series
    from lumbar_kaggle.inference.base import read_study as read_study
    from lumbar_kaggle.inference.bundle import Bundle as Bundle
    from lumbar_kaggle.inference.bundle import load_bundle as load_bundle
    from lumbar_kaggle.scoring.metric import score as score

__version__ = "0.2.0"

_PUBLIC = {
    "Bundle": ("inference.bundle", "Bundle"),
    "Competition": ("inference.base", "open_competition"),
    "InputError": ("core.errors", "InputError"),
    "Study": ("inference.base", "Study"),
    "Volume": ("dicom.volume", "Volume"),
    "load_bundle": ("inference.bundle", "load_bundle"),
    "read_series": ("inference.base", "read_series"),
    "read_study": ("inference.base", "read_study"),
    "score": ("scoring.metric", "score"),
}
"""Name → where it is."""

__all__ = ["Bundle", "Competition", "InputError", "Study", "Volume"]
__all__ += ["load_bundle", "read_series", "read_study", "score"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
