"""Distillation losses on pre-softmax outputs.

Shapes: B batch, K outputs of the teacher.
"""

from typing import Literal

import torch
from torch import Tensor, nn


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float, loss: Literal["kl", "mse"]) -> Tensor:
    """L_KD of this file's formula, a scalar: student (B, K) and teacher (B, K) logits."""
    if loss == "mse":
        return nn.functional.mse_loss(student, teacher)
    log_q, log_p = (logits.div(temperature).log_softmax(1) for logits in (student, teacher))
    return temperature**2 * nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def distillation_loss_by_task(student: Tensor, teacher: Tensor, heads: list[Tensor], temperature: float) -> Tensor:
    """The sum of the heads' kl, a scalar: logits (B, K) each, and the positions of each head's outputs."""
    parts = [distillation_loss(student[:, own], teacher[:, own], temperature, "kl") for own in heads]
    return torch.stack(parts).sum()
