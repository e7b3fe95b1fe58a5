"""Recompute BatchNorm's statistics on the experience's training data, after its training.

    mean, var of each BatchNorm layer  <-  averages over mini-batches of the experience's training data, under the final weights

During training, running statistics are an exponential average (momentum 0.1: about the last 10 mini-batches count) under weights
that still change, and a short finetuning leaves much of the old domain's or of ImageNet's statistics in them. Here they are reset
and recomputed as cumulative averages, in one pass in which every layer normalises by mini-batch statistics, as in training. Only
statistics change, in all BatchNorm layers that keep some, also in frozen layers. Weights, other buffers and the random numbers of
dropout do not change. With `cumulative` or `joint` the data are those of all experiences so far. Other strategies that use the
network at an experience's end see the new statistics if they are named after this one (a teacher is taken at the start of the
next experience).
Shapes: B mini-batch.

Sources: Li et al. 2017 (1603.04779, AdaBN: statistics of the target domain), Wu & Johnson 2021 (2105.07576, PreciseBN).
Peers: torch.optim.swa_utils.update_bn and fvcore's update_bn_stats are the same computation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..platform.errors import UserError
from ..platform.models.inference import evaluation_mode
from ..platform.seeding import generator
from ..platform.training import plugin_api
from ..platform.training.plugin import Plugin

NEUTRAL: dict[str, Any] | None = {"batches": 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Recompute BatchNorm's statistics on the experience's training data when its training ends.

    batches: number of shuffled mini-batches to average over; null: all of the data once; 0: nothing is recomputed.
    batch_size: size of these mini-batches; null: the training batch size.
    """

    batches: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        batches, batch_size = self.batches, self.batch_size
        if batches is not None and batches < 0:
            raise ValueError(f"{batches=}: must be >= 0, or null for all of the data")
        if batch_size is not None and batch_size < 2:
            raise ValueError(f"{batch_size=}: must be >= 2 (a variance), or null for that of training")


def norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm layers that keep running statistics."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [layer for layer in layers if layer.running_mean is not None]


def recompute(model: nn.Module, batches: Iterator[torch.Tensor]) -> None:
    """Set the statistics of all BatchNorm layers to their cumulative average over `batches` (B, *shape each), B >= 2.

    Without any batch they do not change.
    """
    first = next(batches, None)
    if first is None:  # nothing to compute the statistics from
        return
    layers = norms(model)
    momenta = [layer.momentum for layer in layers]
    with evaluation_mode(model):  # turns dropout off, and restores the modes
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # in torch: cumulative average
            layer.train()
        for x in chain([first], batches):
            model(x)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse a network without BatchNorm layers."""
    if config.batches != 0 and not norms(model):
        raise UserError(
            "strategies.recompute_batchnorm: the network has no BatchNorm layer with running statistics; leave it out, or "
            "choose such a network (e.g. model.small_cnn.norm: batch)."
        )


class RecomputeBatchNormPlugin(Plugin):
    """Recomputes the statistics at the end of each experience."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed

    def state_dict(self) -> dict[str, Any]:
        """Return {}: the statistics belong to the network."""
        return {}

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Recompute the statistics under the final weights."""
        if self.config.batches != 0:
            recompute(learner.model, self._batches(learner))

    def _batches(self, learner: Any) -> Iterator[torch.Tensor]:
        """Yield shuffled mini-batches of the training data as network inputs, without augmentation."""
        dataset = learner.adapted_dataset.eval()
        draw = generator(self.seed, "recompute_batchnorm", learner.experience.current_experience)
        size = self.config.batch_size or learner.train_mb_size
        order = torch.randperm(len(dataset), generator=draw)
        order = order if self.config.batches is None else order[: self.config.batches * size]
        for x, _ in plugin_api.dataset_batches(dataset, size, order):
            if len(x) > 1:  # one sample has no variance
                yield x.to(learner.device)


def build(config: Config, seed: int) -> RecomputeBatchNormPlugin:
    """Return the plugin; the order of the mini-batches is derived from `seed`."""
    return RecomputeBatchNormPlugin(config, seed)
