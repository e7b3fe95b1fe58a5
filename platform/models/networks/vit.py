"""The vision transformer (Dosovitskiy 2021, 2010.11929): patches, a class token, learned positions, pre-norm blocks.

Sizes and initial weights are those of DeiT (Touvron 2021, 2012.12877): truncated normal of 0.02, biases 0. One difference:
the class token starts at 0, while DeiT samples it. Layers are named trunk.patches.*, trunk.blocks.0.attention.*, ...;
`freezing` and parameter groups use these names.

Shapes: B batch, C channels, H height, W width, N tokens (the class token first), D width of a token, M heads.
"""

from typing import Literal

import torch
from torch import nn

from ...config.settings import Fraction, PositiveInt, settings
from ...errors import UserError
from ..heads import Classifier
from ._layers import check_image_shape

_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6)}  # D, blocks, M
_STD = 0.02


@settings
class Config:
    """Vision transformer.

    size: "tiny" (dim 192, depth 12, heads 3) or "small" (384, 12, 6), as in DeiT.
    patch: side of a patch in pixels; must divide the sides of the pictures. 4 for pictures of 32 pixels, 16 for 224.
    dim, depth, heads: width of a token, number of blocks, number of attention heads; null: those of `size`.
    mlp_ratio: width of each block's hidden layer, in multiples of `dim`.
    dropout: rate of dropout after the positions, after attention and within each block's hidden layers.
    """

    size: Literal["tiny", "small"] = "tiny"
    patch: PositiveInt = 4
    dim: PositiveInt | None = None
    depth: PositiveInt | None = None
    heads: PositiveInt | None = None
    mlp_ratio: PositiveInt = 4
    dropout: Fraction = 0.0

    def __post_init__(self) -> None:
        dim, _, heads = self.sizes
        if dim % heads:
            raise ValueError(f"heads={heads}: must divide dim={dim}")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Return the width of a token, the number of blocks and the number of heads."""
        dim, depth, heads = _SIZES[self.size]
        return self.dim or dim, self.depth or depth, self.heads or heads


class _Attention(nn.Module):
    """Multi-head self-attention without fused kernels, since their gradients may differ from run to run on a GPU."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, M, N, D / M)
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)).softmax(dim=3)
        return self.out((weights @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Attention and two linear layers, each on normalised tokens and added to its input."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        dim, _, heads = config.sizes
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = _Attention(dim, heads)
        self.dropout = nn.Dropout(config.dropout)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        hidden = config.mlp_ratio * dim
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(hidden, dim),
            nn.Dropout(config.dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class _Transformer(nn.Module):
    """Maps pictures (B, C, H, W) to the class token's features (B, D)."""

    def __init__(self, config: Config, shape: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        dim, depth, _ = config.sizes
        num_tokens = 1 + (shape[1] // config.patch) * (shape[2] // config.patch)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.patches = nn.Conv2d(shape[0], dim, config.patch, config.patch)
        self.positions = nn.Parameter(torch.zeros(1, num_tokens, dim))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*[_Block(config) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        nn.init.trunc_normal_(self.positions, std=_STD, generator=generator)
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=_STD, generator=generator)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return all tokens after the last block, normalised, (B, N, D), of pictures (B, C, H, W); named as in timm."""
        return self.norm(self._tokens(x))  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features (B, D) of pictures (B, C, H, W)."""
        return self.norm(self._tokens(x)[:, 0])  # type: ignore[no-any-return]

    def _tokens(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.positions
        return self.blocks(self.dropout(tokens))  # type: ignore[no-any-return]


@torch.random.fork_rng(devices=[])  # torch's layers initialise themselves with the global generator
def build(config: Config, shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """Build the network for pictures of `shape` (C, H, W).

    Raises:
        UserError: the samples are not pictures, or their sides are not multiples of the patch.
    """
    check_image_shape("vit", shape, config.patch)
    if shape[1] % config.patch or shape[2] % config.patch:
        raise UserError(f"model.vit.patch={config.patch}: must divide the sides of the pictures, {list(shape[1:])}.")
    return Classifier(_Transformer(config, shape, generator), config.sizes[0], num_classes, generator)
