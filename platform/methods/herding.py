"""Herding: the samples with a mean nearest to the mean of all; class means of unit-length features.

Shapes: n samples of an experience, m in memory, B batch, D features, C classes.
"""

import torch
from torch import Tensor, nn


def herding_ranks(features: Tensor, y: Tensor, size: int) -> Tensor:
    """Return each sample's rank (n,), float64, in the herding order of its class: from 0, infinite after the first `size`.

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
    """Return the mean of each class in `y` (m,), scaled to length 1: (C, D), by rising label.

    The features (m, D) are scaled to length 1 before averaging.
    """
    features = nn.functional.normalize(features, dim=1)
    return nn.functional.normalize(torch.stack([features[y == label].mean(0) for label in y.unique()]), dim=1)


def negative_distances(features: Tensor, means: Tensor) -> Tensor:
    """Return minus the squared distances (B, C) of features (B, D), scaled to length 1, to means (C, D)."""
    return -torch.cdist(nn.functional.normalize(features, dim=1), means).square()


@torch.no_grad()
def herding(features: Tensor, size: int) -> Tensor:
    """Return positions (min(size, n),) of features (n, D) in the order of choice: the first k represent all samples best.

    Greedy: the k-th choice brings the mean of the k chosen samples nearest to the mean of all,

        p_k = argmin_i || mean - (sum_{j<k} f_{p_j} + f_i) / k ||,  each once.

    iCaRL uses features of length 1: pass such features. Rebuffi et al. 2017 (1611.07725), algorithm 4; Welling 2009.
    """
    features = features.double()  # resolves near ties alike on every device
    mean, squares = features.mean(0), features.square().sum(1)
    total = torch.zeros_like(mean)
    order = []
    for number in range(1, min(size, len(features)) + 1):
        # k^2 times the squared distance, without the terms that are equal for all samples
        distances = squares - 2 * features @ (number * mean - total)
        best = distances.argmin()
        order.append(best)
        total = total + features[best]
        squares = squares.index_fill(0, best, torch.inf)
    return torch.stack(order) if order else torch.zeros(0, dtype=torch.int64, device=features.device)
