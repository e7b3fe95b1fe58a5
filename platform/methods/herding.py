"""Herding: the samples whose mean is nearest to the mean of all, and class means of unit features.

Shapes: n samples of an experience, m in memory, D features, C classes.
"""

import torch
from torch import Tensor, nn


def herding_ranks(features: Tensor, y: Tensor, size: int) -> Tensor:
    """The place (n,) float64 of each sample in the herding order of its class, from 0; infinite after the first `size`.

    The features (n, D) are scaled to length 1, as in iCaRL.
    """
    ranks = torch.full((len(y),), torch.inf, dtype=torch.float64, device=y.device)
    features = nn.functional.normalize(features, dim=1)
    for label in y.unique():
        positions = (y == label).nonzero().flatten()
        order = herding(features[positions], size)
        ranks[positions[order]] = torch.arange(len(order), dtype=torch.float64, device=y.device)
    return ranks


def unit_class_means(features: Tensor, y: Tensor) -> Tensor:
    """Means (C, D), of length 1, of the features (m, D), scaled to length 1 too, of each class in y (m,), by rising label."""
    features = nn.functional.normalize(features, dim=1)
    return nn.functional.normalize(torch.stack([features[y == label].mean(0) for label in y.unique()]), dim=1)


def negative_distances(features: Tensor, means: Tensor) -> Tensor:
    """Minus the squared distances (B, C) of features (B, D), scaled to length 1, to means (C, D)."""
    return -torch.cdist(nn.functional.normalize(features, dim=1), means).square()


@torch.no_grad()
def herding(features: Tensor, size: int) -> Tensor:
    """Positions (min(size, n),) of features (n, D), in the order in which they are chosen: the first k stand best for all.

    Greedy: the k-th is the one that brings the mean of the k chosen ones nearest to the mean of all,

        p_k = argmin_i || mean - (sum_{j<k} f_{p_j} + f_i) / k ||,  each once.

    iCaRL takes features of length 1: give those. Rebuffi et al. 2017 (1611.07725), algorithm 4; Welling 2009.
    """
    features = features.double()  # near ties are then the same on every device
    mean, squares = features.mean(0), features.square().sum(1)
    total = torch.zeros_like(mean)
    order = []
    for number in range(1, min(size, len(features)) + 1):
        # k^2 times the squared distance, without what is the same for all
        distances = squares - 2 * features @ (number * mean - total)
        best = distances.argmin()
        order.append(best)
        total = total + features[best]
        squares = squares.index_fill(0, best, torch.inf)
    return torch.stack(order) if order else torch.zeros(0, dtype=torch.int64, device=features.device)
