"""Labels that the predictions contradict: candidates for an error of the reader, and for a smaller weight."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lumbar_kaggle.core.targets import SCORE_GROUPS, SEVERITIES, TARGET_NAMES, row_id
from lumbar_kaggle.score.cells import TARGETS_OF, Booleans, Cells, Floats

SUGGESTED_WEIGHT = 0.3
"""Of a contradicted label in a retraining: it still counts, since many of them are right."""

COLUMNS = ("row_id", "label", "probability", "most_probable", "weight")


@dataclass(frozen=True)
class Noise:
    """Contradicted labels.

    Attributes:
        table: `COLUMNS`, most contradicted first: severity names, the predicted probability of the label, and
            the suggested weight; rows that are not in it have weight 1.
        above: a label is contradicted when it differs from its probability by more than this.
        labelled, contradicted: rows per score group.
    """

    table: pd.DataFrame
    above: float
    labelled: dict[str, int]
    contradicted: dict[str, int]

    def text(self) -> str:
        """Return what the command prints."""
        lines = [f"labels that the result contradicts by more than {self.above:g}:"]
        for group, rows in self.labelled.items():
            if rows:
                found = self.contradicted[group]
                lines.append(f"{group:<20}{found:>7} of {rows:>6}{found / rows:>8.1%}")
        return "\n".join(lines)


def find_noise(cells: Cells, probabilities: Floats, above: float) -> Noise:
    """Find the labels whose probability is less than ``1 - above``.

    Args:
        cells: with the labels.
        probabilities: ``[studies, 25, 3]`` predictions that have not seen the labels they are held against.
        above: 0 to 1. Probabilities are taken as they stand, that is, of predictions made for the
            score: raised by the sample weights for moderate and severe.
    """
    scored = (cells.severity >= 0) & np.isfinite(probabilities).all(axis=2)
    grade = np.where(scored, cells.severity, 0)
    given = np.where(scored, np.take_along_axis(probabilities, grade[..., None], axis=2)[..., 0], 1.0)
    contradicted = 1.0 - given > above
    study, target = np.nonzero(contradicted)
    names = np.asarray(SEVERITIES)
    table = pd.DataFrame(
        {
            "row_id": [row_id(cells.studies[s], TARGET_NAMES[t]) for s, t in zip(study, target, strict=True)],
            "label": names[grade[study, target]],
            "probability": given[study, target],
            "most_probable": names[probabilities[study, target].argmax(axis=1)],
            "weight": SUGGESTED_WEIGHT,
        },
        columns=list(COLUMNS),
    )
    return Noise(
        table=table.sort_values("probability", kind="stable", ignore_index=True),
        above=above,
        labelled=_counts(scored),
        contradicted=_counts(contradicted),
    )


def _counts(marked: Booleans) -> dict[str, int]:
    return {
        group: int(marked[:, targets].sum()) for group, targets in zip(SCORE_GROUPS, TARGETS_OF, strict=True)
    }
