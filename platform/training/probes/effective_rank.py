"""Effective rank of the representation, layer by layer, on old and on new data after each experience.

    effective rank = exp(-sum_i p_i log p_i),  p_i = s_i / sum_j s_j,  s: singular values of the centred features (n, D)

It falls when a representation collapses onto few directions, and is at most min(n - 1, D). Values: <layer>/old and <layer>/new,
on test samples of the earlier experiences and of the one just learned.

Source: Roy & Vetterli 2007.
"""

from typing import Any

from torch import nn

from ...config.settings import PositiveInt, settings
from ...models.features import select_layers
from ._base import Probe, ProbeContext, Values
from ._representation import effective_rank, layer_features
from ._samples import input_batches, old_and_new


@settings
class Config:
    """Effective rank of each layer's features on old and on new data.

    layers: patterns of module names, or "features" (the head's input); null: the trunk's blocks and "features".
    samples: number of test samples of the old data, and of the new data.
    """

    layers: tuple[str, ...] | None = None
    samples: PositiveInt = 256


class EffectiveRank(Probe):
    """Measures after each experience."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed

    def after_experience(self, learner: Any, number: int) -> Values:
        """Return the effective rank for each layer and side."""
        layers = select_layers(learner.model, self.config.layers, "layers")
        ranks: dict[str, float] = {}
        for side, subset in old_and_new(learner, number, self.config.samples, self.seed, "effective_rank").items():
            for layer, features in layer_features(learner.model, layers, input_batches(learner, subset)).items():
                ranks[f"{layer}/{side}"] = effective_rank(features - features.mean(0))
        return ranks


def check_model(config: Config, network: nn.Module) -> None:
    """Refuse patterns that match no layer."""
    select_layers(network, config.layers, "probes.effective_rank.layers")


def build(config: Config, context: ProbeContext) -> Probe:
    """Build the probe."""
    return EffectiveRank(config, context.seed)
