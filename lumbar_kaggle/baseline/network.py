"""The network of the baseline: a torchvision or timm body with fastai's head, and its weights."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from fastai.vision.learner import (
    _default_meta,
    create_body,
    create_timm_model,
    create_vision_model,
    default_split,
    model_meta,
)
from torch import nn

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import SEVERITIES
from lumbar_kaggle.training.weights import HUB_ERRORS, read_weights, warn_of_hub

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Network:
    """A network and what must travel with it.

    Attributes:
        model: ``model[0]`` is the body, ``model[1]`` fastai's head with 3 outputs; takes float
            ``[images, 3, rows, columns]`` normalised by `mean` and `std`, gives logits ``[images, 3]``.
        split: cuts the parameters into groups for discriminative learning rates.
        mean, std: three values each, for images in 0 … 1.
    """

    model: nn.Sequential
    split: Callable[[nn.Module], Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def build_network(arch: str) -> Network:
    """Build an untrained network.

    Args:
        arch: name of a torchvision model, or else of a timm one.

    Raises:
        InputError: no library has a model of that name.
    """
    if _in_torchvision(arch):
        create = getattr(torchvision.models, arch)
        meta = model_meta.get(create, _default_meta)
        model = create_vision_model(create, len(SEVERITIES), pretrained=False)
        return Network(model, meta["split"], IMAGENET_MEAN, IMAGENET_STD)
    _check_timm(arch)
    model, settings = create_timm_model(arch, len(SEVERITIES), pretrained=False)
    return Network(model, default_split, tuple(settings["mean"]), tuple(settings["std"]))


def load_pretrained(network: Network, arch: str, weights: str) -> str:
    """Load pretrained weights into the body.

    Args:
        network: as built for `arch`; its body is changed.
        arch: the architecture's name.
        weights: ``"none"``; ``"auto"`` for the library's own weights from its hub or its local
            cache; or a file, safetensors or a checkpoint of plain tensors.

    Returns:
        Where the weights came from, or empty text when the body stays untrained; then a warning
        has said why.

    Raises:
        InputError: a file was named that does not exist or does not fit.
    """
    if weights == "none":
        return ""
    if weights != "auto":
        state = read_weights(Path(weights), "--weights takes a file, auto or none")
        _load_state(network, arch, state, weights)
        return weights
    try:
        pretrained = _from_hub(arch)
    except HUB_ERRORS as error:
        warn_of_hub(arch, error)
        return ""
    _load_state(network, arch, pretrained.state_dict(), f"the hub's {arch}")
    return "hub"


def body_state(network: Network, arch: str) -> dict[str, torch.Tensor]:
    """Return the body's weights under the names of the whole model: what `load_pretrained` takes."""
    if not _in_torchvision(arch):
        timm_body: Any = network.model[0]
        state: dict[str, torch.Tensor] = timm_body.model.state_dict()
        return state
    create = getattr(torchvision.models, arch)
    whole = create(weights=None)
    body = create_body(whole, 3, False, model_meta.get(create, _default_meta)["cut"])
    body.load_state_dict(network.model[0].state_dict())
    kept = {id(tensor) for tensor in (*body.parameters(), *body.buffers())}
    named = (*whole.named_parameters(), *whole.named_buffers())
    return {name: tensor.detach() for name, tensor in named if id(tensor) in kept}


def _from_hub(arch: str) -> nn.Module:
    if _in_torchvision(arch):
        model: nn.Module = getattr(torchvision.models, arch)(weights="DEFAULT")
    else:
        model = timm.create_model(arch, pretrained=True)
    return model


def _load_state(network: Network, arch: str, state: dict[str, torch.Tensor], source: str) -> None:
    """Load a whole model's state; its classifier is of no use and is left out."""
    if _in_torchvision(arch):
        create = getattr(torchvision.models, arch)
        whole = create(weights=None)
        # A checkpoint of another number of classes differs in the classifier only.
        own = whole.state_dict()
        fitting = {name: value for name, value in state.items() if own.get(name, value).shape == value.shape}
        missing = whole.load_state_dict(fitting, strict=False).missing_keys
        body = create_body(whole, 3, False, model_meta.get(create, _default_meta)["cut"])
        lost = _body_parameters(whole, body) & set(missing)
        if lost:
            raise InputError(
                f"{source}: no weights of {arch}; {sorted(lost)[0]} is missing or of another shape"
            )
        network.model[0].load_state_dict(body.state_dict())
        return
    timm_body: Any = network.model[0]
    model = timm_body.model
    own = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    lost = set(own) - set(fitting)
    if lost:
        raise InputError(f"{source}: no weights of {arch}; {sorted(lost)[0]} is missing or of another shape")
    model.load_state_dict(fitting)


def _body_parameters(whole: nn.Module, body: nn.Module) -> set[str]:
    """Names in `whole` of the parameters that its cut-off `body` keeps."""
    kept = {id(parameter) for parameter in body.parameters()}
    return {name for name, parameter in whole.named_parameters() if id(parameter) in kept}


def _in_torchvision(arch: str) -> bool:
    return arch in torchvision.models.list_models(module=torchvision.models)


def _check_timm(arch: str) -> None:
    if not timm.is_model(arch):
        known = [*torchvision.models.list_models(module=torchvision.models), *timm.list_models()]
        near = ", ".join(difflib.get_close_matches(arch, known, 3)) or "resnet34"
        raise InputError(f"arch {arch!r} is no model of torchvision or timm; near it are {near}")
