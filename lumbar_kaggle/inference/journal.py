"""The journal of a prediction: one line per graded study, so that a killed run loses none.

The submission is rewritten now and then, the journal only grows: what a run costs beyond the grading is
proportional to the number of studies. The rows of a submission count as graded by what the journal says, not
by what the submission or its log say, which another run may have begun anew.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.core.files import write_text
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES


@dataclass(frozen=True)
class Graded:
    """One graded study.

    Attributes:
        study_id: its identifier.
        source: fingerprint of its files.
        bundle: fingerprint of the bundle that graded it.
        reason: what was missing, or empty.
        seconds: that it took.
        probabilities: ``[25, 3]`` in the order of `targets.TARGETS`; rows of None keep the prior.
    """

    study_id: str
    source: str
    bundle: str
    reason: str
    seconds: float
    probabilities: list[list[float | None]]

    @property
    def array(self) -> NDArray[np.float64]:
        """The probabilities, NaN for None."""
        return np.array(self.probabilities, dtype=np.float64)


def plain(probabilities: NDArray[np.float64]) -> list[list[float | None]]:
    """Return ``[25, 3]`` as `Graded` holds it."""
    return [[value if np.isfinite(value) else None for value in row] for row in probabilities.tolist()]


class Journal:
    """The journal beside a submission.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, bundle: str, sources: Mapping[str, str], *, anew: bool) -> list[Graded]:
        """Return the studies that the same bundle graded on the same files; all others are dropped.

        Args:
            bundle: its fingerprint.
            sources: per study the fingerprint of its files.
            anew: drop everything.
        """
        lines = [] if anew or not self.path.is_file() else self.path.read_bytes().splitlines()
        # The last line of a killed run may be half of one; any that is damaged is graded anew.
        every = [graded for line in lines if (graded := _parse(line)) is not None]
        kept = {
            one.study_id: one
            for one in every
            if one.bundle == bundle and one.source == sources.get(one.study_id)
        }
        write_text(self.path, "".join(map(_line, kept.values())))
        return list(kept.values())

    def add(self, graded: Iterable[Graded]) -> None:
        """Append studies; they are on the disk when this returns."""
        with self.path.open("ab") as file:
            file.write("".join(map(_line, graded)).encode())
            file.flush()
            os.fsync(file.fileno())


def _line(graded: Graded) -> str:
    return json.dumps(asdict(graded)) + "\n"


def _parse(line: bytes) -> Graded | None:
    """Return the study of a line; None where it is damaged."""
    try:
        graded = Graded(**json.loads(line))
        return graded if graded.array.shape == (len(TARGET_NAMES), len(SEVERITIES)) else None
    except (TypeError, ValueError):
        return None
