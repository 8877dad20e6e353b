"""Pictures of single gradings: the slice and the neighbourhood where a level is, and how that place was found."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.core.files import as_path
from lumbar_kaggle.core.targets import Target, target
from lumbar_kaggle.dicom.geometry import letters
from lumbar_kaggle.dicom.series import UnreadableSeries, read_series
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.inference.base import ExplainedCrop, Explanation, Floats, study_rows
from lumbar_kaggle.inference.bundle import Bundle
from lumbar_kaggle.pages.pictures import aspect_of, picture
from lumbar_kaggle.pages.render import in_words, instance_words
from lumbar_kaggle.tables.competition import Competition

HALF_MM = 40.0  # from the point to the edges of a picture: the levels above and below are on it
WIDTH = 240  # of a picture in px
# Series kind that a score group is graded on first.
KINDS = {"spinal": "sagittal_t2", "foraminal": "sagittal_t1", "subarticular": "axial_t2"}


class _Place(NamedTuple):
    """Part of a slice around a point."""

    image: NDArray[np.uint8]  # [rows, columns]
    point: tuple[float, float] | None  # column and row in it; None: it is the whole slice
    aspect: float  # height of a pixel in widths
    sides: tuple[str, str]  # letters of the left and the right edge
    words: str  # which slice it is
    source: str  # how the place was found


class Pictures:
    """Pictures of gradings from the studies of some splits, and from a bundle that finds places not annotated."""

    def __init__(self, competitions: Sequence[Competition], bundle: Bundle | None = None) -> None:
        self.competitions, self.bundle = competitions, bundle
        self._explained: dict[str, Explanation] = {}

    def of(self, study: str, name: str) -> dict[str, Any]:
        """Return the picture of one target of a study: ``source`` says how its place was found, and ``image`` (a data
        URI), ``width``, ``height``, ``point`` (px), ``sides`` and ``words`` are what is shown. The place is the
        annotated point, or else the one that the bundle's models find; or else it is the middle slice of the series
        that shows the condition best. Where no slice can be read there is only a ``reason``."""
        competition = next((one for one in self.competitions if study in one.studies), None)
        if competition is None:
            return {"reason": "the folder holds no such study"}
        reason = "the study has no series"
        for way in (_annotated, self._located, _middle):
            try:
                if place := way(competition, study, target(name)):
                    return _drawn(place)
            except UnreadableSeries as error:
                reason = str(error).replace(f"{competition.root}/", "")
        return {"reason": reason}

    def _located(self, competition: Competition, study: str, of: Target) -> _Place | None:
        if self.bundle is None:
            return None
        if study not in self._explained:
            self._explained[study] = self.bundle.explain(study_rows(competition, study))
        for crop in self._explained[study].crops:
            if crop.target == of.name and isinstance(crop, ExplainedCrop):
                place = crop.positions[int(np.argmax(crop.attention))]
                volumes = _volumes(competition, study, series_id=crop.series_id)
                stacks = [one.completed() for volume in volumes for one in volume.stacks()]
                stack = min(stacks, key=lambda one: float(_distances(one, place).min()))
                index = int(_distances(stack, place).argmin())
                row, column, _ = stack.to_slice(index, crop.corners.mean(axis=0))
                return _around(stack, index, (float(column), float(row)), "at the located point")
        return None


def _distances(stack: Volume, place: Floats) -> Floats:
    return np.asarray(np.linalg.norm(stack.positions - place, axis=1))


def _annotated(competition: Competition, study: str, of: Target) -> _Place | None:
    marks = competition.coordinates
    mine = (marks["study_id"] == study) & (marks["condition"] == of.condition) & (marks["level"] == of.level)
    for mark in marks[mine].to_dict("records"):
        for volume in _volumes(competition, study, series_id=mark["series_id"]):
            if mark["instance_number"] in volume.instance_numbers:
                index = volume.instance_numbers.index(mark["instance_number"])
                return _around(volume, index, (mark["x"], mark["y"]), "at the annotated point")
    return None


def _middle(competition: Competition, study: str, of: Target) -> _Place | None:
    for kind in sorted(KINDS.values(), key=lambda kind: kind != KINDS[of.score_group]):
        for volume in _volumes(competition, study, kind=kind):
            return _around(volume, len(volume) // 2, None, "the middle slice of its series: the level is not marked")
    return None


def _volumes(competition: Competition, study: str, **chosen: str) -> Iterator[Volume]:
    """Yield the series of a study with one ``series_id`` or ``kind``, in 8 bits."""
    rows = competition.series[competition.series["study_id"] == study]
    for name, value in chosen.items():
        rows = rows[rows[name] == value]
    for row in rows.to_dict("records"):
        yield read_series(as_path(row["folder"]), row["files"], row["kind"]).windowed()


def _around(volume: Volume, index: int, point: tuple[float, float] | None, source: str) -> _Place:
    """Cut a slice to `HALF_MM` around a point (column, row), or to what of that lies within it."""
    image, spacing = np.asarray(volume.images[index]), volume.spacing[index]
    known = bool(np.isfinite(spacing).all())
    aspect = float(spacing[0] / spacing[1]) if known else 1.0
    words = f"{in_words(volume.kind)}, {instance_words(volume.instance_numbers[index])}"
    across = volume.orientation[index, :3]
    sides = (letters(-across)[:1], letters(across)[:1]) if volume.placed else ("", "")
    if point is None:
        return _Place(image, None, aspect, sides, words, source)
    # Without a pixel size, a third of the picture.
    half = HALF_MM / spacing[::-1] if known else np.array(image.shape[::-1]) / 6
    low = np.clip(np.rint(np.array(point) - half), 0, np.array(image.shape[::-1]) - 1).astype(int)
    high = np.maximum(np.rint(np.array(point) + half).astype(int), low + 1)
    part = image[low[1] : high[1], low[0] : high[0]]
    return _Place(part, (point[0] - low[0], point[1] - low[1]), aspect, sides, words, source)


def _drawn(place: _Place) -> dict[str, Any]:
    rows, columns = place.image.shape
    aspect = aspect_of(place.image.shape, place.aspect, 1.0)
    height, point = round(WIDTH * aspect), None
    if place.point is not None:
        x, y = place.point
        point = round((x + 0.5) * WIDTH / columns, 1), round((y + 0.5) * height / rows, 1)
    return {
        "image": picture(place.image, aspect, WIDTH),
        "width": WIDTH,
        "height": height,
        "point": point,
        "sides": place.sides,
        "words": place.words,
        "source": place.source,
    }
