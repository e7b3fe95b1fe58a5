"""Experience replay: append to each mini-batch of new samples a mini-batch of old ones from a small memory.

    L = L_CE over the B new and M remembered samples together,  M = min(batch_size, m), sampled without replacement

Which samples are remembered (`policy`): every sample gets a random key once. "reservoir" keeps the smallest keys of all: a
uniform subset of everything seen, distributed as by Vitter's algorithm R. "class_balanced" keeps the smallest keys of each class,
memory // classes of them (one more for the first memory % classes classes). So the memory of a class only shrinks to a subset of
itself. A class with fewer samples than its quota leaves the rest free. "herding" has the same quotas; the key of a sample is its
rank in iCaRL's order, by the features of the network that has just been trained. "gss" prefers samples whose gradients differ
from those in memory. The memory is updated from an experience when its training ends, and only from its training data. Which
samples are replayed (`selection`): "random", or "mir": of `candidates` sampled at random, those whose loss would grow most by a
step on the new samples. platform/methods/sample_selection.py has the formulas of "gss" and "mir".
Shapes: B new samples, M remembered in a mini-batch, m in memory (m <= memory), n candidates.

Sources: Vitter 1985 (reservoir), Chaudhry et al. 2019 (1902.10486, experience replay), Rebuffi et al. 2017 (1611.07725:
quotas, herding), Aljundi et al. 2019 (1903.08671: GSS; 1908.04742: MIR). Peers: Mammoth's ER has buffer_size = memory,
minibatch_size = batch_size, policy reservoir, but fills its buffer during training. Avalanche's ReplayPlugin has
mem_size = memory and batch_size_mem = batch_size; its MIRPlugin has subsample = candidates.
"""

from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor

from ..platform.config.settings import NonNegativeInt, OnlyWith, PositiveInt, settings
from ..platform.errors import UserError
from ..platform.methods.dataset_features import dataset_features
from ..platform.methods.herding import herding_ranks
from ..platform.methods.replay_memory import Columns, ReplayMemory, check_capacity, keep_balanced, keep_reservoir
from ..platform.methods.sample_selection import gss_greedy, head_gradients, most_harmed
from ..platform.seeding import generator
from ..platform.training.plugin import LearnerView, Plugin

NEEDS_PAST = True
ROLES = ("memory",)
_CANDIDATES_PER_SAMPLE = 5  # that MIR replays; its paper: 50 for 10


@settings
class Config:
    """Train on remembered old samples together with the new ones (experience replay).

    memory: total number of remembered samples, >= 0.
    policy: "class_balanced" (as many of each class), "herding" (the same, those that represent the class mean best),
        "reservoir" (a uniform subset of all seen) or "gss" (those whose gradients differ most).
    batch_size: remembered samples in a mini-batch; null: as many as new ones.
    selection: which samples are replayed: "random", or "mir" (those that the new ones would harm most).
    candidates: number of samples that "mir" chooses from, more than are replayed; null: five times as many.
    """

    memory: NonNegativeInt = 200
    policy: Literal["class_balanced", "herding", "reservoir", "gss"] = "class_balanced"
    batch_size: PositiveInt | None = None
    selection: Literal["random", "mir"] = "random"
    candidates: Annotated[PositiveInt | None, OnlyWith(selection="mir")] = None

    def __post_init__(self) -> None:
        candidates, batch_size = self.candidates, self.batch_size
        if candidates is not None and candidates <= (batch_size or 0):
            raise ValueError(f"{candidates=}: must be more than are replayed (batch_size={batch_size})")


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse a balanced memory that cannot hold one sample of each of the stream's classes."""
    if config.policy in ("class_balanced", "herding") and config.memory > 0:
        check_capacity("strategies.replay.memory", config.memory, num_classes, ", or policy: reservoir")


class ReplayPlugin(Plugin[Config]):
    """Appends remembered samples to each mini-batch."""

    STATE = ("memory",)
    capturable = True

    def init_state(self) -> None:
        """Set the initial state."""
        self.memory = ReplayMemory(self.seed, "replay")

    def num_appended(self, num_trained: int) -> int:
        """Return 1 as soon as there is a memory."""
        return int(num_trained > 0 and self.config.memory > 0)

    def before_training_iteration(self, learner: LearnerView, **kwargs: object) -> None:
        """Append remembered samples."""
        if len(self.memory):
            self.memory.append(learner, self.draw(learner))

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Let the experience's samples compete for the memory."""
        if self.config.memory == 0:
            return
        dataset = learner.experience.dataset
        new = self.memory.new_samples(learner, dataset)
        if self.config.policy == "herding":
            new["key"] = herding_ranks(dataset_features(learner, dataset), new["y"], self.config.memory)
        if self.config.policy == "gss":
            new["score"] = torch.full_like(new["key"], torch.nan)  # filled in when a sample is kept
        self.memory.update(new, partial(self.keep, learner))

    def keep(self, learner: LearnerView, candidates: Columns) -> Tensor:
        """Return the positions, rising, of the candidates that the policy keeps."""
        if self.config.policy == "gss":
            residuals, features = head_gradients(learner, candidates)
            draw = generator(self.seed, "replay gss", learner.experience.current_experience)
            return gss_greedy(residuals, features, candidates["score"], self.config.memory, draw)
        if self.config.policy == "reservoir":
            return keep_reservoir(candidates, self.config.memory)
        check_stream(self.config, len(candidates["y"].unique()), 0)
        return keep_balanced(candidates, self.config.memory)

    def draw(self, learner: LearnerView) -> Tensor:
        """Return positions (M,) in memory: random ones, or those of random candidates that a step would harm most."""
        size = self.config.batch_size or learner.train_mb_size
        if self.config.selection == "random":
            return self.memory.sample(learner, size)
        if self.config.candidates is not None and self.config.candidates <= size:
            key = f"strategies.replay.candidates={self.config.candidates}"
            raise UserError(f"{key}: must be more than the {size} that are replayed")
        sampled = self.memory.sample(learner, self.config.candidates or _CANDIDATES_PER_SAMPLE * size)
        return sampled[most_harmed(learner, self.memory.samples(learner, sampled), size)]
