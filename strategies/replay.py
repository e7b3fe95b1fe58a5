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
from typing import Any

from torch import Tensor

from ..platform.memory import MemoryPlugin, Policy, check_places, kept

NEUTRAL: dict[str, Any] | None = {"memory": 0}
ROLES = ("memory",)


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


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse a balanced memory that cannot hold one sample of each of the stream's classes."""
    if config.policy == "class_balanced" and config.memory > 0:
        check_places("strategies.replay.memory", config.memory, num_classes, ", or policy: reservoir")


class ReplayPlugin(MemoryPlugin):
    """Appends remembered samples to each mini-batch."""

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config.memory, config.batch_size, seed, "replay")
        self.config = config

    def keep(self, strategy: Any, candidates: dict[str, Tensor]) -> Tensor:
        """By the policy."""
        if self.config.policy == "class_balanced":
            num_classes = len(candidates["y"].unique())
            check_places("strategies.replay.memory", self.memory, num_classes, ", or policy: reservoir")
        return kept(candidates["key"], candidates["y"], self.memory, self.config.policy)


def build(config: Config, seed: int) -> ReplayPlugin:
    """The plugin; its random numbers are derived from `seed`."""
    return ReplayPlugin(config, seed)
