"""Heat maps of all slices of a series → its points in the patient, with a confidence each."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.training.devices import half_precision
from lumbar_kaggle.two_stage.locate.chain import best_chain, refine
from lumbar_kaggle.two_stage.locate.config import LocateConfig
from lumbar_kaggle.two_stage.locate.network import STRIDE, Locator
from lumbar_kaggle.two_stage.locate.pictures import from_picture, picture
from lumbar_kaggle.two_stage.locate.points import CANAL, FORAMEN, PLACES, Series

Floats = NDArray[np.float64]

COLUMNS = (
    *("study_id", "series_id", "kind", "place", "level", "instance_number", "slice", "row", "column"),
    *("x_mm", "y_mm", "z_mm", "confidence", "placed"),
)
"""Of the table of located points: `instance_number` is None where the header has none, `slice` an index with
fractions, `row` and `column` are pixels of the stored image, the mm are LPS; where not `placed`, in the frame
that `stacks.Stack` assumes."""


def to_input(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return ``[n, 1, rows, columns]`` float of ``[n, rows, columns]`` uint8."""
    return (torch.from_numpy(np.ascontiguousarray(images)).float() / 255 - 0.3)[:, None] * 2


@torch.inference_mode()
def predict_maps(images: NDArray[np.uint8], networks: Sequence[Locator]) -> Floats:
    """Return the mean of some networks' probabilities ``[n, channels, rows / STRIDE, columns / STRIDE]``.

    What is missing to 1 is the probability that the point is not on the picture.

    Args:
        images: ``[n, rows, columns]``.
        networks: one or more, on one device.
    """
    device = next(networks[0].parameters()).device
    parts = []
    for batch in torch.split(to_input(images), 16):
        with half_precision(device):
            found = [network.eval()(batch.to(device)).exp() for network in networks]
        parts.append(torch.stack(found).mean(dim=0)[..., :-1].cpu())
    maps: Floats = torch.cat(parts).numpy().astype(np.float64)
    return maps.reshape(*maps.shape[:2], images.shape[1] // STRIDE, images.shape[2] // STRIDE)


def locate(series: Series, networks: Sequence[Locator], config: LocateConfig) -> pd.DataFrame:
    """Find the points of one sagittal series.

    Args:
        series: its labelled points are not looked at.
        networks: one per fold that has not seen the study, or all of them for a new one.
        config: of the networks.

    Returns:
        Columns `COLUMNS`; a row per place and level that was found.
    """
    stack = series.stack
    shape = config.picture[0], config.picture[1]
    pictures = [picture(stack, k, shape, config.pixel_mm) for k in range(len(stack))]
    maps = predict_maps(np.stack(pictures), networks)
    cell_mm = STRIDE * config.pixel_mm
    foramina = maps[:, FORAMEN : FORAMEN + 5]
    canal = _chain_of(maps[:, CANAL : CANAL + 5], cell_mm)
    found = [("canal", canal)]
    if len(stack) == 1:
        # The only slice may be one through the foramina, of a side that cannot be told.
        found += [(place, _chain_of(foramina, cell_mm)) for place in PLACES[1:]]
    elif canal:
        # Slices run from the patient's right to the left; a bent spine has another midline at each level.
        beside = np.arange(len(stack))[:, None] - _midline(canal)
        for place, there in (("right foramen", beside < -0.5), ("left foramen", beside > 0.5)):
            found.append((place, _chain_of(foramina * there[:, :, None, None], cell_mm)))
    rows = [row for place, points in found for row in _rows(series, place, points, config)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


Found = list[tuple[float, float, float, float]]
"""Per level: slice, row and column in the heat map, confidence; 0 where no slice shows it."""


def _midline(canal: Found) -> Floats:
    """Return per level ``[5]`` the slice of the canal, with fractions; a faint one like its neighbours'."""
    index, confidence = np.array(canal)[:, [0, 3]].T
    apart = np.abs(np.subtract.outer(np.arange(len(canal)), np.arange(len(canal))))
    weight = np.maximum(confidence, 1e-9) * 0.1**apart
    middle: Floats = weight @ index / weight.sum(axis=1)
    return middle


def _chain_of(maps: Floats, cell_mm: float) -> Found:
    """Return the chain of ``[slices, 5, rows, columns]`` maps; empty where there is none."""
    together = maps.sum(axis=0)
    cells = best_chain(together, cell_mm)
    if cells is None:
        return []
    found = []
    for level, cell in enumerate(cells):
        place, _ = refine(together[level], cell)
        row, column = cell
        near = maps[:, level, max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4].sum(axis=(1, 2))
        peak = int(near.argmax())
        slices = np.arange(len(maps))
        around = np.abs(slices - peak) <= 2
        weight = near * around
        total = max(float(weight.sum()), 1e-9)
        index = float((weight * slices).sum() / total)
        found.append((index, float(place[0]), float(place[1]), min(float(near.max()), 1.0)))
    return found


def _rows(series: Series, place: str, found: Found, config: LocateConfig) -> list[tuple[object, ...]]:
    stack, rows = series.stack, list[tuple[object, ...]]()
    shape = config.picture[0], config.picture[1]
    for level, (index, row, column, confidence) in zip(LEVELS, found, strict=False):
        if confidence == 0:
            continue
        cell = np.array([column, row]) * STRIDE + (STRIDE - 1) / 2
        pixel = from_picture(stack, cell, shape, config.pixel_mm)
        nearest = int(np.clip(round(index), 0, len(stack) - 1))
        below = int(np.clip(np.floor(index), 0, len(stack) - 1))
        above, part = min(below + 1, len(stack) - 1), index - np.floor(index)
        ends = [stack.to_patient(k, pixel[0], pixel[1]) for k in (below, above)]
        point = ends[0] * (1 - part) + ends[1] * part
        place_of = (stack.instance_numbers[nearest], index, float(pixel[0]), float(pixel[1]))
        names = (series.study_id, series.series_id, series.kind, place, level)
        rows.append((*names, *place_of, *(float(value) for value in point), confidence, stack.placed))
    return rows


def study_points(located: pd.DataFrame) -> dict[str, Floats]:
    """Return, per study, its canal points ``[5, 3]`` in LPS mm, the most confident of its sagittal series.

    Series that do not know their place do not count: nothing can be projected from them.
    """
    canal = located[(located["place"] == "canal") & located["placed"].astype(bool)].sort_values("confidence")
    points = {}
    for study, rows in canal.groupby("study_id"):
        best = rows.drop_duplicates("level", keep="last").set_index("level")
        points[str(study)] = best.reindex(LEVELS)[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64)
    return points
