"""Distillation losses on pre-softmax outputs.

Shapes: B batch, K outputs of the teacher.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .positions import positions_on


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float, loss: Literal["kl", "mse"]) -> Tensor:
    """Return L_KD, a scalar, of student (B, K) and teacher (B, K) logits.

    kl:  L_KD = T^2 * mean_B sum_K p log(p / q),  p = softmax(teacher / T),  q = softmax(student / T),  T: temperature
    mse: L_KD = mean_{B,K} (student - teacher)^2
    """
    if loss == "mse":
        return nn.functional.mse_loss(student, teacher)
    log_q, log_p = (logits.div(temperature).log_softmax(1) for logits in (student, teacher))
    return temperature**2 * nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def distillation_loss_by_task(
    student: Tensor, teacher: Tensor, heads: Sequence[Tensor | Sequence[int]], temperature: float
) -> Tensor:
    """Return the sum of the heads' kl, a scalar, of logits (B, K); `heads` holds the positions of each head's outputs."""
    columns = [own if isinstance(own, Tensor) else positions_on(student.device, own) for own in heads]
    parts = [distillation_loss(student[:, own], teacher[:, own], temperature, "kl") for own in columns]
    return torch.stack(parts).sum()
