"""The loss of the second stage: the score's own, on all heads, and that of the slice attention."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from lumbar_kaggle.core.targets import SEVERITY_WEIGHTS
from lumbar_kaggle.two_stage.grade.config import GradeConfig
from lumbar_kaggle.two_stage.grade.data import UNKNOWN, Batch
from lumbar_kaggle.two_stage.grade.network import Graded
from lumbar_kaggle.two_stage.grade.views import VIEWS

GROUP_OUTPUTS = ((0,), (1, 2), (3, 4))
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
            chosen = list(outputs)
            mean = losses[:, chosen].sum() / known[:, chosen].sum().clamp(min=1)
            total = total + share * mean
        return total / sum(self.config.group_weights)

    def views(
        self, by_view: Sequence[torch.Tensor], severity: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
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
