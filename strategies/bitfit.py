"""BitFit: after the first experiences only the biases and the head learn.

No formula: in each layer W x + b the matrix W is frozen and b learns. In a normalisation layer gamma is frozen and beta, its
bias, learns. As the weights are frozen, so are the running statistics of BatchNorm layers, which then normalise by them.

Source: Ben Zaken, Goldberg & Ravfogel 2022 (2106.10199), for transformers; the head is trained there too. Convolutions
followed by BatchNorm often have no bias: in a ResNet only the betas learn. Peers: PEFT's and LAMDA-PILOT's BitFit select the
same parameters by name. In ours experience 1, which has nothing to preserve yet, is trained as a whole.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..platform.errors import UserError
from ..platform.methods.freezing import FreezingPlugin, FrozenParts, all_parts_except, check_from_experience
from ..platform.models.blocks import is_head

NEUTRAL: dict[str, Any] | None = {"from_experience": None}
CONFLICTS = {
    "lora": "each freezes what the other lets learn, so only the head would be left",
    "adapters": "each freezes what the other lets learn, so only the head would be left",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Train only biases and the head after the first experiences (BitFit).

    from_experience: how many experiences are trained as a whole before; 0 (for a network with pretrained weights) starts at
        once; null: never.
    """

    from_experience: int | None = 1

    def __post_init__(self) -> None:
        from_experience = self.from_experience
        if from_experience is not None and from_experience < 0:
            raise ValueError(f"{from_experience=}: must be >= 0, or null for never")


def is_bias(name: str) -> bool:
    """Return whether a parameter of that name is a bias (torch's attention has an ``in_proj_bias``)."""
    return name.rpartition(".")[2].endswith("bias")


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse a network with a trunk without biases: only its head would learn."""
    names = [name for name, _ in model.named_parameters() if not is_head(name)]
    if config.from_experience is not None and not any(map(is_bias, names)):
        raise UserError(
            "strategies.bitfit: the trunk of this network has no parameter called bias, so only its head would learn; "
            "use strategies.freezing for that."
        )


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse to begin after the last trained experience."""
    if config.from_experience is not None:
        check_from_experience("bitfit", config.from_experience, num_experiences)


class BitFitPlugin(FreezingPlugin):
    """Freezes everything but the biases and the head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def frozen_parts(self, model: nn.Module) -> FrozenParts:
        """Return everything but the biases and the head; nothing in the first experiences."""
        if self.config.from_experience is None or self.num_trained < self.config.from_experience:
            return [], []
        return all_parts_except(model, is_bias)


def build(config: Config, seed: int) -> BitFitPlugin:
    """Return the plugin; it uses no random numbers."""
    return BitFitPlugin(config)
