"""A small SVG pen: charts as text in the page, coloured by the page's own style sheet.

A chart in the page's own markup follows its light and dark colours and its font, stays sharp at any
size, takes a few kB, and is the same to the byte for the same numbers; a rendered picture is none of that.
"""

import math
from typing import NamedTuple

from markupsafe import Markup, escape


class Scale(NamedTuple):
    """A linear map from values ``low … high`` to pixels ``start … end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of `value`."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int) -> list[tuple[float, str]]:
        """Return about `count` round values within the scale, with their texts.

        >>> Scale(0.83, 0.98, 0, 1).ticks(3)
        [(0.85, '0.85'), (0.9, '0.90'), (0.95, '0.95')]
        """
        rough = (self.high - self.low) / count
        exponent = math.floor(math.log10(rough))
        factor = next(factor for factor in (1, 2, 5, 10) if factor * 10.0**exponent >= rough * 0.999)
        decimals = max(0, -exponent - (factor == 10))
        step = factor * 10.0**exponent
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        values = [round(index * step, decimals) for index in range(first, last + 1)]
        return [(value, f"{value:.{decimals}f}") for value in values]


def spanning(values: list[float], start: float, end: float, margin: float = 0.06) -> Scale:
    """Return a scale over all finite `values` with a margin at both ends; 0 … 1 without any."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    # A constant has no span of its own; a tenth of it, or of 1, keeps the map finite.
    span = (high - low) or 0.1 * abs(high) or 0.1
    return Scale(low - margin * span, high + margin * span, start, end)


class Drawing:
    """Collects the elements of one chart; classes are those of ``templates/style.css``."""

    def __init__(self, width: float, height: float, text: str) -> None:
        """Begin a drawing of `width` × `height` px; `text` is what a screen reader says of it."""
        self.width, self.height, self.alternative = width, height, text
        self.parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Draw a straight line."""
        self.parts.append(
            f'<line class="{kind}" x1="{_px(x1)}" y1="{_px(y1)}" x2="{_px(x2)}" y2="{_px(y2)}"/>'
        )

    def path(self, points: list[tuple[float, float]], kind: str, *, closed: bool = False) -> None:
        """Draw through `points`; a point that is not finite breaks the line."""
        steps, pen = [], "M"
        for x, y in points:
            if not (math.isfinite(x) and math.isfinite(y)):
                pen = "M"
                continue
            steps.append(f"{pen}{_px(x)} {_px(y)}")
            pen = "L"
        self.parts.append(f'<path class="{kind}" d="{"".join(steps)}{"Z" if closed else ""}"/>')

    def rect(
        self, x: float, y: float, width: float, height: float, kind: str, *, opacity: float = 1.0
    ) -> None:
        """Draw a filled rectangle; a width below 0 becomes 0."""
        faint = "" if opacity >= 1 else f' fill-opacity="{opacity:.2f}"'
        self.parts.append(
            f'<rect class="{kind}" x="{_px(x)}" y="{_px(y)}" width="{_px(max(width, 0))}" '
            f'height="{_px(height)}"{faint}/>'
        )

    def circle(self, x: float, y: float, radius: float, kind: str, title: str = "") -> None:
        """Draw a disc; `title` shows under the pointer."""
        self.parts.append(
            f'<circle class="{kind}" cx="{_px(x)}" cy="{_px(y)}" r="{_px(radius)}">{_title(title)}</circle>'
        )

    def marker(self, x: float, y: float, shape: int, kind: str, title: str = "") -> None:
        """Draw one of three marks that differ without colour: 0 disc, 1 square, 2 triangle."""
        if shape == 0:
            self.circle(x, y, 4, kind, title)
            return
        corners = (
            [(-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)]
            if shape == 1
            else [(0.0, -4.6), (4.4, 3.4), (-4.4, 3.4)]
        )
        points = " ".join(f"{_px(x + across)},{_px(y + down)}" for across, down in corners)
        self.parts.append(f'<polygon class="{kind}" points="{points}">{_title(title)}</polygon>')

    def text(self, x: float, y: float, content: str, kind: str = "", *, anchor: str = "start") -> None:
        """Write `content` with its baseline at `y`; `anchor` is start, middle or end."""
        self.parts.append(
            f'<text class="{kind}" x="{_px(x)}" y="{_px(y)}" text-anchor="{anchor}">{escape(content)}</text>'
        )

    def markup(self) -> Markup:
        """Return the ``<svg>`` element."""
        size = f"{_px(self.width)} {_px(self.height)}"
        head = f'<svg viewBox="0 0 {size}" role="img" aria-label="{escape(self.alternative)}">'
        return Markup(head + "".join(self.parts) + "</svg>")


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""
