"""Templates → text: the environment and the number formats that both pages share; the page of a training run."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lumbar_kaggle.core import targets
from lumbar_kaggle.core.files import write_text
from lumbar_kaggle.core.targets import SEVERITIES, condition_words, level_words
from lumbar_kaggle.inference.recipes import recipe_of_run


def write_report(
    run: Path,
    out: Path,
    *,
    against: Path | None = None,
    bundle: Path | None = None,
    studies: Sequence[str] = (),
    folder: Path | None = None,
    score_text: str | None = None,
) -> Path:
    """Write the page of a training run, finished or not, and return `out`; the same inputs give the same bytes. Of an
    honest run, `against` is one by the report's protocol, whose accuracies are shown beside; `studies` are identifiers
    of those to picture with Grad-CAM: they need `bundle`, the exported models, and `folder`, a competition folder (its
    test split) or a folder of studies. Of a two-stage run, `folder` is the competition folder whose labels its
    out-of-fold predictions are scored by. `score_text` is a table of scores to show as it is. Raises `InputError` where
    there is no run or nothing finished in it, the runs cannot be compared, a study is unknown, bundle or folder is
    missing, or another run, bundle or studies are given with a two-stage run. A study whose slice cannot be read is no
    error: the page says why."""
    page = recipe_of_run(run).report(run, against=against, bundle=bundle, studies=studies, folder=folder)
    write_text(out, render(page.template, score_text=score_text, **page.content))
    return out


def render(template: str | Path, **content: Any) -> str:
    """Fill one of ``pages/templates``, by its name, or a recipe's own template, which may extend those. Text in
    `content` is escaped unless it is `Markup`."""
    environment = _environment()
    if isinstance(template, Path):
        return environment.from_string(template.read_text(encoding="utf-8")).render(**content)
    return environment.get_template(template).render(**content)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lumbar_kaggle.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (fixed, signed, percent, rate, target_words, severity_words, in_words, instance_words)
    environment.filters.update({function.__name__: function for function in filters})
    environment.filters.update(condition=condition_words, level=level_words)
    environment.globals["severities"] = SEVERITIES
    return environment


def fixed(value: float | None, digits: int = 3) -> str:
    """Return `value` with a fixed number of decimals and thousands apart.

    >>> fixed(0.87149), fixed(1234.5, 0), fixed(float("nan"))
    ('0.871', '1,234', '–')
    """
    return _number(value, f",.{digits}f")


def signed(value: float | None, digits: int = 3) -> str:
    """Return `value` with its sign, a true minus.

    >>> signed(0.25), signed(-0.25)
    ('+0.250', '−0.250')
    """
    return _number(value, f"+.{digits}f").replace("-", "−")


def percent(share: float | None) -> str:
    """Return a share in whole percent; what is not quite 0 or 1 is not shown as such.

    >>> percent(0.456), percent(0.001), percent(0.999), percent(1.0)
    ('46%', '<1%', '>99%', '100%')
    """
    if share is not None and 0 < share < 0.005:
        return "<1%"
    return ">99%" if share is not None and 0.995 <= share < 1 else _number(share, ".0%")


def rate(value: float | None) -> str:
    """Return a learning rate with two significant digits.

    >>> rate(0.0017378)
    '1.7e-03'
    """
    return _number(value, ".1e")


def _number(value: float | None, form: str) -> str:
    """Return a formatted number; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else format(value, form)


def target_words(name: str) -> str:
    """Return a target's name in words.

    >>> target_words("spinal_canal_stenosis_l4_l5")
    'Spinal Canal Stenosis L4/L5'
    """
    place = targets.target(name)
    return f"{condition_words(place.condition)} {level_words(place.level)}"


def severity_words(name: str) -> str:
    """Return ``normal_mild`` and so on as ``train.csv`` spells it."""
    return targets.SEVERITY_WORDS[SEVERITIES.index(name)]


def in_words(text: str) -> str:
    """Return a text with the names of series kinds as the competition's tables spell them.

    >>> in_words("no readable sagittal_t2 series")
    'no readable Sagittal T2/STIR series'
    """
    for words, kind in targets.SERIES_DESCRIPTIONS.items():
        text = text.replace(kind, words)
    return text


def instance_words(number: int | None) -> str:
    """Return which instance a slice is."""
    return "no instance number" if number is None else f"instance {number}"
