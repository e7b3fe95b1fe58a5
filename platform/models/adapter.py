"""Residual layers that adapt the output of another layer (formula in strategies/adapters.py).

Shapes: F features (channels) of the output, w width; D (w, F), U (F, w), or U (F, F); maps (B, F, H, W), tokens (B, N, F).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class Adapter(nn.Module):
    """The residual layer of the formula in strategies/adapters.py, on (B, F), (B, N, F) or (B, F, H, W)."""

    def __init__(self, num_features: int, width: int | None, generator: torch.Generator) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(num_features, num_features if width is None else width))
        self.down: nn.Parameter | None = None
        if width is not None:
            uniform = torch.rand(width, num_features, generator=generator) * 2 - 1
            self.down = nn.Parameter(uniform / math.sqrt(num_features))
            self.down_bias, self.up_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(num_features))

    def forward(self, y: Tensor) -> Tensor:
        """Return the adapted features, in the same shape."""
        is_map = y.ndim == 4 and y.shape[1] == len(self.up)
        rows = y.movedim(1, -1) if is_map else y
        if self.down is None:
            added = functional.linear(rows, self.up)
        else:
            hidden = functional.linear(rows, self.down, self.down_bias).relu()
            added = functional.linear(hidden, self.up, self.up_bias)
        return y + (added.movedim(-1, 1) if is_map else added)


class Adapted(nn.Module):
    """A module followed by an adapter."""

    def __init__(self, layer: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.layer, self.adapter = layer, adapter

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's output, adapted."""
        return self.adapter(self.layer(x))  # type: ignore[no-any-return]
