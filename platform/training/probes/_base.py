"""Probes look at a network while it is trained and change nothing: the base of all of them, and who asks them.

A module of this kind has a frozen dataclass `Config` and ``build(config, context) -> Probe``; it may have
``check_model(config, network)``, which is called before the trial starts.
Shapes: n samples, K outputs of the head.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ... import seeding
from ...data.cache import DataFolders
from ...data.resident_loader import fits
from ...data.streams import Part, Stream
from ..evaluation import evaluating

Values = Mapping[str, float | None]


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What a probe is built for: the trial's stream, the seed of its draws, where data sets are, where it may write files."""

    stream: Stream
    seed: int
    data: DataFolders
    folder: Path


class Probe:
    """Base of all probes: it looks, and leaves the trial as it was.

    No parameter, buffer, gradient, hook, flag, memory or clock may change, and what it draws comes from generators of its own
    (``seeding.generator(context.seed, "probe", name, ...)``): a trial with it has the same bits as without. The network is in
    evaluation mode, without gradients, whenever a probe is asked. Only the methods that a subclass overrides are called. What
    it finds are numbers by name, NaN or None where undefined; ``a/b`` in names groups them.

    With state that is needed amid an experience or in the next ones, `state_dict` returns it (tensors, numbers, lists, dicts)
    and `load_state_dict` takes it.
    """

    iterations: int | None = None  # how often to ask `during`: before each so many iterations; None: after each epoch

    def before_experience(self, learner: Any, number: int) -> None:
        """Before the training of experience `number` (0-based); the head has not grown yet."""

    def during(self, learner: Any) -> Values:
        """Amid an experience. What is found after an epoch goes into the epoch's own event, unless the name is there."""
        return {}

    def after_experience(self, learner: Any, number: int) -> Values:
        """After the training of experience `number` (0-based) and the evaluation that follows it."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a fresh probe needs to go on where this one stopped; {} where that is nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another instance's `state_dict` returned."""
        if state:
            raise NotImplementedError(f"{type(self).__qualname__} has a state_dict and no load_state_dict")


class Probes:
    """The probes of one trial, asked in the order of the YAML.

    An event holds the probe's name, its place among the probes, whether it is `after` an experience or amid one, its own seconds
    since its last event, and its values.
    `spent`: seconds that all of them have taken in this process.
    """

    def __init__(self, named: Mapping[str, Probe]) -> None:
        self._named = named
        self._order = {name: order for order, name in enumerate(named)}
        self._seconds = dict.fromkeys(named, 0.0)
        self.spent = 0.0
        asked = [name for name in named if _overrides(named[name], "during")]
        self._by_iteration = [name for name in asked if named[name].iterations is not None]
        self._by_epoch = [name for name in asked if named[name].iterations is None]

    def before_experience(self, learner: Any, number: int) -> None:
        """Ask those that want to see the network before it is trained."""
        for name, probe in self._named.items():
            if _overrides(probe, "before_experience"):
                self._ask(name, "before_experience", learner, number)

    def after_epoch(self, learner: Any) -> dict[str, float | None]:
        """What is found after an epoch, with its cost as `probe_seconds`; {} where that is nothing."""
        found: dict[str, float | None] = {}
        before = self.spent
        for name in self._by_epoch:
            found |= self._ask(name, "during", learner)
            self._seconds[name] = 0.0
        return {**found, "probe_seconds": self.spent - before} if found else {}

    def between_iterations(self, learner: Any) -> Iterator[dict[str, Any]]:
        """Ask those whose time it is, before the next iteration."""
        for name in self._by_iteration:
            if learner.clock.train_exp_iterations % (self._named[name].iterations or 1) == 0:
                yield self._event(name, self._ask(name, "during", learner), after=False)

    def after_experience(self, learner: Any, number: int) -> Iterator[dict[str, Any]]:
        """Ask those that look at the trained network."""
        for name, probe in self._named.items():
            if _overrides(probe, "after_experience"):
                yield self._event(name, self._ask(name, "after_experience", learner, number), after=True)

    def state_dict(self) -> dict[str, Any]:
        """The state of each probe that has any, by name."""
        states = {name: probe.state_dict() for name, probe in self._named.items()}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name, probe in self._named.items():
            probe.load_state_dict(states.get(name, {}))

    def _ask(self, name: str, method: str, learner: Any, *arguments: int) -> Values:
        started = time.perf_counter()
        with evaluating(learner.model), _undrawn() if "." in name else contextlib.nullcontext():
            found: Values = getattr(self._named[name], method)(learner, *arguments) or {}
        seconds = time.perf_counter() - started
        self._seconds[name] += seconds
        self.spent += seconds
        return found

    def _event(self, name: str, found: Values, after: bool) -> dict[str, Any]:
        seconds, self._seconds[name] = self._seconds[name], 0.0
        return {"probe": name, "order": self._order[name], "after": after, "seconds": seconds, "values": dict(found)}


