"""The locator's network: a small U-Net that gives, per point, where it is on a slice or that it is not."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

STRIDE = 2
"""Pixels of the picture per cell of a heat map."""


class Locator(nn.Module):
    """A U-Net over five scales, from scratch: ImageNet's first layers help little at 1.6 mm a pixel.

    Args:
        channels: of the scales, finest first.
        outputs: points to find.
    """

    def __init__(self, channels: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        widths = (1, *channels)
        self.down = nn.ModuleList(_block(a, b) for a, b in pairwise(widths))
        deepest = channels[-1]
        # Level identity is told from the sacrum, far below the upper discs: a wide view is needed.
        self.wide = nn.Sequential(
            *(_dilated(deepest, rate) for rate in (1, 2, 4)),
        )
        self.up = nn.ModuleList(
            _block(b + a, a) for a, b in zip(channels[-2:0:-1], channels[:1:-1], strict=True)
        )
        self.maps = nn.Conv2d(channels[1], outputs, 1)
        self.absent = nn.Linear(deepest, outputs)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities ``[batch, outputs, cells + 1]``; the last one is "not on this slice".

        Args:
            pictures: ``[batch, 1, rows, columns]`` float, about -1 to 1.
        """
        scales = []
        features = pictures
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
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
        nn.Conv2d(after, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def _dilated(channels: int, rate: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=rate, dilation=rate, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
