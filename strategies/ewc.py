"""Elastic Weight Consolidation: keep the parameters that old experiences depend on near their old values.

    L = L_CE + weight * sum_t sum_i F_t,i (theta_i - theta_t,i)^2                   mode: separate
    L = L_CE + weight * sum_i F_i (theta_i - theta*_i)^2,  F <- decay * F + F_t     mode: online, theta*: the newest
    F_t,i = mean over samples of E_c [(d log p(c | x) / d theta_i)^2]               the diagonal Fisher information

p is the network's softmax (on a task-incremental stream, over the sample's task), in evaluation mode, without augmentation. The
gradient is that of each sample alone. E_c is over the network's predictions ("exact"), over one label sampled from them
("sampled"), or is the true label ("empirical"), which shrinks to nothing as the training set is fitted. "separate" is stored as
one quadratic (the sum of two is one, Huszar 2018): memory and time do not grow with the stream. F is measured at the
end of an experience, after strategies such as `early_stopping` have restored weights.

Sources: Kirkpatrick et al. 2017 (1612.00796); online: Schwarz et al. 2018 (1805.06370); on ways to compute F: van de Ven 2025
(2502.11756). There is no factor 1/2 here. Peers: Kirkpatrick's and van de Ven's lambda have it: weight = lambda / 2 (his EWC is
separate and exact on all samples; online, his and Schwarz's penalty has one more decay: weight = lambda * gamma / 2). FACIL's
has it too. Avalanche's ewc_lambda = weight with fisher empirical, but it squares the mean gradient of a mini-batch of B, which
makes F about B times smaller. Mammoth's ewc_on: e_lambda = weight, gamma = decay, empirical, each square times p(y | x).
"""

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from ..platform.config.settings import NonNegativeFloat, OnlyWith, PositiveInt, UnitInterval, settings
from ..platform.methods.per_sample_gradients import gradient_sums, masked_predictions, training_samples
from ..platform.methods.quadratic_penalty import NamedTensors, PenaltyPlugin, decayed_sum
from ..platform.seeding import generator
from ..platform.training.plugin import LearnerView

NEEDS_PAST = True


@settings
class Config:
    """Penalise changes of parameters that old experiences depend on, by Fisher information (Elastic Weight Consolidation).

    weight: lambda without the factor 1/2, >= 0.
    mode: "separate" (a penalty around each experience's end) or "online" (one, around the newest).
    decay: gamma, in [0, 1], the factor of the old importances at each new experience; online only.
    fisher: "exact" (over the network's predictions), "sampled" (a label sampled from them) or "empirical" (the true label).
    num_samples: of each experience, chosen at random, on which it is measured; null: all.
    """

    weight: NonNegativeFloat = 10.0
    mode: Literal["separate", "online"] = "separate"
    decay: Annotated[UnitInterval, OnlyWith(mode="online")] = 1.0
    fisher: Literal["exact", "sampled", "empirical"] = "exact"
    num_samples: PositiveInt | None = 1000


def label_weights(logits: Tensor, y: Tensor, fisher: str, draw: torch.Generator) -> Tensor:
    """Return the weight of each class in E_c, (B, C), for `logits` (B, C); -inf has weight 0."""
    p = logits.softmax(1)
    if fisher == "exact":
        return p
    labels = y if fisher == "empirical" else torch.multinomial(p.cpu(), 1, generator=draw)[:, 0].to(y.device)
    return nn.functional.one_hot(labels, logits.shape[1]).to(p.dtype)


def fisher_sums(model: nn.Module, x: Tensor, weights: Tensor, own: Tensor) -> NamedTensors:
    """Return sum_b sum_c weights_bc (d log p(c | x_b) / d theta)^2 for each parameter.

    `own` (B, C) bool marks the classes of p.
    """
    columns = (weights > 0).any(0).nonzero().flatten()
    single = bool(((weights == 0) | (weights == 1)).all())  # one label for each sample: one value is enough

    def values(logits: Tensor, rows: Tensor) -> Tensor:
        counts, class_mask = rows.unbind(1)
        log_p = logits.masked_fill(class_mask == 0, -torch.inf).log_softmax(1).masked_fill(counts == 0, 0.0)
        weighted = counts.sqrt() * log_p
        return weighted.sum(1, keepdim=True) if single else weighted[:, columns]

    return gradient_sums(model, x, torch.stack([weights, own.to(weights.dtype)], 1), values, 2)


class EWCPlugin(PenaltyPlugin[Config]):
    """Adds weight * penalty to the loss, and measures the Fisher information when an experience ends."""

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Add the experience's penalty."""
        if self.config.weight == 0:
            return
        importances = self.fisher(learner)
        if self.config.mode == "separate":
            self.penalty.add(learner.model, importances)
        else:
            self.penalty.anchor(learner.model, decayed_sum(self.penalty.importances, importances, self.config.decay))

    def fisher(self, learner: LearnerView) -> NamedTensors:
        """Return the network's diagonal Fisher information on the experience's training samples."""
        number, length = learner.experience.current_experience, len(learner.experience.dataset)
        order = torch.randperm(length, generator=generator(self.seed, "ewc samples", number))[: self.config.num_samples]
        draw = generator(self.seed, "ewc labels", number)
        total: NamedTensors = {}
        for x, y, t in training_samples(learner, order):
            logits = masked_predictions(learner, x, t)
            weights = label_weights(logits, y, self.config.fisher, draw)
            total = decayed_sum(total, fisher_sums(learner.model, x, weights, logits > -torch.inf))
        return {name: tensor / len(order) for name, tensor in total.items()}
