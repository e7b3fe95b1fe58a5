"""Exponential moving average of the weights, used for evaluation; training continues with the network's weights.

    after each update t = 1, 2, ...:   average <- a * average + (1 - a) * weights,   a = min(decay, 1 - 1 / t)

With a = 1 - 1 / t the first 1 / (1 - decay) updates are averaged equally, and the initial weights do not count. t and the
average continue through all experiences. The average remembers about 1 / (1 - decay) updates, so it blends the network before
and after a change of experience. This steadies the predictions and bridges the dip after the change. Running statistics of
BatchNorm are averaged like weights; counters are copied. When the head grows, new rows of the average start as the network's.
Only predictions in evaluation change. The trained weights, and what other strategies do with them at an experience's end
(early_stopping's best epoch, recomputed statistics), are those of the network itself. For an average that becomes the network
see `swa`.
Shapes: B batch, C classes.

Sources: Polyak & Juditsky 1992; Soutif-Cormerais et al. 2023 (2306.16817) for online continual learning, evaluation only, as
here. Peers: CLS-ER's stable model (Arani 2022, 2201.12604; Mammoth's er-ace variants use it in the same way) is this average
with a = min(alpha, 1 - 1 / (t + 1)), updated in a random share of the iterations, and also a teacher; it leaves running
statistics out.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..platform.config.settings import Fraction, settings
from ..platform.models.functional import call_with
from ..platform.training.plugin import LearnerView, Plugin

NEUTRAL = {"decay": 0.0}
ROLES = ("predictions",)


@settings
class Config:
    """Predict with an exponential moving average of the weights over all updates.

    decay: of the average at each update, in [0, 1); 0: the network itself.
    """

    decay: Fraction = 0.99


@torch.no_grad()
def update(average: dict[str, Tensor], weights: dict[str, Tensor], share: float) -> None:
    """Move the average by `share` towards the weights, in place; integer tensors (counters) are copied."""
    names = [name for name, tensor in average.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([average[name] for name in names], [weights[name] for name in names], share)
    for name in average.keys() - set(names):
        average[name].copy_(weights[name])


def grown(average: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the average in the shapes of the weights, on their device: new rows and tensors start as the network's."""
    result = {}
    for name, tensor in weights.items():
        old = average.get(name, tensor)
        result[name] = old.detach().to(tensor.device, copy=True)
        if old.shape != tensor.shape:
            result[name] = torch.cat([result[name], tensor.detach()[len(old) :]])
    return result


class EMAPlugin(Plugin[Config]):
    """Averages the weights after each update."""

    STATE = ("average", "num_updates")

    def init_state(self) -> None:
        """Set the initial state."""
        self.average: dict[str, Tensor] = {}
        self.num_updates = 0

    def on_start(self, learner: LearnerView) -> None:
        """Move the average to the device, and grow it with the head."""
        if self.config.decay > 0:
            self.average = grown(self.average, learner.model.state_dict())

    def after_update(self, learner: LearnerView, **kwargs: object) -> None:
        """Update the average."""
        if self.config.decay > 0:
            self.num_updates += 1
            share = 1 - min(self.config.decay, 1 - 1 / self.num_updates)
            update(self.average, learner.model.state_dict(), share)

    def predict(self, learner: LearnerView, x: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Return logits (B, C) of the averaged weights, once they exist."""
        if not self.average:
            return network(x)
        average = {name: tensor.to(x.device) for name, tensor in self.average.items()}
        logits: Tensor = call_with(learner.model, average, x)
        return logits
