"""fastai callbacks of the second stage: the batch on the device, mixup, gradients added up."""

import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation

from lumbar_kaggle.two_stage.grade.augment import (
    Inputs,
    Truth,
    augment,
    cut,
    drop_views,
    unpack,
)
from lumbar_kaggle.two_stage.grade.config import GradeConfig
from lumbar_kaggle.two_stage.grade.losses import GradeLoss


class PrepareBatch(Callback):  # type: ignore[misc]
    """Turn cached crops into the network's input: augmented in training, the plain middle in validation."""

    order = -5

    def __init__(self, config: GradeConfig) -> None:
        self.config = config

    def before_batch(self) -> None:
        """Replace the batch."""
        inputs, truth = unpack((*self.xb, *self.yb))
        with torch.no_grad():
            if self.training:
                inputs, truth = augment(inputs, truth, self.config)
                inputs = drop_views(inputs, self.config.view_dropout)
            else:
                inputs, truth = cut(inputs, truth, self.config)
        self.learn.xb, self.learn.yb = inputs.flat(), truth.flat()


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
        inputs, _ = unpack((*self.xb, *self.yb))
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        # The greater part stays the sample's own, so that its level and its missing views remain right.
        self.share = max(share, 1 - share)
        self.partner = torch.randperm(len(inputs.level), device=inputs.level.device)
        images = tuple(torch.lerp(image[self.partner], image, self.share) for image in inputs.images)
        self.learn.xb = Inputs(images, inputs.present, inputs.level).flat()

    def after_loss(self) -> None:
        """Blend the losses likewise."""
        if not self.training:
            return
        severity, weight, *slices = self.yb
        other = Truth(
            severity[self.partner], weight[self.partner], tuple(at[self.partner] for at in slices)
        ).flat()
        mixed = torch.lerp(self.loss(self.learn.pred, *other), self.learn.loss_grad, self.share)
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
