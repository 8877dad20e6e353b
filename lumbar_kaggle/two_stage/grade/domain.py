"""Pictures unlike those that a network has learned from: told by its own features and their texture, and graded nearer
to the prior.

What a view comes to is the network's description of it and how its crops answer a few fixed filters. Its distance from
those of the training is Mahalanobis's, and the mean over a study's levels: one scanner took them all. Beyond what
held-out studies have, a growing share of the prior takes the place of the network's answer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lumbar_kaggle.core.targets import LEVELS, SEVERITIES
from lumbar_kaggle.two_stage.grade.data import Batch

GROUP = (0, 1, 1, 2, 2)  # score group of each of the network's five outputs
# Places in `VIEWS` of those that tell, and in these the ones that the groups are graded from. The axial middle may
# count for the canal too, but its slices are those of the sides.
JUDGED = (0, 1, 3)
SEEN = ((0,), (1, 2), (0, 2))


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


def textures(batch: Batch) -> tuple[Tensor, ...]:
    """Return the `texture` of each of the views `JUDGED` of a cut batch: for all networks the same."""
    return tuple(texture(batch["images"][view], batch["present"][view]) for view in JUDGED)


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

    def distance(self, described: Sequence[Tensor], present: Sequence[Tensor], looks: Sequence[Tensor]) -> Tensor:
        """Return ``[batch, 3 groups]``, around 1 for pictures like those of the training: the greatest one over the
        views of a group, each the mean over the levels of a study and its sides; views without a picture do not count.
        The batch is of whole studies; `described` is that of `network.Graded`, `looks` are the batch's `textures`."""
        far = []
        with torch.autocast(described[0].device.type, enabled=False):
            for number, view in enumerate(JUDGED):
                scaled = (summary(described[view], looks[number]) - self.mean[number]) @ self.whiten[number]
                there = present[view].any(dim=2)
                each = scaled.square().mean(dim=2).sqrt() * there
                total, count = (part.view(-1, len(LEVELS) * part.shape[1]).sum(dim=1) for part in (each, there))
                far.append((total / count.clamp(min=1)).repeat_interleave(len(LEVELS)))
        return torch.stack([torch.stack([far[number] for number in seen]).amax(dim=0) for seen in SEEN], dim=1)

    def forward(self, probabilities: Tensor, distance: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities ``[batch, 5, 3]`` with the prior's share in them, and that, ``[batch, 3 groups]``."""
        of, share = list(GROUP), share_of_prior(distance, self.low, self.high, self.least, self.most)
        return fallen_back(probabilities, share[:, of], self.prior[of][:, level].transpose(0, 1)), share


def summary(described: Tensor, look: Tensor) -> Tensor:
    """Return ``[batch, sides, width]``: what a view comes to by its description and its texture."""
    return torch.cat([described.float(), look], dim=2)


def share_of_prior(distance: Tensor, low: Tensor, high: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """Return how much of the prior counts at a distance: `least` up to `low`, `most` from `high` on. All broadcast."""
    return torch.lerp(least, most, ((distance - low) / (high - low)).clamp(0, 1))


def fallen_back(probabilities: Tensor, share: Tensor, prior: Tensor) -> Tensor:
    """Return probabilities ``[..., 3]`` with a share ``[...]`` of the prior ``[..., 3]`` in their place."""
    return (1 - share[..., None]) * probabilities + share[..., None] * prior
