"""Recompute BatchNorm's statistics on the experience's training data, after its training.

    mean, var of each BatchNorm layer  <-  averages over mini-batches of the experience's training data, under the final weights

During training, running statistics are an exponential average (momentum 0.1: about the last 10 mini-batches count) under weights
that still change, and a short finetuning leaves much of the old domain's or of ImageNet's statistics in them. Here they are reset
and recomputed as cumulative averages, in one pass in which every layer normalises by mini-batch statistics, as in training. Only
statistics change, in all BatchNorm layers that keep some, also in frozen layers. Weights, other buffers and the random numbers of
dropout do not change. With `cumulative` or `joint` the data are those of all experiences so far. It acts after strategies that
change the weights at an experience's end (early_stopping, swa, eeil), and before those that use the network there.
Shapes: B mini-batch.

Sources: Li et al. 2017 (1603.04779, AdaBN: statistics of the target domain), Wu & Johnson 2021 (2105.07576, PreciseBN).
Peers: torch.optim.swa_utils.update_bn and fvcore's update_bn_stats are the same computation.
"""

from collections.abc import Iterator
from typing import Annotated

import torch
from torch import nn

from ..platform.config.settings import Ge, NonNegativeInt, settings
from ..platform.data.samples import dataset_batches
from ..platform.models.batchnorm import check_running_statistics, recompute_statistics
from ..platform.seeding import generator
from ..platform.training.plugin import EndOrder, LearnerView, Plugin

NEUTRAL = {"batches": 0}


@settings
class Config:
    """Recompute BatchNorm's statistics on the experience's training data when its training ends.

    batches: number of shuffled mini-batches to average over; null: all of the data once; 0: nothing is recomputed.
    batch_size: size of these mini-batches; null: the training batch size, at least 2.
    """

    batches: NonNegativeInt | None = None
    batch_size: Annotated[int, Ge(2)] | None = None  # one sample has no variance


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse a network without BatchNorm layers."""
    check_running_statistics("strategies.recompute_batchnorm", model)


class RecomputeBatchNormPlugin(Plugin[Config]):
    """Recomputes the statistics at the end of each experience."""

    STATE = ()
    end_order = EndOrder.RECOMPUTE_STATISTICS

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Recompute the statistics under the final weights."""
        if self.config.batches != 0:
            recompute_statistics(learner.model, self._batches(learner))

    def _batches(self, learner: LearnerView) -> Iterator[torch.Tensor]:
        """Yield shuffled mini-batches of the training data as network inputs, without augmentation."""
        dataset = learner.adapted_dataset.eval()
        draw = generator(self.seed, "recompute_batchnorm", learner.experience.current_experience)
        order = torch.randperm(len(dataset), generator=draw)
        size = self.config.batch_size or max(2, learner.train_mb_size)  # one sample has no variance
        used = order if self.config.batches is None else order[: self.config.batches * size]
        for x, _ in dataset_batches(dataset, size, used):
            if len(x) > 1:  # one sample has no variance
                yield x.to(learner.device)
