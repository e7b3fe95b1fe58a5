"""Gradual unfreezing: at first only the head learns, then one more block of the trunk after the other, starting at the head.

In epoch e (from 0) of an experience, the last  start + floor(e / every)  blocks are free and the blocks before them are frozen.
With per: experience, e counts the experiences since `from_experience`. A frozen block changes by no bit, and neither do its
BatchNorm statistics. Blocks: layers of an MLP or a small CNN, residual blocks, transformer blocks (platform/models/blocks.py).

Source: Howard & Ruder 2018 (1801.06146, ULMFiT): start from pretrained weights, free the last layer first, then one more each
epoch. Its discriminative learning rates, used together with this, are training.optimizer.layer_decay (theirs: 1 / 2.6). Peers:
fastai's freeze_to(-n), called by hand, n = 1 + the free blocks, as the head is one of its layer groups.
"""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from ..platform.config.settings import FromExperience, NonNegativeInt, PositiveInt, settings
from ..platform.errors import UserError
from ..platform.methods.freezing import NOTHING, FreezingPlugin, FrozenParts, selected_parts
from ..platform.models.blocks import block_numbers, blocks_of
from ..platform.training.plugin import LearnerView

NEUTRAL = {"start": None}


@settings
class Config:
    """Unfreeze the trunk's blocks one after the other, starting at the head (ULMFiT).

    start: blocks that are free at first, in addition to the head; null: all, so nothing is frozen.
    per: unit of `every`: "epoch" (restarts in each experience) or "experience".
    every: number of epochs or experiences after which one more block is freed.
    from_experience: how many experiences are trained first with nothing frozen; 0 for a network with good weights.
    """

    start: NonNegativeInt | None = 0
    per: Literal["epoch", "experience"] = "epoch"
    every: PositiveInt = 1
    from_experience: FromExperience = 1


def check_training(config: Config, epochs: Sequence[int]) -> dict[str, str]:
    """Return the problem of an `every` that no experience reaches; `epochs`: those of each experience that is trained on."""
    gradual = epochs[config.from_experience :]
    limit, what = min(gradual, default=0), "the epochs of an experience"
    if config.per == "experience":
        limit, what = len(gradual), "the experiences after the first `from_experience`"
    if config.start is None or not gradual or config.every < limit:
        return {}
    reason = f"must be below {limit}, {what} (per: {config.per}): no block would be freed"
    return {"every": f"{reason}. Lower it, or use strategies.freezing"}


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


class GradualUnfreezingPlugin(FreezingPlugin[Config]):
    """Freezes the first blocks, fewer as training proceeds."""

    STATE = ("num_trained", "epoch")
    epoch = 0  # of this experience

    def always_frozen(self, model: nn.Module, num_trained: int) -> FrozenParts:
        """Return the first blocks that no epoch of the experience frees; none with per: epoch."""
        is_first = num_trained < self.config.from_experience
        return NOTHING if is_first or self.config.per == "epoch" else self._first_blocks(model, num_trained)

    def after_training_epoch(self, learner: LearnerView, **kwargs: object) -> None:
        """Count the epoch; the next one may free a block."""
        self.epoch += 1

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Unfreeze everything, and reset the epoch count."""
        super().after_training_exp(learner)
        self.epoch = 0

    def frozen_parts(self, model: nn.Module) -> FrozenParts:
        """Return the first blocks, with the layers before and between them."""
        return self._first_blocks(model, self.num_trained)

    def _first_blocks(self, model: nn.Module, num_trained: int) -> FrozenParts:
        config = self.config
        if config.start is None:
            return NOTHING
        passed = self.epoch if config.per == "epoch" else num_trained - config.from_experience
        frozen, numbers = num_frozen(len(blocks_of(model)), config.start, passed, config.every), block_numbers(model)
        return selected_parts(model, lambda name: name in numbers and numbers[name] < frozen)
