"""Ensembles: the mean of several networks' probabilities.

Shapes: n samples, K outputs, E experiences, C classes of the stream.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def probabilities(logits: Tensor, own: Tensor | None = None) -> Tensor:
    """Return the probabilities (n, K) of logits (n, K); each row adds up to 1.

    If the experience is given, `own` (E, C) bool marks each experience's classes, and they add up to 1 within each experience.
    """
    if own is None:
        return logits.softmax(1)
    result = torch.zeros_like(logits)
    for classes in own.to(logits.device):
        columns = classes.nonzero().flatten()
        columns = columns[columns < logits.shape[1]]
        result[:, columns] = logits[:, columns].softmax(1)
    return result


def average_probabilities(members: Sequence[Tensor], alone: bool = False) -> Tensor:
    """Return the mean (n, K) of the members' probabilities (n, K_m).

    K is the largest K_m. A class that a member lacks has probability 0 there.

    Args:
        members: the probabilities of each network.
        alone: average over only those members that have the class, which is right if the experience is given.
    """
    total = members[0].new_zeros(len(members[0]), max(member.shape[1] for member in members))
    votes = total.new_zeros(total.shape[1])
    for member in members:
        total[:, : member.shape[1]] += member
        votes[: member.shape[1]] += 1
    return total / (votes if alone else len(members))


def as_logits(probabilities: Tensor) -> Tensor:
    """Return the logarithms: their softmax is the probabilities, and the largest stays the largest."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
