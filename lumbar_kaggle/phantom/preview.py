"""A contact sheet of phantom patients: three of rising degeneration, all planes, with the labelled points."""

from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_atomic
from lumbar_kaggle.core.targets import LEVELS, SEVERITIES, TARGETS, Target, condition_words, level_words
from lumbar_kaggle.dicom.geometry import to_patient
from lumbar_kaggle.dicom.volume import windowed
from lumbar_kaggle.phantom.imaging import Scan
from lumbar_kaggle.phantom.settings import Defects
from lumbar_kaggle.phantom.study import StudyPlan, plan_study
from lumbar_kaggle.phantom.tables import read_study, true_point

# Height and width of the panels: L1 to the sacrum with its surroundings; the canal with its muscles.
SAGITTAL_MM, AXIAL_MM = (200.0, 150.0), (110.0, 110.0)
SHOWN_MM = 5.0  # points further from the shown slice than this belong to another slice and are left out
COLOURS, LETTERS = ("#5adc6e", "#ffcd28", "#ff5046"), "NMS"
"""Of a point graded normal or mild, moderate, severe; and what the caption calls the three."""


class Panel(NamedTuple):
    """One picture of a row."""

    title: str  # of the column
    kind: str  # one of `targets.SERIES_KINDS`
    aim: tuple[Target, ...]  # the slice is that nearest to the mean of their points, the panel's middle
    size_mm: tuple[float, float]  # height and width shown
    shown: str = ""  # score group whose points are drawn


PANELS = (
    Panel("Sagittal T1, middle", "sagittal_t1", TARGETS[:5], SAGITTAL_MM),
    Panel("Sagittal T1, left foramina", "sagittal_t1", TARGETS[5:10], SAGITTAL_MM, "foraminal"),
    Panel("Sagittal T2, middle", "sagittal_t2", TARGETS[:5], SAGITTAL_MM, "spinal"),
    *(
        Panel(f"Axial T2, {level_words(target.level)}", "axial_t2", (target,), AXIAL_MM, "subarticular")
        for target in TARGETS[2:5]
    ),
)
"""The columns of the sheet."""


