"""Slices with something drawn over them: JPEG pixels below, sharp marks and words above."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from lumbar_kaggle.pages.pictures import overlay_picture, picture_size, slice_picture
from lumbar_kaggle.pages.render import in_words, percent
from lumbar_kaggle.pages.svg import Drawing
from lumbar_kaggle.targets import level_words

if TYPE_CHECKING:
    from lumbar_kaggle.explain.points import LocatedSlice, Slice
    from lumbar_kaggle.explain.shown import Looked

FAR_MM = 6.0
"""Points further than this from the slice's plane are drawn dashed: they do not lie in the picture."""


def marked_slice(located: "LocatedSlice", width: int) -> Markup:
    """Draw a slice with its located points, each ringed and named.

    Args:
        located: the slice; points beyond its edges are not drawn.
        width: in px.
    """
    shown = located.slice
    drawing = _over(slice_picture(shown.image, shown.facts, width), shown, width, _words(shown))
    across, down = drawing.width / shown.image.shape[1], drawing.height / shown.image.shape[0]
    for mark in located.marks:
        if not mark.inside(shown.image.shape):
            continue
        x, y = (mark.column + 0.5) * across, (mark.row + 0.5) * down
        axial = located.view == "axial side"
        name = mark.place.split()[0] if axial else level_words(mark.level)
        told = f"{mark.place} {level_words(mark.level)}: confidence {percent(mark.confidence)}"
        ring = "ring far" if mark.distance_mm > FAR_MM else "ring"
        drawing.circle(x, y, 5, ring, f"{told}, {mark.distance_mm:.1f} mm from this slice")
        # Outwards, so that two names never meet in the middle.
        outside = axial and x < drawing.width / 2
        level = min(max(y + 4, 11), drawing.height - 4)
        drawing.text(x - 9 if outside else x + 9, level, name, "over", anchor="end" if outside else "start")
    return drawing.markup()


def looked_slice(looked: "Looked", width: int) -> Markup:
    """Draw the part of a slice around a crop under its heat map, the crop's outline over it."""
    shown = looked.slice
    picture = overlay_picture(shown.image, looked.heat, shown.facts, width)
    words = f"Grad-CAM of {looked.place} {level_words(looked.level)}, {_words(shown)}"
    drawing = _over(picture, shown, width, words)
    across, down = drawing.width / shown.image.shape[1], drawing.height / shown.image.shape[0]
    corners = [((column + 0.5) * across, (row + 0.5) * down) for column, row in looked.frame.tolist()]
    drawing.path(corners, "outline", closed=True)
    return drawing.markup()


def _over(picture: str, shown: "Slice", width: int, words: str) -> Drawing:
    drawing = Drawing(*picture_size(shown.image.shape, shown.facts, width), words)
    drawing.image(picture)
    return drawing


def _words(shown: "Slice") -> str:
    return f"{in_words(str(shown.facts['kind']))}, instance {shown.facts['instance_number']}"
