"""Pretrained weights from elsewhere: a file read without running code, a hub that may be out of reach."""

import warnings
from pathlib import Path

import safetensors.torch
import torch

from lumbar_kaggle.errors import InputError
from lumbar_kaggle.files import write_atomic

State = dict[str, torch.Tensor]

HUB_ERRORS = (OSError, RuntimeError)
"""What a hub's client raises without a network: URLError, ConnectionError, LocalEntryNotFoundError."""


def read_weights(path: Path, mend: str) -> State:
    """Read a safetensors file or a checkpoint of plain tensors.

    Args:
        path: the file.
        mend: what the caller takes, for the sentence about a missing file.

    Raises:
        InputError: there is no such file, or it holds no readable weights.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; {mend}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        # weights_only: a checkpoint from elsewhere must not run code.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path}: no readable weights ({type(error).__name__}); give a safetensors file or a state dict"
        ) from error
    plain: State = state.get("state_dict", state.get("model", state))
    return plain


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
