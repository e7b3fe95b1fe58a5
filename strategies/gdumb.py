"""GDumb: keep a memory with as many samples of each class, and train the network on it alone, from its initial weights each time.

    L = L_CE over the memory

When an experience begins, its training samples compete with those in memory, as in `replay` with policy "class_balanced": each
gets a random key, and the memory // classes smallest keys of each class stay. Then the network gets the weights that it had
before the first experience, and is trained on the memory as on any training data. New samples that are not in memory are not
trained on. Rows that the head has gained since are initialised at random (biases are 0). An optimizer that is kept between
experiences keeps its momentum too.

Source: Prabhu et al. 2020 (ECCV, "GDumb: A Simple Approach that Questions Our Progress in Continual Learning"). Where a rare
class leaves part of its quota free, the paper fills it with samples of other classes; here it stays free. Peers: Avalanche's
GDumb has mem_size = memory. Mammoth's buffer_size is a reservoir; it is trained on once, after the last task, with a separate
schedule and cutmix.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..platform.methods.accumulated_data import data_so_far
from ..platform.methods.replay_memory import REDUNDANT_MEMORY, check_capacity, select_kept
from ..platform.seeding import generator
from ..platform.training.plugin import Plugin

NEUTRAL: dict[str, Any] | None = {"memory": 0}
ROLES = ("data", "memory")
_NO_OLD_NETWORK = (
    "gdumb starts the network afresh in each experience, so there is no old one to distil from, to freeze or to extend"
)
_NEED_OLD_NETWORK = [
    "lwf",
    "lwf_mc",
    "feature_distillation",
    "attention_distillation",
    "podnet",
    "lucir",
    "lfl",
    "freezing",
]
_NEED_OLD_NETWORK += ["gradual_unfreezing", "bitfit", "lora", "adapters", "l2p", "coda_prompt"]
CONFLICTS = REDUNDANT_MEMORY | dict.fromkeys(_NEED_OLD_NETWORK, _NO_OLD_NETWORK)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Train from scratch on a balanced memory alone (GDumb).

    memory: total number of remembered samples, >= 0; 0 trains on the new data unchanged.
    """

    memory: int = 200

    def __post_init__(self) -> None:
        memory = self.memory
        if memory < 0:
            raise ValueError(f"{memory=}: must be >= 0 samples")


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse a memory that cannot hold one sample of each of the stream's classes."""
    if config.memory > 0:
        check_capacity("strategies.gdumb.memory", config.memory, num_classes)


@torch.no_grad()
def reset(model: nn.Module, initial: dict[str, Tensor], draw: torch.Generator) -> None:
    """Give a network its `initial` tensors.

    Rows that a tensor has gained since are sampled uniformly in +-1/sqrt(D); those of a bias are 0.
    """
    for name, tensor in model.state_dict().items():
        saved = initial[name]
        if tensor.ndim and not tensor.is_floating_point():
            continue  # not weights: Avalanche's heads mark the outputs in use
        if tensor.shape == saved.shape:
            tensor.copy_(saved)
            continue
        tensor[: len(saved)].copy_(saved)
        added = tensor[len(saved) :]
        bound = added[0].numel() ** -0.5 if added.ndim > 1 else 0.0
        added.copy_((torch.rand(added.shape, generator=draw) * 2 - 1) * bound)


class GDumbPlugin(Plugin):
    """Resets the network before each experience, and replaces its training data by the memory."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed
        self._initial: dict[str, Tensor] = {}
        self._filled = -1  # the last experience whose samples competed
        # position (m,) among the training samples of all experiences so far, label y (m,), key (m,)
        self.columns: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the initial tensors, the memory, and the last experience that it includes."""
        return {"initial": dict(self._initial), "columns": dict(self.columns), "filled": self._filled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the initial tensors and the memory."""
        self._initial, self.columns = dict(state["initial"]), dict(state["columns"])
        self._filled = state["filled"]

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """Reset the weights to those from before the first experience."""
        if self.config.memory == 0:
            return
        if not self._initial:
            self._initial = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
        number = learner.experience.current_experience
        reset(learner.model, self._initial, generator(self.seed, "gdumb rows", number))

    def after_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """Fill the memory, once per experience, and make it the training data."""
        if self.config.memory == 0:
            return
        number = learner.experience.current_experience
        if number != self._filled:
            self._fill(learner.experience)
            self._filled = number
        positions = self.columns["position"].tolist()
        learner.adapted_dataset = data_so_far(learner.experience).subset(positions).train()

    def _fill(self, experience: Any) -> None:
        """Let the experience's samples compete with those in memory."""
        number, y = experience.current_experience, torch.tensor(list(experience.dataset.targets))
        start = sum(len(past.dataset) for past in experience.origin_stream[:number])
        keys = torch.rand(len(y), generator=generator(self.seed, "gdumb keys", number), dtype=torch.float64)
        new = {"position": start + torch.arange(len(y)), "y": y, "key": keys}
        candidates = {name: torch.cat([self.columns.get(name, column[:0]), column]) for name, column in new.items()}
        check_capacity("strategies.gdumb.memory", self.config.memory, len(candidates["y"].unique()))
        keep = select_kept(candidates["key"], candidates["y"], self.config.memory, "class_balanced")
        self.columns = {name: column[keep] for name, column in candidates.items()}


def build(config: Config, seed: int) -> GDumbPlugin:
    """Return the plugin; its random numbers are derived from `seed`."""
    return GDumbPlugin(config, seed)
