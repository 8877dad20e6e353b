"""The locator's network: what it is given, and where on a slice it finds each point, or that it does not.

Whichever way slices are stored, sagittal pictures have the back to the right and the foot downwards, axial ones the
patient's left to the right and the back downwards, see `geometry.upright_axes`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.nn import functional

from lumbar_kaggle.dicom import geometry
from lumbar_kaggle.dicom.volume import Floats, Volume
from lumbar_kaggle.training.devices import device_of, half_precision

STRIDE = 2
"""Pixels of the picture per cell of a heat map."""

CHANNELS = {"sagittal": 10, "axial": 2}
"""Outputs of each network: five canal points, then five foramina, L1/L2 first; the left and the right recess."""


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
            row, column = map(float, self.volume.to_slice(self.index, self.point)[:2])
        orientation = self.volume.orientation[self.index]
        stored = orientation.reshape(2, 3)  # where columns grow, where rows grow
        scale = self.volume.spacing[self.index, ::-1] / self.pixel_mm
        linear = np.array(geometry.upright_axes(orientation)) @ stored.T * scale
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


def to_input(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return ``[n, 1, rows, columns]`` float, around -1 to 1, of ``[n, rows, columns]`` uint8."""
    return (torch.from_numpy(np.ascontiguousarray(images)).float() / 255 - 0.3)[:, None] * 2


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
    for batch in torch.split(to_input(np.stack([one.image() for one in pictures])), 16):
        with half_precision(device):
            found = [network.eval()(batch.to(device)).exp() for network in networks]
        parts.append(torch.stack(found).mean(dim=0)[..., :-1].cpu())
    maps: Floats = torch.cat(parts).numpy().astype(np.float64)
    rows, columns = pictures[0].shape
    return maps.reshape(*maps.shape[:2], rows // STRIDE, columns // STRIDE)
