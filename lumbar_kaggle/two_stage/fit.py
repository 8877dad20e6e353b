"""The whole recipe from cached volumes to a blend: locate, crop and grade, blend; resumable at every step.

`fit` does all of it; `TwoStageRun` has its stages one by one, for as many sessions as it takes. A run folder holds the
configuration (``two_stage.json``), the fold of each labelled study (``folds.csv``), ``locator/`` (see `locate.fit`),
``annotated.csv`` (see `study.annotated_places`), a folder ``grade-1/``, ``grade-2/`` … per model (see `grade.fit`) and,
once every fold is there, the blend: ``oof.csv``, ``blend.json``, ``blend.txt`` and, of labels that it contradicts,
``noise.csv``."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import locked, read_csv, write_csv, write_text
from lumbar_kaggle.core.settings import begin_run, tie
from lumbar_kaggle.dicom.cache import Cache
from lumbar_kaggle.scoring.blend import gather
from lumbar_kaggle.scoring.blend_files import cross_fit
from lumbar_kaggle.tables.competition import Competition, read_competition
from lumbar_kaggle.tables.folds import open_folds, read_folds
from lumbar_kaggle.tables.reading import read_label_weights
from lumbar_kaggle.tables.submission import read_predictions, read_soft_labels
from lumbar_kaggle.two_stage.config import ANNOTATED, LOCATOR, RERUN, RUN_FILE, GradeConfig, TwoStageConfig
from lumbar_kaggle.two_stage.grade import fit as grading
from lumbar_kaggle.two_stage.locate.fit import CONFIG, LocatorRun, learned_from, read_points
from lumbar_kaggle.two_stage.start import box_for, identity
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
    soft_labels: Path | None = None,
    processes: int | None = None,
) -> str:
    """Train both stages and blend, or go on; see `inference.recipes.Recipe.fit`."""
    weights = None if label_weights is None else read_label_weights(label_weights)
    soft = None if soft_labels is None else read_soft_labels(soft_labels)
    competition = read_competition(root, "train")
    data = {**competition.identity(), "images": Cache(cache, "volumes").identity()}
    if (box := box_for(config)) is not None:
        log.info("Both stages start from the models that come with the package")
    data |= identity(box)
    with locked(run):
        begin_run(run / RUN_FILE, config, data=data)
        whole = TwoStageRun(competition, run, config, budget, cache, weights, processes=processes, soft=soft)
        left = whole.grade() if whole.locate() else "the locator and what follows it are"
        if left:
            return f"{run}: {left} left; resumable, run the same command again"
        whole.blend()
        return f"{run}: both stages are trained and blended"


@dataclass(frozen=True, eq=False)
class TwoStageRun:
    """A run folder, and what it is trained on; for fields that are not explained here see `grade.fit.GraderRun`."""

    competition: Competition
    folder: Path
    config: TwoStageConfig
    budget: Budget
    cache: Path | None = None  # needed by the first stage
    weights: pd.DataFrame | None = None
    crops: Path | None = None  # it holds one model's at a time
    processes: int | None = None  # see `devices.spread`
    soft: pd.DataFrame | None = None

    def folds(self) -> pd.DataFrame:
        """Return the fold table by which the locator and every model are trained. Fold k of each model holds out the
        very studies whose marks the locator of fold k has not seen. Raises InputError: the stages are to have different
        numbers of folds, or the run was begun with other studies or its locator by other folds."""
        counts, first = [one.folds for one in self.config.grade], self.config.locate
        if set(counts) != {first.folds}:
            others = f"the models of the second stage {', '.join(map(str, counts))}"
            raise InputError(f"the locator has {first.folds} folds and {others}; give all the same number")
        folds = open_folds(self.folder / "folds.csv", self.competition.labels, first.folds, first.seed)
        path = self.folder / LOCATOR / "folds.csv"
        there = read_folds(path) if path.is_file() else folds
        if set(there.itertuples(index=False, name=None)) != set(folds.itertuples(index=False, name=None)):
            raise InputError(f"{path}: this locator was begun with other folds or studies; choose another --out")
        return folds

    def locate(self) -> bool:
        """Train the first stage, or go on, and write what the second one needs of it; return whether it came to its
        end. Raises InputError: the cache is missing, or the locator was begun with other settings or on other data."""
        competition, cache, out, folds = self.competition, self.cache, self.folder / LOCATOR, self.folds()
        assert cache is not None
        if (out / "errors.csv").is_file():
            tie(out / CONFIG, learned_from(competition, cache) | identity(box_for(self.config)))
        else:
            start = box_for(self.config)
            run = LocatorRun(competition, cache, out, self.config.locate, self.budget, start, folds, alike=True)
            located = run.train(self.processes)
            log.info(located.text)
            if not located.finished:
                return False
        if not (self.folder / ANNOTATED).is_file():
            write_csv(self.folder / ANNOTATED, annotated_places(competition, cache))
        return True

    def grade(self, models: Sequence[int] = (), folds: Sequence[int] = ()) -> str:
        """Train the second stage of a run whose first one is finished, or go on; return what is left of it, or empty.
        Now trained are those of the numbers `models`, from 1, and `folds`, from 0; empty: all. Raises InputError: the
        first stage is not finished, or there is no such model or fold."""
        run, count = self.folder, len(self.config.grade)
        located, annotated = read_points(run / LOCATOR / "points.csv"), read_places(run / ANNOTATED)
        errors = read_csv(run / LOCATOR / "errors.csv", ("found", "error_mm", "depth_mm"), RERUN)
        shared, start = self.folds(), box_for(self.config)
        if not set(models) <= set(range(1, count + 1)):
            raise InputError(f"models {' '.join(map(str, models))}: there are those from 1 to {count}")
        for number, out, plain in self.config.models(run):
            if models and number not in models:
                continue
            config = with_measured_jitter(plain, errors)
            mine = self.competition, self.cache, located, out, config, self.budget, self.weights, annotated, self.crops
            trained = grading.GraderRun(*mine, shared, start, self.soft).train(folds or None, self.processes)
            log.info(trained.text)
            if not trained.finished:
                return f"folds of model {number} of {count} are"
        return ""

    def finish(self) -> str:
        """Blend the models of a run that was trained piece by piece; return what is missing, or empty when done."""
        missing = []
        for number, out, config in self.config.models(self.folder):
            absent = [k for k in range(config.folds) if not grading.predictions_file(out, k).is_file()]
            missing += [f"fold {fold} of model {number}" for fold in absent]
            if not absent and not (out / "oof.csv").is_file():
                grading.conclude(self.competition, out, config)
        if not missing:
            self.blend()
        return ", ".join(missing)

    def blend(self) -> None:
        """Blend the models' out-of-fold predictions; see `blend_files.cross_fit`."""
        run = self.folder
        tables = {out.name: read_predictions(out / "oof.csv") for _, out, _ in self.config.models(run)}
        blended = cross_fit(gather(tables, self.competition.labels, run / "folds.csv"))
        blended.write(run / "oof.csv", run / "blend.json", run / "noise.csv")
        text = blended.text(noise=True)
        write_text(run / "blend.txt", text + "\n")
        log.info(text)


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
