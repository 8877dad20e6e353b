"""The whole recipe from cached volumes to a blend: locate, crop and grade, blend; resumable at every step.

`fit` does all of it; its stages can be called one by one, in as many sessions as it takes: `locate`, `grade`
for some models or folds at a time, `finish`.

::

    two_stage.json                        the configuration
    folds.csv                             the fold of each labelled study, the same in both stages
    locator/                              see `locate.fit`
    annotated.csv                         the annotated points, see `places.annotated_places`
    grade-1/  grade-2/ …                  one per model, see `grade.fit`
    oof.csv  blend.json  blend.txt        once every fold is there: out-of-fold predictions, their blend
    noise.csv                             labels that they contradict
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import locked, read_csv, write_csv, write_text
from lumbar_kaggle.core.settings import begin_run, tie
from lumbar_kaggle.dicom.cache import Cache
from lumbar_kaggle.scoring.blend import save_blend
from lumbar_kaggle.scoring.blend_files import NOISE_ABOVE, fold_of_studies
from lumbar_kaggle.scoring.blend_files import blend as blend_tables
from lumbar_kaggle.tables.competition import Competition, read_competition
from lumbar_kaggle.tables.folds import open_folds
from lumbar_kaggle.tables.submission import read_predictions
from lumbar_kaggle.two_stage.config import RERUN, RUN_FILE, GradeConfig, TwoStageConfig, grade_folder
from lumbar_kaggle.two_stage.grade import fit as grading
from lumbar_kaggle.two_stage.grade.data import crops_folder, evict_other_crops
from lumbar_kaggle.two_stage.grade.places import annotated_places, read_places
from lumbar_kaggle.two_stage.locate.fit import check_folds, learned_from, read_points, run_locate
from lumbar_kaggle.two_stage.locate.training import CONFIG

log = logging.getLogger(__name__)

LOCATOR, ANNOTATED, FOLDS = "locator", "annotated.csv", "folds.csv"
"""Of the first stage in a run folder, and the fold table of both."""


def fit(
    root: Path,
    cache: Path,
    run: Path,
    config: TwoStageConfig,
    budget: Budget,
    *,
    weights: pd.DataFrame | None = None,
    processes: int | None = None,
) -> str:
    """Train both stages and blend, or go on where an earlier call stopped.

    Args:
        root: competition folder.
        cache: holds its volumes.
        run: where everything goes.
        config: what to train.
        budget: when it is spent, the run ends and the same call goes on later.
        weights: columns ``row_id, weight``: how much each label counts in the second stage.
        processes: folds at once; see `devices.spread`.

    Returns:
        One line on the result; the word ``resumable`` when something is left to do.

    Raises:
        InputError: a table or the cache is missing or faulty, or the run was begun with other settings or on
            other data, or another process is at work on it.
    """
    competition = read_competition(root, "train")
    data = {**competition.identity(), "images": Cache(cache, "volumes").identity()}
    with locked(run):
        begin_run(run / RUN_FILE, config, data=data)
        if not locate(competition, cache, run, config, budget, processes=processes):
            left = "the locator and what follows it are"
        else:
            left = grade(competition, cache, run, config, budget, weights=weights, processes=processes)
        if left:
            return f"{run}: {left} left; resumable, run the same command again"
        blend(competition, run, len(config.grade))
        return f"{run}: both stages are trained and blended"


def locate(
    competition: Competition,
    cache: Path,
    run: Path,
    config: TwoStageConfig,
    budget: Budget,
    *,
    processes: int | None = None,
) -> bool:
    """Train the first stage, or go on, and write what the second one needs of it.

    Args:
        competition: the training split.
        cache: holds its volumes.
        run: gets ``locator/`` and ``annotated.csv``.
        config, budget, processes: see `fit`.

    Returns:
        Whether it came to its end.

    Raises:
        InputError: the cache is missing, or the locator was begun with other settings.
    """
    folder, folds = run / LOCATOR, open_run_folds(competition, run, config)
    if (folder / "errors.csv").is_file():
        tie(folder / CONFIG, learned_from(competition, cache))
    else:
        located = run_locate(competition, cache, folder, config.locate, budget, processes=processes, folds=folds)
        log.info(located.text())
        if not located.finished:
            return False
    if not (run / ANNOTATED).is_file():
        write_csv(run / ANNOTATED, annotated_places(competition, cache))
    return True


def open_run_folds(competition: Competition, run: Path, config: TwoStageConfig) -> pd.DataFrame:
    """Return the fold table of a run, by which the locator and every model are trained.

    Fold k of each model holds out the very studies whose marks the locator of fold k has not seen.

    Raises:
        InputError: the stages are to have different numbers of folds, or the run was begun with other studies
            or its locator by other folds.
    """
    counts = {config.locate.folds, *(one.folds for one in config.grade)}
    if len(counts) > 1:
        raise InputError(
            f"the locator has {config.locate.folds} folds and the models of the second stage "
            f"{', '.join(str(one.folds) for one in config.grade)}; give all the same number"
        )
    folds = open_folds(run / FOLDS, competition.labels, config.locate.folds, config.locate.seed)
    check_folds(run / LOCATOR, folds)
    return folds


def grade(
    competition: Competition,
    cache: Path | None,
    run: Path,
    config: TwoStageConfig,
    budget: Budget,
    *,
    models: Sequence[int] = (),
    folds: Sequence[int] = (),
    crops: Path | None = None,
    weights: pd.DataFrame | None = None,
    processes: int | None = None,
) -> str:
    """Train the second stage, or go on.

    Args:
        competition, cache, weights, processes, budget: see `grade.fit.train_grader`.
        run: where `locate` came to its end.
        config: what to train.
        models, folds: numbers of those to train now, models from 1 and folds from 0; empty: all.
        crops: scratch folder for the crops in place of the run folder; it holds one model's at a time.

    Returns:
        What is left of it, or empty.

    Raises:
        InputError: the first stage is not finished, or there is no such model or fold.
    """
    places = read_points(run / LOCATOR / "points.csv")
    errors = read_csv(run / LOCATOR / "errors.csv", ("found", "error_mm", "depth_mm"), RERUN)
    annotated, shared = read_places(run / ANNOTATED), open_run_folds(competition, run, config)
    if not set(models) <= set(range(1, len(config.grade) + 1)):
        given = " ".join(map(str, models))
        raise InputError(f"models {given}: there are those from 1 to {len(config.grade)}")
    for number in models or range(1, len(config.grade) + 1):
        one = with_measured_jitter(config.grade[number - 1], errors)
        folder = None if crops is None else crops_folder(crops, one)
        if folder is not None:
            evict_other_crops(folder)
        result = grading.train_grader(
            competition,
            cache,
            places,
            grade_folder(run, number),
            one,
            budget,
            weights,
            annotated=annotated,
            crops=folder,
            only=folds or None,
            processes=processes,
            folds=shared,
        )
        log.info(result.sentence())
        if result.left:
            return f"folds of model {number} of {len(config.grade)} are"
    return ""


def finish(competition: Competition, run: Path, config: TwoStageConfig) -> str:
    """Blend the models of a run that was trained piece by piece, if all their folds are there.

    Returns:
        What is missing, or empty once it is blended.
    """
    missing = []
    for number, one in enumerate(config.grade, start=1):
        folder = grade_folder(run, number)
        absent = [k for k in range(one.folds) if not grading.predictions_file(folder, k).is_file()]
        missing += [f"fold {fold} of model {number}" for fold in absent]
        if not absent and not (folder / "oof.csv").is_file():
            grading.conclude(competition, folder, one)
    if not missing:
        blend(competition, run, len(config.grade))
    return ", ".join(missing)


def blend(competition: Competition, run: Path, models: int) -> None:
    """Blend the models' out-of-fold predictions; see `blend_files.blend`."""
    tables = {
        f"grade-{number}": read_predictions(grade_folder(run, number) / "oof.csv") for number in range(1, models + 1)
    }
    folds = fold_of_studies(grade_folder(run, 1) / "folds.csv")
    blended = blend_tables(tables, competition.labels, folds, noise_above=NOISE_ABOVE)
    write_csv(run / "oof.csv", blended.table)
    save_blend(run / "blend.json", blended.fit.model)
    if blended.noise is not None:
        write_csv(run / "noise.csv", blended.noise.table)
    write_text(run / "blend.txt", blended.text() + "\n")
    log.info(blended.text())


def with_measured_jitter(config: GradeConfig, errors: pd.DataFrame) -> GradeConfig:
    """Return the configuration with shifts as large as the locator's errors were.

    In the plane the standard deviation per axis of the errors that a cached crop has room for; across it the
    shares of points that lie 0, 1, … slices beside the marked one.

    Args:
        config: its ``shift_mm`` and ``slice_shift`` are replaced.
        errors: as from `locate.fit.point_errors`; without any found point nothing changes.
    """
    found = errors[errors["found"] & (errors["error_mm"] <= config.margin_mm)]
    if found.empty:
        return config
    shift = float(np.sqrt((found["error_mm"] ** 2).mean() / 2))
    steps = np.minimum(np.rint(found["depth_mm"] / config.step_mm), config.extra_slices).astype(int)
    shares = np.bincount(steps, minlength=config.extra_slices + 1) / len(found)
    # Rounded, so that the file of settings can be read; the first takes what rounding leaves.
    rest = tuple(round(float(share), 3) for share in shares[1:])
    return replace(config, shift_mm=round(shift, 3), slice_shift=(round(1 - sum(rest), 3), *rest))
