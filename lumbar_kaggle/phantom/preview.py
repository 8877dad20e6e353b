"""A contact sheet of phantom patients: three of rising degeneration, all planes, with the labelled points."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lumbar_kaggle import intensity
from lumbar_kaggle.errors import InputError
from lumbar_kaggle.files import write_atomic
from lumbar_kaggle.geometry import to_patient, to_slice
from lumbar_kaggle.phantom.imaging import Scan
from lumbar_kaggle.phantom.rendering import Plane
from lumbar_kaggle.phantom.settings import Defects
from lumbar_kaggle.phantom.study import StudyPlan, plan_study
from lumbar_kaggle.phantom.tables import read_study, true_point
from lumbar_kaggle.targets import (
    CONDITIONS,
    LEVELS,
    SEVERITIES,
    TARGETS,
    Target,
    condition_words,
    level_words,
)

Floats = NDArray[np.float64]
Picture = NDArray[np.uint8]

CANDIDATES = 80
"""Patients among whom the three are chosen; the heaviest of so many is seldom without a severe grade."""

SAGITTAL_MM, AXIAL_MM = (200.0, 150.0), (110.0, 110.0)
"""Height and width of the panels: L1 to the sacrum with its surroundings; the canal with its muscles."""
PANEL_PX = 280
"""Height of every panel."""
GAP_PX, HEADER_PX, CAPTION_PX = 4, 44, 52

GREYS = 16
"""Steps of grey in the file."""

SHOWN_MM = 5.0
"""Points further from the shown slice than this belong to another slice and are left out."""

GREY, WHITE = (150, 150, 150), (235, 235, 235)
COLOURS = ((90, 220, 110), (255, 205, 40), (255, 80, 70))
"""RGB of a point graded normal or mild, moderate, severe."""
LETTERS = "NMS"
"""What the caption calls the three severities."""


@dataclass(frozen=True)
class Panel:
    """One picture of a row.

    Attributes:
        title: what stands above the column.
        kind: series kind, one of `targets.SERIES_KINDS`.
        aim: targets; the slice is the one nearest to the mean of their points, which is the panel's middle.
        size_mm: height and width shown.
        shown: score groups whose points are drawn.
    """

    title: str
    kind: str
    aim: tuple[Target, ...]
    size_mm: tuple[float, float]
    shown: tuple[str, ...]


def _levels_of(condition: str) -> tuple[Target, ...]:
    return tuple(target for target in TARGETS if target.condition == condition)


PANELS = (
    Panel("Sagittal T1, middle", "sagittal_t1", _levels_of(CONDITIONS[0]), SAGITTAL_MM, ()),
    Panel(
        "Sagittal T1, left foramina", "sagittal_t1", _levels_of(CONDITIONS[1]), SAGITTAL_MM, ("foraminal",)
    ),
    Panel("Sagittal T2, middle", "sagittal_t2", _levels_of(CONDITIONS[0]), SAGITTAL_MM, ("spinal",)),
    *(
        Panel(
            f"Axial T2, {level_words(level)}",
            "axial_t2",
            (Target(CONDITIONS[0], level),),
            AXIAL_MM,
            ("subarticular",),
        )
        for level in LEVELS[2:]
    ),
)
"""The columns of the sheet."""


def write_preview(path: Path, seed: int = 1) -> Path:
    """Write `contact_sheet` as a PNG.

    Args:
        path: the file; it must end in ``.png``.
        seed: of the patients.

    Returns:
        The file.

    Raises:
        InputError: the file's name ends otherwise, or the seed is below 0.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: the preview is a PNG; give it a name that ends in .png")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the preview another name")
    if seed < 0:
        raise InputError(f"{path}: the seed must be at least 0, not {seed}")
    palette = Image.new("P", (1, 1))
    palette.putpalette(_palette().ravel().tolist())
    # Noise hardly compresses; few colours make a file of a megabyte one of a third of it.
    image = Image.fromarray(contact_sheet(seed)).quantize(palette=palette, dither=Image.Dither.NONE)
    write_atomic(path, lambda temporary: image.save(temporary, "PNG", optimize=True))
    return path


