"""Dark experience replay: remembered samples are held to the logits that the network gave for them when it met them.

    L = L_CE(new) + alpha * mean_{M,K} (h(x') - z')^2 + beta * L_CE(h(x''), y'')

(x', z') and (x'', y'') are two mini-batches of M samples drawn from memory, in passes of their own; z' are the logits
that were stored with x'. beta > 0 is DER++, beta = 0 is DER; alpha = 0 is experience replay. The memory is a reservoir that
is filled during training: each mini-batch's samples compete for places after its step, in every epoch, and are stored
before augmentation with the logits of that iteration; when replayed they are augmented anew. With a head that grows a sample
is compared on the outputs that there were when it was stored, and on a task-incremental stream on those of its own task;
the mean is over what is compared.
Shapes: B new samples, M remembered in a mini-batch, m in memory, C outputs, K stored ones (K <= C).

Source: Buzzega et al. 2020 (2004.07211). Peers: Mammoth's der and derpp have alpha, beta, buffer_size = memory and
minibatch_size = batch_size, as here (its head has all classes from the start: training.full_head); Avalanche's DER has a
balanced memory that is filled between experiences, and one pass over both.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..platform.methods.replay_memory import REDUNDANT_MEMORY, separate_logits
from ..platform.methods.reservoir_memory import ReservoirPlugin
from ..platform.training import plugin_api

NEUTRAL: dict[str, Any] | None = {"memory": 0}
ROLES = ("memory", "loss of its own")
CONFLICTS = REDUNDANT_MEMORY


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Dark experience replay (DER, DER++): hold remembered samples to the logits that were stored with them.

    memory: how many samples are remembered in all, >= 0.
    alpha: weight of the stored logits, >= 0.
    beta: weight of the remembered labels, >= 0; 0 is DER, more is DER++.
    batch_size: remembered samples in each of the two mini-batches; null: as many as new ones.
    """

    memory: int = 200
    alpha: float = 0.5
    beta: float = 0.5
    batch_size: int | None = None

    def __post_init__(self) -> None:
        memory, alpha, beta, batch_size = self.memory, self.alpha, self.beta, self.batch_size
        if memory < 0:
            raise ValueError(f"{memory=}: must be >= 0 samples")
        if not 0 <= alpha < math.inf:
            raise ValueError(f"{alpha=}: must be >= 0 and finite")
        if not 0 <= beta < math.inf:
            raise ValueError(f"{beta=}: must be >= 0 and finite")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"{batch_size=}: must be >= 1 sample, or null for the training batch size")


def matching(logits: Tensor, stored: Tensor) -> Tensor:
    """Mean squared difference, a scalar: logits (M, C) and stored (M, K), where that is finite."""
    known = stored.isfinite()
    difference = torch.where(known, logits[:, : stored.shape[1]] - stored, 0.0)
    return difference.square().sum() / known.sum()


def widened(stored: Tensor, num_outputs: int) -> Tensor:
    """Stored logits (m, K) as (m, num_outputs): NaN for outputs that there were not."""
    return torch.nn.functional.pad(stored, (0, num_outputs - stored.shape[1]), value=math.nan)


class DERPlugin(ReservoirPlugin):
    """Adds both terms on remembered samples to the loss."""

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config.memory, config.batch_size, seed, "der")
        self.config = config

    def remembered(self, learner: Any) -> dict[str, Tensor]:
        """With the logits of this iteration."""
        new = super().remembered(learner)
        logits = learner.mb_output.detach()[: len(new["y"])]
        if "logits" in self.columns:
            self.columns["logits"] = widened(self.columns["logits"], logits.shape[1])
        return new | {"logits": logits}

    def before_forward(self, learner: Any, **kwargs: Any) -> None:
        """Two mini-batches of remembered samples, each with a pass of its own."""
        if not len(self):
            return
        first, second = self.draw(learner, "logits"), self.draw(learner, "labels")
        remembered = self.minibatch(learner, torch.cat([first, second]))
        with_logits, with_labels = zip(*(part.split(len(first)) for part in remembered), strict=True)
        if self.config.alpha > 0:
            stored = plugin_api.mask_other_tasks(learner, self.columns["logits"][first], with_logits[2])
            logits = separate_logits(learner, list(with_logits))
            learner.loss = learner.loss + self.config.alpha * matching(logits, stored)
        if self.config.beta > 0:
            logits = separate_logits(learner, list(with_labels))
            learner.loss = learner.loss + self.config.beta * cross_entropy(logits, with_labels[1])


def build(config: Config, seed: int) -> DERPlugin:
    """The plugin; its random numbers are derived from `seed`."""
    return DERPlugin(config, seed)
