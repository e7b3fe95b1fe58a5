"""A benchmark of two blobs in each of two experiences. The second experience has no test samples."""

import torch

from retain import Arrays, Experience, Part, Stream, settings


@settings
class Config:
    """Blobs. There are no settings."""


def build(config, seed, data):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(4).repeat(100)
    arrays = Arrays(y[:, None] + 0.1 * torch.randn(400, 2, generator=generator), y)
    experiences = []
    for number in range(2):
        classes = (2 * number, 2 * number + 1)
        rows = torch.nonzero((y == classes[0]) | (y == classes[1])).flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        train, validation, test = (Part(arrays, part) for part in rows.split([160, 40, 0] if number else [120, 40, 40]))
        experiences.append(Experience(f"blobs {classes}", classes, train, validation, test))
    return Stream("blobs", "class", tuple(experiences), tuple("abcd"), (2,), (0.5,), (1.0,))
