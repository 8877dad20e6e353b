"""A phantom before it is written: its label tables against the real ones, and a contact sheet of three patients.

The tables follow from plans, without an image. The real figures were counted in public copies of the competition's."""

import logging
import sys
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from lumbar_kaggle.core import targets
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_atomic
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, SEVERITY_WORDS, TARGETS, condition_words, level_words
from lumbar_kaggle.dicom.geometry import to_patient
from lumbar_kaggle.dicom.volume import windowed
from lumbar_kaggle.phantom.grades import FREQUENCIES, GROUP_OF_TARGET, STANDARD, best_submission, reader_probabilities
from lumbar_kaggle.phantom.imaging import Scan
from lumbar_kaggle.phantom.settings import Floats, PhantomSet
from lumbar_kaggle.phantom.study import StudyPlan, make_table, plan_study, read_study, true_point
from lumbar_kaggle.scoring.metric import NAMES, part_scores, study_sums

log = logging.getLogger(__name__)

# Kind and name of a figure, the real value, the phantom's, and the standard error of that by sampling.
Row = tuple[str, str, float, float, float]

# Pearson correlations of the real labels (0, 1, 2): a level and the next one below, within each condition.
NEXT_LEVEL = (
    (0.365, 0.460, 0.387, 0.186), (0.314, 0.438, 0.455, 0.379), (0.321, 0.389, 0.448, 0.327),
    (0.445, 0.547, 0.468, 0.330), (0.391, 0.475, 0.472, 0.362),
)  # fmt: skip
# Left and right at each level, by the indices of the conditions.
SIDES = {(1, 2): (0.194, 0.284, 0.316, 0.382, 0.413), (3, 4): (0.395, 0.515, 0.608, 0.570, 0.374)}
SIDES_POOLED = {(1, 2): 0.438, (3, 4): 0.582}  # the same over all levels
# Two conditions at the same level, all five levels taken together.
POOLED = {(0, 1): 0.278, (0, 2): 0.284, (0, 3): 0.570, (0, 4): 0.559, (1, 3): 0.396, (2, 4): 0.433}

CELLS = [(condition_words(target.condition), level_words(target.level)) for target in TARGETS]  # in words
SEVERITIES_KIND = "Shares of the severities"


class Tables(NamedTuple):
    """What the tables of n studies hold."""

    labels: Floats  # [n, 25] 0, 1, 2, or NaN without a label
    marked: NDArray[np.bool_]  # [n, 25] where there is a point
    points: pd.DataFrame  # the coordinate table
    latent: Floats  # [n, 5, 5] the true grades


def log_statistics(studies: int, seed: int) -> None:
    """Make the label tables of so many training studies and log them beside the real figures."""
    if studies < 100:
        raise InputError(f"phantom: {studies} studies tell nothing; give --statistics 100 or more")
    plans = (plan_study(PhantomSet(seed=seed), "train", index) for index in range(studies))
    tables = make_tables(tqdm(plans, total=studies, unit="study", desc="tables", file=sys.stderr))
    log.info(statistics_text(figures(tables), studies))
    log.info(scores_text(tables))


def make_tables(studies: Iterable[StudyPlan]) -> Tables:
    """Read studies and return what their tables hold."""
    latent, rows = zip(*((study.grades.latent, read_study(study)) for study in studies), strict=True)
    words, points = (make_table(list(rows), part) for part in ("labels", "coordinates"))
    words = words.set_index("study_id")
    marked = points.value_counts(["study_id", "condition", "level"]).unstack(["condition", "level"])
    has_point = marked.reindex(index=words.index, columns=CELLS).notna().to_numpy()
    severity = {word: grade for grade, word in enumerate(SEVERITY_WORDS)}
    return Tables(words.map(severity.get).to_numpy(np.float64), has_point, points, np.array(latent))


def figures(tables: Tables) -> pd.DataFrame:
    """Return every figure for which a real one is known, with its deviation, also in standard errors."""
    rows = [*_severities(tables.labels), *_correlations(tables.labels), *_others(tables)]
    frame = pd.DataFrame(rows, columns=["kind", "name", "wanted", "found", "error"])
    frame["deviation"] = frame["found"] - frame["wanted"]
    frame["errors"] = frame["deviation"] / frame["error"].where(frame["error"] > 0)
    return frame


def share(values: Floats) -> tuple[float, float]:
    """Return mean and standard error of values ``[n studies, k]`` without NaN; those of one study are dependent."""
    mean = float(np.nanmean(values))
    misses = np.nansum(values - mean, axis=1)
    return mean, float(np.sqrt((misses**2).sum()) / np.isfinite(values).sum())


