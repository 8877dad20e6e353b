"""Pictures unlike those that a network has learned from: told by its own features, and graded nearer to the prior.

The distance of a view's description from those of the training is Mahalanobis's, its covariance shrunk; beyond what
held-out pictures have, a growing share of the prior takes the place of the network's answer. How fast it grows and how
far is fitted, per score group, to the official loss over held-out pictures as they are and over the same ones spoilt:
other contrasts, also inverted, other resolutions, noise, scales and turns."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any, cast

import torch
from fastai.data.load import DataLoader
from fastai.torch_core import to_device
from torch import Tensor, nn
from torch.nn import functional

from lumbar_kaggle.core.targets import LEVELS, SEVERITIES
from lumbar_kaggle.scoring.metric import weighted_losses
from lumbar_kaggle.training.devices import device_of
from lumbar_kaggle.two_stage.config import GradeConfig
from lumbar_kaggle.two_stage.grade.data import Batch, Samples, augment, cut, drop_views
from lumbar_kaggle.two_stage.grade.views import VIEWS

GROUP = (0, 1, 1, 2, 2)  # score group of each of the network's five outputs
# Views and sides that the outputs are graded from; an axial view may count for the canal too, but is rarely missed.
SEEN = (((0, 0),), ((1, 0), (3, 0)), ((1, 1), (3, 1)), ((0, 0), (3, 0)), ((0, 0), (3, 1)))
SHRINKAGE = 0.1  # share of the mean variance in place of the covariance
# Spoilt pictures of a phantom are still a phantom's. Graders that had seen nothing else graded the canal of real people
# well, foramina and recesses worse than the prior does: of these groups at least so much falls back, and soon.
GAP = (0.0, 0.5, 0.5)
LEARNED = 2000  # levels of the training that the distances are learned from, at most


class Domain(nn.Module):
    """What a network knows of the pictures that it has learned from; at first nothing, and all of its answer counts.
    Buffers: of each view the `mean` ``[views, width]`` of its descriptions and `whiten` ``[views, width, width]``; of
    each group ``[3]`` the distances `low` and `high` between which the prior's share grows from `least` to `most`; and
    the `prior` ``[3 groups, 5 levels, 3]``."""

    mean: Tensor
    whiten: Tensor
    low: Tensor
    high: Tensor
    least: Tensor
    most: Tensor
    prior: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(VIEWS), width))
        self.register_buffer("whiten", torch.zeros(len(VIEWS), width, width))
        for name, value in (("low", 1.0), ("high", 2.0), ("least", 0.0), ("most", 0.0)):
            self.register_buffer(name, torch.full((3,), value))
        self.register_buffer("prior", torch.full((3, len(LEVELS), len(SEVERITIES)), 1 / len(SEVERITIES)))

    def distance(self, described: tuple[Tensor, ...], present: list[Tensor]) -> Tensor:
        """Return ``[batch, 5]``, around 1 for pictures like those of the training: the greatest one over the views of
        an output; views without a picture do not count. `described` is that of `network.Graded`."""
        far = []
        for number, (one, there) in enumerate(zip(described, present, strict=True)):
            scaled = (one.float() - self.mean[number]) @ self.whiten[number]
            far.append(scaled.square().mean(dim=2).sqrt() * there.any(dim=2))
        return torch.stack([torch.stack([far[v][:, s] for v, s in seen]).amax(dim=0) for seen in SEEN], dim=1)

    def forward(self, probabilities: Tensor, distance: Tensor, level: Tensor) -> Tensor:
        """Return probabilities ``[batch, 5, 3]`` with the prior's share in them."""
        of = list(GROUP)
        limits = self.low[of], self.high[of], self.least[of], self.most[of]
        return _fallen(probabilities, distance, self.prior[of][:, level].transpose(0, 1), limits)


def _fallen(probabilities: Tensor, distance: Tensor, prior: Tensor, limits: tuple[Tensor, ...]) -> Tensor:
    low, high, least, most = limits
    share = torch.lerp(least, most, ((distance - low) / (high - low)).clamp(0, 1))[..., None]
    return (1 - share) * probabilities + share * prior


