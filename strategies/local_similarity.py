"""PODNet's head and loss: several directions per class, of which the nearest counts most, and a margin to the other classes.

    y_c = sum_k a_ck cos(v_ck, f),   a_ck = softmax over k of cos(v_ck, f);   logit_c = scale * y_c
    L = mean_B max(0, log sum_{i != y} exp(logit_i) - (logit_y - scale * margin))

v_ck are the K proxies of class c, f the features. This is the local similarity classifier, whose classes may have several modes.
It is trained with the NCA loss, which asks for a distance to the other classes instead of all of the probability. The sample's
class is not in the sum; a sample that is `margin` ahead costs nothing. No gradient passes through scale * margin: otherwise,
while few samples are ahead, it would drive the scale to 0 and below. PODNet as published is `podnet`, this, and a herded memory.
Shapes: B batch, D features, C classes, K proxies.

Source: Douillard et al. 2020 (2004.13513): K = 10, margin 0.6. Peers: the authors' proxy_per_class is our proxies, nca.margin our
margin. In their code the margin is subtracted from all classes, which changes nothing; the sample's class stays in the sum as a
constant; and the squared distance replaces the cosine (2 cos - 2: our scale is twice theirs). They start a learned scale at 1
(see cosine_head) and new proxies at k-means of the features; ours are initialised at random.
"""

import math
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..platform.config.settings import Interval, PositiveFloat, PositiveInt, settings
from ..platform.models.cosine_head import GrowingHead, linear_head
from ..platform.training.plugin import LearnerView, Plugin, replace_criterion

NEUTRAL = None
NEUTRAL_REASON = "it is another head with another loss, at any scale and margin"
ROLES = ("criterion", "head")


@settings
class Config:
    """Replace the head by PODNet's, with several cosines per class, and the cross-entropy by its NCA loss.

    proxies: K, directions per class, >= 1.
    margin: by how much the similarity to the sample's class must exceed those to the others, in [0, 2].
    scale: initial factor of the similarities, > 0; it is learned.
    """

    proxies: PositiveInt = 10
    margin: Annotated[float, Interval(ge=0, le=2)] = 0.6
    scale: PositiveFloat = 10.0


def similarity(features: Tensor, proxies: Tensor) -> Tensor:
    """Return y (B, C) of this file's formula for features (B, D) and proxies (C, K, D)."""
    cosines = torch.einsum("bd,ckd->bck", normalize(features), normalize(proxies, dim=2))
    return (cosines.softmax(2) * cosines).sum(2)


def nca(logits: Tensor, y: Tensor, shift: Tensor) -> Tensor:
    """Return L of this file's formula, a scalar, for logits (B, C), labels y (B,) and scale * margin, a scalar."""
    logits = logits.float()
    own = logits.gather(1, y.unsqueeze(1))
    # a finite number: with no other class (all others at -inf) there is nothing to be ahead of, and the gradient is 0
    others = logits.scatter(1, y.unsqueeze(1), torch.finfo(logits.dtype).min)
    return (others.logsumexp(1) - own.squeeze(1) + shift).relu().mean()


class ProxyHead(GrowingHead):
    """A head: features (B, D) -> scale * similarities (B, C)."""

    ROWS = "proxies"

    def __init__(self, num_features: int, config: Config) -> None:
        super().__init__()
        self.proxies = nn.Parameter(torch.empty(0, config.proxies, num_features))
        self.scale = nn.Parameter(torch.tensor(config.scale))

    def new_rows(self, added: int, generator: torch.Generator) -> Tensor:
        """Return proxies (added, K, D), normally distributed, so all directions are equally likely."""
        shape = self.proxies.shape[1:]
        return torch.randn(added, *shape, generator=generator) / math.sqrt(shape[1])

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, C) of features (B, D)."""
        return self.scale * similarity(features, self.proxies)


def adapt(config: Config, network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Replace the network's linear head by one of proxies, sampled with `generator`, for as many classes."""
    weight = linear_head(network, "strategies.local_similarity").weight
    head = ProxyHead(weight.shape[1], config)
    head.grow(weight.shape[0], generator)
    network.head = head.to(weight.device, weight.dtype)
    return network


class LocalSimilarityPlugin(Plugin[Config]):
    """Replaces the cross-entropy by the NCA loss; `adapt` replaces the head."""

    STATE = ()

    def on_start(self, learner: LearnerView) -> None:
        """Replace the criterion; it uses the head's scale at each step."""

        def criterion(logits: Tensor, y: Tensor) -> Tensor:
            return nca(logits, y, self.config.margin * learner.model.head.scale.detach())

        self._undo = replace_criterion(learner, criterion)

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Restore the criterion."""
        self._undo()
