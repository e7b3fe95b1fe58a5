"""Which samples are remembered, and which are replayed, chosen by what a network makes of them.

Shapes: n samples, D features, C classes.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.func import functional_call

Batch = tuple[Tensor, Tensor, Tensor]  # x, y, t
_COMPARED = 10  # samples in memory that a new one is compared with
_FIRST = 0.1  # the score of the first sample of all, as in the authors' code


def greedy(residuals: Tensor, features: Tensor, scores: Tensor, memory: int, draw: torch.Generator) -> Tensor:
    """GSS-greedy: the memory prefers samples whose gradients point elsewhere; positions, rising, of at most `memory` samples.

    `scores` (n,): of those that are in memory already, which come first; NaN for new ones; filled in for those that stay. A new
    sample's score is 1 + the largest cosine of its gradient with those of ten in memory, in [0, 2]. Where memory is full and the
    score c is below 1, one in memory is drawn in proportion to its score C and gives way with probability C / (C + c).

    The gradient is that of the head's weights and biases, residual x (features, 1): residuals (n, C) are softmax - one-hot.
    The cosine of two is the product of two cosines. Aljundi et al. 2019 (1903.08671), algorithm 2, with all gradients.
    """
    ones = torch.ones(len(features), 1, device=features.device)
    unit = torch.nn.functional.normalize
    one, other = unit(residuals).cpu().numpy(), unit(torch.cat([features, ones], 1)).cpu().numpy()
    found = scores.tolist()
    held = [position for position, score in enumerate(found) if score == score]
    new = torch.tensor([position for position, score in enumerate(found) if score != score], dtype=torch.int64)
    for position in new[torch.randperm(len(new), generator=draw)].tolist():
        u = torch.rand(_COMPARED + 2, generator=draw, dtype=torch.float64).tolist()
        score = _FIRST
        if held:
            those = [held[int(value * len(held))] for value in u[2:]]
            score = 1 + float(((one[those] @ one[position]) * (other[those] @ other[position])).max())
        if len(held) < memory:
            held.append(position)
            found[position] = score
        elif score < 1:
            place = _drawn([found[i] for i in held], u[0])
            if u[1] * (found[held[place]] + score) < found[held[place]]:
                held[place], found[position] = position, score
    scores.copy_(torch.tensor(found, dtype=scores.dtype))
    return torch.tensor(sorted(held), dtype=torch.int64, device=scores.device)


def _drawn(weights: list[float], u: float) -> int:
    """A place, in proportion to the weights, by a number u in [0, 1)."""
    sums = list(accumulate(weights))
    return min(bisect_right(sums, u * sums[-1]), len(weights) - 1)


def interference(
    model: nn.Module, loss: Callable[[Tensor, Tensor, Tensor], Tensor], new: Batch, candidates: Batch, lr: float
) -> Tensor:
    """MIR: by how much the loss of each candidate (n,) would grow by a step of plain SGD on the new mini-batch.

    `loss` (logits (n, C), y (n,), t (n,)) -> (n,); mini-batches are (x, y, t). In the model's mode; nothing of it
    changes: running statistics are copies. Aljundi et al. 2019 (1908.04742), section 3.1.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def losses(weights: Mapping[str, Tensor], batch: Batch) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        return loss(functional_call(model, {**weights, **buffers}, (batch[0],)), batch[1], batch[2])

    gradients = torch.autograd.grad(losses(parameters, new).mean(), list(parameters.values()), allow_unused=True)
    with torch.no_grad():
        stepped = {
            name: parameter if gradient is None else parameter - lr * gradient
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
        }
        return losses(stepped, candidates) - losses(parameters, candidates)
