"""PODNet's head and loss: several directions a class, the nearest of which counts most, and a margin to the other classes.

    y_c = sum_k a_ck cos(v_ck, f),   a_ck = softmax over k of cos(v_ck, f);   logit_c = scale * y_c
    L = mean_B max(0, log sum_{i != y} exp(logit_i) - (logit_y - scale * margin))

v_ck are the K proxies of class c, f the features: the local similarity classifier, whose classes may have several modes,
trained with NCA loss, which asks for a distance to the others rather than for all of the probability. The own class is
not in the sum; a sample that is `margin` ahead costs nothing. No gradient goes through scale * margin: while few samples are
ahead, the scale would run to 0 by it and past. PODNet as published is `podnet`, this, and a herded memory.
Shapes: B batch, D features, C classes, K proxies.

Source: Douillard et al. 2020 (2004.13513): K = 10, margin 0.6. Peers: the authors' proxy_per_class is our proxies, nca.margin our
margin. In their code the margin is taken from all classes, which changes nothing, the own class stays in the sum as a
constant, and the squared distance stands for the cosine (2 cos - 2: our scale is twice theirs). They start a learned scale
at 1 (see cosine_head) and new proxies at k-means of the features; ours are drawn.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..platform.models.cosine_head import linear_head
from ..platform.training.plugin import Plugin, replace_criterion

NEUTRAL: dict[str, Any] | None = None
NEUTRAL_REASON = "it is another head with another loss, whatever its scale and margin"
ROLES = ("criterion", "head")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """PODNet's head of several cosines a class, and its NCA loss in the place of the cross-entropy.

    proxies: K, directions of a class, >= 1.
    margin: by how much the own class's similarity must be above the others', in [0, 2].
    scale: what the similarities are multiplied by to begin with, > 0; it is learned.
    """

    proxies: int = 10
    margin: float = 0.6
    scale: float = 10.0

    def __post_init__(self) -> None:
        proxies, margin, scale = self.proxies, self.margin, self.scale
        if proxies < 1:
            raise ValueError(f"{proxies=}: must be >= 1 for a class")
        if not 0 <= margin <= 2:
            raise ValueError(f"{margin=}: must be in [0, 2], the widest that cosines are apart")
        if not 0 < scale < math.inf:
            raise ValueError(f"{scale=}: must be > 0 and finite")


def similarity(features: Tensor, proxies: Tensor) -> Tensor:
    """y of this file's formula, (B, C): features (B, D), proxies (C, K, D)."""
    cosines = torch.einsum("bd,ckd->bck", normalize(features), normalize(proxies, dim=2))
    return (cosines.softmax(2) * cosines).sum(2)


def nca(logits: Tensor, y: Tensor, shift: Tensor) -> Tensor:
    """L of this file's formula, a scalar: logits (B, C), labels y (B,), and scale * margin, a scalar."""
    logits = logits.float()
    own = logits.gather(1, y.unsqueeze(1))
    # a finite number: with no other class (all others at -inf) there is nothing to be ahead of, and the gradient is 0
    others = logits.scatter(1, y.unsqueeze(1), torch.finfo(logits.dtype).min)
    return (others.logsumexp(1) - own.squeeze(1) + shift).relu().mean()


class ProxyHead(nn.Module):
    """Features (B, D) -> scale * similarities (B, C); C grows as that of `heads.Head`: old proxies keep their bits."""

    def __init__(self, num_features: int, config: Config) -> None:
        super().__init__()
        self.proxies = nn.Parameter(torch.empty(0, config.proxies, num_features))
        self.scale = nn.Parameter(torch.tensor(config.scale))

    @property
    def num_classes(self) -> int:
        """C."""
        return self.proxies.shape[0]

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        """Add proxies up to `num_classes` classes; fewer than there are changes nothing. New: normal, all directions alike."""
        added = num_classes - self.num_classes
        if added <= 0:
            return
        drawn = torch.randn(added, *self.proxies.shape[1:], generator=generator) / math.sqrt(self.proxies.shape[2])
        drawn = drawn.to(self.proxies.device, self.proxies.dtype)
        self.proxies = nn.Parameter(torch.cat([self.proxies.detach(), drawn]))

    def shrink(self, num_classes: int) -> None:
        """Keep the proxies of the first `num_classes`: the size of a head that is to be loaded."""
        self.proxies = nn.Parameter(self.proxies.detach()[:num_classes].clone())

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, D) -> logits (B, C)."""
        return self.scale * similarity(features, self.proxies)


def adapt(config: Config, network: nn.Module, generator: torch.Generator) -> nn.Module:
    """The network with a head of proxies, drawn from `generator`, for as many classes as its linear head has."""
    weight = linear_head(network, "strategies.local_similarity").weight
    head = ProxyHead(weight.shape[1], config)
    head.grow(weight.shape[0], generator)
    network.head = head.to(weight.device, weight.dtype)
    return network


class LocalSimilarityPlugin(Plugin):
    """Puts the NCA loss in the place of the cross-entropy; the head is `adapt`'s."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._undo: Callable[[], None] = lambda: None

    def state_dict(self) -> dict[str, Any]:
        """There is nothing to save: the head is the network's."""
        return {}

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """From here on the loss is this one, with the scale that the head has at each step."""

        def criterion(logits: Tensor, y: Tensor) -> Tensor:
            return nca(logits, y, self.config.margin * learner.model.head.scale.detach())

        self._undo = replace_criterion(learner, criterion)

    def on_resume(self, learner: Any) -> None:
        """Again."""
        self.before_training_exp(learner)

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Give the criterion back."""
        self._undo()


def build(config: Config, seed: int) -> LocalSimilarityPlugin:
    """The plugin; it draws no random numbers."""
    return LocalSimilarityPlugin(config)
