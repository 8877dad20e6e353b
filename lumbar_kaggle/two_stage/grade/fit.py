"""The second stage from points to out-of-fold predictions: crops, folds, training with fastai, ``oof.csv``."""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from fastai.data.load import DataLoader
from fastai.learner import Learner

from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, locked, read_csv, write_csv
from lumbar_kaggle.core.settings import begin_run
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, SEVERITIES, SEVERITY_WEIGHTS
from lumbar_kaggle.dicom.cache import Cache
from lumbar_kaggle.scoring.comparison import score_beside_prior
from lumbar_kaggle.scoring.metric import PRIOR_SMOOTHING, as_table, weighted_prior
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.tables.folds import derive_seed, open_folds
from lumbar_kaggle.tables.submission import prior_predictions
from lumbar_kaggle.training import group
from lumbar_kaggle.training.devices import spread, training_device
from lumbar_kaggle.training.loop import make_learner, train_file, write_network
from lumbar_kaggle.two_stage.config import GradeConfig, Result, network_file
from lumbar_kaggle.two_stage.grade.data import Batch, Samples, augment, cache_crops, cut, drop_views, whole_studies
from lumbar_kaggle.two_stage.grade.domain import Domain
from lumbar_kaggle.two_stage.grade.domain_fit import fit_domain
from lumbar_kaggle.two_stage.grade.network import Grader, average_sides, grade_loss, load_network, predict_levels
from lumbar_kaggle.two_stage.start import identity, starting_grader
from lumbar_kaggle.two_stage.study import CachedStudies, DicomStudies, annotated_places, to_points, unsided

log = logging.getLogger(__name__)

Crops = Mapping[str, Path]  # per study the file of its crops


@dataclass(frozen=True, eq=False)
class GraderRun:
    """One model of the second stage, trained by folds. A fold trains on crops around annotated points alone, shifted at
    random by as much as the locator errs: the located points of its training studies are of locators that have seen the
    marks of those that it holds out. Judged are crops around located points, by a locator that has not seen the study.
    """

    competition: Competition
    cache: Path | None  # of the split's volumes; None: crops are cut from the DICOM files
    places: pd.DataFrame | None  # located points, out-of-fold, to judge at, see `study.to_points`; None: annotated ones
    out: Path  # gets settings, folds, prior, crops, per fold weights and predictions, ``oof.csv`` once all are there
    config: GradeConfig
    budget: Budget
    weights: pd.DataFrame | None = None  # columns ``row_id, weight``: how much each label counts
    annotated: pd.DataFrame | None = None  # as from `study.annotated_places`; needed without cached volumes
    crops: Path | None = None  # folder for the crops, where the run folder has no room for them
    folds: pd.DataFrame | None = None  # columns ``study_id, fold`` of all labelled studies; None: `folds.open_folds`
    start: Path | None = None  # bundle whose networks the training starts from
    soft: pd.DataFrame | None = None  # labels as probabilities, see `Samples`

    def train(self, only: Sequence[int] | None = None, processes: int | None = None) -> Result:
        """Train the folds `only`, None: all, or go on where an earlier call stopped, for instance because the budget
        was spent; for `processes` see `devices.spread`. Raises InputError: the run was begun with another configuration
        or on other data, another process is at work on it, there is nothing to train on, or soft labels of others."""
        out, labels, count = self.out, self.competition.labels, self.config.folds
        if self.soft is not None and not self.soft["study_id"].isin(self.competition.studies).any():
            remedy = "give predictions of the studies that are trained on"
            raise InputError(f"{self.competition.root}: the soft labels are of none of its studies; {remedy}")
        tables = {"located points": self.places, "label weights": self.weights, "soft labels": self.soft}
        data = {name: "" if one is None else digest(one.to_csv(index=False)) for name, one in tables.items()}
        images = {} if self.cache is None else {"images": Cache(self.cache, "volumes").identity()}
        with locked(out):
            data |= self.competition.identity() | images | identity(self.start)
            begin_run(out / "grade.json", self.config, data=data)
            wanted = range(count) if only is None else only
            if not set(wanted) <= set(range(count)):
                raise InputError(f"folds {' '.join(map(str, wanted))}: there are those from 0 to {count - 1}")
            folds = self.folds
            folds = open_folds(out / "folds.csv", labels, count, self.config.seed) if folds is None else folds
            write_csv(out / "folds.csv", folds)
            write_csv(out / "prior.csv", weighted_prior(labels, smoothing=PRIOR_SMOOTHING).reset_index())
            todo = [fold for fold in wanted if not predictions_file(out, fold).is_file()]
            with contextlib.suppress(OutOfTime):  # what is finished is told below
                if todo:
                    spread(_fit_fold, (replace(self, folds=folds), *self._make_crops()), todo, processes)
            return self._result(wanted)

    def _make_crops(self) -> tuple[Crops, Crops]:
        """Return the crops around annotated points, and those to judge at."""
        competition, annotated, folder = self.competition, self.annotated, self.crops or self.out
        if annotated is None:
            assert self.cache is not None
            annotated = annotated_places(competition, self.cache)
        studies = DicomStudies(competition.series) if self.cache is None else CachedStudies(self.cache)
        marked = to_points(annotated)
        lost = sum(study not in marked for study in competition.studies)
        if lost:
            log.info("%d studies without an annotated point in a placed series are not trained on", lost)
        log.info("Cropping the views of %d studies into %s", len(competition.studies), folder)
        around_marks = cache_crops(studies, marked, marked, folder / "annotated", self.config, self.budget)
        if self.places is None:
            return around_marks, around_marks
        located = to_points(self.places[self.places["study_id"].astype(str).isin(competition.studies)])
        return around_marks, cache_crops(studies, located, marked, folder / "located", self.config, self.budget)

    def _result(self, wanted: Sequence[int]) -> Result:
        finished = {fold for fold in range(self.config.folds) if predictions_file(self.out, fold).is_file()}
        left, count, out = len(set(wanted) - finished), self.config.folds, self.out
        if left:
            return Result(f"{left} of {count} folds are left in {out}: resumable, run the same command again", False)
        if len(finished) < count:
            return Result(f"{len(finished)} of {count} folds are trained in {out}, all that were asked for", True)
        total = conclude(self.competition, out, self.config)
        scored = "" if total is None else f"; out-of-fold score {total:.4f}"
        return Result(f"{count} folds are trained in {out}{scored}", True)


