"""LeNet-5 (LeCun 1998) in its usual modern form: max-pooling, and a linear head instead of radial basis functions.

Two blocks of 5x5 convolution (6 and 16 channels) and 2x2 pooling, then hidden layers of 120 and 84. It has 61,706 parameters
for grey pictures of 28 pixels and ten classes.
"""

import torch
from torch import nn

from ...config.settings import settings
from ..heads import Classifier, Init, initialise
from ._layers import Activation, Norm, activation, check_image_shape, norm2d


@settings
class Config:
    """LeNet-5: two blocks of 5x5 convolution and max-pooling, two hidden layers.

    activation: relu, tanh (as in the paper), gelu or leaky_relu.
    norm: batch, group or layer normalisation after each convolution; null: none.
    init: kaiming (He 2015, for ReLU), xavier (Glorot 2010, for tanh), or torch (PyTorch's default).
    """

    activation: Activation = "relu"
    norm: Norm | None = None
    init: Init = "kaiming"


@torch.random.fork_rng(devices=[])  # torch's layers initialise themselves with the global generator
def build(config: Config, shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """Build the network for pictures of `shape` (C, H, W).

    Raises:
        UserError: the samples are not pictures, or have fewer than 12 pixels a side.
    """
    check_image_shape("lenet", shape, 12)
    channels, height, width = shape
    layers: list[nn.Module] = []
    for num_in, num_out, padding in ((channels, 6, 2), (6, 16, 0)):
        layers += [nn.Conv2d(num_in, num_out, 5, padding=padding), norm2d(config.norm, num_out)]
        layers += [activation(config.activation), nn.MaxPool2d(2)]
    layers.append(nn.Flatten())
    num_in = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    for num_out in (120, 84):
        layers += [nn.Linear(num_in, num_out), activation(config.activation)]
        num_in = num_out
    trunk = nn.Sequential(*layers)
    initialise(trunk, config.init, generator)
    return Classifier(trunk, num_in, num_classes, generator)
