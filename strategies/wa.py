"""Weight aligning: after each experience scale the head's rows for new classes to the length of the rows for old classes.

    w_c <- gamma * w_c  for the new classes c,   gamma = mean_old ||w|| / mean_new ||w||

New are the classes that no earlier experience had; old are the classes of earlier experiences. w_c is the row of class c in the
head's weights (C, D). Biases do not change. Trained on many new samples and few old ones, new rows grow longer than old ones, and
so their logits grow. Nothing happens in the first experience, nor in an experience without new classes (a stream of domains). The
paper's method is three strategies in this order: `replay` (or another memory), `lwf` (its loss is (1 - l) L_CE + l L_KD with l =
old / all classes, T = 2) and this one; the next teacher is a copy of the aligned network. Rows are aligned after another
strategy has replaced the weights (early_stopping, swa) and before others use the network (icarl's exemplars).

Source: Zhao et al. 2020 (1911.07053). Peers: PyCIL's WA and LAMDA-PILOT's align the same way, without `clip`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..platform.config.settings import settings
from ..platform.errors import UserError
from ..platform.methods.seen_classes import SeenClassesPlugin
from ..platform.models.features import find_head
from ..platform.training.plugin import EndOrder, LearnerView
from ..platform.training.plugin_api import note

NEUTRAL = None
NEUTRAL_REASON = "it has no strength setting: new rows are scaled to the length of old ones or not at all"
NEEDS_PAST = True
_NORMALISED = "a cosine head scales its rows to length 1, so there is nothing to align"
CONFLICTS = dict.fromkeys(("cosine_head", "local_similarity", "lucir"), _NORMALISED)


@settings
class Config:
    """Scale the head's rows for new classes to the length of those for old ones (weight aligning).

    clip: whether the head's weights are kept >= 0 after each step, as in the paper, so that longer rows mean larger logits
        (where features are >= 0 too).
    """

    clip: bool = False


def alignment(weight: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Return gamma, a scalar, for weights (C, D) and the rows of old and new classes, at least one of each."""
    old_length, new_length = (torch.linalg.vector_norm(weight[list(rows)], dim=1).mean() for rows in (old, new))
    gamma: Tensor = old_length / new_length
    return gamma


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse a head without a row of weights per class."""
    head = find_head(model)
    if getattr(head, "weight", None) is None:
        raise UserError(f"strategies.wa: aligns a linear head's rows; this head is a {type(head).__name__}.")


class WeightAligningPlugin(SeenClassesPlugin[Config]):
    """Aligns the rows when the training of an experience has ended."""

    end_order = EndOrder.CHANGE_WEIGHTS

    @torch.no_grad()
    def after_update(self, learner: LearnerView, **kwargs: object) -> None:
        """Set negative weights of the head to 0, if `clip` is set."""
        if self.config.clip:
            find_head(learner.model).get_parameter("weight").clamp_(min=0.0)

    @torch.no_grad()
    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Scale the new rows."""
        old, new = self.seen.all, self.seen.new_classes(learner)
        self.seen.add(learner)
        if old and new:
            weight = find_head(learner.model).get_parameter("weight")
            gamma = alignment(weight, old, new)
            weight[new] *= gamma
            note(learner, f"wa: scaled the rows of {len(new)} new classes by {gamma:.3f}")
