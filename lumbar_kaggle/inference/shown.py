"""What the pages show of a graded study, as plain arrays: needs no torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.inference.points import Floats, LocatedSlice, Slice


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


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a bundle says of one study; on its own, of one that could not be read.

    Attributes:
        study_id: the study.
        probabilities: ``[25, 3]`` calibrated, in the order of `targets.TARGETS`; NaN for targets that
            were not graded.
        notes: what was missing or had to be replaced.
    """

    study_id: str
    probabilities: Floats
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class BaselineExplanation(Explanation):
    """What the baseline says of one study, and where its classifiers looked.

    Attributes:
        facts: of the slice: ``series_id``, ``instance_number``, ``slices``, spacing and size.
        image: ``[rows, columns]`` uint8, the slice as stored, windowed.
        heat_maps: of the targets asked for; the others are not graded.
    """

    facts: dict[str, object]
    image: NDArray[np.uint8]
    heat_maps: tuple[HeatMap, ...]


@dataclass(frozen=True)
class Shown:
    """One view of one level.

    Attributes:
        level, place: names; the place is what the crop is centred on.
        output: index in `views.PLACES` of the grade that the view belongs to.
    """

    level: str
    place: str
    output: int


@dataclass(frozen=True)
class Unseen(Shown):
    """A view without a picture.

    Attributes:
        reason: why.
    """

    reason: str


@dataclass(frozen=True, eq=False)
class Looked(Shown):
    """Where a model looked in a view.

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
class TwoStageExplanation(Explanation):
    """What a two-stage bundle says of one study, and where it looked.

    Attributes:
        located: slices with the located points.
        looked: of every level, view and side, in that order; by the first model of the blend, the mean over
            its folds' networks.
        models, networks: how many models the blend has, and how many networks the first of them.
    """

    located: tuple[LocatedSlice, ...]
    looked: tuple[Looked | Unseen, ...]
    models: int
    networks: int
