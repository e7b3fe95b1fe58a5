"""Several networks that vote: the mean of their probabilities.

Shapes: n samples, K outputs, E experiences, C classes of the stream.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def probabilities(logits: Tensor, own: Tensor | None = None) -> Tensor:
    """Logits (n, K) -> probabilities (n, K), which add up to 1.

    `own` (E, C) bool: the classes of each experience, where that is given; they then add up to 1 within each experience.
    """
    if own is None:
        return logits.softmax(1)
    found = torch.zeros_like(logits)
    for classes in own.to(logits.device):
        columns = classes.nonzero().flatten()
        columns = columns[columns < logits.shape[1]]
        found[:, columns] = logits[:, columns].softmax(1)
    return found


def average_probabilities(members: Sequence[Tensor], alone: bool = False) -> Tensor:
    """The mean (n, K) of the members' probabilities (n, K_m), K the most of all K_m: a class that one lacks has 0 there.

    `alone`: over those members only that have the class, which is right where experiences are told apart.
    """
    total = members[0].new_zeros(len(members[0]), max(member.shape[1] for member in members))
    votes = total.new_zeros(total.shape[1])
    for member in members:
        total[:, : member.shape[1]] += member
        votes[: member.shape[1]] += 1
    return total / (votes if alone else len(members))


def as_logits(probabilities: Tensor) -> Tensor:
    """Their logarithms: softmax of it gives them back, and the largest stays the largest."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
