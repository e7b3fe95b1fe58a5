"""A strategy of ours in a plain Avalanche script, with Avalanche's own template, data and growing head."""

import warnings
from typing import Any

import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.models import IncrementalClassifier
from avalanche.training.templates import SupervisedTemplate
from torch import nn
from torch.utils.data import TensorDataset

from .. import seeding
from ..errors import UserError
from ..training.plugin import Plugin
from ..trial.resolve import ResolvedPart
from .errors import NotApplicable, require

_SIZES = {"train": 24, "valid": 8, "test": 8}  # samples of each class


def check_plain_avalanche(part: ResolvedPart) -> None:
    """Require that a strategy trains two experiences in an Avalanche script, if it does not need our learner.

    Raises:
        NotApplicable: it changes the network when it is built, needs other layers, or uses what only our learner has.
    """
    if part.declared("adapt", None):
        raise NotApplicable("it adds parts to the network when a trial is built, which a plain script does not do")
    model = _Net()
    if check_model := part.declared("check_model", None):
        try:
            check_model(part.config, model)
        except UserError as error:
            raise NotApplicable(f"it does not fit the small network of this check: {error}") from None
    plugin, state = part.build_strategy(0), seeding.capture_generators()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No loggers specified")
            seeding.seed_globals(0, "plain Avalanche")
            template = _template(model, plugin)
            _train(template, plugin)
    finally:
        seeding.restore_generators(state)
    finite = all(bool(tensor.isfinite().all()) for tensor in template.model.state_dict().values())
    require(finite, "the network's weights are not finite at the end")


def _template(model: nn.Module, plugin: Any) -> Any:
    """Return Avalanche's template with the plugin."""
    return SupervisedTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        train_mb_size=16,
        train_epochs=2,
        eval_mb_size=32,
        plugins=[plugin],
        evaluator=None,
    )


def _train(template: Any, plugin: Any) -> None:
    """Train and evaluate each experience."""
    stream = _benchmark()
    experiences = stream.train_stream
    for number, experience in enumerate(experiences):
        if isinstance(plugin, Plugin) and not plugin.should_train(number, len(experiences)):
            continue  # `joint` waits for the last one; a script does not ask
        try:
            template.train(experience, eval_streams=[])
            template.eval(stream.test_stream[: number + 1])
        except AttributeError as error:
            if error.obj is template:
                reason = f"it uses learner.{error.name}, which only retain's learner has"
                raise NotApplicable(reason) from None
            raise


class _Net(nn.Module):
    """A convolution with BatchNorm, and Avalanche's growing head."""

    def __init__(self) -> None:
        super().__init__()
        draw = seeding.generator(0, "plain Avalanche")
        self.trunk = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.classifier = IncrementalClassifier(4 * 36, initial_out_features=2)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.1, generator=draw)

    def forward(self, x: torch.Tensor) -> Any:
        """Return logits (B, C) of pictures (B, 1, 6, 6)."""
        return self.classifier(self.trunk(x).flatten(1))


def _benchmark() -> Any:
    """Return two experiences of two classes, with validation data."""
    streams = {name: [_dataset(number, name) for number in range(2)] for name in _SIZES}
    made = benchmark_from_datasets(**streams)
    for stream in made.streams.values():
        stream.benchmark = made
        for experience in stream:
            experience.task_labels = [0]
            first = 2 * experience.current_experience
            experience.classes_in_this_experience = [first, first + 1]
    return made


def _dataset(number: int, split: str) -> Any:
    """Return one split of an experience: noise around a pattern for each class."""
    y = torch.tensor([2 * number, 2 * number + 1]).repeat(_SIZES[split])
    patterns = torch.randn(4, 1, 6, 6, generator=seeding.generator(0, "patterns"))
    x = patterns[y] + torch.randn(len(y), 1, 6, 6, generator=seeding.generator(0, split, number))
    tasks = torch.zeros_like(y)
    labels = [DataAttribute(y.tolist(), "targets"), DataAttribute(tasks.tolist(), "targets_task_labels")]
    return AvalancheDataset([TensorDataset(x, y, tasks)], data_attributes=labels)
