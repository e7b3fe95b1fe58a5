"""Positions of outputs, or of samples, on a device."""

from collections.abc import Iterable

import torch
from torch import Tensor


def positions_on(device: torch.device, positions: Iterable[int]) -> Tensor:
    """Return positions (n,) int64 on a device, without waiting for it: indexing a GPU's tensor by a list would wait."""
    return torch.tensor(list(positions), dtype=torch.int64).to(device, non_blocking=True)
