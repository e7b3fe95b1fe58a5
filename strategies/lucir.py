"""LUCIR: a cosine head, features that keep their direction, and a margin between old classes and new ones.

    L = L_CE + weight * sqrt(K / N) * mean_B (1 - cos(s, t)) + margin_weight * L_margin
    L_margin = mean over old samples and their hardest new classes c of max(0, margin - cos(w_y, s) + cos(w_c, s))

s, t: features of the network and of the teacher, which is a copy of the network from the start of the experience. K: old
classes. N: classes of the experience. An old sample is one of a class below K; its hardest new classes are the `negatives` with
the largest outputs. Old samples come from a memory (`replay`, or another strategy that appends them). Without them, and where
there is no new class, L_margin is 0. While `weight` is above 0 the weights of the old classes stay fixed, as in the authors'
code. In a stream of domains K = N = all classes: their weights are fixed from the second experience on.
Shapes: B batch, C classes, D features.

Source: Hou et al. 2019 (LUCIR, CVPR), equations 4 and 6 to 9. Peers: the authors' and FACIL's lamda/lamb = weight,
lw_mr/lamb_mr = margin_weight, dist = margin, K = negatives, sigma = scale (theirs starts at 1, see cosine_head). They also drop
the last ReLU of their ResNet and keep 20 herded samples per class: configure such a network and memory where it matters.
"""

from typing import Annotated

import torch
from torch import Tensor, nn

from ..platform.config.settings import Interval, NonNegativeFloat, PositiveFloat, PositiveInt, settings
from ..platform.methods.layer_distillation import LayerDistillation, cosine_distance, growth
from ..platform.models.cosine_head import CosineHead, with_cosine_head
from ..platform.models.features import FEATURES
from ..platform.training.plugin import LearnerView
from ..platform.training.plugin_api import mask_other_tasks

NEUTRAL = None
NEUTRAL_REASON = "its head is one of cosines; with both weights 0 it is cosine_head, bit for bit"
NEEDS_PAST = True
ROLES = ("head",)
NO_FULL_HEAD = "its margins are to the new classes, which would include those of later experiences"


@settings
class Config:
    """Use a cosine head, keep the features' direction, and keep a margin between old and new classes (LUCIR).

    weight: weight of the less-forget constraint, >= 0 (lambda_base; grows by sqrt(old / new classes)); above 0 the weights of
        old classes are fixed.
    margin_weight: weight of the margin ranking, >= 0; it needs old samples in the mini-batch.
    margin: by how much the cosine to the sample's class must exceed those to new ones, > 0.
    negatives: new classes that an old sample is compared with, >= 1.
    scale: initial factor of the cosines, > 0.
    """

    weight: NonNegativeFloat = 5.0
    margin_weight: NonNegativeFloat = 1.0
    margin: Annotated[float, Interval(gt=0, le=2)] = 0.5
    negatives: PositiveInt = 2
    scale: PositiveFloat = 10.0


def margin_ranking(cosines: Tensor, y: Tensor, num_old: int, margin: float, negatives: int) -> Tensor:
    """Return L_margin of this file's formula, a scalar, for cosines (B, C) and labels (B,).

    Cosines of classes that do not count are -inf.
    """
    negatives = min(negatives, cosines.shape[1] - num_old)
    if negatives < 1:
        return cosines.new_zeros(())
    hardest = cosines[:, num_old:].topk(negatives, dim=1).values
    shortfall = (margin - cosines.gather(1, y.unsqueeze(1)) + hardest).relu().mean(1)
    is_old = (y < num_old).float()
    return (shortfall * is_old).sum() / is_old.sum().clamp(min=1)


def adapt(config: Config, network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Replace the network's head by a cosine head with a learned scale; no random numbers are used."""
    return with_cosine_head(network, config.scale, True, "strategies.lucir")


def cosine_head_of(network: nn.Module) -> CosineHead:
    """Return the head that `adapt` has put into the network."""
    assert isinstance(network.head, CosineHead), "lucir's network has a cosine head: see `adapt`"
    return network.head


class LucirPlugin(LayerDistillation[Config]):
    """Adds both terms to the loss from the second trained experience on, and fixes the weights of old classes."""

    WEIGHTS = ("weight", "margin_weight")
    capturable = True

    def layers(self, model: nn.Module) -> list[str]:
        """Return the name of the features."""
        return [FEATURES]

    def term(self, learner: LearnerView, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """Return the less-forget constraint plus the margin ranking, a scalar."""
        config, head = self.config, cosine_head_of(learner.model)
        weight = config.weight * growth(self.num_old, learner)
        # a sample of an old task does not compete with new tasks' classes
        cosines = mask_other_tasks(learner, learner.mb_output / head.scale, learner.mbatch[-1])
        margin = margin_ranking(cosines, learner.mb_y, self.num_old, config.margin, config.negatives)
        return weight * cosine_distance(student[FEATURES], teacher[FEATURES]) + config.margin_weight * margin

    @torch.no_grad()
    def after_update(self, learner: LearnerView, **kwargs: object) -> None:
        """Restore the teacher's weights for old classes, which momentum and weight decay may have changed."""
        if self.teacher.model is not None and self.config.weight > 0:
            fixed = cosine_head_of(self.teacher.model).weight[: self.num_old]
            cosine_head_of(learner.model).weight[: self.num_old].copy_(fixed)