def predictions_file(out: Path, fold: int) -> Path:
    """Return the file of a fold's predictions; it is there once the fold is trained."""
    return out / f"fold-{fold}-predictions.csv"


def _fit_fold(shared: tuple[GraderRun, Crops, Crops], fold: int) -> None:
    run, annotated, judged = shared
    group.check(run.budget)
    folds, out, config, rows = run.folds, run.out, run.config, run.competition.labels
    assert folds is not None
    held_out = set(folds.loc[folds["fold"] == fold, "study_id"])
    inside = [study for study in folds["study_id"] if study in held_out and study in judged]
    outside = [study for study in folds["study_id"] if study not in held_out and study in annotated]
    if not inside or not outside:
        lacking = "no study with an annotated point to train on, or none with a located one to judge on"
        raise InputError(f"{out}: fold {fold} has {lacking}; use fewer folds")
    seen, weights = ~rows["study_id"].isin(held_out), run.weights
    training, validation = Samples(outside, annotated, rows, weights, run.soft), Samples(inside, judged, rows, weights)
    file, prior = network_file(out, "fold", fold), level_prior(rows[seen], weighted=config.severity_weights)
    if not file.is_file():
        train_file(
            file,
            lambda fresh: _learner(run, fold, (training, validation), prior, fresh=fresh),
            config,
            seed=derive_seed(config.seed, "grade", fold),
            title=f"train fold {fold + 1}/{config.folds}",
            history=out / f"fold-{fold}-history.csv",
            budget=run.budget,
            ema=config.ema,
            wd=config.weight_decay,
        )
    if not group.leads():
        return
    # Read again as a resumed run has it: the order of the weights in memory shows in the last digits.
    network = load_network(file, config).to(training_device())
    if network.domain is not None:
        weighted = level_prior(rows[seen], weighted=True)
        fit_domain(network, weighted, training, validation, config)
        write_network(file, network.state_dict(), config)
    loader = DataLoader(validation, bs=whole_studies(2 * config.batch_size))
    found, _ = predict_levels([network], (validation.batch(items) for (items,) in loader), config)
    lost = set() if run.places is None else unsided(run.places)
    doubtful = [study in lost for study in inside]
    found[doubtful] = average_sides(found[doubtful])
    # Studies without any point keep the prior of the training part.
    others = rows[~seen & ~rows["study_id"].isin(inside)]
    fallback = prior_predictions(weighted_prior(rows[seen], smoothing=PRIOR_SMOOTHING), others)
    table = pd.concat([as_table(tuple(inside), found), fallback], ignore_index=True)
    write_csv(predictions_file(out, fold), table.assign(fold=fold))


