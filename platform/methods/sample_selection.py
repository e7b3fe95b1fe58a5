"""Choice of the samples to remember (GSS) and to replay (MIR), by the network's outputs and gradients.

Shapes: n samples, D features, C classes.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import accumulate

import torch
from torch import Tensor, nn

from ..data.samples import input_transform
from ..models.activation_capture import layer_outputs
from ..models.features import FEATURES
from ..models.functional import call_with
from ..models.inference import evaluation_mode
from ..training import plugin_api
from ..training.learner_view import LearnerView
from .replay_memory import Columns

Batch = tuple[Tensor, Tensor, Tensor]  # x, y, t
_NUM_COMPARED = 10  # number of samples in memory that a new one is compared with
_FIRST_SCORE = 0.1  # score of the very first sample, as in the authors' code


def gss_greedy(residuals: Tensor, features: Tensor, scores: Tensor, memory: int, draw: torch.Generator) -> Tensor:
    """Return the positions, rising, of at most `memory` samples chosen by GSS-greedy, which prefers diverse gradients.

    A new sample's score is 1 + the largest cosine of its gradient with those of ten samples in memory, in [0, 2]. If the memory
    is full and the score c is below 1, a sample in memory is drawn in proportion to its score C and is replaced with probability
    C / (C + c).

    The gradient is that of the head's weights and biases, residual x (features, 1). The cosine of two such gradients is the
    product of two cosines. Aljundi et al. 2019 (1903.08671), algorithm 2, with all gradients.

    Args:
        residuals: (n, C), softmax - one-hot.
        features: (n, D).
        scores: (n,), of the samples in memory, which come first; NaN for new ones. Filled in for new samples that stay.
        memory: size of the memory.
        draw: the random generator.
    """
    ones = torch.ones(len(features), 1, device=features.device)
    unit = torch.nn.functional.normalize
    unit_residuals = unit(residuals).cpu().numpy()
    unit_features = unit(torch.cat([features, ones], 1)).cpu().numpy()
    all_scores = scores.tolist()
    in_memory = [position for position, score in enumerate(all_scores) if score == score]
    new = torch.tensor([position for position, score in enumerate(all_scores) if score != score], dtype=torch.int64)
    for position in new[torch.randperm(len(new), generator=draw)].tolist():
        u = torch.rand(_NUM_COMPARED + 2, generator=draw, dtype=torch.float64).tolist()
        score = _FIRST_SCORE
        if in_memory:
            compared = [in_memory[int(value * len(in_memory))] for value in u[2:]]
            residual_cosines = unit_residuals[compared] @ unit_residuals[position]
            feature_cosines = unit_features[compared] @ unit_features[position]
            score = 1 + float((residual_cosines * feature_cosines).max())
        if len(in_memory) < memory:
            in_memory.append(position)
            all_scores[position] = score
        elif score < 1:
            slot = _weighted_index([all_scores[i] for i in in_memory], u[0])
            if u[1] * (all_scores[in_memory[slot]] + score) < all_scores[in_memory[slot]]:
                in_memory[slot], all_scores[position] = position, score
    scores.copy_(torch.tensor(all_scores, dtype=scores.dtype))
    return torch.tensor(sorted(in_memory), dtype=torch.int64, device=scores.device)


def _weighted_index(weights: list[float], u: float) -> int:
    """A position, drawn in proportion to the weights by a number u in [0, 1)."""
    sums = list(accumulate(weights))
    return min(bisect_right(sums, u * sums[-1]), len(weights) - 1)


def head_gradients(learner: LearnerView, candidates: Columns) -> tuple[Tensor, Tensor]:
    """Return residuals (n, C) and features (n, D), as `gss_greedy` takes them, of stored samples by the current network."""
    batches = zip(*(candidates[name].split(learner.eval_mb_size) for name in ("x", "y", "t")), strict=True)
    residuals, features, inputs = [], [], input_transform(learner.experience.dataset)
    with evaluation_mode(learner.model):
        for x, y, t in batches:
            logits, outputs = layer_outputs(learner.model, inputs(x))
            probabilities = plugin_api.mask_other_tasks(learner, logits, t).softmax(1)
            residuals.append(probabilities - nn.functional.one_hot(y, logits.shape[1]))
            features.append(outputs[FEATURES])
    return torch.cat(residuals), torch.cat(features)


def most_harmed(learner: LearnerView, candidates: Batch, size: int) -> Tensor:
    """Return the positions (min(size, n),) of the candidates with the largest `interference` of the learner's mini-batch."""

    def losses(logits: Tensor, y: Tensor, t: Tensor) -> Tensor:
        return nn.functional.cross_entropy(plugin_api.mask_other_tasks(learner, logits, t), y, reduction="none")

    x, y, *rest = learner.mbatch
    new = (x, y, rest[0] if rest else torch.zeros_like(y))
    increases = interference(learner.model, losses, new, candidates, learner.optimizer.param_groups[0]["lr"])
    return increases.argsort(descending=True, stable=True)[:size]


def interference(
    model: nn.Module, loss: Callable[[Tensor, Tensor, Tensor], Tensor], new: Batch, candidates: Batch, lr: float
) -> Tensor:
    """Return by how much each candidate's loss (n,) would grow after a step of plain SGD on the new mini-batch (MIR).

    The model runs in its current mode, and nothing of it changes: running statistics are copies. Aljundi et al. 2019
    (1908.04742), section 3.1.

    Args:
        model: the network.
        loss: a function of logits (n, C), y (n,) and t (n,) to the losses (n,).
        new: the new mini-batch (x, y, t).
        candidates: the remembered samples (x, y, t).
        lr: learning rate of the step.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def losses(weights: Mapping[str, Tensor], batch: Batch) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        return loss(call_with(model, {**weights, **buffers}, batch[0]), batch[1], batch[2])

    gradients = torch.autograd.grad(losses(parameters, new).mean(), list(parameters.values()), allow_unused=True)
    with torch.no_grad():
        stepped = {
            name: parameter if gradient is None else parameter - lr * gradient
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
        }
        return losses(stepped, candidates) - losses(parameters, candidates)
