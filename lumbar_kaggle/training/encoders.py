"""Encoders of one-channel slices: a small one of our own, any of torchvision or timm; their weights."""

from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from fastai.vision.learner import _default_meta, create_body, model_meta
from torch import nn

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.training.weights import HUB_ERRORS, State, read_weights, warn_of_hub

OWN = "small_resnet"

TAKEN = "weights are a file, a folder of such files, auto or none"

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""Of the files that are looked for in a folder of weights, the first of them first."""


class SmallResNet(nn.Module):
    """A residual network of 15 million multiplications at 64 px, for training from scratch on a CPU.

    Args:
        width: channels of the first stage; they double three times.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.num_features = 8 * width
        self.stem = nn.Sequential(_conv(1, width, 2), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        sizes = [
            (width, width, 1),
            (width, 2 * width, 2),
            (2 * width, 4 * width, 2),
            (4 * width, 8 * width, 2),
        ]
        self.stages = nn.Sequential(*(_Residual(*size) for size in sizes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features ``[images, num_features]`` of ``[images, 1, px, px]``."""
        features: torch.Tensor = self.stages(self.stem(images))
        return features.mean(dim=(2, 3))


def _conv(before: int, after: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False)


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            _conv(before, after, stride),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            _conv(after, after, 1),
            nn.BatchNorm2d(after),
        )
        plain = before == after and stride == 1
        self.short = (
            nn.Identity()
            if plain
            else nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True),
                nn.Conv2d(before, after, 1, bias=False),
                nn.BatchNorm2d(after),
            )
        )
        self.last = nn.ReLU(inplace=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.path(features) + self.short(features))
        return out


def build_encoder(name: str, weights: str = "none") -> tuple[nn.Module, int]:
    """Return an encoder and how many features it gives.

    Args:
        name: ``small_resnet``, or a model of torchvision, or else of timm.
        weights: ``"none"``; ``"auto"`` for the library's own from its hub or local cache, random ones with a
            warning where that cannot be reached; a file, safetensors or a checkpoint of plain tensors; or a
            folder that holds such a file by the model's name. The first layer's weights are added up over
            the colours.

    Raises:
        InputError: there is no such model, or the file does not exist or does not fit.
    """
    weights = _in_folder(name, weights)
    if name == OWN:
        own = SmallResNet()
        if weights not in ("none", "auto"):
            _load(own, read_weights(Path(weights), TAKEN), weights)
        return own, own.num_features
    if name in torchvision.models.list_models(module=torchvision.models):
        encoder = _torchvision_encoder(name, weights)
    elif timm.is_model(name):
        encoder = _timm_encoder(name, weights)
    else:
        raise InputError(f"backbone {name!r} is neither {OWN} nor a model of torchvision or timm")
    with torch.inference_mode():
        features = encoder.eval()(torch.zeros(1, 1, 64, 64)).shape[1]
    return encoder.train(), int(features)


def _in_folder(name: str, weights: str) -> str:
    """Return the model's file where `weights` is a folder, and `weights` as it is otherwise."""
    folder = Path(weights)
    if weights in ("none", "auto") or not folder.is_dir():
        return weights
    for suffix in SUFFIXES:
        # A checkpoint may have come back from Kaggle as a folder of its members; that is no file to read.
        if (folder / f"{name}{suffix}").is_file():
            return str(folder / f"{name}{suffix}")
    raise InputError(
        f"{folder}: holds no weights of {name}; put {name}.safetensors there, or .pth, .pt or .bin"
    )


def _torchvision_encoder(name: str, weights: str) -> nn.Module:
    create = getattr(torchvision.models, name)
    whole: Any = None
    if weights == "auto":
        whole = _from_hub(name, lambda: create(weights="DEFAULT"))
    elif weights != "none":
        whole = create(weights=None)
        _load(whole, read_weights(Path(weights), TAKEN), weights, classifier=_classifier_keys(name, whole))
    pretrained = whole is not None
    body = create_body(whole if pretrained else create(weights=None), 1, pretrained, _cut(name))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _cut(name: str) -> Any:
    return model_meta.get(getattr(torchvision.models, name), _default_meta)["cut"]


def _classifier_keys(name: str, whole: nn.Module) -> set[str]:
    """Return the names in a torchvision model's state that its body does not have."""
    body = create_body(whole, 3, False, _cut(name))
    kept = {id(tensor) for tensor in (*body.parameters(), *body.buffers())}
    named = (*whole.named_parameters(), *whole.named_buffers())
    return {key for key, tensor in named if id(tensor) not in kept}


def _timm_encoder(name: str, weights: str) -> nn.Module:
    if weights == "auto":
        found = _from_hub(name, lambda: timm.create_model(name, pretrained=True, in_chans=1, num_classes=0))
        if found is not None:
            return found
    model: nn.Module = timm.create_model(name, pretrained=False, in_chans=1, num_classes=0)
    if weights not in ("none", "auto"):
        _load(model, read_weights(Path(weights), TAKEN), weights)
    return model


def _from_hub(name: str, create: Any) -> nn.Module | None:
    try:
        model: nn.Module = create()
    except HUB_ERRORS as error:
        warn_of_hub(name, error)
        return None
    return model


def _load(
    model: nn.Module, state: State, source: str, classifier: frozenset[str] | set[str] = frozenset()
) -> None:
    """Load what a model has of a state; only the classifier may be missing.

    Raises:
        InputError: something else is missing or of another shape.
    """
    own = model.state_dict()
    fitting = {key: _one_channel(value, own[key]) for key, value in state.items() if key in own}
    fitting = {key: value for key, value in fitting.items() if value.shape == own[key].shape}
    lost = sorted(set(own) - set(fitting) - classifier)
    if lost:
        raise InputError(f"{source}: these weights do not fit; {lost[0]} is missing or of another shape")
    model.load_state_dict(fitting, strict=False)


def _one_channel(value: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Add up a first layer's weights over the colours: a grey picture in all three gives the same."""
    if value.dim() == 4 and value.shape[1] == 3 and wanted.shape[1:2] == (1,):
        return value.sum(dim=1, keepdim=True)
    return value
