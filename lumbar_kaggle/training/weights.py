"""Pretrained weights from elsewhere: a file read without running code, a hub that may be out of reach."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_atomic

State = dict[str, torch.Tensor]

WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "state"),
    *("state_dict_ema", "model_ema", "ema"),
)
"""Keys under which training programs save a network's state, beside epoch, optimiser and the like."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and Lightning put before every name."""


def read_weights(path: Path, hint: str) -> State:
    """Read a safetensors file or a checkpoint of plain tensors, bare or in one of the common wrappers.

    Args:
        path: the file.
        hint: what the caller takes, for the sentence about a missing file.

    Raises:
        InputError: there is no such file, it holds no readable weights, or one of them is NaN or infinite.
    """
    if not path.is_file():
        raise InputError(f"{path}: {'a folder, no file' if path.is_dir() else 'no such file'}; {hint}")
    try:
        if path.suffix == ".safetensors":
            content: object = safetensors.torch.load_file(path)
        else:
            # weights_only: a checkpoint from elsewhere must not run code.
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


def load_weights(network: nn.Module, path: Path, hint: str) -> None:
    """Load a file of ours into the network it is of; half precision in the file becomes the network's.

    Raises:
        InputError: as `read_weights`, or the weights are those of another network.
    """
    try:
        network.load_state_dict(read_weights(path, hint))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{path}: its weights are of another network ({reason}); {hint}") from None


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


def export_weights(source: Path, target: Path) -> None:
    """Copy a safetensors file with floats rounded to 16 bits: half the size, probabilities hardly change."""
    weights = safetensors.torch.load_file(source)
    halved = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    write_atomic(target, lambda path: safetensors.torch.save_file(halved, path))


def warn_of_hub(name: str, error: Exception) -> None:
    """Warn that a model's pretrained weights cannot be had, so that training starts from random ones."""
    reason = " ".join(str(error).split())[:200]
    warnings.warn(
        f"no pretrained weights for {name}: the hub cannot be reached and nothing is cached ({reason}); "
        "training starts from random weights. Give a file with --weights, or --weights none.",
        stacklevel=3,
    )
