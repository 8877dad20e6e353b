"""The second stage from points to out-of-fold predictions: crops, folds, training, ``oof.csv``."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, digest, read_csv, write_csv
from lumbar_kaggle.core.settings import begin_run
from lumbar_kaggle.core.targets import SEVERITIES, TARGETS
from lumbar_kaggle.dicom.cache import Cache
from lumbar_kaggle.scoring.cells import as_table
from lumbar_kaggle.scoring.metric import PRIOR_SMOOTHING, score, weighted_prior
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.tables.folds import open_folds
from lumbar_kaggle.tables.submission import prior_predictions
from lumbar_kaggle.training.devices import spread, training_device
from lumbar_kaggle.two_stage.config import GradeConfig
from lumbar_kaggle.two_stage.grade.data import CropSet, Samples, cache_crops, study_labels
from lumbar_kaggle.two_stage.grade.places import annotated_places, to_points, unsided
from lumbar_kaggle.two_stage.grade.training import level_prior, predict_levels, train_fold
from lumbar_kaggle.two_stage.grade.views import CELLS
from lumbar_kaggle.two_stage.study import CachedStudies, DicomStudies

log = logging.getLogger(__name__)

CONFIG = "grade.json"


@dataclass(frozen=True)
class GraderResult:
    """State of a run after `train_grader`.

    Attributes:
        run: its folder.
        finished: folds that are trained.
        folds: how many there are.
        left: of those that were asked for, how many are not trained yet.
        score: of the out-of-fold predictions, once all folds are trained; None without all conditions.
    """

    run: Path
    finished: int
    folds: int
    left: int
    score: float | None

    def sentence(self) -> str:
        """Return one line on the result; the word ``resumable`` when something is left to do."""
        if self.left:
            return f"{self.left} of {self.folds} folds are left in {self.run}: resumable, run the same command again"
        if self.finished < self.folds:
            return f"{self.finished} of {self.folds} folds are trained in {self.run}, all that were asked for"
        told = "" if self.score is None else f"; out-of-fold score {self.score:.4f}"
        return f"{self.folds} folds are trained in {self.run}{told}"


@alone_on("out")
def train_grader(
    competition: Competition,
    cache: Path | None,
    places: pd.DataFrame | None,
    out: Path,
    config: GradeConfig,
    budget: Budget,
    weights: pd.DataFrame | None = None,
    *,
    annotated: pd.DataFrame | None = None,
    crops: Path | None = None,
    only: Sequence[int] | None = None,
    processes: int | None = None,
    folds: pd.DataFrame | None = None,
) -> GraderResult:
    """Train folds, or go on where an earlier call stopped.

    A fold trains on crops around annotated points alone, shifted at random by as much as the locator errs:
    the located points of its training studies are of locators that have seen the marks of those that it
    holds out. Judged are crops around located points, by a locator that has not seen the study.

    Args:
        competition: the training split.
        cache: folder of its cached volumes; None: crops are cut from the DICOM files.
        places: located points, out-of-fold, to judge at; see `places.to_points`. None: the annotated ones.
        out: run folder: ``grade.json``, ``folds.csv``, ``prior.csv``, the crops, per fold its weights and
            predictions, ``oof.csv`` once all folds are there.
        config: what to train.
        budget: when it is spent, the run ends and the same call goes on later.
        weights: columns ``row_id, weight``: how much each label counts.
        annotated: as from `places.annotated_places`; needed without cached volumes.
        crops: folder for the crops, where the run folder has no room for them.
        only: numbers of the folds to train now; None: all.
        processes: folds at once; see `devices.spread`.
        folds: columns ``study_id, fold`` of all labelled studies; None: as from `folds.open_folds`.

    Raises:
        InputError: the run was begun with another configuration or on other data, or another process is at
            work on it, or there is nothing to train on.
    """
    begin_run(out / CONFIG, config, data=_learned_from(competition, cache, places, weights))
    wanted = range(config.folds) if only is None else only
    if not set(wanted) <= set(range(config.folds)):
        raise InputError(f"folds {' '.join(map(str, wanted))}: there are those from 0 to {config.folds - 1}")
    if folds is None:
        folds = open_folds(out / "folds.csv", competition.labels, config.folds, config.seed)
    write_csv(out / "folds.csv", folds)
    write_csv(out / "prior.csv", weighted_prior(competition.labels, smoothing=PRIOR_SMOOTHING).reset_index())
    try:
        todo = [fold for fold in wanted if not predictions_file(out, fold).is_file()]
        if todo:
            made = _make_crops(competition, cache, places, annotated, crops or out, config, budget)
            lost = set() if places is None else unsided(places)
            task = _Task(competition, folds, *made, lost, out, config, budget, weights)
            spread(_fit_fold, task, todo, processes)
    except OutOfTime:
        pass  # what is finished is told below
    finished = [fold for fold in range(config.folds) if predictions_file(out, fold).is_file()]
    result = conclude(competition, out, config) if len(finished) == config.folds else None
    return GraderResult(out, len(finished), config.folds, len(set(wanted) - set(finished)), result)


def _learned_from(
    competition: Competition, cache: Path | None, places: pd.DataFrame | None, weights: pd.DataFrame | None
) -> dict[str, str]:
    """Return digests of what a run is made from, see `settings.tie`."""
    tables = {"located points": places, "label weights": weights}
    images = {} if cache is None else {"images": Cache(cache, "volumes").identity()}
    digests = {name: "" if one is None else digest(one.to_csv(index=False)) for name, one in tables.items()}
    return {**competition.identity(), **digests, **images}


def predictions_file(out: Path, fold: int) -> Path:
    """Return the file of a fold's predictions; it is there once the fold is trained."""
    return out / f"fold-{fold}-predictions.csv"


