"""Distillation losses on pre-softmax outputs.

Shapes: B batch, K outputs of the teacher.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from .positions import positions_on


class Softened(NamedTuple):
    """A teacher's logits (B, K), and p = softmax(logits / T) and log p, each (B, K),  T: temperature."""

    logits: Tensor
    p: Tensor
    log_p: Tensor


def soften(logits: Tensor, temperature: float) -> Softened:
    """Return a teacher's logits (B, K) with what the kl below needs of them."""
    log_p = logits.div(temperature).log_softmax(1)
    return Softened(logits, log_p.exp(), log_p)


def distillation_loss(
    student: Tensor, teacher: Tensor | Softened, temperature: float, loss: Literal["kl", "mse"]
) -> Tensor:
    """Return L_KD, a scalar, of student (B, K) and teacher (B, K) logits; the teacher's may be softened already.

    kl:  L_KD = T^2 * mean_B sum_K p log(p / q),  p = softmax(teacher / T),  q = softmax(student / T),  T: temperature
    mse: L_KD = mean_{B,K} (student - teacher)^2
    """
    if loss == "mse":
        return nn.functional.mse_loss(student, teacher.logits if isinstance(teacher, Softened) else teacher)
    _, p, log_p = teacher if isinstance(teacher, Softened) else soften(teacher, temperature)
    log_q = student.div(temperature).log_softmax(1)
    return temperature**2 * ((p * (log_p - log_q)).sum() / len(student))


def distillation_loss_by_task(
    student: Tensor, teacher: Tensor, heads: Sequence[Tensor | Sequence[int]], temperature: float
) -> Tensor:
    """Return the sum of the heads' kl, a scalar, of logits (B, K); `heads` holds the positions of each head's outputs."""
    columns = [own if isinstance(own, Tensor) else positions_on(student.device, own) for own in heads]
    parts = [distillation_loss(student[:, own], teacher[:, own], temperature, "kl") for own in columns]
    return torch.stack(parts).sum()
