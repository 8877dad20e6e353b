"""What the Kaggle kernels run: the same verbs as the command line, with paths found in the session.

Two environment variables change what a kernel does; a rehearsal sets them, a user may: ``LUMBAR_HOURS``,
the session's budget, and ``LUMBAR_CONFIG``, settings by recipe: ``{"baseline": {"arch": "convnext_nano"}}``.
"""

import json
import os
import shutil
from pathlib import Path

from lumbar_kaggle.budget import Budget
from lumbar_kaggle.competition import read_competition
from lumbar_kaggle.config import Config, from_dict
from lumbar_kaggle.errors import InputError
from lumbar_kaggle.inference import Outcome, predict
from lumbar_kaggle.pages.report import write_report
from lumbar_kaggle.pipeline import preprocess_folder
from lumbar_kaggle.processes import usable_cores
from lumbar_kaggle.recipes.baseline.config import BaselineConfig
from lumbar_kaggle.recipes.baseline.export import export
from lumbar_kaggle.recipes.baseline.fit import FitResult, fit
from lumbar_kaggle.ship.paths import RUN_MARKER, find_bundle, find_competition, find_marker
from lumbar_kaggle.submission import validate

INFERENCE_HOURS = 8.5
"""Of the nine that a submission may take."""


def session_hours(default: float) -> float:
    """Return the session's budget: ``LUMBAR_HOURS`` where it is set, `default` otherwise.

    Raises:
        InputError: ``LUMBAR_HOURS`` is not a number.
    """
    text = os.environ.get("LUMBAR_HOURS", "")
    try:
        return float(text) if text else default
    except ValueError:
        raise InputError(f"LUMBAR_HOURS is {text!r}; it must be a number of hours") from None


def session_config(recipe: str, kind: type[Config]) -> Config:
    """Return a recipe's configuration: its defaults, changed by what ``LUMBAR_CONFIG`` says of it.

    Args:
        recipe: the key in ``LUMBAR_CONFIG``, for example ``baseline``.
        kind: the recipe's configuration class.

    Raises:
        InputError: ``LUMBAR_CONFIG`` is not JSON of the form above, or names an unknown setting.
    """
    text = os.environ.get("LUMBAR_CONFIG", "") or "{}"
    try:
        every = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"LUMBAR_CONFIG is not JSON ({error}); give {{recipe: {{key: value}}}}") from None
    values = every.get(recipe, {}) if isinstance(every, dict) else None
    if not isinstance(values, dict):
        raise InputError(f"LUMBAR_CONFIG is {text!r}; it must be of the form {{recipe: {{setting: value}}}}")
    return from_dict(values, kind, "LUMBAR_CONFIG")


def train_baseline_session(
    working: Path, *, hours: float, config: BaselineConfig | None = None, inputs: Path | None = None
) -> FitResult:
    """Preprocess, train until the budget ends, export and report what is finished.

    An earlier session's output among the inputs is copied first, so training goes on from it.

    Args:
        working: the session's output folder; ``cache``, ``run``, ``bundle`` and ``report.html`` go there.
        hours: the session's budget; half an hour of it is kept for export and report.
        config: what to train; by default what ``LUMBAR_CONFIG`` says.
        inputs: where the inputs are mounted.

    Raises:
        InputError: the competition is not attached, or ``LUMBAR_CONFIG`` is no configuration.
    """
    config = config or session_config("baseline", BaselineConfig)
    budget = Budget(hours, reserve_minutes=min(30.0, hours * 6))
    competition = find_competition(inputs)
    _take_up(working, inputs)
    print(preprocess_folder(competition, working / "cache", workers=4 * usable_cores()).sentence())
    train = read_competition(competition, "train")
    result = fit(train, working / "cache", working / "run", config, budget)
    print(result.sentence())
    if result.finished:
        print(f"Bundle {export(working / 'run', working / 'bundle').fingerprint}")
        write_report(working / "run", working / "report.html")
    return result


def inference_session(working: Path, *, inputs: Path | None = None) -> Outcome:
    """Grade the test studies with the attached bundle and write ``submission.csv``.

    Args:
        working: the session's output folder.
        inputs: where the inputs are mounted.

    Raises:
        InputError: an input is not attached, or the submission is not valid.
    """
    competition, bundle = find_competition(inputs), find_bundle(inputs)
    outcome = predict(competition, bundle, working / "submission.csv", Budget(session_hours(INFERENCE_HOURS)))
    print(f"{outcome.path}: {outcome.sentence()}")
    faults = validate(outcome.path, competition)
    if faults:
        raise InputError(str(faults[0]))
    return outcome


def _take_up(working: Path, inputs: Path | None) -> None:
    """Copy cache and run of an earlier session's output, where one is attached."""
    try:
        earlier = find_marker(f"run/{RUN_MARKER}", inputs)
    except InputError:
        print("No earlier run is attached; training starts from the beginning")
        return
    print(f"Going on from {earlier}")
    for name in ("cache", "run"):
        if (earlier / name).is_dir() and not (working / name).exists():
            shutil.copytree(earlier / name, working / name)
