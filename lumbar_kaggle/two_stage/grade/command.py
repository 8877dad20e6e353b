"""``lumbar grade``: the second stage over a folder, by preset: one run per backbone."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.tables.reading import read_label_weights
from lumbar_kaggle.two_stage.grade.config import GradeConfig, preset
from lumbar_kaggle.two_stage.grade.fit import FitResult, fit
from lumbar_kaggle.two_stage.locate.fit import read_points


def run_grade(
    root: Path,
    cache: Path,
    out: Path,
    name: str,
    change: Callable[[GradeConfig], GradeConfig],
    budget: Budget,
    *,
    points: Path | None = None,
    weights: Path | None = None,
    only: Sequence[int] | None = None,
    processes: int | None = None,
) -> Sequence[FitResult]:
    """Train every configuration of a preset by folds; started again, it goes on where it was.

    Args:
        root: competition folder.
        cache: holds its volumes.
        out: run folder; with several backbones one folder below it for each.
        name: of the preset.
        change: what the caller sets otherwise than the preset.
        budget: time for all of them together.
        points: ``points.csv`` of ``lumbar locate``; None: the annotated points alone.
        weights: table of ``row_id, weight``: how much each label counts.
        only: numbers of the folds to train now; None: all.
        processes: folds at once; see `devices.spread`.

    Raises:
        InputError: a table is missing or faulty, or a run was begun with other settings.
    """
    competition = read_competition(root, "train")
    places = None if points is None else read_points(points)
    labels = None if weights is None else read_label_weights(weights)
    configs = preset(name)
    results = []
    for number, base in enumerate(configs):
        folder = out if len(configs) == 1 else out / f"model-{number + 1}"
        results.append(
            fit(
                competition,
                cache,
                places,
                folder,
                change(base),
                budget,
                labels,
                only=only,
                processes=processes,
            )
        )
    return results
