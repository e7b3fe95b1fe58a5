"""Experience replay: each mini-batch of new samples is joined by a mini-batch from a small memory of old ones.

    L = L_CE over the B new and M remembered samples together,  M = min(batch_size, m), drawn without replacement

What is remembered: every sample met gets a random key once, and the samples with the smallest keys stay. "reservoir"
keeps the smallest of all, a uniform subset of everything seen, distributed as by Vitter's algorithm R;
"class_balanced" keeps the smallest of each class, memory // classes of them (the first memory % classes classes one
more), so that the memory of a class only ever shrinks to a part of itself. A class with fewer samples than its quota
leaves the rest free. The memory learns from an experience when its training ends, and only from its training data.
Shapes: B new samples, M remembered in a mini-batch, m in memory (m <= memory), n new in an experience.

Sources: Vitter 1985 (reservoir), Chaudhry et al. 2019 (1902.10486, experience replay), Rebuffi et al. 2017 (quotas).
Peers: Mammoth's ER has buffer_size = memory, minibatch_size = batch_size, policy reservoir, but fills its buffer
during training; Avalanche's ReplayPlugin has mem_size = memory, batch_size_mem = batch_size.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..platform import plugins
from ..platform.errors import UserError
from ..platform.seeding import generator
from ..platform.streams import resident

NEUTRAL: dict[str, Any] | None = {"memory": 0}
Policy = Literal["reservoir", "class_balanced"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Experience replay: train on remembered old samples along with the new ones.

    memory: how many samples are remembered in all, >= 0.
    policy: "class_balanced" (as many of each class) or "reservoir" (a uniform subset of all seen).
    batch_size: remembered samples in a mini-batch; null: as many as new ones.
    """

    memory: int = 200
    policy: Policy = "class_balanced"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        memory, policy, batch_size = self.memory, self.policy, self.batch_size
        if memory < 0:
            raise ValueError(f"{memory=}: must be >= 0 samples")
        if policy not in ("reservoir", "class_balanced"):
            raise ValueError(f"{policy=}: must be 'reservoir' or 'class_balanced'")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"{batch_size=}: must be >= 1 sample, or null for the training batch size")


def quotas(memory: int, num_classes: int) -> list[int]:
    """Places of each class in a balanced memory, by rank of its label; they add up to `memory`."""
    return [memory // num_classes + (rank < memory % num_classes) for rank in range(num_classes)]


def kept(keys: Tensor, y: Tensor, memory: int, policy: Policy) -> Tensor:
    """Positions (m,), rising, of the samples that stay in memory; `keys` (n,) random, `y` (n,) labels.

    Raises a UserError where a balanced memory has fewer places than there are classes.
    """
    if policy == "reservoir":
        return keys.argsort()[:memory].sort().values
    labels = sorted(set(y.tolist()))
    _check_places(memory, len(labels))
    chosen = []
    for label, places in zip(labels, quotas(memory, len(labels)), strict=True):
        positions = (y == label).nonzero().flatten()
        chosen.append(positions[keys[positions].argsort()[:places]])
    return torch.cat(chosen).sort().values


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse a balanced memory that cannot hold one sample of each of the stream's classes."""
    if config.policy == "class_balanced" and config.memory > 0:
        _check_places(config.memory, num_classes)


def _check_places(memory: int, num_classes: int) -> None:
    if memory < num_classes:
        allowed = f"must be at least {num_classes}, one for each class, or policy: reservoir"
        raise UserError(f"strategies.replay.memory={memory}: {allowed}")


class ReplayPlugin(plugins.Plugin):
    """Appends remembered samples to each mini-batch; remembered as stored (uint8 where the stream's are)."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed
        self._memory: dict[str, Tensor] = {}  # x (m, ...), y (m,), t (m,) task labels, key (m,)
        self._x: Tensor | None = None  # the memory as the network takes it, during an experience

    def state_dict(self) -> dict[str, Any]:
        """The memory and its keys."""
        return dict(self._memory)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a memory."""
        self._memory, self._x = dict(state), None

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Draw from the memory; which samples depends on (seed, experience, iteration) alone."""
        if not self._memory:
            return
        x = self._x = self._prepare(strategy) if self._x is None else self._x
        where = (strategy.experience.current_experience, strategy.clock.train_exp_iterations)
        size = self.config.batch_size or strategy.train_mb_size
        order = torch.randperm(len(self._memory["y"]), generator=generator(self.seed, "replay draw", *where))
        index = order[:size].to(strategy.device)
        remembered = (x, self._memory["y"], self._memory["t"])
        # a mini-batch without task labels has two parts
        strategy.mbatch = [torch.cat([new, old[index]]) for new, old in zip(strategy.mbatch, remembered, strict=False)]

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Let the experience's samples compete for places."""
        self._x = None
        if self.config.memory == 0:
            return
        draw = generator(self.seed, "replay keys", strategy.experience.current_experience)
        new = {name: tensor.to(strategy.device) for name, tensor in _stored(strategy.experience.dataset).items()}
        new["key"] = torch.rand(len(new["y"]), generator=draw, dtype=torch.float64).to(strategy.device)
        old = {name: self._memory[name].to(strategy.device) if self._memory else new[name][:0] for name in new}
        num_old = len(old["y"])
        keys, y = (torch.cat([old[name], new[name]]) for name in ("key", "y"))
        keep = kept(keys, y, self.config.memory, self.config.policy)
        was, came = keep[keep < num_old], keep[keep >= num_old] - num_old
        self._memory = {name: torch.cat([old[name][was], new[name][came]]) for name in new}

    def _prepare(self, strategy: Any) -> Tensor:
        self._memory = {name: tensor.to(strategy.device) for name, tensor in self._memory.items()}
        found = resident(strategy.experience.dataset)
        return self._memory["x"] if found is None else found.stream.normalise(self._memory["x"])


def build(config: Config, seed: int) -> ReplayPlugin:
    """The plugin; its random numbers are derived from `seed`."""
    return ReplayPlugin(config, seed)


def _stored(dataset: Any) -> dict[str, Tensor]:
    """All samples of a training dataset, without augmentation: as stored where ours, else as the network takes them."""
    found = resident(dataset)
    if found is not None:
        return {"x": found.x, "y": found.y, "t": found.t}
    x, y = plugins.samples(dataset.eval())
    labels = getattr(dataset, "targets_task_labels", None)
    return {"x": x, "y": y, "t": torch.zeros_like(y) if labels is None else torch.tensor(list(labels))}
