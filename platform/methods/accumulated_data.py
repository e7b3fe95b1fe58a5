"""The training data of all experiences so far."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

from torch import Tensor

from ..training.learner_view import LearnerView
from ..training.plugin import Plugin


def data_so_far(experience: Any) -> Any:
    """Return the training dataset of experiences 1..t, oldest first, where `experience` is the t-th of its stream."""
    stream = experience.origin_stream[: experience.current_experience + 1]
    return reduce(lambda joined, dataset: joined.concat(dataset), [each.dataset for each in stream])


class AccumulatedDataPlugin(Plugin):
    """Trains each experience on the data of all experiences so far."""

    STATE = ()
    accumulates = True

    def num_training_samples(self, labels: Sequence[Tensor], experience: int) -> int:
        """Return the number of samples of all experiences so far."""
        return sum(map(len, labels[: experience + 1]))

    def after_train_dataset_adaptation(self, learner: LearnerView, **kwargs: Any) -> None:
        """Replace the data before the head grows, so that it grows to all classes of the data."""
        learner.adapted_dataset = data_so_far(learner.experience).train()
