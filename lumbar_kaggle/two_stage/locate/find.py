"""The locator's network, and the points in the patient that it finds, with a confidence each.

Whichever way slices are stored, sagittal pictures have the back to the right and the foot downwards, axial ones the
patient's left to the right and the back downwards, see `geometry.upright_axes`. Sagittal series give the canal and the
foramina. The axial slices that show a level are found by projection: its canal point, in patient coordinates, is near
the planes of some slices, of whatever axial series and stack. On those a small picture around the projected point is
searched for the two recesses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom import geometry
from lumbar_kaggle.dicom.volume import Floats, Volume
from lumbar_kaggle.training.devices import device_of, half_precision
from lumbar_kaggle.training.weights import load_weights
from lumbar_kaggle.two_stage.config import LocateConfig
from lumbar_kaggle.two_stage.locate.chain import FLOOR, around, best_chain, refine
from lumbar_kaggle.two_stage.study import CANAL, FORAMINA, PLACES, RECESSES, StudyVolumes, to_points

Row = tuple[object, ...]
Spot = tuple[float, float, float, float]  # of a point in a stack's maps slice, row, column with fractions; confidence

# Of the table of located points: `instance_number` is None where the header has none, `slice` an index with fractions,
# `row` and `column` are pixels of the stored image, the mm are LPS; where not `placed`, in the frame that
# `Volume.completed` assumes.
COLUMNS = (
    *("study_id", "series_id", "kind", "place", "level", "instance_number", "slice", "row", "column"),
    *("x_mm", "y_mm", "z_mm", "confidence", "placed"),
)

REACH_MM = 8.0  # slices whose plane is further from the level's point do not show it
# Where a foramen is looked for, projected on the midline: so far down and backwards from the canal's point, and around
# that. On 400 phantom patients 98 in 100 lie within 8 mm of there, and the next level's 29 mm or more away.
FORAMEN_MM, FORAMEN_REACH_MM = (-6.0, -4.0), 18.0
# Tried on pictures of unknown scale, as parts of the assumed one: the spine is looked for at each.
ZOOMS = (0.6, 0.75, 0.9, 1.0, 1.15, 1.35)
BATCH = {"cpu": 8}  # pictures at once: what a core's cache holds
STRIDE = 2  # pixels of the picture per cell of a heat map
# Slices go into pictures by maps in such steps, pixels for each pixel, and around a whole pixel, so that a change in
# the last digits of the geometry, as by 32-bit floats, changes no grey level. A usual spacing never lies between two.
STEP = 2.0**-13

# Outputs of each network: five canal points, then five foramina, L1/L2 first; the left and the right recess.
CHANNELS = {"sagittal": 10, "axial": 2}


@dataclass(frozen=True, eq=False)
class Picture:
    """A slice of a stack in the network's frame: upright in the patient, `shape` (rows, columns) of `pixel_mm` mm. In
    its middle lies the projection of `point` (LPS mm ``[3]``) on the slice; without one the slice's own middle."""

    volume: Volume
    index: int
    shape: tuple[int, ...]
    pixel_mm: float
    point: Floats | None = None

    def affine(self) -> Floats:
        """Return ``[2, 3]``, which takes (column, row, 1) of the slice to column and row of the picture."""
        rows, columns = self.volume.shape
        row, column = (rows - 1) / 2, (columns - 1) / 2
        if self.point is not None:
            row, column = np.round(self.volume.to_slice(self.index, self.point)[:2])
        orientation = self.volume.orientation[self.index]
        stored = orientation.reshape(2, 3)  # where columns grow, where rows grow
        scale = self.volume.spacing[self.index, ::-1] / self.pixel_mm
        linear = np.round(np.array(geometry.upright_axes(orientation)) @ stored.T * scale / STEP) * STEP
        centre = (np.array(self.shape[::-1]) - 1) / 2
        return np.column_stack([linear, centre - linear @ np.array([column, row])])

    def image(self) -> NDArray[np.uint8]:
        """Return ``[rows, columns]`` uint8; 0 outside of the slice."""
        image = np.ascontiguousarray(self.volume.images[self.index])
        scale = self.volume.spacing[self.index] / self.pixel_mm
        if scale.min() < 0.7:  # warpAffine does not average what it leaves out
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.4 / scale[1], sigmaY=0.4 / scale[0]))
        warped = cv2.warpAffine(image, self.affine(), self.shape[::-1], flags=cv2.INTER_LINEAR)
        return np.asarray(warped, dtype=np.uint8)

    def from_slice(self, row: ArrayLike, column: ArrayLike) -> Floats:
        """Return ``[..., 2]`` column and row in the picture of pixels of the slice."""
        matrix = self.affine()
        return np.asarray(np.stack([column, row], axis=-1) @ matrix[:, :2].T + matrix[:, 2])

    def to_slice(self, places: ArrayLike) -> Floats:
        """Return ``[..., 2]`` row and column in the slice of places (column, row) in the picture."""
        matrix = self.affine()
        pixels = (np.asarray(places) - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
        return np.asarray(pixels[..., ::-1])


def to_input(images: torch.Tensor) -> torch.Tensor:
    """Return ``[n, 1, rows, columns]`` float, around -1 to 1, of ``[n, rows, columns]`` of 0 to 255."""
    return (images.float() / 255 - 0.3)[:, None] * 2


class Locator(nn.Module):
    """A U-Net over five scales of `channels`, finest first, that finds `outputs` points. From scratch: ImageNet's first
    layers help little at 1.6 mm a pixel."""

    def __init__(self, channels: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        deepest = channels[-1]
        self.down = nn.ModuleList(_block(a, b) for a, b in pairwise((1, *channels)))
        # Level identity is told from the sacrum, far below the upper discs: a wide view is needed.
        self.wide = nn.Sequential(*(nn.Sequential(*_layer(deepest, deepest, rate)) for rate in (1, 2, 4)))
        self.up = nn.ModuleList(_block(b + a, a) for a, b in zip(channels[-2:0:-1], channels[:1:-1], strict=True))
        self.maps = nn.Conv2d(channels[1], outputs, 1)
        self.absent = nn.Linear(deepest, outputs)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities ``[batch, outputs, cells + 1]``; the last one is "not on this slice"."""
        scales, features = [], pictures
        for index, block in enumerate(self.down):
            features = block(features if index == 0 else functional.max_pool2d(features, 2))
            scales.append(features)
        features = features + self.wide(features)
        absent = self.absent(features.mean(dim=(2, 3)))
        for index, block in enumerate(self.up):
            larger = functional.interpolate(features, scale_factor=2.0, mode="nearest")
            features = block(torch.cat([larger, scales[-2 - index]], dim=1))
        logits = torch.cat([self.maps(features).flatten(2), absent[:, :, None]], dim=2)
        return functional.log_softmax(logits.float(), dim=2)


def _block(before: int, after: int) -> nn.Module:
    return nn.Sequential(*_layer(before, after), *_layer(after, after))


def _layer(before: int, after: int, rate: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(before, after, 3, padding=rate, dilation=rate, bias=False)
    return convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)


@torch.inference_mode()
def predict_maps(pictures: Sequence[Picture], networks: Sequence[Locator]) -> Floats:
    """Return the probabilities ``[n, channels, rows / STRIDE, columns / STRIDE]`` of pictures of one shape. They are
    the mean over the networks, all on one device; what is missing to 1 is that of a point not on the picture."""
    device, parts = device_of(networks[0]), []
    images = torch.from_numpy(np.stack([one.image() for one in pictures]))
    for network in networks:
        network.eval()
    for batch in torch.split(to_input(images).to(device), BATCH.get(device.type, 64)):
        laid_out = batch.contiguous(memory_format=torch.channels_last)
        with half_precision(device):
            found = [network(laid_out).exp_() for network in networks]
        parts.append(torch.stack(found).mean(dim=0)[..., :-1].cpu())
    maps: Floats = torch.cat(parts).numpy().astype(np.float64)
    rows, columns = pictures[0].shape
    return maps.reshape(*maps.shape[:2], rows // STRIDE, columns // STRIDE)


def load_locator(file: Path, config: LocateConfig, outputs: int) -> Locator:
    """Return a trained network, on the CPU; InputError: the file is missing or of another network."""
    network = Locator(config.channels, outputs)
    load_weights(network, file, "run lumbar locate to its end first")
    return network


def locate_studies(
    studies: Sequence[StudyVolumes], sagittal: Sequence[Locator], axial: Sequence[Locator], config: LocateConfig
) -> pd.DataFrame:
    """Return the points that the mean of each plane's networks finds in some studies, columns `COLUMNS`. Without
    networks of a plane nothing of it is found. Marks are not looked at."""
    rows: list[Row] = []
    for study in tqdm(studies, unit="study", desc="locate", disable=len(studies) < 2):
        volumes = study.sagittal() if sagittal else []
        found = [row for volume in volumes for row in locate_sagittal(study.study_id, volume, sagittal, config)]
        rows += found
        if axial and study.axial():
            table = _table(found)
            # From series that do not know their place nothing can be projected.
            canal = to_points(table[(table["place"] == PLACES[CANAL]) & table["placed"].astype(bool)])
            rows += locate_axial(study, canal[study.study_id][CANAL] if canal else _spread(study), axial)
    return _table(rows)


def _table(rows: Sequence[Row]) -> pd.DataFrame:
    # By way of objects: otherwise a missing instance number would turn the others into floats.
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object).infer_objects()


def locate_sagittal(study_id: str, volume: Volume, networks: Sequence[Locator], config: LocateConfig) -> Iterator[Row]:
    """Yield a row per place and level of canal and foramina that is found in a series' largest sagittal stack."""
    cell_mm, tried = STRIDE * config.pixel_mm, []
    for zoom in (1.0,) if volume.measured else ZOOMS:
        pictures = [Picture(volume, k, config.picture, config.pixel_mm * zoom) for k in range(len(volume))]
        canal_maps, foramen_maps = np.split(predict_maps(pictures, networks), 2, axis=1)
        canal = _chain_of(canal_maps, cell_mm)
        score = sum(np.log(max(spot[-1], FLOOR)) for spot in canal) if canal else -np.inf
        tried.append((score, pictures[0], canal, foramen_maps))
    _, picture, canal, foramen_maps = max(tried, key=lambda one: one[0])
    found = [(PLACES[CANAL], canal)]
    if len(volume) == 1:
        # The only slice may be one through the foramina, of a side that cannot be told.
        found += [(place, _chain_of(foramen_maps, cell_mm)) for place in PLACES[FORAMINA]]
    elif canal:
        # Slices run from the patient's right to the left; a bent spine has another midline at each level.
        beside = np.arange(len(volume))[:, None] - _midline(canal)
        own = _near_canal(canal, foramen_maps.shape[-2:], cell_mm)
        for place, there in (("right foramen", beside < -0.5), ("left foramen", beside > 0.5)):
            maps = foramen_maps * there[:, :, None, None]
            found.append((place, _chain_of(maps * own, cell_mm) or _chain_of(maps, cell_mm)))
    for place, spots in found:
        for level, spot in zip(LEVELS, spots, strict=False):
            if spot[-1]:
                yield study_id, volume.series_id, volume.kind, place, level, *_in_patient(picture, spot)


def _near_canal(canal: list[Spot], shape: tuple[int, ...], cell_mm: float) -> NDArray[np.bool_]:
    """Return per level ``[5, rows, columns]`` where its foramina may be by the canal's points, which tell the levels
    best."""
    row, column = np.array(canal)[:, 1:3].T[..., None, None] + np.array(FORAMEN_MM)[:, None, None, None] / cell_mm
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.asarray(np.hypot(y - row, x - column) * cell_mm <= FORAMEN_REACH_MM)


def _midline(canal: list[Spot]) -> Floats:
    """Return per level ``[5]`` the slice of the canal, with fractions; a faint one like its neighbours'."""
    index, confidence = np.array(canal)[:, [0, 3]].T
    apart = np.abs(np.subtract.outer(np.arange(len(canal)), np.arange(len(canal))))
    weight = np.maximum(confidence, 1e-9) * 0.1**apart
    middle: Floats = weight @ index / weight.sum(axis=1)
    return middle


def _chain_of(maps: Floats, cell_mm: float) -> list[Spot]:
    """Return the chain of ``[slices, 5, rows, columns]`` maps; empty where there is none."""
    together = maps.sum(axis=0)
    cells = best_chain(together, cell_mm)
    found, slices = [], np.arange(len(maps))
    for level, cell in enumerate([] if cells is None else cells):
        (row, column), _ = refine(together[level], cell)
        near = maps[:, level, *around(*cell)].sum(axis=(1, 2))
        weight = near * (np.abs(slices - near.argmax()) <= 2)
        index = float((weight * slices).sum() / max(float(weight.sum()), 1e-9))
        found.append((index, float(row), float(column), min(float(near.max()), 1.0)))
    return found


def _in_patient(picture: Picture, spot: Spot) -> Row:
    """Return the columns of a spot from ``instance_number`` on; between two slices its mm are, too."""
    volume, last, (index, *cell, confidence) = picture.volume, len(picture.volume) - 1, spot
    row, column = picture.to_slice(np.array(cell[::-1]) * STRIDE + (STRIDE - 1) / 2).tolist()
    nearest, below = (int(np.clip(round_(index), 0, last)) for round_ in (round, np.floor))
    part = index - np.floor(index)
    ends = [volume.to_patient(k, row, column) for k in (below, min(below + 1, last))]
    point = (ends[0] * (1 - part) + ends[1] * part).tolist()
    return volume.instance_numbers[nearest], index, row, column, *point, confidence, volume.placed


def locate_axial(study: StudyVolumes, centres: Floats, networks: Sequence[Locator]) -> Iterator[Row]:
    """Yield a row per side and level of the recesses that are found in the axial stacks that know their place. Searched
    are the slices near the levels' canal points `centres` ``[5, 3]``, LPS mm, NaN where none."""
    every = [slices_near(study, centre, REACH_MM) for centre in centres]
    if not any(every):
        return
    together = predict_maps([picture for near in every for picture, _ in near], networks)
    ends = np.cumsum([len(near) for near in every])
    for level, near, maps in zip(LEVELS, every, np.split(together, ends[:-1]), strict=True):
        if near:  # maps are [slices, 2, rows, columns]
            # The network knows what a recess looks like, the projection which level it is.
            closeness = np.exp(-0.5 * (np.array([distance for _, distance in near]) / 4.0) ** 2)
            for side, place in enumerate(PLACES[RECESSES]):
                best = int((maps[:, side].sum(axis=(1, 2)) * closeness).argmax())
                picture, level_map = near[best][0], maps[best, side]
                peak = np.array(np.unravel_index(int(level_map.argmax()), level_map.shape))
                (row, column), mass = refine(level_map, peak)
                spot = float(picture.index), float(row), float(column), mass
                series = picture.volume.series_id, picture.volume.kind
                yield study.study_id, *series, place, level, *_in_patient(picture, spot)


def slices_near(study: StudyVolumes, point: Floats, reach_mm: float) -> list[tuple[Picture, float]]:
    """Return pictures around a point of the axial slices whose plane is near it, and their distance in mm. At 1 mm a
    pixel they hold the whole canal, the facet joints and a wrong guess of 15 mm. NaN is near none."""
    return [
        (Picture(volume, k, (96, 96), 1.0, point), float(distance))
        for volume in study.axial()
        for k, distance in enumerate(volume.depth(point))
        if distance <= reach_mm
    ]


def _spread(study: StudyVolumes) -> Floats:
    """Return guessed canal points ``[5, 3]``: the middles of axial slices spread evenly from head to foot."""
    pairs = [(volume, k) for volume in study.axial() for k in range(len(volume))]
    middles = [v.to_patient(k, (v.shape[0] - 1) / 2, (v.shape[1] - 1) / 2) for v, k in pairs]
    centres = np.array(middles)
    wanted = np.linspace(centres[:, 2].max(), centres[:, 2].min(), 2 * len(LEVELS) + 1)[1::2]
    spread: Floats = centres[np.abs(centres[:, 2] - wanted[:, None]).argmin(axis=1)]
    return spread
