"""The four views of a level, and the places in the patient that they are centred on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, TARGETS
from lumbar_kaggle.two_stage.config import GradeConfig

PLACES: tuple[str, ...] = ("canal", "left foramen", "right foramen", "left recess", "right recess")
"""Located in each study at each level; also the order of the network's five outputs per level."""

CANAL, FORAMINA, RECESSES = 0, slice(1, 3), slice(3, 5)
"""Of `PLACES`; the left one first."""

PLACE_OF_CONDITION = dict(zip(CONDITIONS, PLACES, strict=True))

CELLS = ([LEVELS.index(of.level) for of in TARGETS], [PLACES.index(PLACE_OF_CONDITION[of.condition]) for of in TARGETS])
"""Of each target in ``[5 levels, 5 places]``."""


@dataclass(frozen=True)
class View:
    """One kind of picture of a level.

    Attributes:
        name: for tables and files.
        plane: ``"sagittal"`` or ``"axial"``.
        kinds: series kinds to take it from; the next one where the first is missing.
        places: what each side's crop is centred on, the patient's left first; one entry: no sides.
        outputs: indices in `PLACES` of what each side shows.
    """

    name: str
    plane: str
    kinds: tuple[str, ...]
    places: tuple[str, ...]
    outputs: tuple[int, ...]

    @property
    def sides(self) -> int:
        """1, or 2 for a view that is taken on the left and on the right."""
        return len(self.places)


VIEWS = (
    View("canal", "sagittal", ("sagittal_t2", "sagittal_t1"), ("canal",), (0,)),
    View("foramen", "sagittal", ("sagittal_t1", "sagittal_t2"), ("left foramen", "right foramen"), (1, 2)),
    View("axial middle", "axial", ("axial_t2",), ("axial middle",), (0,)),
    View("axial side", "axial", ("axial_t2",), ("left recess", "right recess"), (3, 4)),
)
"""``axial middle`` is the point midway between the two recesses."""


@dataclass(frozen=True)
class Window:
    """What is cached of one view, and what the network gets of it.

    Attributes:
        px, slices: of the network's crop.
        pixel_mm: mm per pixel.
        margin_px, extra: cached around it on each side.
    """

    px: int
    slices: int
    pixel_mm: float
    margin_px: int
    extra: int

    @property
    def cached_px(self) -> int:
        """Side of the cached crop."""
        return self.px + 2 * self.margin_px

    @property
    def cached_slices(self) -> int:
        """Slices of the cached crop."""
        return self.slices + 2 * self.extra


def window(view: View, config: GradeConfig) -> Window:
    """Return a view's sizes by the configuration."""
    number = VIEWS.index(view)
    px = config.sagittal_px if view.plane == "sagittal" else config.axial_px
    pixel_mm = config.size_mm[number] / px
    margin = int(np.ceil(config.margin_mm / pixel_mm))
    return Window(px, config.slices[number], pixel_mm, margin, config.extra_slices)


def with_middle(points: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return the points of every place a view may need.

    Args:
        points: ``[5 places, 5 levels, 3]`` LPS mm in the order of `PLACES`; NaN where not known.

    Returns:
        Per place ``[5 levels, 3]``; the axial middle is the canal's point where a recess is not known.
    """
    named = dict(zip(PLACES, points, strict=True))
    middle = (named["left recess"] + named["right recess"]) / 2
    named["axial middle"] = np.where(np.isnan(middle), named["canal"], middle)
    return named
