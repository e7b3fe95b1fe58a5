"""Linear probes: what a linear classifier can read from frozen features of old and of new data after each experience.

The classifier is fitted anew each time to training samples of all experiences so far, with all their classes. It is tested on
test samples of the earlier experiences (old) and of the one just learned (new). If the network's accuracy on old classes is
low while the accuracy here is high, the head has forgotten, not the features. Values: <layer>/old and <layer>/new. The
classifier is a ridge regression on signs (`_representation.linear_probe`): closed form, hence deterministic.

Source: Davari et al. 2022 (2203.13381), who train theirs by gradient descent.
"""

import math
from typing import Annotated, Any

import torch
from annotated_types import MinLen
from torch import nn

from ...config.settings import PositiveInt, settings
from ...models.features import FEATURES, select_layers
from ._base import Probe, ProbeContext, Values
from ._representation import layer_features, linear_probe
from ._samples import draw_evenly, input_batches, old_and_new

PENALTY = 0.1  # in the range where accuracies hardly change; its unit: `_representation.linear_probe`


@settings
class Config:
    """Accuracy of a linear classifier on frozen features, for old and for new data.

    layers: patterns of module names, or "features" (the head's input).
    samples: total number of training samples, equally many per experience; also the number of old, and of new, test samples.
    """

    layers: Annotated[tuple[str, ...], MinLen(1)] = (FEATURES,)
    samples: PositiveInt = 1000


class LinearProbe(Probe):
    """Fits and tests a linear classifier after each experience."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed

    def after_experience(self, learner: Any, number: int) -> Values:
        """Return the accuracy for each layer and side."""
        layers, samples = select_layers(learner.model, self.config.layers, "layers"), self.config.samples
        parts = {index: learner.stream.experiences[index].train for index in range(number + 1)}
        train = draw_evenly(learner, parts, samples, self.seed, "linear_probe", "train")
        train_features = layer_features(learner.model, layers, input_batches(learner, train))
        sides = old_and_new(learner, number, samples, self.seed, "linear_probe")
        tests = {
            side: layer_features(learner.model, layers, input_batches(learner, subset))
            for side, subset in sides.items()
        }
        values: dict[str, float] = {}
        for layer in train_features:
            test_features = torch.cat([test[layer] for test in tests.values()])
            # a network that diverged
            if not bool(train_features[layer].isfinite().all() and test_features.isfinite().all()):
                values |= {f"{layer}/{side}": math.nan for side in sides}
                continue
            predicted = linear_probe(train_features[layer], train.y, test_features, PENALTY)
            for side, part in zip(sides, predicted.split([len(subset) for subset in sides.values()]), strict=True):
                values[f"{layer}/{side}"] = (part == sides[side].y).double().mean().item()
        return values


def check_model(config: Config, network: nn.Module) -> None:
    """Refuse patterns that match no layer."""
    select_layers(network, config.layers, "probes.linear_probe.layers")


def build(config: Config, context: ProbeContext) -> Probe:
    """Build the probe."""
    return LinearProbe(config, context.seed)
