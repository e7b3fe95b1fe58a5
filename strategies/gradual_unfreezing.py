"""Gradual unfreezing: at first only the head learns, then one more block of the trunk after the other, starting at the head.

In epoch e (from 0) of an experience, the last  start + floor(e / every)  blocks are free and the blocks before them are frozen.
With per: experience, e counts the experiences since `from_experience`. A frozen block changes by no bit, and neither do its
BatchNorm statistics. Blocks: layers of an MLP or a small CNN, residual blocks, transformer blocks (platform/models/blocks.py).

Source: Howard & Ruder 2018 (1801.06146, ULMFiT): start from pretrained weights, free the last layer first, then one more each
epoch. Its discriminative learning rates, used together with this, are training.optimizer.layer_decay (theirs: 1 / 2.6). Peers:
fastai's freeze_to(-n), called by hand, n = 1 + the free blocks, as the head is one of its layer groups.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from ..platform.errors import UserError
from ..platform.methods.freezing import FreezingPlugin, FrozenParts, check_from_experience, selected_parts
from ..platform.models.blocks import block_numbers, blocks_of

NEUTRAL: dict[str, Any] | None = {"start": None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Unfreeze the trunk's blocks one after the other, starting at the head (ULMFiT).

    start: blocks that are free at first, in addition to the head; null: all, so nothing is frozen.
    per: unit of `every`: "epoch" (restarts in each experience) or "experience".
    every: number of epochs or experiences after which one more block is freed.
    from_experience: how many experiences are trained first with nothing frozen; 0 for a network with good weights.
    """

    start: int | None = 0
    per: Literal["epoch", "experience"] = "epoch"
    every: int = 1
    from_experience: int = 1

    def __post_init__(self) -> None:
        start, per, every, from_experience = self.start, self.per, self.every, self.from_experience
        if start is not None and start < 0:
            raise ValueError(f"{start=}: must be >= 0 blocks, or null for all")
        if per not in ("epoch", "experience"):
            raise ValueError(f"{per=}: must be 'epoch' or 'experience'")
        if every < 1:
            raise ValueError(f"{every=}: must be >= 1")
        if from_experience < 0:
            raise ValueError(f"{from_experience=}: must be >= 0")


def num_frozen(num_blocks: int, start: int, passed: int, every: int) -> int:
    """Return the number of frozen blocks, counted from the input, after `passed` epochs or experiences."""
    return max(0, num_blocks - start - passed // every)


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse to start with all of the trunk's blocks free, or with more."""
    blocks = blocks_of(model)
    if config.start is not None and config.start >= len(blocks):
        key = f"strategies.gradual_unfreezing.start={config.start}"
        raise UserError(
            f"{key}: must be below {len(blocks)}, the trunk's blocks ({', '.join(blocks)}); null freezes none"
        )


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse to start freezing only after the last experience that is trained on."""
    if config.start is not None:
        check_from_experience("gradual_unfreezing", config.from_experience, num_experiences)


class GradualUnfreezingPlugin(FreezingPlugin):
    """Freezes the first blocks, fewer as training proceeds."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self._epoch = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of trained experiences and of epochs in this one."""
        return super().state_dict() | {"epoch": self._epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the counts; inside an experience, `on_resume` freezes again."""
        super().load_state_dict(state)
        self._epoch = state["epoch"]

    def after_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        """Count the epoch; the next one may free a block."""
        self._epoch += 1

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Unfreeze everything, and reset the epoch count."""
        super().after_training_exp(learner)
        self._epoch = 0

    def frozen_parts(self, model: nn.Module) -> FrozenParts:
        """Return the first blocks, with the layers before and between them."""
        config, since = self.config, self.num_trained - self.config.from_experience
        if config.start is None or since < 0:
            return [], []
        passed = self._epoch if config.per == "epoch" else since
        frozen, numbers = num_frozen(len(blocks_of(model)), config.start, passed, config.every), block_numbers(model)
        return selected_parts(model, lambda name: name in numbers and numbers[name] < frozen)


def build(config: Config, seed: int) -> GradualUnfreezingPlugin:
    """Return the plugin; it uses no random numbers."""
    return GradualUnfreezingPlugin(config)
