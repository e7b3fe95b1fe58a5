"""A learner that is also a template of Avalanche, so that Avalanche's plugins, networks and data sets work with it.

This is the only module here that imports Avalanche. What the training loop needs of Avalanche is listed here: the benchmark, the
loaders of its data sets, and how its networks grow.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from avalanche.training.templates import SupervisedTemplate

from ..config.schema import Training
from ..data.avalanche_export import adapt_heads, avalanche_benchmark
from ..data.streams import Stream
from .learner import Learner


class AvalancheLearner(Learner, SupervisedTemplate):  # type: ignore[misc]
    """A learner on an Avalanche benchmark, with Avalanche's clock; the methods are those of `Learner`, not of the template."""

    def __init__(
        self,
        *,
        model: torch.nn.Module,
        stream: Stream,
        training: Training,
        plugins: Sequence[Any] = (),
        device: torch.device | str = "cpu",
        **settings: Any,
    ) -> None:
        """Prepare to train `model` on `stream`; `settings` are the other arguments of `Learner`."""
        benchmark = avalanche_benchmark(stream)
        Learner.__init__(
            self,
            model=model,
            stream=stream,
            benchmark=benchmark,
            training=training,
            plugins=plugins,
            device=device,
            **settings,
        )
        warnings.filterwarnings("ignore", "No loggers specified")  # we log to the ledger
        SupervisedTemplate.__init__(  # it sets what plugins of Avalanche may read besides, such as `evaluator`
            self,
            model=self.model,
            optimizer=self.optimizer,
            criterion=self.criterion_function,
            plugins=list(plugins),
            evaluator=None,
            device=device,
        )
        self.plugins = [*plugins, self.clock]  # Avalanche's empty evaluator and periodic evaluation are dropped

    def train(self, *arguments: Any, **named: Any) -> NoReturn:
        """Refuse Avalanche's way to train, which would leave out the settings of the experience."""
        raise TypeError("train: call train_experience(number), with the number of the experience from 0")

    def make_foreign_dataloader(self) -> None:
        """Load a data set of Avalanche that is not made of a stream's arrays with Avalanche's loaders."""
        make = SupervisedTemplate.make_train_dataloader if self.is_training else SupervisedTemplate.make_eval_dataloader
        make(self)

    def grow_foreign_head(self, model: Any, experience: Any) -> None:
        """Grow Avalanche's heads in `model` to the classes of an experience."""
        adapt_heads(model, [experience])