def _palette() -> Picture:
    """Return the file's colours ``[n, 3]`` RGB: greys, and those of the points in three strengths."""
    greys = np.rint(np.linspace(0, 255, GREYS))[:, None].repeat(3, axis=1)
    strengths = [np.array(COLOURS) * strength for strength in (1.0, 0.7, 0.4)]
    return np.concatenate([greys, *strengths]).astype(np.uint8)


def contact_sheet(seed: int = 1) -> Picture:
    """Return the sheet ``[rows, columns, 3]`` uint8 RGB; the same seed gives the same pixels.

    One row per patient of `choose_studies`, one column per entry of `PANELS`, each slice windowed by
    `intensity.window` and cut to the entry's size. A point's colour is its label's; the caption below a row
    holds all 25 labels.
    """
    rows = [_header()]
    for name, study in zip(("Least", "Middling", "Heaviest"), choose_studies(seed), strict=True):
        rows += [_row(study), _caption(name, study)]
    return np.concatenate(rows)


def choose_studies(seed: int, candidates: int = CANDIDATES) -> tuple[StudyPlan, StudyPlan, StudyPlan]:
    """Return the studies with the least, a middling and the greatest sum of severities g.

    Args:
        seed: of the patients.
        candidates: how many of the seed's training studies are looked through.
    """
    studies = [plan_study(seed, "train", index, Defects.clean()) for index in range(candidates)]
    sums = np.array([study.grades.severity.sum() for study in studies])
    # Most patients have little; the median would look like the least.
    middle = (sums.min() + sums.max()) / 2
    least, middling, heaviest = (
        studies[int(k)] for k in (sums.argmin(), np.abs(sums - middle).argmin(), sums.argmax())
    )
    return least, middling, heaviest