def _make_crops(
    competition: Competition,
    cache: Path | None,
    places: pd.DataFrame | None,
    annotated: pd.DataFrame | None,
    out: Path,
    config: GradeConfig,
    budget: Budget,
) -> tuple[CropSet, CropSet]:
    """Return the crops around annotated points, and those to judge at."""
    if annotated is None:
        if cache is None:
            raise InputError(f"{out}: neither cached volumes nor a table of annotated points is given")
        annotated = annotated_places(competition, cache)
    studies = CachedStudies(cache) if cache is not None else DicomStudies(competition.series)
    marked = to_points(annotated)
    lost = sum(study not in marked for study in competition.studies)
    if lost:
        log.info("%d studies without an annotated point in a placed series are not trained on", lost)
    log.info("Cropping the views of %d studies into %s", len(competition.studies), out)
    around_marks = cache_crops(studies, marked, marked, out / "annotated", config, budget)
    if places is None:
        return around_marks, around_marks
    located = to_points(places[places["study_id"].astype(str).isin(competition.studies)])
    return around_marks, cache_crops(studies, located, marked, out / "located", config, budget)


@dataclass(frozen=True, eq=False)
class _Task:
    """What all folds share: crops to train on and judge at, studies of unknown sides; see `train_grader`."""

    competition: Competition
    folds: pd.DataFrame
    annotated: CropSet
    judged: CropSet
    unsided: set[str]
    out: Path
    config: GradeConfig
    budget: Budget
    weights: pd.DataFrame | None


def _fit_fold(task: _Task, fold: int) -> None:
    task.budget.check()
    folds, out, config = task.folds, task.out, task.config
    labels = study_labels(task.competition.labels, task.weights)
    held_out = set(folds.loc[folds["fold"] == fold, "study_id"])
    inside = [study for study in folds["study_id"] if study in held_out and study in task.judged]
    outside = [study for study in folds["study_id"] if study not in held_out and study in task.annotated]
    if not inside or not outside:
        raise InputError(
            f"{out}: fold {fold} has no study with an annotated point to train on, or none with a located "
            "one to judge on; use fewer folds"
        )
    training = Samples(outside, task.annotated, labels)
    seen = task.competition.labels["study_id"].isin(held_out)
    rest = task.competition.labels[~seen]
    prior = level_prior(rest, weighted=config.severity_weights)
    validation = Samples(inside, task.judged, labels)
    network = train_fold(training, validation, prior, fold, out, config, task.budget)
    found = to_targets(predict_levels([network.to(training_device())], Samples(inside, task.judged), config))
    doubtful = [study in task.unsided for study in inside]
    found[doubtful] = average_sides(found[doubtful])
    table = as_table(tuple(inside), found)
    # Studies without any point keep the prior of the training part.
    lost = task.competition.labels[seen & ~task.competition.labels["study_id"].isin(inside)]
    fallback = prior_predictions(weighted_prior(rest, smoothing=PRIOR_SMOOTHING), lost)
    write_csv(predictions_file(out, fold), pd.concat([table, fallback], ignore_index=True).assign(fold=fold))


def to_targets(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``[studies, 25, 3]``, rows sum to 1, of ``[studies, 5 levels, 5 places, 3]``."""
    chosen = probabilities[:, *CELLS]
    normal: NDArray[np.float64] = chosen / chosen.sum(axis=-1, keepdims=True)
    return normal


def average_sides(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``[…, 25, 3]`` with the mean of left and right in place of both foramina of a level."""
    averaged = probabilities.copy()
    for left, of in enumerate(TARGETS):
        if of.condition == "left_neural_foraminal_narrowing":
            right = TARGETS.index(of._replace(condition="right_neural_foraminal_narrowing"))
            averaged[..., [left, right], :] = averaged[..., [left, right], :].mean(axis=-2, keepdims=True)
    return averaged


def conclude(competition: Competition, out: Path, config: GradeConfig) -> float | None:
    """Write ``oof.csv`` over all labelled rows, log its score beside the prior's, and return it.

    Without all conditions there is no score: None.
    """
    remedy = "delete it and run the same command again"
    parts = [
        read_csv(predictions_file(out, fold), ("row_id", "fold", *SEVERITIES), remedy) for fold in range(config.folds)
    ]
    everything = pd.concat(parts, ignore_index=True)
    oof = competition.labels[["row_id"]].merge(everything, on="row_id", validate="1:1")
    oof = oof[["row_id", "fold", *SEVERITIES]]
    write_csv(out / "oof.csv", oof)
    mine = score(oof, competition.labels)
    prior = score(prior_predictions(weighted_prior(competition.labels), competition.labels), competition.labels)
    for name, value in mine.parts.items():
        log.info("%-20s%10.4f  prior %.4f", name, value, prior.parts[name])
    if mine.total is not None and prior.total is not None:
        log.info("%-20s%10.4f  prior %.4f", "total", mine.total, prior.total)
    return mine.total
