"""``lumbar locate``: train the locator on a folder, or use one as it is; say how well it finds the points."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, write_csv
from lumbar_kaggle.dicom.cache import Cache
from lumbar_kaggle.tables.competition import Competition, read_marked
from lumbar_kaggle.two_stage.locate.axial import read_axial
from lumbar_kaggle.two_stage.locate.config import LocateConfig
from lumbar_kaggle.two_stage.locate.fit import apply, fit
from lumbar_kaggle.two_stage.locate.judging import point_errors, summary
from lumbar_kaggle.two_stage.locate.points import read_sagittal


@dataclass(frozen=True)
class Located:
    """What a run found.

    Attributes:
        out: the run folder; ``points.csv`` and ``errors.csv`` are in it.
        figures: as from `judging.summary`; None where no point is marked, or the budget ended the run.
        finished: whether the run came to its end.
    """

    out: Path
    figures: pd.DataFrame | None
    finished: bool

    def text(self) -> str:
        """Return what the command prints."""
        if not self.finished:
            return f"{self.out}: the time budget is spent; resumable: the same command goes on from here"
        if self.figures is None:
            return f"{self.out}/points.csv: located; no point is marked in this folder, so nothing is judged"
        shown = self.figures.assign(points=self.figures["points"].astype(int))
        shares = ("within_5_mm", "within_10_mm", "off_by_level", "not_found", "median_relative")
        formats = dict.fromkeys(shares, "{:.3f}".format)
        table = shown.to_string(float_format="{:.2f}".format, formatters=formats)
        return f"{table}\nerrors within the plane of the slices; every point in {self.out}/errors.csv"


@alone_on("out")
def run_locate(
    root: Path,
    cache: Path,
    out: Path,
    config: LocateConfig,
    budget: Budget,
    weights: Path | None = None,
    processes: int | None = None,
    folds: pd.DataFrame | None = None,
) -> Located:
    """Train by folds and judge the out-of-fold points; or, with no epochs, judge a trained locator's.

    Args:
        root: folder in the competition's layout, with coordinates; grades are not needed.
        cache: holds its volumes, see ``lumbar preprocess --kind volumes``.
        out: run folder.
        config: what to train; ``epochs`` 0 trains nothing.
        budget: time for training.
        weights: run folder of a locator to start from, or to use.
        processes: folds at once; see `devices.spread`.
        folds: columns ``study_id, fold``: by which to train; None: drawn from the folder's studies.

    Raises:
        InputError: a table or the cache is missing, or nothing is to be trained and there are no weights, or
            the run was begun with other settings or on other data, or another process is at work on it.
    """
    competition = read_marked(root)
    series = read_sagittal(competition, cache)
    axial = read_axial(competition, cache, series)
    try:
        if config.epochs == 0:
            if weights is None:
                raise InputError(
                    f"{out}: nothing is to be trained, so a trained locator is needed: --weights"
                )
            points = apply(series, axial, weights)
            write_csv(out / "points.csv", points)
        else:
            data = learned_from(competition, cache)
            points = fit(series, axial, out, config, budget, weights, processes, folds, data=data)
    except OutOfTime:
        return Located(out, None, False)
    errors = point_errors(points, series, axial)
    write_csv(out / "errors.csv", errors)
    figures = summary(errors) if len(errors) else None
    if figures is not None:
        write_csv(out / "figures.csv", figures.reset_index())
    return Located(out, figures, True)


def learned_from(competition: Competition, cache: Path) -> dict[str, str]:
    """Return digests of what the points of a split are learned from, see `config.tie`; grades are not.

    Raises:
        InputError: the cache of volumes is missing.
    """
    identity = competition.identity()
    del identity["labels"]
    return {**identity, "images": Cache(cache, "volumes").identity()}
