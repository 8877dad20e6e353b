"""Encoders of grey slices: a small network of our own, or one of a library."""

from pathlib import Path

import torch
from torch import nn

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.training.weights import SUFFIXES

OWN = "small_resnet"


def build_encoder(name: str, weights: str = "none") -> tuple[nn.Module, int]:
    """Return an encoder of grey slices `[images, 1, px, px]`, and how many features it gives of each.

    The name is ``small_resnet``, or that of a model of torchvision, or else of timm. For weights see
    `library_models.load_pretrained`; they may also be a folder that holds a file by the model's name. Raises
    `InputError` where there is no such model, or the file does not exist or does not fit.
    """
    folder = Path(weights)
    if weights not in ("none", "auto") and folder.is_dir():
        # A checkpoint may have come back from Kaggle as a folder of its members; that is no file to read.
        weights = next((str(path) for end in SUFFIXES if (path := folder / f"{name}{end}").is_file()), "")
        if not weights:
            raise InputError(
                f"{folder}: holds no weights of {name}; put {name}.safetensors there, or .pth, .pt or .bin"
            )
    encoder: nn.Module
    if name == OWN and weights in ("none", "auto"):
        encoder = SmallResNet()
    else:
        # The libraries take twice as long to import as all that grading by our own networks needs.
        from fastai.vision.learner import TimmBody

        from lumbar_kaggle.training.library_models import build_body, load_pretrained

        encoder = SmallResNet() if name == OWN else build_body(name, 1)
        load_pretrained(encoder, name, weights, "weights are a file, a folder of such files, auto or none")
        if isinstance(encoder, TimmBody):
            encoder = encoder.model
        elif name != OWN:
            encoder = nn.Sequential(encoder, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.inference_mode():
        features = encoder.eval()(torch.zeros(1, 1, 64, 64)).shape[1]
    return encoder.train(), int(features)


class SmallResNet(nn.Module):
    """A residual network of 15 million multiplications at 64 px, for training from scratch on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(1, 16, 2), nn.ReLU(inplace=True))
        steps = ((16, 16, 1), (16, 32, 2), (32, 64, 2), (64, 128, 2))
        self.stages = nn.Sequential(*(_Residual(*step) for step in steps))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features `[images, 128]` of `[images, 1, px, px]`."""
        features: torch.Tensor = self.stages(self.stem(images))
        return features.mean(dim=(2, 3))


def _conv(before: int, after: int, stride: int, size: int = 3) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(after)


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(*_conv(before, after, stride), nn.ReLU(inplace=True), *_conv(after, after, 1))
        self.short: nn.Module = nn.Identity()
        if before != after or stride != 1:
            self.short = nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True), *_conv(before, after, 1, size=1))
        self.last = nn.ReLU(inplace=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.path(features) + self.short(features))
        return out
