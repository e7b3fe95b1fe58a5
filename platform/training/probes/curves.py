"""Training and validation curves: loss and accuracy every few epochs, both in evaluation mode, on fixed samples.

    generalisation_gap = train_accuracy - validation_accuracy

The samples of an experience are chosen once: up to `samples` of its training data, and as many of its validation split (under
`joint` and `cumulative`, of every experience in the training data). The values are in the epochs' events, as `train_loss`,
`train_accuracy`, `validation_loss`, `validation_accuracy` and `generalisation_gap`. A validation value that a strategy has
measured on the whole split takes precedence. This is the only probe that is on by default.
Shapes: n samples, K outputs of the head.
"""

import math
from typing import Any

import torch
from torch.nn import functional as F

from ...config.settings import PositiveInt, settings
from ...data.samples import PartSamples, gather_parts
from ._base import Probe, ProbeContext, Values
from ._samples import draw_samples, logits_for


@settings
class Config:
    """Loss and accuracy on fixed training and validation samples along the epochs, and the gap between the two.

    every: epochs between measurements; the last epoch of each experience is always measured; null: never measure.
    samples: maximum number of training samples, and of validation samples.
    """

    every: PositiveInt | None = 5
    samples: PositiveInt = 500


class Curves(Probe):
    """Measures every few epochs."""

    def __init__(self, every: int, samples: int, seed: int) -> None:
        self.every, self.samples, self.seed = every, samples, seed
        self._number = -1  # experience of the current samples
        self._subset: PartSamples | None = None
        self._num_train = 0

    def during(self, learner: Any) -> Values:
        """Return a point of both curves, from one pass over the samples of both."""
        epoch = learner.clock.train_exp_epochs
        if epoch % self.every and epoch < learner.train_epochs:
            return {}
        number = learner.experience.current_experience
        if self._subset is None or number != self._number:
            self._gather(learner, number)
        assert self._subset is not None
        scores = losses_and_accuracies(logits_for(learner, self._subset), self._subset.y, self._num_train)
        if len(self._subset) == self._num_train:
            return dict(zip(("train_loss", "train_accuracy"), scores, strict=False))
        validation = learner.measured.get("validation_accuracy", scores[3])
        return {
            "train_loss": scores[0],
            "train_accuracy": scores[1],
            "validation_loss": scores[2],
            "validation_accuracy": scores[3],
            "generalisation_gap": scores[1] - validation,
        }

    def _gather(self, learner: Any, number: int) -> None:
        accumulated = any(getattr(plugin, "accumulates", False) for plugin in learner.strategies)
        numbers = list(range(number + 1)) if accumulated else [number]
        each = -(-self.samples // len(numbers))
        experiences = learner.stream.experiences
        train = [
            (index, draw_samples(experiences[index].train, each, self.seed, "curves", "train", index))
            for index in numbers
        ]
        validation = [
            (index, draw_samples(experiences[index].validation, each, self.seed, "curves", "held", index))
            for index in numbers
        ]
        self._subset = gather_parts(learner.stream, train + validation, learner.device)
        self._number, self._num_train = number, sum(len(part) for _, part in train)


def losses_and_accuracies(output: torch.Tensor, y: torch.Tensor, num_train: int) -> list[float]:
    """Return mean loss and accuracy of the first `num_train` samples, then of the others (NaN if none), from logits (n, K).

    A class that the head lacks counts as wrong and has no loss.
    """
    last = output.shape[1] - 1
    losses = F.cross_entropy(output, y.clamp(max=last), reduction="none")
    # numpy's small sums are faster
    table = torch.stack([losses, output.argmax(1) == y, y <= last]).double().cpu().numpy()
    scores = []
    for part in (table[:, :num_train], table[:, num_train:]):
        loss, hits, known = (part[0] * part[2]).sum(), part[1].sum(), part[2].sum()
        scores += [float(loss / known) if known else math.nan, float(hits / part.shape[1]) if part.size else math.nan]
    return scores


def build(config: Config, context: ProbeContext) -> Probe:
    """Build the probe; if it is turned off, one that never measures."""
    return Probe() if config.every is None else Curves(config.every, config.samples, context.seed)
