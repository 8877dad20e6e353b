"""fastai callbacks of the second stage: the batch on the device, mixup, gradients added up."""

import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation

from lumbar_kaggle.two_stage.grade.augment import augment, cut, drop_views
from lumbar_kaggle.two_stage.grade.config import GradeConfig
from lumbar_kaggle.two_stage.grade.data import Batch
from lumbar_kaggle.two_stage.grade.losses import GradeLoss


class PrepareBatch(Callback):  # type: ignore[misc]
    """Turn cached crops into the network's input: augmented in training, the plain middle in validation."""

    order = -5

    def __init__(self, config: GradeConfig) -> None:
        self.config = config

    def before_batch(self) -> None:
        """Replace the batch; the loss takes the same one as the network."""
        batch: Batch = self.xb[0]
        with torch.no_grad():
            if self.training:
                batch = drop_views(augment(batch, self.config), self.config.view_dropout)
            else:
                batch = cut(batch, self.config)
        self.learn.xb = self.learn.yb = (batch,)


class MixSamples(Callback):  # type: ignore[misc]
    """Mixup of whole levels: every sample is blended with another one, and so is the loss.

    fastai's own takes one image tensor; here a sample is several views, some of which may be missing.
    """

    order = PrepareBatch.order + 1

    def __init__(self, alpha: float, loss: GradeLoss) -> None:
        self.alpha, self.loss = alpha, loss
        self.partner, self.share = torch.empty(0), 1.0

    def before_batch(self) -> None:
        """Blend the images with those of a shuffled batch."""
        if not self.training:
            return
        batch: Batch = self.xb[0]
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        # The greater part stays the sample's own, so that its level and its missing views remain right.
        self.share = max(share, 1 - share)
        self.partner = torch.randperm(len(batch["level"]), device=batch["level"].device)
        images = [torch.lerp(image[self.partner], image, self.share) for image in batch["images"]]
        self.learn.xb = ({**batch, "images": images},)

    def after_loss(self) -> None:
        """Blend the losses likewise."""
        if not self.training:
            return
        batch: Batch = self.yb[0]
        other: Batch = {
            **batch,
            "severity": batch["severity"][self.partner],
            "weight": batch["weight"][self.partner],
            "slices": [at[self.partner] for at in batch["slices"]],
        }
        mixed = torch.lerp(self.loss(self.learn.pred, other), self.learn.loss_grad, self.share)
        self.learn.loss_grad, self.learn.loss = mixed, mixed.clone()


class Accumulate(GradientAccumulation):  # type: ignore[misc]
    """Add up the gradients of some batches before a step; the last batch of an epoch steps in any case.

    So no gradient is carried from one epoch to the next, and an epoch can be resumed from its weights.
    """

    def before_step(self) -> None:
        """Let the step pass, or cancel it while samples are missing."""
        if self.iter + 1 == self.n_iter:
            self.count = 0
        else:
            super().before_step()
