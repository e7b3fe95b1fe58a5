"""Linear probes: what a linear classifier can read from frozen features of old and of new data after each experience.

Fitted anew each time to training samples of all experiences so far, with all their classes, and tested on test samples of the
earlier experiences (old) and of the one just learned (new): a low accuracy of the network on old classes beside a high one here
means that the head has forgotten, not the features. Values: <layer>/old and <layer>/new. The classifier is a ridge regression on
signs (representation.linear_probe): closed form, hence deterministic.

Source: Davari et al. 2022 (2203.13381), who train theirs by gradient descent.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...models.features import FEATURES, select_layers
from ._base import Probe, ProbeContext, Values, check_positive
from ._representation import layer_features, linear_probe
from ._samples import batches, draw_evenly, old_and_new

PENALTY = 0.1  # of the range where accuracies hardly change: see representation.linear_probe


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Accuracy of a linear classifier on frozen features, for old and for new data.

    layers: patterns on the names of modules, or "features" (what the head is given).
    samples: training samples in all, as many of each experience; test samples of the old data, and of the new.
    """

    layers: tuple[str, ...] = (FEATURES,)
    samples: int = 1000

    def __post_init__(self) -> None:
        check_positive(samples=self.samples)
        if not self.layers:
            raise ValueError("layers=[]: must name at least one layer")


class LinearProbe(Probe):
    """Looks after each experience."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed

    def after_experience(self, learner: Any, number: int) -> Values:
        """Fit for each layer, then test on both sides."""
        layers, samples = select_layers(learner.model, self.config.layers, "layers"), self.config.samples
        parts = {one: learner.stream.experiences[one].train for one in range(number + 1)}
        train = draw_evenly(learner, parts, samples, self.seed, "linear_probe", "train")
        known = layer_features(learner.model, layers, batches(learner, train))
        sides = old_and_new(learner, number, samples, self.seed, "linear_probe")
        tests = {
            side: layer_features(learner.model, layers, batches(learner, subset)) for side, subset in sides.items()
        }
        found: dict[str, float] = {}
        for layer in known:
            features = torch.cat([test[layer] for test in tests.values()])
            if not bool(known[layer].isfinite().all() and features.isfinite().all()):  # the network has diverged
                found |= {f"{layer}/{side}": math.nan for side in sides}
                continue
            predicted = linear_probe(known[layer], train.y, features, PENALTY)
            for side, part in zip(sides, predicted.split([len(subset) for subset in sides.values()]), strict=True):
                found[f"{layer}/{side}"] = (part == sides[side].y).double().mean().item()
        return found


def check_model(config: Config, network: nn.Module) -> None:
    """Refuse patterns that fit no layer."""
    select_layers(network, config.layers, "probes.linear_probe.layers")


def build(config: Config, context: ProbeContext) -> Probe:
    """The probe."""
    return LinearProbe(config, context.seed)
