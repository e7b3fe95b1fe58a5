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

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from ..platform.errors import UserError
from ..platform.methods.dataset_features import dataset_features
from ..platform.methods.herding import herding_ranks
from ..platform.methods.replay_memory import MemoryPlugin, check_capacity, select_kept, to_inputs
from ..platform.methods.sample_selection import gss_greedy, interference
from ..platform.models.activation_capture import layer_outputs
from ..platform.models.features import FEATURES
from ..platform.models.inference import evaluation_mode
from ..platform.seeding import generator
from ..platform.training import plugin_api

NEUTRAL: dict[str, Any] | None = {"memory": 0}
ROLES = ("memory",)
Policy = Literal["reservoir", "class_balanced", "herding", "gss"]
_CANDIDATES_PER_SAMPLE = 5  # that MIR replays; its paper: 50 for 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Train on remembered old samples together with the new ones (experience replay).

    memory: total number of remembered samples, >= 0.
    policy: "class_balanced" (as many of each class), "herding" (the same, those that represent the class mean best),
        "reservoir" (a uniform subset of all seen) or "gss" (those whose gradients differ most).
    batch_size: remembered samples in a mini-batch; null: as many as new ones.
    selection: which samples are replayed: "random", or "mir" (those that the new ones would harm most).
    candidates: number of samples that "mir" chooses from, more than are replayed; null: five times as many.
    """

    memory: int = 200
    policy: Policy = "class_balanced"
    batch_size: int | None = None
    selection: Literal["random", "mir"] = "random"
    candidates: int | None = None

    def __post_init__(self) -> None:
        memory, policy, batch_size = self.memory, self.policy, self.batch_size
        selection, candidates = self.selection, self.candidates
        if memory < 0:
            raise ValueError(f"{memory=}: must be >= 0 samples")
        if policy not in ("reservoir", "class_balanced", "herding", "gss"):
            raise ValueError(f"{policy=}: must be 'class_balanced', 'herding', 'reservoir' or 'gss'")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"{batch_size=}: must be >= 1 sample, or null for the training batch size")
        if selection not in ("random", "mir"):
            raise ValueError(f"{selection=}: must be 'random' or 'mir'")
        if candidates is not None and selection == "random":
            raise ValueError(f"{candidates=}: is not used by selection 'random': leave it out")
        if candidates is not None and candidates <= (batch_size or 0):
            raise ValueError(f"{candidates=}: must be more than are replayed (batch_size={batch_size})")


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse a balanced memory that cannot hold one sample of each of the stream's classes."""
    if config.policy in ("class_balanced", "herding") and config.memory > 0:
        check_capacity("strategies.replay.memory", config.memory, num_classes, ", or policy: reservoir")


class ReplayPlugin(MemoryPlugin):
    """Appends remembered samples to each mini-batch."""

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config.memory, config.batch_size, seed, "replay")
        self.config = config

    def remember(self, learner: Any, new: dict[str, Tensor]) -> None:
        """Rank the new samples for herding, or mark their scores as missing for GSS, before they compete."""
        if self.config.policy == "herding":
            features = dataset_features(learner, learner.experience.dataset)
            new["key"] = herding_ranks(features, new["y"], self.memory)
        if self.config.policy == "gss":
            new["score"] = torch.full_like(new["key"], torch.nan)
        super().remember(learner, new)

    def keep(self, learner: Any, candidates: dict[str, Tensor]) -> Tensor:
        """Return the positions of the candidates that the policy keeps."""
        if self.config.policy == "gss":
            return self._greedy(learner, candidates)
        if self.config.policy == "reservoir":
            return select_kept(candidates["key"], candidates["y"], self.memory, "reservoir")
        num_classes = len(candidates["y"].unique())
        check_capacity("strategies.replay.memory", self.memory, num_classes, ", or policy: reservoir")
        return select_kept(candidates["key"], candidates["y"], self.memory, "class_balanced")

    def draw(self, learner: Any) -> Tensor:
        """Return positions (M,) in memory: random ones, or those of random candidates that a step would harm most."""
        if self.config.selection == "random":
            return super().draw(learner)
        size = self.batch_size or learner.train_mb_size
        sampled = self.sample_positions(learner, self.config.candidates or _CANDIDATES_PER_SAMPLE * size)
        if self.config.candidates is not None and self.config.candidates <= size:
            key = f"strategies.replay.candidates={self.config.candidates}"
            raise UserError(f"{key}: must be more than the {size} that are replayed")

        def losses(logits: Tensor, y: Tensor, t: Tensor) -> Tensor:
            return cross_entropy(plugin_api.mask_other_tasks(learner, logits, t), y, reduction="none")

        x, y, *rest = learner.mbatch
        new = (x, y, rest[0] if rest else torch.zeros_like(y))
        candidates = (self.inputs(learner)[sampled], self.columns["y"][sampled], self.columns["t"][sampled])
        increases = interference(learner.model, losses, new, candidates, learner.optimizer.param_groups[0]["lr"])
        return sampled[increases.argsort(descending=True, stable=True)[:size]]

    def _greedy(self, learner: Any, candidates: dict[str, Tensor]) -> Tensor:
        """Return the positions that GSS keeps, by the present network's outputs for old and new samples."""
        batches = zip(*(candidates[name].split(learner.eval_mb_size) for name in ("x", "y", "t")), strict=True)
        residuals, features, inputs = [], [], to_inputs(learner)
        with evaluation_mode(learner.model):
            for x, y, t in batches:
                logits, outputs = layer_outputs(learner.model, inputs(x))
                probabilities = plugin_api.mask_other_tasks(learner, logits, t).softmax(1)
                residuals.append(probabilities - one_hot(y, logits.shape[1]))
                features.append(outputs[FEATURES])
        draw = generator(self.seed, "replay gss", learner.experience.current_experience)
        return gss_greedy(torch.cat(residuals), torch.cat(features), candidates["score"], self.memory, draw)


def build(config: Config, seed: int) -> ReplayPlugin:
    """Return the plugin; its random numbers are derived from `seed`."""
    return ReplayPlugin(config, seed)