def _overrides(probe: Probe, method: str) -> bool:
    return getattr(type(probe), method) is not getattr(Probe, method)


@contextlib.contextmanager
def _undrawn() -> Iterator[None]:
    """Put the global generators back: a probe of the user's own may draw from them (ours do not: a test holds that)."""
    before = seeding.capture()
    try:
        yield
    finally:
        seeding.restore(before)


# What probes look at.


@dataclass(frozen=True, slots=True, eq=False)
class Subset:
    """Samples side by side on the device: `x` (n, ...), `y` (n,) labels, `experience` (n,) the number each comes from.

    `x` is as the network takes it where that fits into memory, else as stored.
    """

    x: torch.Tensor
    y: torch.Tensor
    experience: torch.Tensor
    converted: bool

    def __len__(self) -> int:
        return len(self.y)


def drawn(part: Part, count: int, seed: int, *where: int | str) -> Part:
    """Up to `count` samples of a part, always the same ones for a seed and place."""
    order = torch.randperm(len(part), generator=seeding.generator(seed, "probe", *where))[:count]
    return Part(part.arrays, part.indices[order.sort().values])


def gathered(stream: Stream, parts: Sequence[tuple[int, Part]], device: torch.device) -> Subset:
    """The samples of parts, each with the number of its experience."""
    x = torch.cat([part.arrays.x.index_select(0, part.indices) for _, part in parts]).to(device)
    y = torch.cat([part.y for _, part in parts]).to(device)
    sizes = torch.tensor([len(part) for _, part in parts])
    experience = torch.repeat_interleave(torch.tensor([number for number, _ in parts]), sizes).to(device)
    converted = fits(stream, len(x))
    return Subset(stream.normalise(x) if converted else x, y, experience, converted)


def spread(learner: Any, parts: Mapping[int, Part], samples: int, seed: int, *where: int | str) -> Subset:
    """About `samples` samples in all, as many of each part; the parts by the number of their experience."""
    each = -(-samples // len(parts))
    chosen = [(number, drawn(part, each, seed, *where, number)) for number, part in parts.items()]
    return gathered(learner.stream, chosen, learner.device)


def old_and_new(learner: Any, number: int, samples: int, seed: int, name: str) -> dict[str, Subset]:
    """Test samples of the experiences before `number` (from the second on) and of its own: `samples` of "old" and of "new"."""
    experiences = learner.stream.experiences
    sides = {"old": range(number), "new": range(number, number + 1)}
    return {
        side: spread(learner, {one: experiences[one].test for one in numbers}, samples, seed, name, "test")
        for side, numbers in sides.items()
        if numbers
    }


def batches(learner: Any, subset: Subset) -> Iterator[torch.Tensor]:
    """Inputs (B, *shape) as the network takes them, in order."""
    for x in torch.split(subset.x, learner.training.evaluation_batch_size):
        yield x if subset.converted else learner.stream.normalise(x)


def logits(learner: Any, subset: Subset) -> torch.Tensor:
    """Logits (n, K); in a task-incremental stream -inf outside of the classes of each sample's experience."""
    predict = learner.predict
    found = torch.cat([predict(x) for x in batches(learner, subset)])
    if learner.stream.scenario != "task":
        return found
    own = learner.stream.own.to(found.device)[subset.experience]
    return found.masked_fill(~own[:, : found.shape[1]], -torch.inf)


def accuracies(learner: Any, subset: Subset, numbers: list[int]) -> list[float]:
    """Accuracy on the samples of each of these experiences; a class that the head lacks counts as wrong."""
    hits = (logits(learner, subset).argmax(1) == subset.y).to(torch.float64)
    return torch.stack([hits[subset.experience == number].mean() for number in numbers]).tolist()


def positive(**values: int) -> None:
    """Refuse counts below 1; for the `__post_init__` of a probe's `Config`."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
