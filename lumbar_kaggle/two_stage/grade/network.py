"""The second stage's network: slices → views → the five grades of a level; and its loss."""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import nn
from torch.nn import functional

from lumbar_kaggle.core.targets import LEVELS, SEVERITIES, SEVERITY_WEIGHTS
from lumbar_kaggle.training.encoders import build_encoder
from lumbar_kaggle.two_stage.config import GradeConfig
from lumbar_kaggle.two_stage.grade.data import UNKNOWN, Batch
from lumbar_kaggle.two_stage.grade.views import VIEWS

PLANES = ("sagittal", "axial")


class Graded(TypedDict):
    """What the network says of a batch: a dictionary, which fastai can take apart and put together again.

    Attributes:
        logits: ``[batch, 5, 3]`` in the order of `views.PLACES`.
        by_view: per view ``[batch, sides, 3]`` logits from that view alone.
        slices: per view ``[batch, sides, slices]`` scores of showing the place best; -inf for absent slices.
        attention: per view ``[batch, sides, slices]`` weights of the slices, 0 for absent ones.
    """

    logits: torch.Tensor
    by_view: tuple[torch.Tensor, ...]
    slices: tuple[torch.Tensor, ...]
    attention: tuple[torch.Tensor, ...]


class SlicePool(nn.Module):
    """A view's slices → its description: recurrence along the slices, then gated attention.

    The score of the auxiliary slice loss is a second one beside the attention's: what shows the place best
    need not be all that the grade is read from.

    Args:
        features: of the encoder.
        width: of the description.
        sequence: ``"gru"`` or ``"none"``.
    """

    def __init__(self, features: int, width: int, sequence: str) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(features, width), nn.LayerNorm(width), nn.GELU())
        self.sequence = nn.GRU(width, width // 2, batch_first=True, bidirectional=True) if sequence == "gru" else None
        self.value, self.gate = nn.Linear(width, width // 2), nn.Linear(width, width // 2)
        self.score, self.best = nn.Linear(width // 2, 1), nn.Linear(width // 2, 1)

    def forward(self, features: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return description ``[views, width]``, slice scores and attention ``[views, slices]`` each.

        Args:
            features: ``[views, slices, features]``.
            present: ``[views, slices]`` bool; a view without any slice has attention 0 throughout.
        """
        hidden = self.enter(features) * present[..., None]
        if self.sequence is not None:
            hidden = hidden + self.sequence(hidden)[0]
        gated = torch.tanh(self.value(hidden)) * torch.sigmoid(self.gate(hidden))
        absent = ~present
        scores = self.score(gated)[..., 0].float().masked_fill(absent, -1e4)
        attention = scores.softmax(dim=1) * present
        best = self.best(gated)[..., 0].float().masked_fill(absent, -torch.inf)
        described = (hidden * attention[..., None].to(hidden.dtype)).sum(dim=1)
        return described, best, attention


class Grader(nn.Module):
    """Grades one level: canal, both foramina, both recesses.

    Everything is shared over levels, and over the sides, whose right one comes mirrored: exchanging the
    sides of the input exchanges those of the output.

    Args:
        config: of the network.
        prior: ``[3 groups, 5 levels, 3]`` probabilities that the heads start from (groups as in
            `targets.SCORE_GROUPS`).
        pretrained: give the encoders the weights of the configuration; without, all is random.
    """

    def __init__(self, config: GradeConfig, prior: torch.Tensor | None = None, *, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        weights = config.weights if pretrained else ("none", "none")
        built = [build_encoder(name, file) for name, file in zip(config.backbones, weights, strict=True)]
        self.encoders = nn.ModuleList(encoder for encoder, _ in built)
        widths = dict(zip(PLANES, (features for _, features in built), strict=True))
        width = config.features
        self.pools = nn.ModuleList(SlicePool(widths[view.plane], width, config.sequence) for view in VIEWS)
        self.missing = nn.Parameter(torch.zeros(len(VIEWS), width))
        self.view_heads = nn.ModuleList(nn.Linear(width, len(SEVERITIES)) for _ in VIEWS)
        inputs = [width * (3 if config.axial_for_canal else 1), 2 * width, 2 * width]
        self.heads = nn.ModuleList(_head(count, width, config.dropout) for count in inputs)
        # Starting from the prior saves the first epoch; with the level it says how frequent a grade is there.
        self.base = nn.Parameter(torch.zeros(3, len(LEVELS) if config.level_input else 1, len(SEVERITIES)))
        if prior is not None:
            start = prior if config.level_input else prior.mean(dim=1, keepdim=True)
            self.base.data.copy_(start.float().log())

    def forward(self, batch: Batch) -> Graded:
        """Grade a batch of crops that are cut to the network's size; its labels are not looked at."""
        images, present, level = batch["images"], batch["present"], batch["level"]
        described, by_view, best, attention = [], [], [], []
        for number, features in enumerate(self._encode(images)):
            shape = present[number].shape
            flat = present[number].flatten(0, 1)
            one, score, weight = self.pools[number](features, flat)
            one = torch.where(flat.any(dim=1)[:, None], one, self.missing[number].to(one.dtype))
            described.append(one.view(*shape[:2], -1))
            by_view.append(self.view_heads[number](described[-1]))
            best.append(score.view(shape))
            attention.append(weight.view(shape))
        logits = self._grade(described, level)
        return Graded(logits=logits, by_view=tuple(by_view), slices=tuple(best), attention=tuple(attention))

    def _encode(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return per view ``[batch · sides, slices, features]``; each plane's images in one batch."""
        encoded: list[torch.Tensor] = [torch.empty(0)] * len(VIEWS)
        for plane, encoder in zip(PLANES, self.encoders, strict=True):
            members = [number for number, view in enumerate(VIEWS) if view.plane == plane]
            flat = [images[number].flatten(0, 2)[:, None] for number in members]
            stacked = torch.cat(flat)
            if self.config.channels_last:
                stacked = stacked.contiguous(memory_format=torch.channels_last)
            parts = encoder(stacked).split([len(part) for part in flat])
            for number, part in zip(members, parts, strict=True):
                batch, sides, slices = images[number].shape[:3]
                encoded[number] = part.view(batch * sides, slices, -1)
        return encoded

    def _grade(self, described: Sequence[torch.Tensor], level: torch.Tensor) -> torch.Tensor:
        canal, foramen, middle, side = described
        canal, middle = canal[:, 0], middle[:, 0]
        spinal = [canal, middle, side.mean(dim=1)] if self.config.axial_for_canal else [canal]
        base = self.base[:, level if self.config.level_input else torch.zeros_like(level)]
        outputs = [self.heads[0](torch.cat(spinal, dim=1)).float() + base[0]]
        recesses = [torch.cat([side[:, k], canal], dim=1) for k in range(2)]
        foramina = [torch.cat([foramen[:, k], side[:, k]], dim=1) for k in range(2)]
        outputs += [self.heads[1](one).float() + base[1] for one in foramina]
        outputs += [self.heads[2](one).float() + base[2] for one in recesses]
        return torch.stack(outputs, dim=1)


def _head(inputs: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(inputs, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, len(SEVERITIES))
    )


GROUP_OUTPUTS = ([0], [1, 2], [3, 4])
"""Outputs of canal, foramina and recesses: the three pooled conditions of the score."""


class GradeLoss:
    """Cross-entropy with the score's weights, missing labels masked, over a batch.

    Each group's part is the mean over its labelled outputs of weight × cross-entropy; the parts are added
    by `GradeConfig.group_weights`, relative to their sum.

    Args:
        config: weights of the parts.
    """

    def __init__(self, config: GradeConfig) -> None:
        self.config = config
        self.severity_weights = SEVERITY_WEIGHTS if config.severity_weights else (1.0, 1.0, 1.0)

    def __call__(self, graded: Graded, batch: Batch) -> torch.Tensor:
        """Return the loss of what the network made of a batch."""
        severity, weight = batch["severity"], batch["weight"]
        loss = self.grades(graded["logits"], severity, weight)
        if self.config.view_loss:
            loss = loss + self.config.view_loss * self.views(graded["by_view"], severity, weight)
        if self.config.slice_loss:
            loss = loss + self.config.slice_loss * slice_loss(graded["slices"], batch["slices"])
        return loss

    def grades(self, logits: torch.Tensor, severity: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return the loss of ``[batch, 5, 3]`` logits."""
        losses, known = self._each(logits, severity, weight)
        total = logits.new_zeros(())
        for share, outputs in zip(self.config.group_weights, GROUP_OUTPUTS, strict=True):
            total = total + share * losses[:, outputs].sum() / known[:, outputs].sum().clamp(min=1)
        return total / sum(self.config.group_weights)

    def views(self, by_view: Sequence[torch.Tensor], severity: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of the heads that see one view each, ``[batch, sides, 3]`` logits."""
        total = by_view[0].new_zeros(())
        for view, logits in zip(VIEWS, by_view, strict=True):
            chosen = list(view.outputs)
            losses, known = self._each(logits.float(), severity[:, chosen], weight[:, chosen])
            total = total + losses.sum() / known.sum().clamp(min=1)
        return total / len(VIEWS)

    def _each(
        self, logits: torch.Tensor, severity: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each output's weighted loss, 0 where there is no label, and whether there is one."""
        known = severity != UNKNOWN
        losses = functional.cross_entropy(
            logits.flatten(0, 1),
            severity.clamp(min=0).flatten(),
            weight=logits.new_tensor(self.severity_weights),
            reduction="none",
        ).view(severity.shape)
        return losses * weight * known, known


def slice_loss(scores: Sequence[torch.Tensor], slices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the cross-entropy of the annotated slice among those of its window, mean over views.

    Args:
        scores: per view ``[batch, sides, slices]``, -inf for absent slices.
        slices: per view ``[batch, sides]`` the annotated slice, `UNKNOWN` for none.
    """
    total = scores[0].new_zeros(())
    for score, at in zip(scores, slices, strict=True):
        flat, wanted = score.flatten(0, 1), at.flatten()
        known = wanted != UNKNOWN
        # A slice that is absent cannot be wanted; an absent view has scores of -inf only. No row is taken
        # out: the CPU would have to wait for the GPU to learn how many are left.
        possible = known & torch.isfinite(flat.gather(1, wanted.clamp(min=0)[:, None])[:, 0])
        losses = functional.cross_entropy(
            flat.masked_fill(~possible[:, None], 0.0),
            torch.where(possible, wanted, UNKNOWN),
            ignore_index=UNKNOWN,
            reduction="sum",
        )
        total = total + losses / possible.sum().clamp(min=1)
    return total / len(scores)
