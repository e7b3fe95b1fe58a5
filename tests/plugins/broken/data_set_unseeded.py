"""A data set of noisy patterns. Each time it is built, it is another."""

import torch

from retain import Arrays, DataSet, settings


@settings
class Config:
    """Noisy patterns. There are no settings."""


def build(config, folders):
    generator = torch.Generator()
    generator.seed()
    patterns = torch.rand(4, 1, 6, 6, generator=generator)

    def draw(count):
        y = torch.arange(4).repeat(count)
        x = patterns[y] + 0.2 * torch.randn(len(y), 1, 6, 6, generator=generator)
        return Arrays((x.clamp(0, 1) * 255).to(torch.uint8), y)

    return DataSet("patterns", tuple("abcd"), (0.5,), (0.3,), train=draw(60), test=draw(20))