def level_prior(labels: pd.DataFrame, *, weighted: bool) -> torch.Tensor:
    """Return the prior ``[3 groups, 5 levels, 3]`` of labels; `weighted`: by the score's 1, 2 and 4."""
    weights = SEVERITY_WEIGHTS if weighted else (1.0, 1.0, 1.0)
    prior = weighted_prior(labels, smoothing=PRIOR_SMOOTHING, weights=weights).to_numpy()
    # Left and right are pooled: of the five conditions the canal, one foramen and one recess are the three groups.
    return torch.from_numpy(prior.reshape(len(CONDITIONS), len(LEVELS), len(SEVERITIES))[[0, 1, 3]])


def _learner(run: GraderRun, fold: int, parts: tuple[Samples, Samples], prior: torch.Tensor, *, fresh: bool) -> Learner:
    """Return a fold's learner before its first epoch; of a resumed one, not `fresh`, the checkpoint has the weights."""
    config = run.config
    if fresh and run.start is not None:
        file, there = starting_grader(run.start, config, fold)
        network = load_network(file, replace(config, fallback=there.fallback))
        # What the fallback knows is of features that training is going to change.
        network.domain = Domain(config.features) if config.fallback else None
    else:
        network = Grader(config, prior, pretrained=fresh)
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    device = training_device()
    for part in parts if device.type == "cuda" else ():
        part.bring(device, torch.cuda.mem_get_info(device)[0])
    callbacks: list[Callback] = [PrepareBatch(config, parts)]
    if config.accumulate > 1:
        callbacks.append(Accumulate(min(config.batch_size, len(parts[0])) * config.accumulate))
    loss = partial(grade_loss, config=config)
    workers = 0 if parts[0].whole else config.workers
    return make_learner(network, parts, loss, run.out, config, cbs=callbacks, workers=workers)


class PrepareBatch(Callback):  # type: ignore[misc]
    """Turn cached crops into the network's input: augmented in training, the plain middle in validation. With mixup
    every level of a training batch is blended with another one, and so is the loss. fastai's own takes one image
    tensor; here a sample is several views, some of which may be missing."""

    order = -5

    def __init__(self, config: GradeConfig, parts: tuple[Samples, Samples]) -> None:
        self.config, self.parts = config, parts

    def before_batch(self) -> None:
        """Replace the batch; without mixup the loss takes the same one as the network."""
        with torch.no_grad():
            config, cached = self.config, self.parts[0 if self.training else 1].batch(self.xb[0])
            if self.training:
                batch = drop_views(augment(cached, config), config.view_dropout, config.slice_dropout)
            else:
                batch = cut(cached, config)
        self.learn.xb = self.learn.yb = (batch,)
        if self.training and self.config.mixup:
            share = float(torch.distributions.Beta(self.config.mixup, self.config.mixup).sample())
            # The greater part stays the sample's own, so that its level and its missing views remain right.
            self.share = max(share, 1 - share)
            self.partner = torch.randperm(len(batch["level"]), device=batch["level"].device)
            images = [torch.lerp(image[self.partner], image, self.share) for image in batch["images"]]
            self.learn.xb = ({**batch, "images": images},)

    def after_loss(self) -> None:
        """Blend the loss as the images are."""
        if self.training and self.config.mixup:
            batch: Batch = self.yb[0]
            other: Batch = {**batch, "slices": [at[self.partner] for at in batch["slices"]]}
            other["wanted"] = batch["wanted"][self.partner]
            mixed = torch.lerp(self.learn.loss_func(self.learn.pred, other), self.learn.loss_grad, self.share)
            self.learn.loss_grad, self.learn.loss = mixed, mixed.clone()


class Accumulate(GradientAccumulation):  # type: ignore[misc]
    """Add up the gradients of some batches before a step; the last batch of an epoch steps in any case. So no gradient
    is carried from one epoch to the next, and an epoch can be resumed from its weights."""

    def before_step(self) -> None:
        """Let the step pass, or cancel it while samples are missing."""
        if self.iter + 1 == self.n_iter:
            self.count = 0
        else:
            super().before_step()


def conclude(competition: Competition, out: Path, config: GradeConfig) -> float | None:
    """Write ``oof.csv`` over all labelled rows, and log and return its score; without all conditions None."""
    columns, remedy = ["row_id", "fold", *SEVERITIES], "delete it and run the same command again"
    parts = [read_csv(predictions_file(out, fold), columns, remedy) for fold in range(config.folds)]
    oof = competition.labels[["row_id"]].merge(pd.concat(parts), on="row_id", validate="1:1")[columns]
    write_csv(out / "oof.csv", oof)
    scored = score_beside_prior(oof, competition.labels, source="the same labels")
    log.info("%s", scored.text())
    return scored.score.total
