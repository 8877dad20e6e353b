"""The whole recipe from cached volumes to a blend: locate, crop and grade, blend; resumable at every step.

`fit` does all of it; its stages can be called one by one, in as many sessions as it takes: `locate`, `grade` for some
models or folds at a time, `finish`. A run folder holds the configuration (``two_stage.json``), the fold of each
labelled study (``folds.csv``), ``locator/`` (see `locate.fit`), ``annotated.csv`` (see `study.annotated_places`), a
folder ``grade-1/``, ``grade-2/`` … per model (see `grade.fit`) and, once every fold is there, the blend: ``oof.csv``,
``blend.json``, ``blend.txt`` and, of labels that it contradicts, ``noise.csv``.
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
from lumbar_kaggle.tables.folds import open_folds, read_folds
from lumbar_kaggle.tables.reading import read_label_weights
from lumbar_kaggle.tables.submission import read_predictions
from lumbar_kaggle.two_stage.config import ANNOTATED, LOCATOR, RERUN, RUN_FILE, GradeConfig, TwoStageConfig
from lumbar_kaggle.two_stage.grade import fit as grading
from lumbar_kaggle.two_stage.grade.data import crops_folder, evict_other_crops
from lumbar_kaggle.two_stage.locate.fit import LocatorRun, learned_from, read_points
from lumbar_kaggle.two_stage.locate.training import CONFIG
from lumbar_kaggle.two_stage.study import annotated_places, read_places

log = logging.getLogger(__name__)


def fit(
    root: Path,
    cache: Path,
    run: Path,
    budget: Budget,
    config: TwoStageConfig,
    *,
    label_weights: Path | None = None,
    processes: int | None = None,
) -> str:
    """Train both stages and blend, or go on; see `inference.recipes.Recipe.fit`."""
    weights = None if label_weights is None else read_label_weights(label_weights)
    competition = read_competition(root, "train")
    data = {**competition.identity(), "images": Cache(cache, "volumes").identity()}
    with locked(run):
        begin_run(run / RUN_FILE, config, data=data)
        left = "the locator and what follows it are"
        if locate(competition, cache, run, config, budget, processes=processes):
            left = grade(competition, cache, run, config, budget, weights=weights, processes=processes)
        if left:
            return f"{run}: {left} left; resumable, run the same command again"
        blend(competition, run, config)
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
    """Train the first stage, or go on, and write what the second one needs of it; return whether it came to its end.
    Raises InputError: the cache is missing, or the locator was begun with other settings or on other data."""
    folder, folds = run / LOCATOR, open_run_folds(competition, run, config)
    if (folder / "errors.csv").is_file():
        tie(folder / CONFIG, learned_from(competition, cache))
    else:
        located = LocatorRun(competition, cache, folder, config.locate, budget, folds=folds).train(processes)
        log.info(located.text)
        if not located.finished:
            return False
    if not (run / ANNOTATED).is_file():
        write_csv(run / ANNOTATED, annotated_places(competition, cache))
    return True


def open_run_folds(competition: Competition, run: Path, config: TwoStageConfig) -> pd.DataFrame:
    """Return the fold table of a run, by which the locator and every model are trained. Fold k of each model holds out
    the very studies whose marks the locator of fold k has not seen. Raises InputError: the stages are to have different
    numbers of folds, or the run was begun with other studies or its locator by other folds."""
    counts = [one.folds for one in config.grade]
    if set(counts) != {config.locate.folds}:
        raise InputError(
            f"the locator has {config.locate.folds} folds and the models of the second stage "
            f"{', '.join(map(str, counts))}; give all the same number"
        )
    folds = open_folds(run / "folds.csv", competition.labels, config.locate.folds, config.locate.seed)
    path = run / LOCATOR / "folds.csv"
    tables = (read_folds(path) if path.is_file() else folds, folds)
    there, wanted = (set(one.itertuples(index=False, name=None)) for one in tables)
    if there != wanted:
        raise InputError(f"{path}: this locator was begun with other folds or studies; choose another --out")
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
    """Train the second stage of a run whose first one is finished, or go on; return what is left of it, or empty. Now
    trained are those of the numbers `models`, from 1, and `folds`, from 0; empty: all. `crops`: scratch folder for the
    crops in place of the run folder; it holds one model's at a time. For the rest see `grade.fit.GraderRun`. Raises
    InputError: the first stage is not finished, or there is no such model or fold."""
    places = read_points(run / LOCATOR / "points.csv")
    errors = read_csv(run / LOCATOR / "errors.csv", ("found", "error_mm", "depth_mm"), RERUN)
    annotated, shared = read_places(run / ANNOTATED), open_run_folds(competition, run, config)
    count = len(config.grade)
    if not set(models) <= set(range(1, count + 1)):
        raise InputError(f"models {' '.join(map(str, models))}: there are those from 1 to {count}")
    for number, folder, plain in config.models(run):
        if models and number not in models:
            continue
        one = with_measured_jitter(plain, errors)
        place = None if crops is None else crops_folder(crops, one)
        if place is not None:
            evict_other_crops(place)
        trained = grading.GraderRun(
            competition, cache, places, folder, one, budget, weights, annotated=annotated, crops=place, folds=shared
        ).train(folds or None, processes)
        log.info(trained.text)
        if not trained.finished:
            return f"folds of model {number} of {count} are"
    return ""


def finish(competition: Competition, run: Path, config: TwoStageConfig) -> str:
    """Blend the models of a run that was trained piece by piece; return what is missing, or empty once it is done."""
    missing = []
    for number, folder, one in config.models(run):
        absent = [k for k in range(one.folds) if not grading.predictions_file(folder, k).is_file()]
        missing += [f"fold {fold} of model {number}" for fold in absent]
        if not absent and not (folder / "oof.csv").is_file():
            grading.conclude(competition, folder, one)
    if not missing:
        blend(competition, run, config)
    return ", ".join(missing)


def blend(competition: Competition, run: Path, config: TwoStageConfig) -> None:
    """Blend the models' out-of-fold predictions; see `blend_files.blend`."""
    tables = {folder.name: read_predictions(folder / "oof.csv") for _, folder, _ in config.models(run)}
    folds = fold_of_studies(run / "folds.csv")
    blended = blend_tables(tables, competition.labels, folds, noise_above=NOISE_ABOVE)
    write_csv(run / "oof.csv", blended.table)
    save_blend(run / "blend.json", blended.fit.model)
    if blended.noise is not None:
        write_csv(run / "noise.csv", blended.noise.table)
    write_text(run / "blend.txt", blended.text() + "\n")
    log.info(blended.text())


def with_measured_jitter(config: GradeConfig, errors: pd.DataFrame) -> GradeConfig:
    """Return the configuration with shifts as large as the locator's errors were, see `locate.fit.point_errors`.
    ``shift_mm`` becomes the standard deviation per axis, in the plane, of the errors that a cached crop has room for,
    ``slice_shift`` the shares of points that lie 0, 1, … slices beside the marked one. Without a found point both
    stay."""
    found = errors[errors["found"] & (errors["error_mm"] <= config.margin_mm)]
    if found.empty:
        return config
    shift = float(np.sqrt((found["error_mm"] ** 2).mean() / 2))
    steps = np.minimum(np.rint(found["depth_mm"] / config.step_mm), config.extra_slices).astype(int)
    shares = np.bincount(steps, minlength=config.extra_slices + 1) / len(found)
    # Rounded, so that the file of settings can be read; the first takes what rounding leaves.
    rest = tuple(round(float(share), 3) for share in shares[1:])
    return replace(config, shift_mm=round(shift, 3), slice_shift=(round(1 - sum(rest), 3), *rest))
