"""Linear CKA: how similar each layer's representation is before and after an experience, on old and on new data.

1 means the same up to rotation and scale, 0 nothing in common. Values: <layer>/old and <layer>/new, on test samples of the
earlier experiences and of the current one. Mid-experience, the state holds the inner products of the samples' features before
the experience.
Shapes: n samples.

Source: Kornblith et al. 2019 (1905.00414).
"""

from typing import Any

import torch
from torch import nn

from ...config.settings import PositiveInt, settings
from ...models.features import select_layers
from ._base import Probe, ProbeContext, Values
from ._representation import gram, layer_features, linear_cka
from ._samples import input_batches, old_and_new


@settings
class Config:
    """Similarity (linear CKA) of each layer before and after an experience, on old and on new data.

    layers: patterns of module names, or "features" (the head's input); null: the trunk's blocks and "features".
    samples: number of test samples of the old data, and of the new data.
    """

    layers: tuple[str, ...] | None = None
    samples: PositiveInt = 256


class CKA(Probe):
    """Compares each layer before and after an experience."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed
        self._before: dict[str, torch.Tensor] = {}  # "<layer>/<side>" -> (n, n)

    def before_experience(self, learner: Any, number: int) -> None:
        """Store the inner products of the samples' features."""
        self._before = self._grams(learner, number)

    def after_experience(self, learner: Any, number: int) -> Values:
        """Return the similarity to the stored inner products, for each layer and side."""
        now, before = self._grams(learner, number), self._before
        self._before = {}
        return {name: linear_cka(before[name].to(now[name]), now[name]) for name in now}

    def _grams(self, learner: Any, number: int) -> dict[str, torch.Tensor]:
        layers = select_layers(learner.model, self.config.layers, "layers")
        return {
            f"{layer}/{side}": gram(features)
            for side, subset in old_and_new(learner, number, self.config.samples, self.seed, "cka").items()
            for layer, features in layer_features(learner.model, layers, input_batches(learner, subset)).items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the stored inner products; {} between experiences."""
        return {"before": dict(self._before)} if self._before else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the stored inner products."""
        self._before = dict(state.get("before", {}))


def check_model(config: Config, network: nn.Module) -> None:
    """Refuse patterns that match no layer."""
    select_layers(network, config.layers, "probes.cka.layers")


def build(config: Config, context: ProbeContext) -> Probe:
    """Build the probe."""
    return CKA(config, context.seed)