@torch.inference_mode()
def fit_domain(network: Any, prior: Tensor, training: Samples, held_out: Samples, config: GradeConfig) -> None:
    """Teach a network's `domain` what it has learned from, and what its answers are worth elsewhere."""
    domain = cast(Domain, network.domain)
    domain.load_state_dict(Domain(config.features).state_dict())
    domain.prior.copy_(prior)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        step = max(1, len(training) // LEARNED)
        rows: list[list[Tensor]] = [[] for _ in VIEWS]
        for batch in _batches(network, training, config, cut, step):
            described = network(batch)["described"]
            for found, one, there in zip(rows, described, batch["present"], strict=True):
                found.append(one[there.any(dim=2)].float())
        for view, learned in enumerate(map(torch.cat, rows)):
            if len(learned) > 1:
                domain.mean[view], domain.whiten[view] = _whitening(learned)
        parts = [_judged(network, _batches(network, held_out, config, change)) for change in (cut, spoil)]
    for group in range(3):
        of = [index for index, one in enumerate(GROUP) if one == group]
        _fit_group(domain, group, [tuple(column[:, of] for column in part) for part in parts])


def _batches(
    network: Any, samples: Samples, config: GradeConfig, change: Callable[[Batch, GradeConfig], Batch], step: int = 1
) -> Iterator[Batch]:
    """Yield every `step`-th sample in changed batches, of some views the middle slice alone, as far as the training has
    shown such."""
    network.eval()
    for (items,) in DataLoader([samples[index] for index in range(0, len(samples), step)], bs=2 * config.batch_size):
        batch = to_device(samples.batch(items), device_of(network))
        yield drop_views(change(batch, config), 0.0, config.slice_dropout)


def spoil(batch: Batch, config: GradeConfig) -> Batch:
    """Return crops as other scanners might give them: harshly augmented, half of them blurred, a quarter inverted."""
    harsh = replace(config, contrast=0.5, noise=0.8, scale=0.25, turn_degrees=15.0, shift_mm=4.0, mirror=False)
    moved = augment(batch, harsh)
    images = []
    for one in moved["images"]:
        flat = one.flatten(0, 1)
        blurred = functional.avg_pool2d(flat, 5, stride=1, padding=2, count_include_pad=False)
        chance = torch.rand(2, len(flat), 1, 1, 1, device=flat.device)
        changed = torch.where(chance[0] < 0.5, blurred, flat) * torch.where(chance[1] < 0.25, -1.0, 1.0)
        images.append(changed.view(one.shape))
    return {**moved, "images": images}


def _whitening(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean ``[width]`` of rows, and the matrix ``[width, width]`` after which they deviate by 1 anywhere."""
    covariance = torch.cov(rows.T)
    width = len(covariance)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * covariance.diagonal().mean() * torch.eye(width).to(rows)
    values, vectors = torch.linalg.eigh(covariance)
    return rows.mean(dim=0), vectors * values.clamp(min=1e-6).rsqrt()


def _judged(network: Any, batches: Iterator[Batch]) -> tuple[Tensor, ...]:
    """Return probabilities ``[n, 5, 3]``, and distances, severities and levels ``[n, 5]``."""
    parts = []
    for batch in batches:
        graded = network(batch)
        distance = network.domain.distance(graded["described"], batch["present"])
        level = batch["level"][:, None].expand(-1, len(GROUP))
        parts.append((graded["logits"].softmax(dim=2), distance, batch["severity"], level))
    return tuple(torch.cat(column).cpu() for column in zip(*parts, strict=True))


def _fit_group(domain: Domain, group: int, parts: list[tuple[Tensor, ...]]) -> None:
    """Choose a group's distances and shares by the loss; where no share lowers it, and `GAP` asks for none, none."""
    (_, usual, *_), (_, other, *_) = parts
    low = usual.quantile(0.95)
    beyond = other[other > low]
    highs = [1.5 * low]
    if not GAP[group] and len(beyond):
        highs += [beyond.quantile(q) for q in (0.5, 0.75, 0.95)]
    prior, tried = domain.prior[group].cpu(), []
    for least, most, high in product((0.0, 0.005, 0.01, 0.02, 0.05), (0.0, 0.25, 0.5, 0.75, 0.95), highs):
        limits = low, high, torch.tensor(least), torch.tensor(max(least, most, GAP[group]))
        tried.append((sum(_loss(part, prior, limits) for part in parts), *map(float, limits[1:])))
    _, domain.high[group], domain.least[group], domain.most[group] = min(tried)
    domain.low[group] = low


def _loss(part: tuple[Tensor, ...], prior: Tensor, limits: tuple[Tensor, ...]) -> float:
    probabilities, distance, severity, level = part
    mixed = _fallen(probabilities, distance, prior[level], limits).clamp(min=1e-6)
    loss, weight = weighted_losses(mixed.double().numpy(), severity.numpy()).reshape(-1, 2).sum(axis=0)
    return float(loss / max(weight, 1e-6))
