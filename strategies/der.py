"""Dark experience replay: hold remembered samples to the logits that the network computed when it first stored them.

    L = L_CE(new) + alpha * mean_{M,K} (h(x') - z')^2 + beta * L_CE(h(x''), y'')

(x', z') and (x'', y'') are two mini-batches of M samples from memory, each in a separate forward pass. z' are the logits that
were stored with x'. beta > 0 is DER++, beta = 0 is DER, alpha = 0 is experience replay. The memory is a reservoir that is
filled during training: after each step, in every epoch, the mini-batch's samples compete for it. They are stored before
augmentation with the logits of that iteration, and augmented anew when replayed. If the head grows, a sample is compared on
the outputs that existed when it was stored; on a task-incremental stream, on those of its task. The mean is over the compared
outputs.
Shapes: B new samples, M remembered in a mini-batch, m in memory, C outputs, K stored ones (K <= C).

Source: Buzzega et al. 2020 (2004.07211). Peers: Mammoth's der and derpp have alpha, beta, buffer_size = memory and
minibatch_size = batch_size, as here (its head has all classes from the start: training.full_head). Avalanche's DER has a
balanced memory that is filled between experiences, and one pass over both.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..platform.config.settings import NonNegativeFloat, NonNegativeInt, PositiveInt, settings
from ..platform.methods.replay_memory import Columns, separate_logits
from ..platform.methods.reservoir_memory import ReservoirPlugin
from ..platform.training import plugin_api
from ..platform.training.plugin import LearnerView

NEEDS_PAST = True
ROLES = ("memory", "second loss")


@settings
class Config:
    """Replay samples, and hold them to the logits that were stored with them (dark experience replay: DER, DER++).

    memory: how many samples are remembered in all, >= 0.
    alpha: weight of the stored logits, >= 0.
    beta: weight of the remembered labels, >= 0; 0 is DER, more is DER++.
    batch_size: remembered samples in each of the two mini-batches; null: as many as new ones.
    """

    memory: NonNegativeInt = 200
    alpha: NonNegativeFloat = 0.5
    beta: NonNegativeFloat = 0.5
    batch_size: PositiveInt | None = None


def stored_logit_loss(logits: Tensor, stored: Tensor) -> Tensor:
    """Return the mean squared difference, a scalar, of logits (M, C) and stored (M, K), where stored is finite."""
    known = stored.isfinite()
    difference = torch.where(known, logits[:, : stored.shape[1]] - stored, 0.0)
    return difference.square().sum() / known.sum()


def pad_outputs(stored: Tensor, num_outputs: int) -> Tensor:
    """Return stored logits (m, K) as (m, num_outputs), with NaN for outputs that did not exist."""
    return torch.nn.functional.pad(stored, (0, num_outputs - stored.shape[1]), value=math.nan)


class DERPlugin(ReservoirPlugin[Config]):
    """Adds both terms on remembered samples to the loss."""

    def remembered(self, learner: LearnerView) -> Columns:
        """Return the columns with this iteration's logits."""
        new = super().remembered(learner)
        logits = learner.mb_output.detach()[: len(new["y"])]
        if "logits" in self.columns:
            self.columns["logits"] = pad_outputs(self.columns["logits"], logits.shape[1])
        return new | {"logits": logits}

    def before_forward(self, learner: LearnerView, **kwargs: object) -> None:
        """Add the terms on two mini-batches of remembered samples, each in a separate forward pass."""
        if not len(self):
            return
        first, second = self.draw(learner, "logits"), self.draw(learner, "labels")
        remembered = self.minibatch(learner, torch.cat([first, second]))
        with_logits, with_labels = zip(*(part.split(len(first)) for part in remembered), strict=True)
        if self.config.alpha > 0:
            stored = plugin_api.mask_other_tasks(learner, self.columns["logits"][first], with_logits[2])
            logits = separate_logits(learner, list(with_logits))
            learner.loss = learner.loss + self.config.alpha * stored_logit_loss(logits, stored)
        if self.config.beta > 0:
            logits = separate_logits(learner, list(with_labels))
            learner.loss = learner.loss + self.config.beta * cross_entropy(logits, with_labels[1])
