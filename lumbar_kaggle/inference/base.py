"""What inference knows of a recipe: a predictor, and nothing else."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class Study(NamedTuple):
    """One study to grade.

    Attributes:
        study_id: its identifier.
        series: its rows of `competition.Competition.series`.
    """

    study_id: str
    series: pd.DataFrame


class Prediction(NamedTuple):
    """What a predictor says of one study.

    Attributes:
        probabilities: ``[25, 3]`` float64 in the order of `targets.TARGETS`, rows sum to 1; rows of NaN
            where the predictor cannot tell.
        reason: why it cannot, or what of the study it had to leave out; or empty.
    """

    probabilities: NDArray[np.float64]
    reason: str


class Predictor(Protocol):
    """The exported models, ready for inference."""

    batch_size: int
    """Studies that `predict` is best given at once."""

    def predict(self, studies: Sequence[Study]) -> list[Prediction]:
        """Grade some studies; a study that cannot be read gives a reason, not an exception."""
        ...
