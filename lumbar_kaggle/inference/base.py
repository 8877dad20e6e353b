"""A study, what a recipe gives to grade it (a predictor), and what a predictor says: needs no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import AnyPath, as_path, shown
from lumbar_kaggle.core.targets import SERIES_DESCRIPTIONS
from lumbar_kaggle.dicom import series as dicom_series
from lumbar_kaggle.dicom.series import UnreadableSeries, read_headers
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.tables.competition import Competition, read_split

Floats = NDArray[np.float64]


class Study(NamedTuple):
    """One study to grade: its identifier, and its rows of `Competition.series`; pixels are read when needed."""

    study_id: str
    series: pd.DataFrame

    def __repr__(self) -> str:
        """Say what it has: ``Study 4003253: sagittal T1 18 slices, axial T2 43 slices``."""
        words = {kind: text[0].lower() + text[1:] for text, kind in SERIES_DESCRIPTIONS.items()}
        said = []
        for row in self.series.to_dict("records"):
            try:
                count = len(read_headers(as_path(row["folder"]), row["files"], row["kind"])[0])
                slices = f"{count} slice{'s' if count > 1 else ''}"
            except UnreadableSeries:
                slices = "unreadable"
            said.append(f"{words[row['kind']]} {slices}")
        return f"Study {self.study_id}: {', '.join(said) or 'no series'}"

    def _repr_html_(self) -> str:
        """Show the middle slice of each series in a notebook."""
        figures = []
        for row in self.series.to_dict("records"):
            try:
                volume = dicom_series.read_series(as_path(row["folder"]), row["files"], row["kind"])
                figures.append(volume._repr_html_())
            except UnreadableSeries as error:
                figures.append(f"<small>{escape(str(error))}</small>")
        title = f"<b>Study {escape(self.study_id)}</b>"
        return f'{title}<div style="display:flex;flex-wrap:wrap">{"".join(figures)}</div>'


def study_rows(competition: Competition, study_id: str) -> Study:
    """Return one study with its series; raise `InputError` where there is no such study."""
    study_id = shown(study_id)
    if study_id not in competition.studies:
        raise InputError(f"{competition.root}: holds no study {study_id}; the first is {competition.studies[0]}")
    return Study(study_id, competition.series[competition.series["study_id"] == study_id])


def read_study(path: AnyPath, study_id: str = "") -> Study:
    """Read which series a study has; their pixels are read when they are needed. The path is the study's folder, in a
    competition folder or anywhere; or a competition folder (its test split) or a folder of studies. Where that holds
    several, `study_id` names the one wanted; `InputError` where it does not."""
    path = as_path(path)
    split, root = path.parent.name.removesuffix("_images"), path.parent.parent
    if not study_id and (root / f"{split}_series_descriptions.csv").is_file():
        # Of a competition folder: its tables say what the series are.
        return study_rows(read_split(root, split), path.name)
    found = find_studies(path)
    if not study_id and len(found.studies) > 1:
        count, first = len(found.studies), found.studies[0]
        raise InputError(f"{path}: holds {count} studies; name one as study_id, for example {first!r}")
    return study_rows(found, study_id or found.studies[0])


def read_series(path: AnyPath, kind: str = "") -> Volume:
    """Read the slices of one series with their geometry; see `dicom.volume.Volume`. The path is the folder of its files
    or one NIfTI or MetaImage file. Where they are of several series, `kind`, one of `targets.SERIES_KINDS`, tells
    which. Raises `InputError` where no file is a usable slice."""
    try:
        return dicom_series.read_series(as_path(path), kind=kind)
    except UnreadableSeries as error:
        raise InputError(str(error)) from error


class SliceName(NamedTuple):
    """Which slice of a series; what its header does not say is None."""

    number: int | None  # InstanceNumber; of several frames in one file, that of the frame
    position: tuple[float, ...] | None  # LPS mm [3], centre of the first pixel


class LocatedPoint(NamedTuple):
    """Where in the patient a target was looked for."""

    target: str
    place: str
    mm: tuple[float, ...] | None  # LPS [3]; None where the frame, the scale or the side had to be assumed
    confidence: float  # the locator's, 0 … 1
    series_id: str
    slice: SliceName  # the nearest of the series


class UsedView(NamedTuple):
    """The slices that one view of some targets was graded from; without any, why."""

    name: str
    targets: tuple[str, ...]  # that the view is centred on
    series_id: str = ""
    slices: tuple[SliceName, ...] = ()
    reason: str = ""


class Findings(NamedTuple):
    """What a prediction rests on."""

    points: tuple[LocatedPoint, ...] = ()
    views: tuple[UsedView, ...] = ()
    missing: tuple[str, ...] = ()  # a sentence each: what was left out, assumed or replaced


class Prediction(NamedTuple):
    """What a predictor says of one study."""

    probabilities: Floats  # [25, 3] in the order of `targets.TARGETS`, rows sum to 1, or are NaN: it cannot tell
    reason: str  # why it cannot, or what of the study it had to leave out; or empty
    findings: Findings = Findings()


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice as it is stored, or a part of it."""

    image: NDArray[np.uint8]  # [rows, columns], windowed over the series
    # series_id, kind, instance_number, row_mm and column_mm (between rows, between columns); of a located one placed:
    # whether its series knows its place
    facts: dict[str, Any]


