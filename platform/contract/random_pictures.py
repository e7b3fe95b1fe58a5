"""A benchmark of noisy pictures of any shape, for trials of networks that need no data set."""

from math import prod

import torch

from ..config.settings import PositiveInt, settings
from ..data.cache import DataFolders
from ..data.streams import Arrays, Experience, Part, Stream
from ..seeding import generator

_SIZES = (24, 4, 8)  # training, validation and test samples of each class


@settings
class Config:
    """Noisy pictures of a random pattern per class, two new classes in each experience.

    shape: of a sample, channels first.
    num_experiences: how many.
    """

    shape: tuple[PositiveInt, ...] = (1, 8, 8)
    num_experiences: PositiveInt = 2


def build(config: Config, seed: int, folders: DataFolders) -> Stream:
    """Build the stream; `seed` determines patterns and noise."""
    num_classes = 2 * config.num_experiences
    draw = generator(seed, "random pictures")
    y = torch.arange(num_classes).repeat_interleave(sum(_SIZES))
    patterns = torch.rand(num_classes, prod(config.shape), generator=draw)
    noise = torch.rand(len(y), prod(config.shape), generator=draw)
    x = ((0.6 * patterns[y] + 0.4 * noise) * 255).to(torch.uint8).view(-1, *config.shape)
    arrays = Arrays(x, y)
    experiences = []
    for number in range(config.num_experiences):
        classes = (2 * number, 2 * number + 1)
        rows = [torch.nonzero(y == label).flatten().split(_SIZES) for label in classes]
        train, validation, test = (Part(arrays, torch.cat(parts)) for parts in zip(*rows, strict=True))
        experiences.append(Experience(f"patterns {classes}", classes, train, validation, test))
    channels = config.shape[0] if len(config.shape) > 1 else 1
    names = tuple(f"pattern {label}" for label in range(num_classes))
    statistics = (0.5,) * channels, (0.25,) * channels
    return Stream("random_pictures", "class", tuple(experiences), names, config.shape, *statistics)
