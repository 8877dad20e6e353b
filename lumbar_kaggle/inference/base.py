"""A study, what a recipe gives to grade it (a predictor), and what a predictor says: needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import SERIES_DESCRIPTIONS
from lumbar_kaggle.dicom.series import UnreadableSeries, read_headers, read_series

Floats = NDArray[np.float64]


class Study(NamedTuple):
    """One study to grade; its pixels are read when they are needed.

    Attributes:
        study_id: its identifier.
        series: its rows of `competition.Competition.series`.
    """

    study_id: str
    series: pd.DataFrame

    def __repr__(self) -> str:
        """Say what it has: ``Study 4003253: sagittal T1 18 slices, axial T2 43 slices``."""
        return f"Study {self.study_id}: " + (
            ", ".join(f"{words} {_count(row)}" for words, row in self._rows()) or "no series"
        )

    def _repr_html_(self) -> str:
        """Show the middle slice of each series in a notebook."""
        figures = []
        for _, row in self._rows():
            try:
                figures.append(read_series(Path(row["folder"]), row["files"], row["kind"])._repr_html_())
            except UnreadableSeries as error:
                figures.append(f"<small>{escape(str(error))}</small>")
        title = f"<b>Study {escape(self.study_id)}</b>"
        return f'{title}<div style="display:flex;flex-wrap:wrap">{"".join(figures)}</div>'

    def _rows(self) -> list[tuple[str, dict[Any, Any]]]:
        words = {kind: text[0].lower() + text[1:] for text, kind in SERIES_DESCRIPTIONS.items()}
        return [(words[row["kind"]], row) for row in self.series.to_dict("records")]


def _count(row: dict[Any, Any]) -> str:
    try:
        headers, _ = read_headers(Path(row["folder"]), row["files"], row["kind"])
    except UnreadableSeries:
        return "unreadable"
    return f"{len(headers)} slice{'s' if len(headers) > 1 else ''}"


class Prediction(NamedTuple):
    """What a predictor says of one study.

    Attributes:
        probabilities: ``[25, 3]`` float64 in the order of `targets.TARGETS`, rows sum to 1; rows of NaN
            where the predictor cannot tell.
        reason: why it cannot, or what of the study it had to leave out; or empty.
    """

    probabilities: NDArray[np.float64]
    reason: str


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice as it is stored, or a part of it.

    Attributes:
        image: ``[rows, columns]`` uint8, windowed over the series.
        facts: ``series_id``, ``kind``, ``instance_number``, ``row_mm`` and ``column_mm``, the distances
            between rows and between columns, and ``sides``, see `edge_letters`.
    """

    image: NDArray[np.uint8]
    facts: dict[str, object]


@dataclass(frozen=True)
class Mark:
    """A located point seen from a slice.

    Attributes:
        place, level: what it is.
        row, column: px of the slice; beyond its edges where the point was located outside of the picture.
        distance_mm: from the slice's plane, 0 or more.
        confidence: the locator's, 0 … 1.
    """

    place: str
    level: str
    row: float
    column: float
    distance_mm: float
    confidence: float

    def inside(self, shape: tuple[int, ...]) -> bool:
        """Whether it lies within a picture of so many rows and columns."""
        return -0.5 <= self.row < shape[0] - 0.5 and -0.5 <= self.column < shape[1] - 0.5


@dataclass(frozen=True, eq=False)
class LocatedSlice:
    """A slice with the points that it was chosen for.

    Attributes:
        view: name of the view in `views.VIEWS`.
        slice: nearest to the points.
        marks: the points.
    """

    view: str
    slice: Slice
    marks: tuple[Mark, ...]


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Grad-CAM of one target.

    Attributes:
        target: its name.
        severity: the one explained: the most probable by the uncalibrated classifiers.
        heat: ``[rows, columns]`` float32 of the slice, 0 … 1.
    """

    target: str
    severity: str
    heat: NDArray[np.float32]


@dataclass(frozen=True)
class CropPlace:
    """Which crop: one view of one level, on one side.

    Attributes:
        level, place: names; the place is what the crop is centred on.
        target: name of the grade that the view belongs to.
    """

    level: str
    place: str
    target: str


@dataclass(frozen=True)
class MissingCrop(CropPlace):
    """A crop without a picture.

    Attributes:
        reason: why.
    """

    reason: str


@dataclass(frozen=True, eq=False)
class ExplainedCrop(CropPlace):
    """Where a model looked in a crop.

    Attributes:
        severity: the one explained, an index in `targets.SEVERITIES`: the most probable of the blend.
        slice: the part of the original slice around the crop, of the slice with the greatest attention.
        heat: ``[rows, columns]`` float32 of that part, 0 … 1.
        frame: ``[4, 2]`` column and row of the crop's corners in that part, going round.
        instances, attention: ``[slices]`` of the window's slices that exist, in its order, None where the
            header has no number; they sum to 1.
        pictured: which of these `slice` is of.
    """

    severity: int
    slice: Slice
    heat: NDArray[np.float32]
    frame: Floats
    instances: tuple[int | None, ...]
    attention: tuple[float, ...]
    pictured: int


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a bundle says of one study, and where its models looked; a recipe fills in what it has.

    Attributes:
        study_id: the study.
        probabilities: ``[25, 3]`` calibrated, in the order of `targets.TARGETS`; NaN for targets that
            were not graded.
        notes: what was missing or had to be replaced.
        slice: the one slice that all is read from, as it is stored; its facts are those of
            `baseline.images.middle_slice`. None where there is no such slice.
        heat_maps: over `slice`, of the targets asked for.
        located: slices with the located points.
        crops: of every level, view and side, in that order; by the first model of a blend, the mean over
            its folds' networks.
        models, networks: how many models are blended, and how many networks the first of them has.
    """

    study_id: str
    probabilities: Floats
    notes: tuple[str, ...] = ()
    slice: Slice | None = None
    heat_maps: tuple[HeatMap, ...] = ()
    located: tuple[LocatedSlice, ...] = ()
    crops: tuple[ExplainedCrop | MissingCrop, ...] = ()
    models: int = 1
    networks: int = 1


class Predictor(Protocol):
    """The exported models, ready for inference."""

    batch_size: int
    """Studies that `predict` is best given at once."""

    def predict(self, studies: Sequence[Study]) -> list[Prediction]:
        """Grade some studies; a study that cannot be read gives a reason, not an exception."""
        ...

    def explain(self, study: Study, targets: Sequence[str] | None = None) -> Explanation:
        """Grade one study and show where the models looked; of one that cannot be read, say why.

        Args:
            study: with its series.
            targets: which to draw heat maps of, where that is done for each; by default all.
        """
        ...