@dataclass(frozen=True)
class Mark:
    """A located point seen from a slice."""

    place: str
    level: str
    row: float  # px of the slice; beyond its edges where the point was located outside of the picture
    column: float
    distance_mm: float  # from the slice's plane, 0 or more
    confidence: float  # the locator's, 0 … 1
    point: tuple[float, ...]  # LPS mm [3]; of a series that does not know its place, in the frame assumed for it

    def inside(self, shape: tuple[int, ...]) -> bool:
        """Whether it lies within a picture of so many rows and columns."""
        return -0.5 <= self.row < shape[0] - 0.5 and -0.5 <= self.column < shape[1] - 0.5


@dataclass(frozen=True, eq=False)
class LocatedSlice:
    """The slice nearest to some points of a view, which `views.VIEWS` names, and these points."""

    view: str
    slice: Slice
    marks: tuple[Mark, ...]


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Grad-CAM of one target."""

    target: str
    severity: str  # the one explained: the most probable by the uncalibrated classifiers
    heat: NDArray[np.float32]  # [feature rows, feature columns] over the whole slice, 0 … 1


@dataclass(frozen=True)
class CropPlace:
    """Which crop: one view of one level, on one side."""

    level: str
    place: str  # what the crop is centred on
    target: str  # whose grade the view belongs to


@dataclass(frozen=True)
class MissingCrop(CropPlace):
    """A crop without a picture, and why."""

    reason: str


@dataclass(frozen=True, eq=False)
class ExplainedCrop(CropPlace):
    """Where a model looked in a crop."""

    severity: int  # the one explained, an index in `targets.SEVERITIES`: the most probable of the blend
    series_id: str  # of the slices that it was cut from
    positions: Floats  # [slices, 3] of each of these, see `Volume.positions`
    attention: tuple[float, ...]  # paid to each; they sum to 1
    corners: Floats  # [4, 3] LPS mm, going round from the crop's first pixel along its first row
    heat: NDArray[np.float32]  # [slices, feature rows, feature columns] over the crop, 0 … 1


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a bundle says of one study, and where its models looked; a recipe fills in what it has. The crops are by the
    first model of a blend, the mean over its folds' networks."""

    study_id: str
    probabilities: Floats  # [25, 3] calibrated, in the order of `targets.TARGETS`; NaN where not graded
    notes: tuple[str, ...] = ()  # what was missing or had to be replaced
    slice: Slice | None = None  # the one that all is read from, if there is one; see `baseline.images.study_slice`
    heat_maps: tuple[HeatMap, ...] = ()  # over `slice`, of the targets asked for
    located: tuple[LocatedSlice, ...] = ()
    crops: tuple[ExplainedCrop | MissingCrop, ...] = ()  # of every level, view and side, in that order
    models: int = 1  # that are blended
    networks: int = 1  # of the first of them


class Predictor(Protocol):
    """The exported models, ready for inference."""

    batch_size: int | None  # studies that `predict` is best given at once; None: all that there are

    def predict(self, studies: Sequence[Study]) -> Iterable[Prediction]:
        """Grade some studies, in their order; one that cannot be read gives a reason, not an exception."""

    def explain(self, study: Study, targets: Sequence[str] | None = None) -> Explanation:
        """Grade one study and show where the models looked; of one that cannot be read, say why. Where heat maps are
        drawn of each target, `targets` says of which; by default of all."""
