"""Pictures unlike those that a network has learned from: told by its own features and their texture, and graded nearer
to the prior.

What a view comes to is the network's description of it and how its crops answer a few fixed filters. Its distance from
those of the training is Mahalanobis's, its covariance shrunk, and the mean over a study's levels: one scanner took them
all. Beyond what held-out studies have, a growing share of the prior takes the place of the network's answer. How large
it gets is fitted, per score group, to the official loss over held-out pictures as they are and over the same ones
spoilt: other contrasts, also inverted, other resolutions, noise, scales and turns."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lumbar_kaggle.core.targets import LEVELS, SEVERITIES
from lumbar_kaggle.scoring.metric import weighted_losses
from lumbar_kaggle.training.devices import device_of
from lumbar_kaggle.two_stage.config import GradeConfig
from lumbar_kaggle.two_stage.grade.data import Batch, Samples, augment, cut, drop_views, on_device, whole_studies

GROUP = (0, 1, 1, 2, 2)  # score group of each of the network's five outputs
# Places in `VIEWS` of those that tell, and in these the ones that the groups are graded from. The axial middle may
# count for the canal too, but its slices are those of the sides.
JUDGED = (0, 1, 3)
SEEN = ((0,), (1, 2), (0, 2))
SHRINKAGE = 0.1  # share of the mean variance in place of the covariance
# Spoilt pictures of a phantom are still a phantom's. Graders that had seen nothing else told real canals apart well,
# but were too sure of it, and graded foramina and recesses worse than the prior does: at least so much falls back.
GAP = (0.4, 0.5, 0.5)
# Of the usual distances' 95 % quantile: from there on the whole share. Nearly all real pictures lie beyond it.
REACH = 1.1
LEARNED = 2000  # levels of the training that the distances are learned from, at most


def texture(images: Tensor, present: Tensor) -> Tensor:
    """Return ``[batch, sides, 48]`` of crops ``[batch, sides, slices, px, px]``: how strongly, how steadily and how
    lopsidedly they answer the eight 3 × 3 cosine filters at two scales, relative to their own deviation, mean over the
    slices `present`; 0 where there is none."""
    bank = _FILTERS.to(images.device)
    flat = images.float().flatten(0, 2)[:, None]
    _, whole = _centred(flat)
    parts = []
    for _ in range(2):
        answers = functional.conv2d(flat, bank)
        centred, deviation = _centred(answers)
        parts += [
            (deviation / whole).log(),
            answers.abs().mean(dim=(2, 3)) / deviation,
            (centred / deviation[..., None, None]).pow(3).mean(dim=(2, 3)).clamp(-5, 5),
        ]
        flat = functional.avg_pool2d(flat, 2)
    each = torch.cat(parts, dim=1).view(*present.shape, -1)
    there = present[..., None].float()
    return (each * there).sum(dim=2) / there.sum(dim=2).clamp(min=1)


def _centred(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps ``[..., px, px]`` less their means, and their deviations. `Tensor.std` takes five times as long."""
    centred = maps - maps.mean(dim=(2, 3), keepdim=True)
    variance = centred.square().sum(dim=(2, 3)) / (maps[0, 0].numel() - 1)
    return centred, variance.sqrt().clamp(min=1e-4)


def _cosines() -> Tensor:
    """Return the products of the cosines of three places, the constant one excepted: ``[8, 1, 3, 3]``."""
    place, frequency = torch.arange(3) + 0.5, torch.arange(3)[:, None]
    waves = functional.normalize(torch.cos(torch.pi * place * frequency / 3), dim=1)
    return torch.einsum("ai,bj->abij", waves, waves).reshape(9, 1, 3, 3)[1:]


_FILTERS = _cosines()
TEXTURE = 6 * len(_FILTERS)  # numbers that `texture` gives


class Domain(nn.Module):
    """What a network knows of the pictures that it has learned from; at first nothing, and all of its answer counts.
    Buffers: of each of the views `JUDGED` the `mean` ``[views, width]`` of its descriptions and textures, and `whiten`
    ``[views, width, width]``; of each group ``[3]`` the distances `low` and `high` between which the prior's share
    grows from `least` to `most`; and the `prior` ``[3 groups, 5 levels, 3]``."""

    mean: Tensor
    whiten: Tensor
    low: Tensor
    high: Tensor
    least: Tensor
    most: Tensor
    prior: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        width += TEXTURE
        self.register_buffer("mean", torch.zeros(len(JUDGED), width))
        self.register_buffer("whiten", torch.zeros(len(JUDGED), width, width))
        for name, value in (("low", 1.0), ("high", 2.0), ("least", 0.0), ("most", 0.0)):
            self.register_buffer(name, torch.full((3,), value))
        self.register_buffer("prior", torch.full((3, len(LEVELS), len(SEVERITIES)), 1 / len(SEVERITIES)))

    def distance(self, described: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Return ``[batch, 3 groups]``, around 1 for pictures like those of the training: the greatest one over the
        views of a group, each the mean over the levels of a study and its sides; views without a picture do not count.
        The batch is of whole studies, its crops cut; `described` is that of `network.Graded`."""
        far = []
        with torch.autocast(described[0].device.type, enabled=False):
            for number, view in enumerate(JUDGED):
                one, images, present = described[view], batch["images"][view], batch["present"][view]
                scaled = (summary(one, images, present) - self.mean[number]) @ self.whiten[number]
                there = present.any(dim=2)
                each = scaled.square().mean(dim=2).sqrt() * there
                total, count = (part.view(-1, len(LEVELS) * part.shape[1]).sum(dim=1) for part in (each, there))
                far.append((total / count.clamp(min=1)).repeat_interleave(len(LEVELS)))
        return torch.stack([torch.stack([far[number] for number in seen]).amax(dim=0) for seen in SEEN], dim=1)

    def forward(self, probabilities: Tensor, distance: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities ``[batch, 5, 3]`` with the prior's share in them, and that, ``[batch, 3 groups]``."""
        of, share = list(GROUP), _share(distance, self.low, self.high, self.least, self.most)
        return _fallen(probabilities, share[:, of], self.prior[of][:, level].transpose(0, 1)), share


def summary(described: Tensor, images: Tensor, present: Tensor) -> Tensor:
    """Return ``[batch, sides, width]``: what a view comes to."""
    return torch.cat([described.float(), texture(images, present)], dim=2)


def _share(distance: Tensor, low: Tensor, high: Tensor, least: Tensor, most: Tensor) -> Tensor:
    return torch.lerp(least, most, ((distance - low) / (high - low)).clamp(0, 1))


def _fallen(probabilities: Tensor, share: Tensor, prior: Tensor) -> Tensor:
    return (1 - share[..., None]) * probabilities + share[..., None] * prior


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
            for found, view in zip(rows, JUDGED, strict=True):
                images, present = batch["images"][view], batch["present"][view]
                found.append(summary(described[view], images, present)[present.any(dim=2)])
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
    from fastai.data.load import DataLoader  # where it is trained; to grade needs no fastai

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
        distance = network.domain.distance(graded["described"], batch)
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
            share = _share(distance[:, group], low, REACH * low, *shares)[:, None].expand(-1, len(of))
            mixed = _fallen(probabilities[:, of], share, prior[level][:, None]).clamp(min=1e-6)
            total, weight = weighted_losses(mixed.double().numpy(), severity[:, of].numpy()).reshape(-1, 2).sum(axis=0)
            loss += float(total / max(weight, 1e-6))
        tried.append((loss, *map(float, shares)))
    _, domain.least[group], domain.most[group] = min(tried)
    domain.low[group], domain.high[group] = low, REACH * low
