"""BatchNorm statistics recomputed on the target data, after the training of each experience.

    mean, var of each BatchNorm layer  <-  averages over mini-batches of the experience's training data, under the final weights

While an experience is trained, running statistics are an exponential average (momentum 0.1: about the last 10 mini-batches
count) of what the layers met under weights that were still changing, and a short finetuning leaves much of the old domain's or
of ImageNet's statistics in them. Here they are set back and computed anew as cumulative averages: layer by layer in one pass,
each layer fed by mini-batch statistics of those before it, as in training. Only statistics change, of all BatchNorm layers
that keep some, those of frozen layers too; weights, other buffers and the random numbers of dropout do not.
With `cumulative` or `joint` the data are those of all experiences so far. Other strategies that use the network at an
experience's end (a teacher is taken at the start of the next one) see the new statistics if they are named after this one.
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

    batches: shuffled mini-batches to average over; null: all of the data once; 0: nothing is recomputed.
    batch_size: of these mini-batches; null: that of training.
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
    """The BatchNorm layers that keep running statistics."""
    found = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [layer for layer in found if layer.running_mean is not None]


def recompute(model: nn.Module, batches: Iterator[torch.Tensor]) -> None:
    """Set the statistics of all BatchNorm layers to their cumulative average over `batches` (B, *shape each), B >= 2.

    Without any they stay as they are.
    """
    first = next(batches, None)
    if first is None:  # nothing to compute them from: they stay
        return
    layers = norms(model)
    momenta = [layer.momentum for layer in layers]
    with evaluation_mode(model):  # dropout is off, modes are put back
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # torch's way to say: cumulative average
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
    """Recomputes at the end of each experience."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the statistics are the network's."""
        return {}

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """The weights are final."""
        if self.config.batches != 0:
            recompute(learner.model, self._batches(learner))

    def _batches(self, learner: Any) -> Iterator[torch.Tensor]:
        """Shuffled mini-batches of the data trained on, as the network takes them, without augmentation."""
        dataset = learner.adapted_dataset.eval()
        draw = generator(self.seed, "recompute_batchnorm", learner.experience.current_experience)
        size = self.config.batch_size or learner.train_mb_size
        order = torch.randperm(len(dataset), generator=draw)
        order = order if self.config.batches is None else order[: self.config.batches * size]
        for x, _ in plugin_api.dataset_batches(dataset, size, order):
            if len(x) > 1:  # one sample has no variance
                yield x.to(learner.device)


def build(config: Config, seed: int) -> RecomputeBatchNormPlugin:
    """The plugin; `seed` draws the mini-batches."""
    return RecomputeBatchNormPlugin(config, seed)
