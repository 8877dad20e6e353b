"""The charts of the pages: plain numbers in, an inline ``<svg>`` or the lengths of HTML bars out.

Drawings are matplotlib's, in colours that stand for those of ``templates/style.css``: they follow the page's light and
dark colours and its font, and are the same to the byte for the same numbers."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.patches import PathPatch
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D, ScaledTranslation

from lumbar_kaggle.core.targets import SCORE_GROUPS, condition_words, level_words, target
from lumbar_kaggle.pages.render import fixed, target_words

INK, SOFT, RULE, ACCENT, SECOND, CARD = "#000001", "#000002", "#000003", "#000004", "#000005", "#000006"
# What a drawing's colours become: variables of the style sheet.
VARIABLES = {INK: "ink", SOFT: "soft", RULE: "rule", ACCENT: "accent", SECOND: "second", CARD: "card"}
DISC: dict[str, Any] = {"facecolor": ACCENT}
RING: dict[str, Any] = {"facecolor": CARD, "edgecolor": SECOND, "linewidth": 2}
MARKERS = dict(zip(SCORE_GROUPS, ("o", "s", "^"), strict=True))  # of each score group: they differ without colour


def loss_curves(history: pd.DataFrame, title: str) -> Markup:
    """Draw the losses of one target's folds over the epochs. Thin lines are the folds' validation losses, the thick one
    their mean over the epochs that every fold reached (a mean over fewer folds would jump where one stopped early), the
    dashed one the mean training loss; the dot is the least mean validation loss. The history has the columns ``fold,
    epoch, train_loss, valid_loss``; the title is for screen readers."""
    axes = _axes(220, 118, left=32, right=8, top=8, bottom=18)
    reached = history["epoch"] <= history.groupby("fold")["epoch"].max().min()
    mean = history[reached].groupby("epoch")[["train_loss", "valid_loss"]].mean()
    losses = history.pivot(index="epoch", columns="fold", values="valid_loss")
    axes.plot(losses, color=ACCENT, linewidth=0.9, alpha=0.45)
    axes.plot(mean["train_loss"], color=SOFT, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.plot(mean["valid_loss"], color=ACCENT, linewidth=2.2)
    known = mean["valid_loss"].dropna()
    if len(known):
        best, least = known.idxmin(), known.min()
        _dot(axes, best, least, f"epoch {best}: {least:.3f}", facecolor=CARD, linewidth=2)
    axes.set_xlim(1, max(int(history["epoch"].max()), 2))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y", color=RULE)
    return _markup(axes, title)


def paired_dots(honest: "pd.Series[float]", report: "pd.Series[float]", title: str) -> Markup:
    """Draw two shares of 0 … 1 per target on one line: honest a disc, report a ring. Both are indexed by the targets'
    names, in the usual order; the title is for screen readers."""
    places = [target(str(name)) for name in honest.index]
    conditions = [place.condition for place in places]
    # A row and a half for each condition's heading.
    heights = [row + 1.5 * len(set(conditions[: row + 1])) for row in range(len(places))]
    axes = _axes(460, 15 * (heights[-1] + 1) + 18, left=48, right=12, top=0, bottom=18)
    known = [value for value in (*honest, *report) if math.isfinite(value)]
    # Down to a round fifth below the least value, so that differences near 1 stay visible.
    axes.set_xlim(max(math.floor(min(known, default=0) * 5 - 0.1) / 5, 0), 1)
    axes.set_ylim(heights[-1] + 0.7, -0.3)
    axes.set_yticks(heights, [level_words(place.level) for place in places], fontsize=11, color=INK)
    axes.grid(axis="x", color=RULE)
    for place, y, first, second in zip(places, heights, honest, report, strict=True):
        if place.condition not in conditions[: places.index(place)]:
            left, words = ("figure fraction", "data"), condition_words(place.condition)
            axes.annotate(words, (0, y - 1), xycoords=left, color=INK, weight="bold")
        if math.isfinite(first) and math.isfinite(second):
            text = f"{target_words(place.name)}: honest {fixed(first)}, report {fixed(second)}"
            axes.plot([first, second], [y, y], color=SOFT, alpha=0.7, linewidth=1.2)
            _dot(axes, first, y, text)
            _dot(axes, second, y, text, **RING)
    return _markup(axes, title)


def accuracy_scatter(latest: "pd.Series[float]", best: "pd.Series[float]") -> Markup:
    """Draw latest (x) against best (y) accuracy, each indexed by target: a mark per target, shaped by score group."""
    axes = _axes(280, 290, left=40, right=8, top=12, bottom=54)
    axes.update_datalim([*zip(latest, best, strict=True), *zip(best, latest, strict=True)])
    axes.autoscale_view()
    axes.plot([0, 1], [0, 1], color=SOFT, alpha=0.7, linewidth=1.2, transform=axes.transAxes)
    axes.grid(color=RULE)
    for name, x, y in zip(map(str, latest.index), latest, best, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            text = f"{target_words(name)}: latest {fixed(x)}, best {fixed(y)}"
            _dot(axes, x, y, text, marker=MARKERS[target(name).score_group])
    axes.annotate("latest accuracy →", (0.5, 0.09), xycoords="figure fraction", color=SOFT, ha="center")
    axes.annotate("best ↑", (0, 0.97), xycoords="figure fraction", color=SOFT)
    for index, (group, marker) in enumerate(MARKERS.items()):
        left = 0.16 + 0.29 * index
        _dot(axes, left, 0.03, group, marker=marker, within=axes.figure.transFigure)
        axes.annotate(group, (left + 0.04, 0.02), xycoords="figure fraction", color=INK)
    return _markup(axes, "Latest against best accuracy of each target")


def interval_dots(rows: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], title: str, chance: float) -> Markup:
    """Draw a share of 0 … 1 with its interval on each line: the first file's a disc, the second's, if there is one, a
    ring below. Rows are words and figures ``value, low, high``, as `scoring.evaluation` has them; where the value is
    None its reason stands. The stroke is at `chance`, what knowing nothing gives."""
    axes = _axes(360, 20 * len(rows) + 22, left=124, right=12, top=2, bottom=20)
    known = [one["low"] for _, figures in rows for one in figures if one["value"] is not None]
    axes.set_xlim(min(math.floor(min(known, default=chance) * 10) / 10, chance), 1)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [words for words, _ in rows], fontsize=11, color=INK)
    axes.grid(axis="x", color=RULE)
    axes.plot([chance, chance], [-0.5, len(rows) - 0.5], color=SOFT, linewidth=1.2, linestyle=(0, (4, 3)))
    for y, (words, figures) in enumerate(rows):
        for place, one in enumerate(figures):
            if one["value"] is None:
                if place == 0:  # once for both files
                    said, middle = one["reason"].split(":")[0], ("axes fraction", "data")
                    axes.annotate(said, (0.5, y), xycoords=middle, color=SOFT, ha="center", va="center_baseline")
                continue
            height = y + (0.0 if len(figures) == 1 else (-0.17, 0.17)[place])
            axes.plot([one["low"], one["high"]], [height, height], color=(ACCENT, SECOND)[place], linewidth=1.6)
            text = f"{words}: {fixed(one['value'])} ({fixed(one['low'])} to {fixed(one['high'])})"
            _dot(axes, one["value"], height, text, **(DISC, RING)[place])
    return _markup(axes, title)


def calibration_curves(curves: Sequence[Sequence[Mapping[str, Any]]], title: str) -> Markup:
    """Draw how often something was so (y) where it was given a probability (x), 0 … 1: the first curve as discs, the
    second as rings, each with the interval of its share. Curves are bins as `scoring.evaluation` has them, of which
    those without a share are left out; on the dashed line what is said is what is seen."""
    axes = _axes(230, 236, left=32, right=10, top=10, bottom=34)
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.grid(color=RULE)
    for curve, colour, look in zip(curves, (ACCENT, SECOND), (DISC, RING), strict=False):
        known = [
            (one["predicted"], one["observed"], one["rows"]) for one in curve if one["observed"]["value"] is not None
        ]
        axes.plot([x for x, *_ in known], [seen["value"] for _, seen, _ in known], color=colour, linewidth=1, alpha=0.6)
        for x, seen, rows in known:
            axes.plot([x, x], [seen["low"], seen["high"]], color=colour, linewidth=1.2)
            text = f"said {fixed(x, 2)}, seen {fixed(seen['value'], 2)} of {fixed(rows, 0)}"
            _dot(axes, x, seen["value"], text, **look)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])
    axes.annotate("probability →", (0.57, 0.02), xycoords="figure fraction", color=SOFT, ha="center")
    return _markup(axes, title)


def bar_rows(
    values: "pd.Series[float]", *, high: float | None = None, marks: "pd.Series[float] | None" = None
) -> list[dict[str, Any]]:
    """Return what the macro ``target_bars`` shows: of each target ``condition, level, value, share, mark``. Values are
    numbers of 0 or more, indexed by target in the usual order; `marks` are second ones, shown as strokes across the
    bars. Shares and marks are shares of a full bar, which is `high` or the greatest value, or None."""
    full = high or values.max() or 1.0
    table = pd.DataFrame({"value": values, "share": values / full, "mark": math.nan if marks is None else marks / full})
    places = pd.DataFrame([target(str(name)) for name in values.index], index=values.index)
    rows: Any = places.join(table.astype(object).where(table.notna(), None)).to_dict("records")
    return list(rows)


def _axes(width: float, height: float, *, left: float, right: float, top: float, bottom: float) -> Axes:
    """Return the axes of a new figure of so many px, with fixed margins: they depend on no font."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    frame = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    axes = figure.add_axes(frame)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=4, labelsize=10, labelcolor=SOFT)
    axes.ticklabel_format(style="plain", useOffset=False)
    axes.set_axisbelow(True)
    return axes


