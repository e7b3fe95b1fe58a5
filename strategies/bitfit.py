"""BitFit: after the first experiences only the biases and the head learn.

No formula: in each layer W x + b the matrix W is frozen and b learns. In a normalisation layer gamma is frozen and beta, its
bias, learns. As the weights are frozen, so are the running statistics of BatchNorm layers, which then normalise by them.

Source: Ben Zaken, Goldberg & Ravfogel 2022 (2106.10199), for transformers; the head is trained there too. Convolutions
followed by BatchNorm often have no bias: in a ResNet only the betas learn. Peers: PEFT's and LAMDA-PILOT's BitFit select the
same parameters by name. In ours experience 1, which has nothing to preserve yet, is trained as a whole.
"""

from torch import nn

from ..platform.config.settings import FromExperience, settings
from ..platform.errors import UserError
from ..platform.methods.freezing import FreezingPlugin, FrozenParts, all_parts_except
from ..platform.models.blocks import is_head

NEUTRAL = {"from_experience": None}
CONFLICTS = {
    "lora": "each freezes what the other lets learn, so only the head would be left",
    "adapters": "each freezes what the other lets learn, so only the head would be left",
}


@settings
class Config:
    """Train only biases and the head after the first experiences (BitFit).

    from_experience: how many experiences are trained as a whole before; 0 (for a network with pretrained weights) starts at
        once; null: never.
    """

    from_experience: FromExperience | None = 1


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


class BitFitPlugin(FreezingPlugin[Config]):
    """Freezes everything but the biases and the head."""

    def frozen_parts(self, model: nn.Module) -> FrozenParts:
        """Return everything but the biases and the head."""
        return all_parts_except(model, is_bias)