def cut_patch(
    image: NDArray[np.uint8] | NDArray[np.uint16],
    plane: Plane,
    point: Floats,
    size_mm: tuple[float, float],
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """Return a rectangle of a slice around a point of the body, interpolated linearly, 0 beyond the border.

    Args:
        image: ``[rows, columns]`` of the slice.
        plane: where the slice lies.
        point: ``[3]`` LPS mm; its projection on the plane is the middle of the patch.
        size_mm: height and width.
        shape: rows and columns of the patch.
    """
    affine = _patch_affine(plane, point, size_mm, shape)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(image.astype(np.float32), affine, shape[::-1], flags=flags)
    return patch.astype(np.float32)


def _patch_affine(
    plane: Plane, point: Floats, size_mm: tuple[float, float], shape: tuple[int, int]
) -> Floats:
    """Return ``[2, 3]``, which turns column and row of the patch into those of the slice."""
    row, column, _ = to_slice(point, plane.position, plane.orientation, plane.spacing)
    down = size_mm[0] / shape[0] / plane.spacing[0]
    across = size_mm[1] / shape[1] / plane.spacing[1]
    return np.array(
        [
            [across, 0.0, column - across * (shape[1] - 1) / 2],
            [0.0, down, row - down * (shape[0] - 1) / 2],
        ]
    )


def _shape(panel: Panel) -> tuple[int, int]:
    return PANEL_PX, round(PANEL_PX * panel.size_mm[1] / panel.size_mm[0])


def _row(study: StudyPlan) -> Picture:
    """Return the pictures of one patient side by side."""
    scan = Scan(study)
    points = list(_labelled_points(study))
    gap = np.zeros((PANEL_PX, GAP_PX, 3), np.uint8)
    parts = []
    for panel in PANELS:
        parts += [_picture(study, scan, panel, points), gap]
    return np.concatenate(parts[:-1], axis=1)


def _picture(study: StudyPlan, scan: Scan, panel: Panel, points: list[tuple[Target, Floats]]) -> Picture:
    """Return one panel with its points."""
    aim = np.array([true_point(study, target) for target in panel.aim])
    number, k = _nearest_slice(study, panel.kind, aim)
    plane, pixels = study.series[number].planes[k], scan.slice(number, k)
    middle = aim.mean(axis=0)
    patch = cut_patch(intensity.window(pixels), plane, middle, panel.size_mm, _shape(panel))
    picture = np.repeat(np.rint(patch).astype(np.uint8)[..., None], 3, axis=2)
    affine = _patch_affine(plane, middle, panel.size_mm, _shape(panel))
    for target, point in points:
        row, column, distance = to_slice(point, plane.position, plane.orientation, plane.spacing)
        if target.score_group in panel.shown and abs(distance) <= SHOWN_MM:
            at = (np.array([column, row]) - affine[:, 2]) / np.diag(affine)
            _mark(picture, study, target, (round(at[0]), round(at[1])))
    return picture


def _nearest_slice(study: StudyPlan, kind: str, points: Floats) -> tuple[int, int]:
    """Return series and plane (indices) of `kind` whose mean distance from points ``[n, 3]`` is least."""
    best, found = np.inf, (0, 0)
    for number, series in enumerate(study.series):
        for k, plane in enumerate(series.planes):
            distance = float(np.abs((points - plane.position) @ plane.normal).mean())
            if series.kind == kind and distance < best:
                best, found = distance, (number, k)
    return found


def _labelled_points(study: StudyPlan) -> Iterator[tuple[Target, Floats]]:
    """Yield target and LPS mm ``[3]`` of every row of the study's coordinate table."""
    targets = {(condition_words(target.condition), level_words(target.level)): target for target in TARGETS}
    for _, series_id, instance, condition, level, x, y in read_study(study).coordinates:
        series = study.series[study.series_ids.index(int(series_id))]
        plane = series.planes[series.numbers.index(int(instance))]
        point = to_patient(float(y), float(x), plane.position, plane.orientation, plane.spacing)
        yield targets[str(condition), str(level)], point


def _label(study: StudyPlan, target: Target) -> int:
    return int(study.grades.labels[CONDITIONS.index(target.condition), LEVELS.index(target.level)])


def _mark(picture: Picture, study: StudyPlan, target: Target, at: tuple[int, int]) -> None:
    """Draw a point in the colour of its label, on sagittal slices with its level, in place."""
    colour = COLOURS[_label(study, target)]
    cv2.circle(picture, at, 4, colour, 1, cv2.LINE_AA)
    if target.side is None or target.score_group == "foraminal":
        text = level_words(target.level), (3, at[1] + 4)
        cv2.putText(picture, *text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 4, cv2.LINE_AA)
        _write(picture, *text, colour)


def _header() -> Picture:
    """Return the titles of the columns and the key to colours and letters."""
    strip = _strip(HEADER_PX)
    left = 0
    for panel in PANELS:
        _write(strip, panel.title, (left + 4, HEADER_PX - 8), WHITE)
        left += _shape(panel)[1] + GAP_PX
    column = 4
    for letter, severity, colour in zip(LETTERS, SEVERITIES, COLOURS, strict=True):
        text = f"{letter}  {severity.replace('_', ' or ')}"
        cv2.circle(strip, (column + 4, 11), 4, colour, 1, cv2.LINE_AA)
        _write(strip, text, (column + 14, 15), colour)
        column += 150
    return strip


def _caption(name: str, study: StudyPlan) -> Picture:
    """Return the strip with all labels of a patient: a column per level, pairs left/right."""
    strip = _strip(CAPTION_PX)
    text = f"{name}: study {study.study_id}, sum of severities {study.grades.severity.sum():.1f}"
    _write(strip, f"{text}; pairs are left/right", (4, 15), GREY)
    letters = np.array(list(LETTERS))[study.grades.labels]
    for k, level in enumerate(LEVELS):
        canal, left_foramen, right_foramen, left_recess, right_recess = letters[:, k]
        text = (
            f"{level_words(level)}  canal {canal}  foramina {left_foramen}/{right_foramen}  "
            f"recesses {left_recess}/{right_recess}"
        )
        _write(strip, text, (4 + k * strip.shape[1] // 5, 34), WHITE)
    return strip


def _strip(height: int) -> Picture:
    width = sum(_shape(panel)[1] + GAP_PX for panel in PANELS) - GAP_PX
    return np.zeros((height, width, 3), np.uint8)


def _write(picture: Picture, text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Write small text whose lower left corner is `at` (column, row), in place."""
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)
