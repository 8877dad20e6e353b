"""A study, and what a recipe gives to grade it: a predictor."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import SERIES_DESCRIPTIONS
from lumbar_kaggle.dicom.series import UnreadableSeries, read_headers, read_series
from lumbar_kaggle.dicom.volume import Volume, windowed
from lumbar_kaggle.inference.explanation import Explanation


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
        """Show the middle slice of each series in a notebook, as wide and high as its millimetres ask."""
        figures = []
        for words, row in self._rows():
            try:
                picture = _middle_slice(read_series(Path(row["folder"]), row["files"], row["kind"]))
            except UnreadableSeries as error:
                picture = f"<small>{escape(str(error))}</small>"
            text = escape(f"{words}, series {row['series_id']}")
            figures.append(f'<figure style="margin:4px">{picture}<figcaption>{text}</figcaption></figure>')
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


def _middle_slice(volume: Volume, width: int = 200) -> str:
    """Return an ``<img>`` of the middle slice, windowed to its own intensities."""
    middle = len(volume) // 2
    image = windowed(volume.images[middle], volume.padding[middle] if volume.padding else None)
    down, across = volume.spacing[middle] if np.isfinite(volume.spacing[middle]).all() else (1.0, 1.0)
    aspect = float(np.clip(image.shape[0] * down / (image.shape[1] * across), 0.25, 4))
    picture = cv2.resize(image, (width, round(width * aspect)), interpolation=cv2.INTER_AREA)
    data = base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode()
    return f'<img src="data:image/png;base64,{data}" width="{width}">'


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

    def explain(self, study: Study, targets: Sequence[str] | None = None) -> Explanation:
        """Grade one study and show where the models looked; of one that cannot be read, say why.

        Args:
            study: with its series.
            targets: which to draw heat maps of, where that is done for each; by default all.
        """
        ...
