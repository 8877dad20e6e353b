"""Encoders of torchvision and timm, and a small one of our own; their first weights."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from fastai.vision.learner import TimmBody, _default_meta, add_head, create_body, default_split, model_meta
from fastai.vision.learner import num_features_model as count_features
from torch import nn

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.training.weights import State, read_weights, warn_of_hub

OWN = "small_resnet"

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""Of the files that are looked for in a folder of weights, the first of them first."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

HUB_ERRORS = (OSError, RuntimeError)
"""What a hub's client raises without a network: URLError, ConnectionError, LocalEntryNotFoundError."""


@dataclass(frozen=True, eq=False)
class Network:
    """A classifier and what must travel with it.

    Attributes:
        model: ``model[0]`` is the body, ``model[1]`` fastai's head; takes float ``[images, 3, rows,
            columns]`` normalised by `mean` and `std`, gives logits ``[images, outputs]``.
        split: cuts the parameters into groups for discriminative learning rates.
        mean, std: three values each, for images in 0 … 1.
    """

    model: nn.Sequential
    split: Callable[[nn.Module], Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def build_network(name: str, outputs: int = 3) -> Network:
    """Build an untrained classifier of colour pictures.

    Args:
        name: of a torchvision model, or else of a timm one.
        outputs: logits per image.

    Raises:
        InputError: no library has a model of that name.
    """
    body = build_body(name, 3)
    if isinstance(body, TimmBody):
        settings = body.model.default_cfg
        model = add_head(body, body.model.num_features, outputs, pool=body.needs_pool)
        return Network(model, default_split, tuple(settings["mean"]), tuple(settings["std"]))
    model = add_head(body, count_features(nn.Sequential(*body.children())), outputs)
    return Network(model, _meta(name)["split"], IMAGENET_MEAN, IMAGENET_STD)


def build_encoder(name: str, weights: str = "none") -> tuple[nn.Module, int]:
    """Return an encoder of grey slices ``[images, 1, px, px]``, and how many features it gives of each.

    Args:
        name: ``small_resnet``, or a model of torchvision, or else of timm.
        weights: see `load_pretrained`; or a folder that holds a file by the model's name.

    Raises:
        InputError: there is no such model, or the file does not exist or does not fit.
    """
    weights = _in_folder(name, weights)
    if name == OWN:
        encoder: nn.Module = SmallResNet()
        weights = "none" if weights == "auto" else weights
    else:
        encoder = build_body(name, 1)
    load_pretrained(encoder, name, weights, "weights are a file, a folder of such files, auto or none")
    if isinstance(encoder, TimmBody):
        encoder = encoder.model
    elif name != OWN:
        encoder = nn.Sequential(encoder, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.inference_mode():
        features = encoder.eval()(torch.zeros(1, 1, 64, 64)).shape[1]
    return encoder.train(), int(features)


def build_body(name: str, channels: int) -> nn.Module:
    """Return a torchvision or timm network without its classifier: images → feature maps.

    Raises:
        InputError: no library has a model of that name.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name in known:
        body: nn.Module = create_body(_torchvision(name), channels, False, _meta(name)["cut"])
        return body
    if timm.is_model(name):
        body = TimmBody(timm.create_model(name, num_classes=0, in_chans=channels), False)
        return body
    near = ", ".join(difflib.get_close_matches(name, [*known, *timm.list_models()], 3)) or "resnet34"
    what, own = ("backbone", f" and not {OWN}") if channels == 1 else ("arch", "")
    raise InputError(f"{what} {name!r} is no model of torchvision or timm{own}; near it are {near}")


def body_state(body: nn.Module, name: str) -> State:
    """Return a body's weights, not copied, under the names that they have in the whole model."""
    if isinstance(body, TimmBody):
        body = body.model
    state: State = body.state_dict()
    if name not in torchvision.models.list_models(module=torchvision.models):
        return state
    whole = _torchvision(name)
    kept = create_body(whole, 3, False, _meta(name)["cut"]).state_dict(keep_vars=True)
    names = {id(tensor): key for key, tensor in whole.state_dict(keep_vars=True).items()}
    return {names[id(tensor)]: state[key] for key, tensor in kept.items()}


def load_pretrained(body: nn.Module, name: str, weights: str, hint: str = "") -> str:
    """Load pretrained weights into a body; those of a first layer are added up over colours it has not.

    Args:
        body: as built for `name`.
        name: of the model.
        weights: ``"none"``; ``"auto"`` for the library's own weights from its hub or its local cache; or a
            file, safetensors or a checkpoint of plain tensors. A classifier in it is of no use and left out.
        hint: what the caller takes, for the sentence about a missing file.

    Returns:
        Where the weights came from, or empty text when the body stays untrained; then a warning has said
        why.

    Raises:
        InputError: a file was named that does not exist or does not fit.
    """
    if weights == "none":
        return ""
    if weights != "auto":
        state = read_weights(Path(weights), hint or "--weights takes a file, auto or none")
    else:
        try:
            state = _from_hub(name).state_dict()
        except HUB_ERRORS as error:
            warn_of_hub(name, error)
            return ""
    source = "hub" if weights == "auto" else weights
    for key, wanted in body_state(body, name).items():
        value = state.get(key)
        if value is not None and value.dim() == 4 and (value.shape[1], wanted.shape[1]) == (3, 1):
            value = value.sum(dim=1, keepdim=True)  # a grey picture in all three colours gives the same
        if value is not None and value.shape == wanted.shape:
            wanted.copy_(value)
        elif not key.endswith("num_batches_tracked"):
            raise InputError(
                f"{source}: these weights do not fit: no weights of {name}; {key} is missing or of another shape"
            )
    return source


def _from_hub(name: str) -> nn.Module:
    if name in torchvision.models.list_models(module=torchvision.models):
        return _torchvision(name, "DEFAULT")
    model: nn.Module = timm.create_model(name, pretrained=True)
    return model


def _torchvision(name: str, weights: str | None = None) -> nn.Module:
    model: nn.Module = getattr(torchvision.models, name)(weights=weights)
    return model


def _meta(name: str) -> dict[str, Any]:
    found: dict[str, Any] = model_meta.get(getattr(torchvision.models, name), _default_meta)
    return found


def _in_folder(name: str, weights: str) -> str:
    """Return the model's file where `weights` is a folder, and `weights` as it is otherwise."""
    folder = Path(weights)
    if weights in ("none", "auto") or not folder.is_dir():
        return weights
    for suffix in SUFFIXES:
        # A checkpoint may have come back from Kaggle as a folder of its members; that is no file to read.
        if (folder / f"{name}{suffix}").is_file():
            return str(folder / f"{name}{suffix}")
    raise InputError(f"{folder}: holds no weights of {name}; put {name}.safetensors there, or .pth, .pt or .bin")


class SmallResNet(nn.Module):
    """A residual network of 15 million multiplications at 64 px, for training from scratch on a CPU.

    Args:
        width: channels of the first stage; they double three times.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.num_features = 8 * width
        self.stem = nn.Sequential(_conv(1, width, 2), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        steps = zip(widths[:-1], widths[1:], (1, 2, 2, 2), strict=True)
        self.stages = nn.Sequential(*(_Residual(*step) for step in steps))

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
                nn.AvgPool2d(stride, ceil_mode=True), nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after)
            )
        )
        self.last = nn.ReLU(inplace=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.path(features) + self.short(features))
        return out