def correlation(first: Floats, second: Floats) -> tuple[float, float]:
    """Return the Pearson correlation of values ``[n studies, k]`` and its standard error. Pairs with a NaN are left
    out. The error is that of the influence function, for any distribution; the values of one study are dependent."""
    known = ~np.isnan(first) & ~np.isnan(second)
    with np.errstate(invalid="ignore"):  # where all are alike there is no correlation: NaN
        x, y = (np.where(known, (v - v[known].mean()) / v[known].std(), 0.0) for v in (first, second))
    found = float((x * y).sum() / known.sum())
    influence = (x * y - found * (x**2 + y**2) / 2).sum(axis=1)
    return found, float(np.sqrt((influence**2).sum()) / known.sum())


def _severities(labels: Floats) -> Iterator[Row]:
    """Yield 75 shares of severities; the error is that of the wanted share, as a rare one may not occur."""
    for target, own, shares in zip(TARGETS, labels.T[..., None], FREQUENCIES.tolist(), strict=True):
        for severity, (word, wanted) in enumerate(zip(SEVERITY_WORDS, shares, strict=True)):
            found, _ = share(np.where(np.isnan(own), np.nan, own == severity))
            error = float(np.sqrt(wanted * (1 - wanted) / (~np.isnan(own)).sum()))
            yield SEVERITIES_KIND, f"{target.name} {word}", wanted, found, error


def _correlations(labels: Floats) -> Iterator[Row]:
    cells = labels.reshape(-1, 5, 5)
    kind = "Correlations of left and right"
    for (a, b), by_level in SIDES.items():
        name = CONDITIONS[a].replace("left_", "")
        for k, wanted in enumerate(by_level):
            yield kind, f"{name} {LEVELS[k]}", wanted, *correlation(cells[:, a, k, None], cells[:, b, k, None])
        yield kind, f"{name} all levels", SIDES_POOLED[a, b], *correlation(cells[:, a], cells[:, b])
    kind = "Correlations of neighbouring levels"
    for c, condition in enumerate(CONDITIONS):
        for k, wanted in enumerate(NEXT_LEVEL[c]):
            name = f"{condition} {LEVELS[k]} and {LEVELS[k + 1]}"
            yield kind, name, wanted, *correlation(cells[:, c, k, None], cells[:, c, k + 1, None])
    kind = "Correlations of conditions at a level, all levels"
    for (a, b), wanted in POOLED.items():
        yield kind, f"{CONDITIONS[a]} and {CONDITIONS[b]}", wanted, *correlation(cells[:, a], cells[:, b])


def _others(tables: Tables) -> Iterator[Row]:
    labels, lost = tables.labels, np.isnan(tables.labels)
    kind = "Cells without a label"
    for group, (name, wanted) in enumerate(zip(targets.SCORE_GROUPS, (5 / 9875, 50 / 19750, 517 / 19750), strict=True)):
        yield kind, name, wanted, *share(lost[:, group == GROUP_OF_TARGET])
    for k, count in enumerate((325, 164, 5, 5, 18)):
        yield kind, f"subarticular {LEVELS[k]}", count / 3950, *share(lost.reshape(-1, 5, 5)[:, 3:, k])
    kind = "Shares of studies"
    yield kind, "without moderate or severe", 254 / 1975, *share(~np.any(labels > 0, axis=1, keepdims=True))
    canal = labels[:, GROUP_OF_TARGET == 0]
    severe = np.where(np.isnan(canal).all(axis=1), np.nan, (canal == 2).any(axis=1))[:, None]
    yield kind, "with any severe canal", 365 / 1974, *share(severe)
    kind = "Coordinates"
    unmarked = np.where(lost, np.nan, ~tables.marked)
    yield kind, "labelled cells without a point", 170 / 48803, *share(unmarked)
    condition = tables.points["condition"]
    canals = tables.points[condition.str.contains("Canal")].groupby("study_id")
    five = canals.size() == len(LEVELS)
    yield kind, "sagittal T2 series with all five points", 1898 / 1973, *share(_by_study(five))
    one_slice = (canals[["series_id", "instance_number"]].nunique() == 1).all(axis=1)[five]
    yield kind, "five canal points on one slice", 0.78, *share(_by_study(one_slice))
    axial = tables.points[condition.str.contains("Subarticular")].groupby(["study_id", "series_id"])
    five = axial["level"].nunique() == len(LEVELS)
    yield kind, "axial series with all five levels", 1783 / 2339, *share(_by_study(five))


def _by_study(values: pd.Series) -> Floats:
    """Return ``[studies, k]``, filled up with NaN, from values whose index begins with the study."""
    study = values.index.get_level_values("study_id")
    return values.astype(float).set_axis([study, values.groupby("study_id").cumcount()]).unstack().to_numpy()


