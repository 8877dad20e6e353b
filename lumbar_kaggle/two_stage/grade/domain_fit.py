"""What a network's `Domain` learns: the descriptions of the pictures of its training, and what its answers are worth
elsewhere.

Their covariance is shrunk. How large the prior's share gets is fitted, per score group, to the official loss over
held-out pictures as they are and over the same ones spoilt: other contrasts, also inverted, other resolutions, noise,
scales and turns."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any, cast

import torch
from fastai.data.load import DataLoader
from torch import Tensor
from torch.nn import functional

from lumbar_kaggle.scoring.metric import weighted_losses
from lumbar_kaggle.training.devices import device_of
from lumbar_kaggle.two_stage.config import GradeConfig
from lumbar_kaggle.two_stage.grade.data import Batch, Samples, augment, cut, drop_views, on_device, whole_studies
from lumbar_kaggle.two_stage.grade.domain import GROUP, JUDGED, Domain, fallen_back, share_of_prior, summary, textures

SHRINKAGE = 0.1  # share of the mean variance in place of the covariance
# Spoilt pictures of a phantom are still a phantom's. Graders that had seen nothing else told real canals apart well,
# but were too sure of it, and graded foramina and recesses worse than the prior does: at least so much falls back.
GAP = (0.4, 0.5, 0.5)
# Of the usual distances' 95 % quantile: from there on the whole share. Nearly all real pictures lie beyond it.
REACH = 1.1
LEARNED = 2000  # levels of the training that the distances are learned from, at most


@torch.inference_mode()
def fit_domain(network: Any, prior: Tensor, training: Samples, held_out: Samples, config: GradeConfig) -> None:
    """Teach a network's `domain` what it has learned from, and what its answers are worth elsewhere."""
    domain = cast(Domain, network.domain)
    domain.load_state_dict(Domain(config.features).state_dict())
    domain.prior.copy_(prior)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        step = max(1, len(training) // LEARNED)
        rows: list[list[Tensor]] = [[] for _ in JUDGED]
        for batch in _batches(network, training, config, cut, step):
            described = network(batch)["described"]
            for found, view, look in zip(rows, JUDGED, textures(batch), strict=True):
                found.append(summary(described[view], look)[batch["present"][view].any(dim=2)])
        for number, learned in enumerate(map(torch.cat, rows)):
            if len(learned) > 1:
                domain.mean[number], domain.whiten[number] = _whitening(learned)
        parts = [_judged(network, _batches(network, held_out, config, change)) for change in (cut, spoil)]
    for group in range(3):
        _fit_group(domain, group, parts)


def _batches(
    network: Any, samples: Samples, config: GradeConfig, change: Callable[[Batch, GradeConfig], Batch], step: int = 1
) -> Iterator[Batch]:
    """Yield every `step`-th sample in changed batches, of whole studies if it is every one; of some views the middle
    slice alone, as far as the training has shown such."""
    network.eval()
    chosen, count = [samples[index] for index in range(0, len(samples), step)], whole_studies(2 * config.batch_size)
    for (items,) in DataLoader(chosen, bs=count):
        batch = on_device(samples.batch(items), device_of(network))
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
    """Return probabilities ``[n, 5, 3]``, distances ``[n, 3]``, severities ``[n, 5]`` and levels ``[n]``."""
    parts = []
    for batch in batches:
        graded = network(batch)
        distance = network.domain.distance(graded["described"], batch["present"], textures(batch))
        parts.append((graded["logits"].softmax(dim=2), distance, batch["severity"], batch["level"]))
    return tuple(torch.cat(column).cpu() for column in zip(*parts, strict=True))


def _fit_group(domain: Domain, group: int, parts: list[tuple[Tensor, ...]]) -> None:
    """Choose a group's distances, and the shares by the loss: not less than `GAP` beyond them."""
    low, of = parts[0][1][:, group].quantile(0.95), [index for index, one in enumerate(GROUP) if one == group]
    prior, tried = domain.prior[group].cpu(), []
    for least, most in product((0.0, 0.005, 0.01, 0.02, 0.05), (0.0, 0.25, 0.5, 0.75, 0.95)):
        shares = torch.tensor(least), torch.tensor(max(least, most, GAP[group]))
        loss = 0.0
        for probabilities, distance, severity, level in parts:
            share = share_of_prior(distance[:, group], low, REACH * low, *shares)[:, None].expand(-1, len(of))
            mixed = fallen_back(probabilities[:, of], share, prior[level][:, None]).clamp(min=1e-6)
            total, weight = weighted_losses(mixed.double().numpy(), severity[:, of].numpy()).reshape(-1, 2).sum(axis=0)
            loss += float(total / max(weight, 1e-6))
        tried.append((loss, *map(float, shares)))
    _, domain.least[group], domain.most[group] = min(tried)
    domain.low[group], domain.high[group] = low, REACH * low
