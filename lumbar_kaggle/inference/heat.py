"""Heat maps: where in a picture a network found its evidence."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Floats32 = NDArray[np.float32]

STRIDE = 8  # pixels of a picture per cell of a heat map


def grad_cam(model: nn.Module, layer: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, Floats32]:
    """Return the logits of one image and the Grad-CAM of each (Selvaraju et al., ICCV 2017, eq. 1 and 2). The model is
    in eval mode and gives logits ``[1, outputs]`` for inputs ``[1, 3, rows, columns]``; `layer` is a module in it whose
    output is a feature map. The maps are ``[outputs, feature rows, feature columns]`` float32 in 0 … 1, all 0 when
    nothing speaks for an output."""
    with captured([layer]) as outputs:
        logits = model(inputs)[0]
        _, activation = outputs[0]
        gradients = [torch.autograd.grad(logit, activation, retain_graph=True)[0] for logit in logits]
    return logits.detach(), to_unit(weigh(activation, torch.cat(gradients)))


def weigh(activation: torch.Tensor, gradient: torch.Tensor) -> Floats32:
    """Return the channels' sum ``[maps, rows, columns]``, each weighted by its mean gradient, where positive. Both
    arguments are ``[maps, channels, rows, columns]``; one of them may have 1 map for all."""
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat: Floats32 = (weights * activation).sum(dim=1).clamp(min=0).detach().float().cpu().numpy()
    return heat


def elementwise(activation: torch.Tensor, gradient: torch.Tensor) -> Floats32:
    """Return the sum over the channels ``[maps, rows, columns]`` of activation × gradient, where positive (HiResCAM,
    Draelos and Carin, arXiv 2011.08891, eq. 4). Both arguments are ``[maps, channels, rows, columns]``. Unlike
    Grad-CAM's mean gradients, it may be taken before the last layer, where cells are finer."""
    heat: Floats32 = (gradient * activation).sum(dim=1).clamp(min=0).detach().float().cpu().numpy()
    return heat


def to_unit(heat: Floats32) -> Floats32:
    """Return maps ``[maps, rows, columns]`` with a maximum of 1 each; those of 0 throughout stay."""
    peak = heat.max(axis=(1, 2), keepdims=True)
    return np.asarray(heat / np.where(peak > 0, peak, 1), dtype=np.float32)


def fine_map(encoder: nn.Module, inputs: torch.Tensor, stride: int = STRIDE) -> nn.Module:
    """Return the module of an encoder in eval mode that `elementwise` is best taken at: the last one made of several
    whose output has a cell per `stride` pixels of the input, or more; or else the last with any feature map. It gives
    ``[images, features]`` for inputs ``[images, channels, rows, columns]``. Raises ValueError where it has none."""
    with captured(encoder.modules()) as outputs, torch.inference_mode():
        encoder(inputs)
    tensors = [(module, output) for module, output in outputs if isinstance(output, torch.Tensor)]
    maps = [(module, output) for module, output in tensors if output.dim() == 4 and output[0, 0].numel() > 1]
    if not maps:
        raise ValueError(f"{type(encoder).__name__} has no feature map of more than one place")
    # Parts of a block, such as a lone convolution, need not hold all that goes on to the next.
    fine = [module for module, output in maps if output.shape[2] * stride >= inputs.shape[2]]
    whole = [module for module in fine if list(module.children())]
    return (whole or [module for module, _ in maps])[-1]


@contextmanager
def captured(modules: Iterable[nn.Module]) -> Iterator[list[tuple[nn.Module, Any]]]:
    """Collect some modules with what they give, in the order in which they are called."""
    outputs: list[tuple[nn.Module, Any]] = []

    def note(module: nn.Module, _inputs: object, output: object) -> None:
        outputs.append((module, output))

    handles = [module.register_forward_hook(note) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
