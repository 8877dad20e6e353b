"""Where networks are trained and used, and with what precision: every GPU in 16 bits, or the CPU in 32."""

import torch
from fastai.callback import fp16 as _fp16  # noqa: F401 — gives Learner its to_fp16
from fastai.learner import Learner

CPU = torch.device("cpu")

HALF = ("cuda",)
"""Kinds of devices that are faster in 16-bit floats."""


def training_device() -> torch.device:
    """Return this process's own GPU (see `spread.spread`), or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else CPU


def usable_devices() -> list[torch.device]:
    """Return every GPU, or the CPU where there is none."""
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())] or [CPU]


def device_of(model: torch.nn.Module) -> torch.device:
    """Return the device that a model's weights are on."""
    return next(model.parameters()).device


def train_in_half_precision(learner: Learner, *, wanted: bool) -> Learner:
    """Return the learner with mixed precision where that is wanted and its device is one of `HALF`."""
    return learner.to_fp16() if wanted and learner.dls.device.type in HALF else learner


def half_precision(device: torch.device, *, wanted: bool = True) -> torch.autocast:
    """Return a context in which networks compute in 16-bit floats on a device of `HALF`."""
    return torch.autocast(device.type, torch.float16, enabled=wanted and device.type in HALF)