def _dot(axes: Axes, x: float, y: float, text: str, *, marker: str = "o", within: Any = None, **style: Any) -> None:
    """Draw one mark with a text under the pointer; a patch, as matplotlib refers to markers by their ids."""
    kind = MarkerStyle(marker)
    shape = kind.get_path().transformed(kind.get_transform())
    frame: Any = within or axes.transData
    place = Affine2D().scale(7) + ScaledTranslation(x, y, frame)
    looks = {"facecolor": ACCENT, "edgecolor": ACCENT, "linewidth": 1, "zorder": 3, **style}
    axes.add_patch(PathPatch(shape, transform=place, gid=f"text:{text}", **looks))


def _markup(axes: Axes, title: str) -> Markup:
    """Return the ``<svg>`` element, without anything that would reach beyond it in the page."""
    figure: Any = axes.figure
    for artist in figure.findobj():
        artist.set_clip_on(False)
    written, nothing = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    text = written.getvalue()
    size = re.search(r'viewBox="[^"]*"', text)[0]  # type: ignore[index]
    body = text[text.index("</defs>") + len("</defs>") :]
    body = re.sub(r'<g id="text:([^"]+)">', r"<g><title>\1</title>", body)
    body = re.sub(r' id="[^"]*"|<!--.*?-->| font-family:[^;]*;| transform="rotate\(-0[^"]*"', "", body)
    # Before 3.11 the font is one property, which names matplotlib's own family.
    body = re.sub(r"font: (?:(\w+) )?([\d.]+px) [^;]*", r"font-weight: \1; font-size: \2", body)
    body = re.sub(r' d="[^"]*"', lambda path: re.sub(r"\d+\.\d+", lambda one: f"{float(one[0]):.1f}", path[0]), body)
    body = re.sub(r"\s*\n\s*", " ", body)
    for colour, name in VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    return Markup(f'<svg {size} role="img" aria-label="{escape(title)}">{body}')
