"""A study's series as its page shows them: all slices with their places in the patient, and what is to be said."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lumbar_kaggle.core.files import as_path
from lumbar_kaggle.core.targets import SERIES_KINDS
from lumbar_kaggle.dicom.geometry import letters
from lumbar_kaggle.dicom.series import UnreadableSeries, read_series
from lumbar_kaggle.dicom.volume import Floats, Volume, to_8bit
from lumbar_kaggle.inference.base import Study
from lumbar_kaggle.pages.pictures import Bytes, aspect_of

HEADROOM = 0.5  # of the models' window, above it: what is white to them can be told apart on the page


@dataclass(frozen=True, eq=False)
class ShownSeries:
    """A series of a study. One that cannot be read has no slices, a kind that the study lacks no name either."""

    series_id: str
    kind: str  # one of `targets.SERIES_KINDS`
    notes: tuple[str, ...]  # what was missing, left out or assumed
    stacks: tuple[Volume, ...] = ()  # `Volume.completed`, with the stored intensities
    window: tuple[float, float] = (0.0, 0.0)  # intensities that are black and white to the models

    @property
    def slices(self) -> list[tuple[Volume, int]]:
        """All slices in the order in which they are scrolled: their stacks, and their indices in these."""
        return [(stack, index) for stack in self.stacks for index in range(len(stack))]

    @property
    def frame(self) -> str:
        """Empty in the frame of the patient; else the series' own, since its slices do not know their place."""
        return "" if all(stack.placed for stack in self.stacks) else self.series_id

    @property
    def top(self) -> float:
        """Intensity that is white in the page's pictures; black is the models'."""
        low, high = self.window
        return high + HEADROOM * (high - low)

    def image(self, number: int, top: float | None = None) -> Bytes:
        """Return a slice ``[rows, columns]`` in 8 bits, from the models' black to the page's white, or to `top`."""
        stack, index = self.slices[number]
        white, mask = self.top if top is None else top, stack.padding[index] if stack.padding else None
        return to_8bit(stack.images[index], self.window[0], white, mask)

    def nearest(self, position: Floats) -> int:
        """Return the number of the slice whose first pixel's centre lies at, or next to, LPS mm ``[3]``."""
        positions = np.concatenate([stack.positions for stack in self.stacks])
        return int(np.linalg.norm(positions - position, axis=1).argmin())


def read_shown(study: Study, folder: Path) -> list[ShownSeries]:
    """Return the series of a study in the order of their kinds, for each kind that it lacks one without slices. What
    cannot be read has none either; it is said why, with paths relative to `folder`."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda row: _read(row, folder), study.series.to_dict("records")))
    there = {one.kind for one in found}
    found += [ShownSeries("", kind, (f"no readable {kind} series",)) for kind in SERIES_KINDS if kind not in there]
    return sorted(found, key=lambda one: (SERIES_KINDS.index(one.kind), not one.stacks))


def _read(row: dict[str, Any], folder: Path) -> ShownSeries:
    name, kind = str(row["series_id"]), str(row["kind"])
    try:
        volume = read_series(as_path(row["folder"]), row["files"], kind)
    except UnreadableSeries as error:
        return ShownSeries(name, kind, (str(error).replace(f"{folder}/", ""),))
    low, high = volume.windowed().window or (0.0, 0.0)
    stacks = tuple(stack.completed() for stack in volume.stacks())
    notes = [note.replace(f"{folder}/", "") for note in volume.notes]
    if not all(stack.placed for stack in stacks):
        notes.append("no position in the headers, assumed")
    if not all(stack.measured for stack in stacks):
        notes.append("no plausible pixel spacing in the headers, spacing assumed")
    return ShownSeries(name, kind, tuple(notes), stacks, (low, high))


def with_notes(found: Sequence[ShownSeries], notes: Iterable[str]) -> tuple[list[ShownSeries], list[str]]:
    """Put what was said of a study at the series that it is of: that begins with ``series`` and its name, says that it
    is taken in another's place, or else names its kind first. Return the series and what is of none."""
    placed: list[list[str]] = [list(one.notes) for one in found]
    rest = []
    for note in notes:
        named = [
            k
            for k, one in enumerate(found)
            if one.series_id and (note.startswith(f"series {one.series_id}: ") or f"; {one.series_id} is taken" in note)
        ]
        # Where the kind is missing, its last one is the one that is not there.
        kinds = sorted((note.find(one.kind), -k) for k, one in enumerate(found) if one.kind in note)
        here = named[0] if named else -kinds[0][1] if kinds else None
        if here is None:
            rest.append(note)
        else:
            placed[here].append(note.removeprefix(f"series {found[here].series_id}: "))
    said = [tuple(dict.fromkeys(mine)) for mine in placed]
    return [replace(one, notes=mine) for one, mine in zip(found, said, strict=True)], rest


def to_json(one: ShownSeries) -> dict[str, Any]:
    """Return a series as the page's script takes it: per stack rows, columns, spacing (mm), orientation and the letters
    at a picture's left, right, upper and lower edge; per slice its stack, instance number and position (LPS mm)."""
    stacks, slices = [], []
    for number, stack in enumerate(one.stacks):
        across, down = stack.orientation[0, :3], stack.orientation[0, 3:]
        edges = [letters(way) for way in (-across, across, -down, down)] if stack.placed else [""] * 4
        shape = {"rows": stack.shape[0], "columns": stack.shape[1], "letters": edges, "measured": stack.measured}
        arrays = {"spacing": stack.spacing[0], "orientation": stack.orientation[0]}
        aspect = aspect_of(stack.shape, *stack.spacing[0])
        stacks.append({**shape, "aspect": aspect, **{name: array.round(6).tolist() for name, array in arrays.items()}})
        places = zip(stack.instance_numbers, stack.positions.round(4).tolist(), strict=True)
        slices += [{"stack": number, "instance": instance, "position": place} for instance, place in places]
    intensities = {"window": one.window, "top": one.top}
    return {"id": one.series_id, "frame": one.frame, "stacks": stacks, "slices": slices, **intensities}
