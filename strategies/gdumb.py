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

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..platform.config.settings import MemorySize, settings
from ..platform.methods.accumulated_data import data_so_far
from ..platform.methods.replay_memory import Columns, check_capacity, compete, keep_balanced, num_balanced
from ..platform.models.heads import reset_weights
from ..platform.seeding import generator
from ..platform.training.plugin import LearnerView, Plugin

NEEDS_PAST = True
ROLES = ("data", "memory")
_NO_OLD_NETWORK = "gdumb starts the network afresh each time: there is no old one to distil from, freeze or extend"
_NEED_OLD_NETWORK = ["lwf", "lwf_mc", "feature_distillation", "attention_distillation", "podnet", "lucir", "lfl"]
_NEED_OLD_NETWORK += ["freezing", "gradual_unfreezing", "bitfit", "lora", "adapters", "l2p", "coda_prompt"]
CONFLICTS = dict.fromkeys(_NEED_OLD_NETWORK, _NO_OLD_NETWORK)


@settings
class Config:
    """Train from scratch on a balanced memory alone (GDumb).

    memory: total number of remembered samples, >= 0; 0 trains on the new data unchanged.
    """

    memory: MemorySize = 200


class GDumbPlugin(Plugin[Config]):
    """Resets the network before each experience, and replaces its training data by the memory."""

    STATE = ("initial", "columns", "filled")
    filled = -1  # the last experience whose samples competed

    def init_state(self) -> None:
        """Set the initial state."""
        self.initial: dict[str, Tensor] = {}  # the network's tensors
        # position (m,) among the training samples of all experiences so far, label y (m,), key (m,)
        self.columns: Columns = {}

    def num_training_samples(self, labels: Sequence[Tensor], experience: int) -> int:
        """Return the size of the memory."""
        if self.config.memory == 0:
            return super().num_training_samples(labels, experience)
        return num_balanced(labels[: experience + 1], self.config.memory)

    def before_train_dataset_adaptation(self, learner: LearnerView, **kwargs: object) -> None:
        """Reset the weights to those from before the first experience."""
        if self.config.memory == 0:
            return
        if not self.initial:
            self.initial = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
        number = learner.experience.current_experience
        reset_weights(learner.model, self.initial, generator(self.seed, "gdumb rows", number))

    def after_train_dataset_adaptation(self, learner: LearnerView, **kwargs: object) -> None:
        """Fill the memory, once per experience, and make it the training data."""
        if self.config.memory == 0:
            return
        number = learner.experience.current_experience
        if number != self.filled:
            self.columns = compete(self.columns, self._new_samples(learner.experience), self._keep)
            self.filled = number
        positions = self.columns["position"].tolist()
        learner.adapted_dataset = data_so_far(learner.experience).subset(positions).train()

    def _new_samples(self, experience: Any) -> Columns:
        """Return the columns of the experience's samples."""
        number, y = experience.current_experience, torch.tensor(list(experience.dataset.targets))
        start = sum(len(past.dataset) for past in experience.origin_stream[:number])
        keys = torch.rand(len(y), generator=generator(self.seed, "gdumb keys", number), dtype=torch.float64)
        return {"position": start + torch.arange(len(y)), "y": y, "key": keys}

    def _keep(self, candidates: Columns) -> Tensor:
        check_capacity("strategies.gdumb.memory", self.config.memory, len(candidates["y"].unique()))
        return keep_balanced(candidates, self.config.memory)