def write_preview(path: Path, seed: int = 1) -> Path:
    """Write `contact_sheet` as a PNG and return the file; an `InputError` if its name does not end in ``.png``."""
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: the preview is a PNG; give it a name that ends in .png")
    # Noise hardly compresses; few colours make a file of a megabyte one of a third of it.
    sheet = Image.fromarray(contact_sheet(seed))
    image = sheet.quantize(64, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    write_atomic(path, lambda temporary: image.save(temporary, "PNG", optimize=True))
    return path


def contact_sheet(seed: int = 1) -> NDArray[np.uint8]:
    """Return the sheet ``[rows, columns, 3]`` uint8 RGB; the same seed gives the same pixels.

    One row per patient of `choose_studies`, one column per entry of `PANELS`, each slice windowed by `windowed` and cut
    to the entry's size. A point's colour is its label's; the caption below a row holds all 25 labels.
    """
    figure = Figure((15.0, 10.2), dpi=100, facecolor="black")
    axes = figure.subplots(
        3,
        len(PANELS),
        width_ratios=[panel.size_mm[1] / panel.size_mm[0] for panel in PANELS],
        gridspec_kw={"left": 0, "right": 1, "bottom": 0.045, "top": 0.955, "wspace": 0.01, "hspace": 0.19},
    )
    style: dict[str, Any] = {"color": "white", "fontsize": 8}
    for ax, panel in zip(axes[0], PANELS, strict=True):
        ax.set_title(panel.title, loc="left", **style)
    for k, (letter, severity, colour) in enumerate(zip(LETTERS, SEVERITIES, COLOURS, strict=True)):
        text = f"o  {letter}  {severity.replace('_', ' or ')}"
        figure.text(0.003 + 0.1 * k, 0.983, text, **style | {"color": colour})
    for row, name, study in zip(axes, ("Least", "Middling", "Heaviest"), choose_studies(seed), strict=True):
        scan = Scan(study)
        for ax, panel in zip(row, PANELS, strict=True):
            _draw(ax, panel, study, scan)
        caption = _caption(name, study)
        row[0].text(0.02, -0.03, caption, transform=row[0].transAxes, va="top", linespacing=1.5, **style)
    drawn = BytesIO()
    figure.savefig(drawn, format="png")
    return np.asarray(Image.open(drawn).convert("RGB"))


def choose_studies(seed: int, candidates: int = 80) -> tuple[StudyPlan, StudyPlan, StudyPlan]:
    """Return those of the seed's training studies with the least, a middling, the greatest sum of g."""
    studies = [plan_study(seed, "train", index, Defects.clean()) for index in range(candidates)]
    sums = np.array([study.grades.severity.sum() for study in studies])
    # Most patients have little; the median would look like the least.
    middle = np.abs(sums - (sums.min() + sums.max()) / 2)
    return studies[int(sums.argmin())], studies[int(middle.argmin())], studies[int(sums.argmax())]


def _draw(ax: Axes, panel: Panel, study: StudyPlan, scan: Scan) -> None:
    """Draw one slice, in mm from the middle of what the panel aims at, with the reader's points near it."""
    aim = np.array([true_point(study, target) for target in panel.aim])
    places, distances = study.slices(panel.kind, aim)
    number, k = places[distances.mean(axis=1).argmin()]
    plane, middle = study.series[number].planes[k], aim.mean(axis=0)
    axes = plane.orientation.reshape(2, 3)  # to the right and down in the image
    (down, across), (rows, columns) = plane.spacing, plane.shape
    left, top = axes @ (plane.position - middle) - np.array([across, down]) / 2
    extent = left, left + columns * across, top + rows * down, top
    ax.imshow(windowed(scan.slice(number, k)), "gray", vmin=0, vmax=255, extent=extent, interpolation="bilinear")
    (high, wide), dark = np.divide(panel.size_mm, 2), {"facecolor": "black", "alpha": 0.5, "pad": 1}
    ax.set(xlim=(-wide, wide), ylim=(high, -high), facecolor="black", xticks=[], yticks=[])
    places_of = {(condition_words(target.condition), level_words(target.level)): k for k, target in enumerate(TARGETS)}
    for _, series_id, instance, condition, level, column_px, row_px in read_study(study).coordinates:
        at = places_of[str(condition), str(level)]
        series = study.series[study.series_ids.index(int(series_id))]
        marked = series.planes[series.numbers.index(int(instance))]
        point = to_patient(float(row_px), float(column_px), marked.position, marked.orientation, marked.spacing)
        if TARGETS[at].score_group == panel.shown and abs(plane.heights(point)) <= SHOWN_MM:
            colour, (x, y) = COLOURS[study.grades.labels.flat[at]], axes @ (point - middle)
            ax.plot(x, y, "o", markersize=6, markerfacecolor="none", color=colour)
            if panel.kind != "axial_t2":
                ax.text(3 - wide, y, str(level), color=colour, fontsize=8, va="center", bbox=dark)


def _caption(name: str, study: StudyPlan) -> str:
    """Return all labels of a patient: an entry per level, pairs left/right."""
    entries = []
    for level, labels in zip(LEVELS, study.grades.labels.T, strict=True):
        canal, *pairs = (LETTERS[label] for label in labels)
        foramina, recesses = "/".join(pairs[:2]), "/".join(pairs[2:])
        entries.append(f"{level_words(level)}  canal {canal}  foramina {foramina}  recesses {recesses}")
    title = f"{name}: study {study.study_id}, sum of severities {study.grades.severity.sum():.1f}"
    return f"{title}; pairs are left/right\n" + (" " * 9).join(entries)
