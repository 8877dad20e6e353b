"""The second stage's network: slices → views → the five grades of a level; its loss, and predictions by several."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, SEVERITIES, SEVERITY_WEIGHTS
from lumbar_kaggle.training.devices import device_of, half_precision
from lumbar_kaggle.training.encoders import build_encoder
from lumbar_kaggle.training.weights import load_weights
from lumbar_kaggle.two_stage.config import GradeConfig
from lumbar_kaggle.two_stage.grade.data import SWAPPED, UNKNOWN, Batch, cut, mirror, on_device
from lumbar_kaggle.two_stage.grade.domain import Domain, textures
from lumbar_kaggle.two_stage.grade.views import VIEWS
from lumbar_kaggle.two_stage.study import CELLS, FORAMINA

PLANES = ("sagittal", "axial")


class Graded(TypedDict):
    """What the network says of a batch: a dictionary, which fastai can take apart and put together again."""

    logits: Tensor  # [batch, 5, 3] in the order of `study.PLACES`
    by_view: tuple[Tensor, ...]  # per view [batch, sides, 3] logits from that view alone
    slices: tuple[Tensor, ...]  # per view [batch, sides, slices] scores of showing the place best; absent: -inf
    described: tuple[Tensor, ...]  # per view [batch, sides, width], what its slices come to
    attention: tuple[Tensor, ...]  # per view [batch, sides, slices] weights of the slices; absent: 0


class SlicePool(nn.Module):
    """A view's slices → its description: recurrence along the slices (`sequence` "gru"), then gated attention. The
    score of the auxiliary slice loss is a second one beside the attention's: what shows the place best need not be all
    that the grade is read from."""

    def __init__(self, features: int, width: int, sequence: str) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(features, width), nn.LayerNorm(width), nn.GELU())
        self.sequence = nn.GRU(width, width // 2, batch_first=True, bidirectional=True) if sequence == "gru" else None
        self.value, self.gate = nn.Linear(width, width // 2), nn.Linear(width, width // 2)
        self.score, self.best = nn.Linear(width // 2, 1), nn.Linear(width // 2, 1)

    def forward(self, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return description ``[views, width]``, slice scores and attention ``[views, slices]`` each. Of `features`
        ``[views, slices, features]``; a view without any slice `present` has attention 0 throughout."""
        hidden = self.enter(features) * present[..., None]
        if self.sequence is not None:
            hidden = hidden + self.sequence(hidden)[0]
        gated = torch.tanh(self.value(hidden)) * torch.sigmoid(self.gate(hidden))
        scores = self.score(gated)[..., 0].float().masked_fill(~present, -1e4)
        attention = scores.softmax(dim=1) * present
        best = self.best(gated)[..., 0].float().masked_fill(~present, -torch.inf)
        return (hidden * attention[..., None].to(hidden.dtype)).sum(dim=1), best, attention


