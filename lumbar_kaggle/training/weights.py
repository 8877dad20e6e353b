"""Files of a network's weights: read without running code, written in half precision."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_atomic

State = dict[str, torch.Tensor]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")  # looked for in a folder of weights, in this order
# Keys under which training programs save a network's state, beside epoch, optimiser and the like.
WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "state"),
    *("state_dict_ema", "model_ema", "ema"),
)
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # of every name, by DataParallel, torch.compile, Lightning


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
        if not values[0].is_floating_point():
            return values[0]
        # Of one network the bits stay as they are: a mean would take the sign of -0.0.
        return (values[0] if len(values) == 1 else torch.stack(values).mean(dim=0)).half()

    halved = {name: mean(*(state[name] for state in states)) for name in states[0]}
    write_atomic(target, lambda path: safetensors.torch.save_file(halved, path))