def statistics_text(found: pd.DataFrame, studies: int) -> str:
    """Return the tables and the largest deviations, which by chance alone are never all small."""
    kinds = {str(kind): group for kind, group in found.groupby("kind", sort=False)}
    columns = pd.MultiIndex.from_product([SEVERITY_WORDS, ["wanted", "found", "errors"]])
    percent = kinds.pop(SEVERITIES_KIND)[["wanted", "found", "errors"]].to_numpy() * [100, 100, 1]
    table = pd.DataFrame(percent.reshape(len(TARGETS), -1), list(targets.TARGET_NAMES), columns)
    parts = [
        f"{studies} studies of this phantom against the 1,975 real ones",
        f"{SEVERITIES_KIND}, %\n{table.to_string(float_format='{:.2f}'.format)}",
    ]
    for kind, group in kinds.items():
        table = group.set_index("name")[["wanted", "found", "deviation", "errors"]]
        parts.append(f"{kind}\n{table.rename_axis(None).to_string(float_format='{:.4f}'.format)}")
    lines = [
        "Largest deviations; errors are standard errors by the sampling of this phantom's studies,",
        "and the real figures have errors of their own, as large as those of 1,975 studies",
    ]
    starts = {SEVERITIES_KIND: "shares of the severities", "Correlations": "correlations", "": "all other figures"}
    titles = found["kind"].map(lambda kind: next(title for start, title in starts.items() if kind.startswith(start)))
    for title, known in found.dropna(subset="errors").groupby(titles, sort=False):
        typical = np.sqrt((known["errors"] ** 2).mean())
        lines.append(f"{title} ({len(known)}; root mean square {typical:.2f} errors):")
        for column in ("deviation", "errors"):
            worst = known.iloc[int(known[column].abs().argmax())]
            lines.append(f"    {abs(worst['deviation']):.4f}, {abs(worst['errors']):.1f} errors: {worst['name']}")
    return "\n\n".join([*parts, "\n".join(lines)])


def scores_text(tables: Tables) -> str:
    """Return a line each for what the oracle and the prior of the real frequencies score on the labels."""
    plain = reader_probabilities(tables.latent, STANDARD)
    prior = np.broadcast_to(best_submission(FREQUENCIES), plain.shape)
    labels = np.nan_to_num(tables.labels, nan=-1).astype(np.int64)
    lines = ["", "Scores on these labels"]
    for name, submitted in (("oracle", best_submission(plain)), ("prior", prior)):
        parts = part_scores(study_sums(submitted, labels).sum(axis=0))
        scores = zip(NAMES, (*parts, parts.mean()), strict=True)
        lines.append(f"{name:<8}" + ", ".join(f"{part} {score:.4f}" for part, score in scores))
    contradicted = 100 * (plain * (plain < 0.15)).sum(axis=2).mean(axis=0)
    by_group = [contradicted[g == GROUP_OF_TARGET].mean() for g in range(3)]
    shares = (f"{name} {share:.1f} %" for name, share in zip(targets.SCORE_GROUPS, by_group, strict=True))
    lines.append("labels that contradict the oracle by more than 0.85: " + ", ".join(shares))
    lines.append("any_severe_spinal is read off the canal rows by a maximum: there the oracle is no strict bound")
    return "\n".join(lines)


# Height and width of the panels: L1 to the sacrum with its surroundings; the canal with its muscles.
SIZES_MM = {"sagittal_t1": (200.0, 150.0), "sagittal_t2": (200.0, 150.0), "axial_t2": (110.0, 110.0)}
SHOWN_MM = 5.0  # points further from the shown slice than this belong to another slice and are left out
# Of a point graded normal or mild, moderate, severe; and what the caption calls the three.
COLOURS, LETTERS = ("#5adc6e", "#ffcd28", "#ff5046"), "NMS"


class Panel(NamedTuple):
    """One picture of a row."""

    title: str  # of the column
    kind: str  # one of `targets.SERIES_KINDS`
    aim: tuple[targets.Target, ...]  # the slice is that nearest to the mean of their points, the panel's middle
    shown: str = ""  # score group whose points are drawn


PANELS = (  # the columns of the sheet
    Panel("Sagittal T1, middle", "sagittal_t1", TARGETS[:5]),
    Panel("Sagittal T1, left foramina", "sagittal_t1", TARGETS[5:10], "foraminal"),
    Panel("Sagittal T2, middle", "sagittal_t2", TARGETS[:5], "spinal"),
    *(Panel(f"Axial T2, {level_words(one.level)}", "axial_t2", (one,), "subarticular") for one in TARGETS[2:5]),
)