class Grader(nn.Module):
    """Grades one level: canal, both foramina, both recesses. Everything is shared over levels, and over the sides,
    whose right one comes mirrored: exchanging the sides of the input exchanges those of the output. The heads start
    from the probabilities `prior` ``[3 groups, 5 levels, 3]``, groups as in `targets.SCORE_GROUPS`; the encoders, if
    `pretrained`, from the weights of the configuration."""

    def __init__(self, config: GradeConfig, prior: Tensor | None = None, *, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        weights = config.weights if pretrained else ("none", "none")
        built = [build_encoder(name, file) for name, file in zip(config.backbones, weights, strict=True)]
        self.encoders = nn.ModuleList(encoder for encoder, _ in built)
        width, inputs = config.features, [built[PLANES.index(view.plane)][1] for view in VIEWS]
        self.pools = nn.ModuleList(SlicePool(count, width, config.sequence) for count in inputs)
        self.missing = nn.Parameter(torch.zeros(len(VIEWS), width))
        self.view_heads = nn.ModuleList(nn.Linear(width, len(SEVERITIES)) for _ in VIEWS)
        described = (3 if config.axial_for_canal else 1, 2, 2)  # views that each head reads
        self.heads = nn.ModuleList(_head(count * width, width, config.dropout) for count in described)
        # Starting from the prior saves the first epoch; with the level it says how frequent a grade is there.
        self.base = nn.Parameter(torch.zeros(3, len(LEVELS) if config.level_input else 1, len(SEVERITIES)))
        self.domain = Domain(width) if config.fallback else None
        if prior is not None:
            start = prior if config.level_input else prior.mean(dim=1, keepdim=True)
            self.base.data.copy_(start.float().log())

    def forward(self, batch: Batch) -> Graded:
        """Grade a batch of crops that are cut to the network's size; its labels are not looked at."""
        features, parts = self._encode(batch["images"]), []
        for number, present in enumerate(batch["present"]):
            flat = present.flatten(0, 1)
            one, best, attention = self.pools[number](features[number], flat)
            one = torch.where(flat.any(dim=1)[:, None], one, self.missing[number].to(one.dtype))
            one = one.view(*present.shape[:2], -1)
            parts.append((one, self.view_heads[number](one), best.view(present.shape), attention.view(present.shape)))
        described, by_view, slices, attended = zip(*parts, strict=True)
        logits = self._grade(described, batch["level"])
        return Graded(logits=logits, by_view=by_view, slices=slices, described=described, attention=attended)

    def _encode(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Return per view ``[batch · sides, slices, features]``; each plane's images in one batch."""
        encoded = []
        for plane, encoder in zip(PLANES, self.encoders, strict=True):  # `VIEWS` has the planes in this order
            mine = [part for view, part in zip(VIEWS, images, strict=True) if view.plane == plane]
            stacked = torch.cat([part.flatten(0, 2)[:, None] for part in mine])
            if self.config.channels_last:
                stacked = stacked.contiguous(memory_format=torch.channels_last)
            parts = encoder(stacked).split([part.shape[:3].numel() for part in mine])
            encoded += [one.view(-1, part.shape[2], one.shape[1]) for one, part in zip(parts, mine, strict=True)]
        return encoded

    def _grade(self, described: Sequence[Tensor], level: Tensor) -> Tensor:
        canal, foramen, middle, side = described
        canal, middle = canal[:, 0], middle[:, 0]
        spinal = torch.cat([canal, middle, side.mean(dim=1)], dim=1) if self.config.axial_for_canal else canal
        foramina = [torch.cat([foramen[:, k], side[:, k]], dim=1) for k in range(2)]
        recesses = [torch.cat([side[:, k], canal], dim=1) for k in range(2)]
        base = self.base[:, level if self.config.level_input else torch.zeros_like(level)]
        inputs = zip((0, 1, 1, 2, 2), (spinal, *foramina, *recesses), strict=True)
        return torch.stack([self.heads[group](one).float() + base[group] for group, one in inputs], dim=1)


def _head(inputs: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(inputs, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, len(SEVERITIES))
    )


def grade_loss(graded: Graded, batch: Batch, config: GradeConfig) -> Tensor:
    """Return the loss of what the network made of a batch: cross-entropy with the score's weights, missing labels
    masked. Each group's part is the mean over its labelled outputs of weight × cross-entropy; the parts are added by
    `GradeConfig.group_weights`, relative to their sum. To it come the heads that see one view, and `slice_loss`."""
    weights = SEVERITY_WEIGHTS if config.severity_weights else (1.0, 1.0, 1.0)

    def mean(logits: Tensor, outputs: Sequence[int]) -> Tensor:
        """Return the mean of ``[batch, outputs, 3]`` over the labels that there are."""
        wanted = batch["wanted"][:, list(outputs)]
        known = (wanted > 0).any(dim=2).sum()
        costs = -functional.log_softmax(logits.float(), dim=2) * logits.new_tensor(weights, dtype=torch.float32)
        return (costs * wanted).sum() / known.clamp(min=1)

    # The outputs of canal, foramina and recesses: the three pooled conditions of the score.
    groups = zip(config.group_weights, ([0], [1, 2], [3, 4]), strict=True)
    grades = torch.stack([share * mean(graded["logits"][:, of], of) for share, of in groups]).sum()
    views = [mean(logits, view.outputs) for logits, view in zip(graded["by_view"], VIEWS, strict=True)]
    loss = grades / sum(config.group_weights) + config.view_loss * torch.stack(views).mean()
    return loss + config.slice_loss * slice_loss(graded["slices"], batch["slices"])


def slice_loss(scores: Sequence[Tensor], slices: Sequence[Tensor]) -> Tensor:
    """Return the cross-entropy of the annotated slice among those of its window, mean over views. Per view `scores` are
    ``[batch, sides, slices]``, -inf for absent slices, and `slices` ``[batch, sides]`` the annotated slice, `UNKNOWN`
    for none."""
    total = scores[0].new_zeros(())
    for score, at in zip(scores, slices, strict=True):
        flat, wanted = score.flatten(0, 1), at.flatten()
        # A slice that is absent cannot be wanted; an absent view has scores of -inf only. No row is taken
        # out: the CPU would have to wait for the GPU to learn how many are left.
        there = torch.isfinite(flat.gather(1, wanted.clamp(min=0)[:, None])[:, 0])
        possible = (wanted != UNKNOWN) & there
        flat, wanted = flat.masked_fill(~possible[:, None], 0.0), torch.where(possible, wanted, UNKNOWN)
        losses = functional.cross_entropy(flat, wanted, ignore_index=UNKNOWN, reduction="sum")
        total = total + losses / possible.sum().clamp(min=1)
    return total / len(scores)


def load_network(file: Path, config: GradeConfig) -> Grader:
    """Return a fold's trained network, on the CPU; raises InputError where the file is none of it."""
    network = Grader(config)
    load_weights(network, file, "delete it and run the same command again, or export the bundle again")
    return network


def predict_levels(
    networks: Sequence[Grader], batches: Iterable[Batch], config: GradeConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return probabilities ``[studies, 25, 3]``, rows sum to 1: the mean over networks, turns and mirror images; and
    how much of the answers is the prior's, ``[studies, 3 groups]``, see `Domain`. The networks are of one
    configuration, on one device, which computes; the batches, of crops as they are cached, are of whole studies, all
    five levels of each."""
    parts = [predict_batch(networks, batch, config) for batch in batches]
    probabilities, share = (torch.cat(column).double().numpy() for column in zip(*parts, strict=True))
    targets = probabilities.reshape(-1, len(LEVELS), *probabilities.shape[1:])[:, *CELLS]
    return targets / targets.sum(axis=-1, keepdims=True), share[:: len(LEVELS)]


@torch.inference_mode()
def predict_batch(networks: Sequence[Grader], batch: Batch, config: GradeConfig) -> tuple[Tensor, Tensor]:
    """Return probabilities ``[batch, 5, 3]`` and the prior's share in them ``[batch, 3 groups]`` of crops as they are
    cached, the means as in `predict_levels`."""
    device, found = device_of(networks[0]), []
    cached = on_device(batch, device)
    for turn in config.predict_turns:
        plain = cut(cached, config, turn)
        shown = [(plain, list(range(len(SWAPPED))))]
        if config.flip_predictions:
            everyone = torch.ones(len(plain["level"]), dtype=torch.bool, device=device)
            shown.append((mirror(plain, everyone), SWAPPED))
        looks = [() if networks[0].domain is None else textures(one) for one, _ in shown]
        with half_precision(device, wanted=config.mixed_precision):
            for network in networks:
                network.eval()
                for (one, order), look in zip(shown, looks, strict=True):
                    probabilities, share = _probabilities(network, one, look)
                    found.append((probabilities[:, order], share))
    probabilities, share = (torch.stack(column).mean(dim=0).cpu() for column in zip(*found, strict=True))
    return probabilities, share


def _probabilities(network: Grader, batch: Batch, looks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    graded = network(batch)
    probabilities: Tensor = graded["logits"].softmax(dim=2)
    if network.domain is None:
        return probabilities, probabilities.new_zeros(len(probabilities), 3)
    distance = network.domain.distance(graded["described"], batch["present"], looks)
    mixed: tuple[Tensor, Tensor] = network.domain(probabilities, distance, batch["level"])
    return mixed


def average_sides(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``[…, 25, 3]`` with the mean of left and right in place of both foramina of a level."""
    averaged = probabilities.reshape(*probabilities.shape[:-2], len(CONDITIONS), len(LEVELS), len(SEVERITIES)).copy()
    averaged[..., FORAMINA, :, :] = averaged[..., FORAMINA, :, :].mean(axis=-3, keepdims=True)
    return averaged.reshape(probabilities.shape)