def write_preview(path: Path, seed: int = 1, *, varied: bool = False) -> Path:
    """Write `contact_sheet` as a PNG and return the file; an `InputError` if its name does not end in ``.png``."""
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: the preview is a PNG; give it a name that ends in .png")
    # Noise hardly compresses; few colours make a file of a megabyte one of a third of it.
    sheet = Image.fromarray(contact_sheet(seed, varied=varied))
    image = sheet.quantize(64, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    write_atomic(path, lambda temporary: image.save(temporary, "PNG", optimize=True))
    return path


def contact_sheet(seed: int = 1, *, varied: bool = False) -> NDArray[np.uint8]:
    """Return the sheet ``[rows, columns, 3]`` uint8 RGB; the same seed gives the same pixels. One row per patient of
    `choose_studies`, one column per entry of `PANELS`, each slice windowed by `windowed` and cut to the entry's size. A
    point's colour is its label's; the caption below a row holds all 25 labels."""
    figure = Figure((15.0, 10.2), dpi=100, facecolor="black")
    ratios = [width / height for height, width in (SIZES_MM[panel.kind] for panel in PANELS)]
    edges = {"left": 0, "right": 1, "bottom": 0.045, "top": 0.955, "wspace": 0.01, "hspace": 0.19}
    axes = figure.subplots(3, len(PANELS), width_ratios=ratios, gridspec_kw=edges)
    style: dict[str, Any] = {"color": "white", "fontsize": 8}
    for ax, panel in zip(axes[0], PANELS, strict=True):
        ax.set_title(panel.title, loc="left", **style)
    for k, (letter, severity, colour) in enumerate(zip(LETTERS, targets.SEVERITIES, COLOURS, strict=True)):
        text = f"o  {letter}  {severity.replace('_', ' or ')}"
        figure.text(0.003 + 0.1 * k, 0.983, text, **style | {"color": colour})
    chosen = choose_studies(seed, varied=varied)
    for row, name, study in zip(axes, ("Least", "Middling", "Heaviest"), chosen, strict=True):
        scan = Scan(study)
        for ax, panel in zip(row, PANELS, strict=True):
            _draw(ax, panel, study, scan)
        entries = []
        for level, labels in zip(LEVELS, study.grades.labels.T, strict=True):
            canal, *pairs = (LETTERS[label] for label in labels)
            foramina, recesses = "/".join(pairs[:2]), "/".join(pairs[2:])
            entries.append(f"{level_words(level)}  canal {canal}  foramina {foramina}  recesses {recesses}")
        title = f"{name}: study {study.study_id}, sum of severities {study.grades.severity.sum():.1f}"
        caption = f"{title}; pairs are left/right\n" + (" " * 9).join(entries)
        row[0].text(0.02, -0.03, caption, transform=row[0].transAxes, va="top", linespacing=1.5, **style)
    drawn = BytesIO()
    figure.savefig(drawn, format="png")
    return np.asarray(Image.open(drawn).convert("RGB"))


def choose_studies(seed: int, candidates: int = 80, *, varied: bool = False) -> tuple[StudyPlan, StudyPlan, StudyPlan]:
    """Return those of the seed's training studies with the least, a middling, the greatest sum of g."""
    patients = PhantomSet(seed=seed, clean=True, varied=varied)
    studies = [plan_study(patients, "train", index) for index in range(candidates)]
    sums = np.array([study.grades.severity.sum() for study in studies])
    middle = np.abs(sums - (sums.min() + sums.max()) / 2)  # the median would look like the least, as most have little
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
    (high, wide), dark = np.divide(SIZES_MM[panel.kind], 2), {"facecolor": "black", "alpha": 0.5, "pad": 1}
    ax.set(xlim=(-wide, wide), ylim=(high, -high), facecolor="black", xticks=[], yticks=[])
    for _, series_id, instance, condition, level, column_px, row_px in read_study(study).coordinates:
        at = CELLS.index((str(condition), str(level)))
        series = study.series[study.series_ids.index(int(series_id))]
        marked = series.planes[series.numbers.index(int(instance))]
        point = to_patient(float(row_px), float(column_px), marked.position, marked.orientation, marked.spacing)
        if TARGETS[at].score_group == panel.shown and abs(plane.heights(point)) <= SHOWN_MM:
            colour, (x, y) = COLOURS[study.grades.labels.flat[at]], axes @ (point - middle)
            ax.plot(x, y, "o", markersize=6, markerfacecolor="none", color=colour)
            if panel.kind != "axial_t2":
                ax.text(3 - wide, y, str(level), color=colour, fontsize=8, va="center", bbox=dark)
