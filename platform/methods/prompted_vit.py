"""Vision transformers with prompts: learned tokens beside a picture's, chosen for each picture by what the network sees in it.

A trunk is run twice: without prompts, for the query, and with those that the query chooses. Ours (model.vit) and timm's.
Shapes: B batch, N tokens of a picture, P of the prompts, D width of a token, K outputs of the head.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models.blocks import is_added
from ..models.inference import evaluation_mode
from ..training.plugin import replace_criterion
from .freezing import FreezingPlugin, FrozenParts, all_parts_except

Criterion = Callable[[Tensor, Tensor], Tensor]
_ONE = "each freezes what the other adds or lets learn, so only the head would be left"
ALONE = {"adapters": _ONE, "bitfit": _ONE, "lora": _ONE}  # CONFLICTS of what has prompts


def check_settings(length: int, weight: float, from_experience: int) -> None:
    """Refuse bad values of what all strategies with prompts have.

    Raises:
        ValueError: names the setting.
    """
    if length < 0:
        raise ValueError(f"{length=}: must be >= 0 tokens")
    if not 0 <= weight < math.inf:
        raise ValueError(f"{weight=}: must be >= 0 and finite")
    if from_experience < 0:
        raise ValueError(f"{from_experience=}: must be >= 0")


class PromptedTrunk(nn.Module):
    """Base of what stands in the place of a vision transformer's trunk; `query`: that of the last pass of training.

    Parameters that a subclass adds are called prompt...: `freezing` and those like it leave such to learn.
    """

    query: Tensor

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk: Any = trunk

    def prompted(self, x: Tensor, query: Tensor) -> Tensor:
        """Features (B, D) of pictures (B, C, H, W) under the prompts for the queries (B, D); to be overridden."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) -> features (B, D)."""
        with evaluation_mode(self.trunk):
            query = self.trunk(x).float()
        if self.training:
            self.query = query
        return self.prompted(x, query)


class PrependedBlocks(nn.Sequential):
    """A transformer's blocks, before whose tokens others can be put."""

    _tokens: Tensor | None = None
    _keeps = False

    @contextmanager
    def prepended(self, tokens: Tensor, keeps: bool) -> Iterator[None]:
        """Run with `tokens` (B, P, D) in front; `keeps`: whether they are still there behind the last block."""
        self._tokens, self._keeps = tokens, keeps
        try:
            yield
        finally:
            self._tokens = None

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) -> (B, N, D), or (B, P + N, D) where those in front are kept."""
        if self._tokens is None:
            return super().forward(x)  # type: ignore[no-untyped-call,no-any-return]
        found: Tensor = super().forward(torch.cat([self._tokens.to(x.dtype), x], 1))  # type: ignore[no-untyped-call]
        return found if self._keeps else found[:, self._tokens.shape[1] :]


class _PrefixedProjection(nn.Module):
    """The layer that makes queries, keys and values; the first tokens' keys and values are replaced by given ones."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.prefix: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) -> (B, N, 3 D)."""
        projected: Tensor = self.layer(x)
        if self.prefix is None:
            return projected
        keys, values = self.prefix
        rows = torch.cat([torch.zeros_like(keys), keys, values], 2).to(projected.dtype)
        return torch.cat([rows, projected[:, rows.shape[1] :]], 1)


class PrefixedAttention(nn.Module):
    """Attention whose tokens also attend to given keys and values (prefix tuning, Li & Liang 2021, 2101.00190)."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention
        attention.qkv = _PrefixedProjection(attention.qkv)

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Tokens (B, N, D) -> (B, N, D)."""
        prefix = self.attention.qkv.prefix
        if prefix is None:
            return self.attention(x, **kwargs)  # type: ignore[no-any-return]
        length = prefix[0].shape[1]
        rows = x.new_zeros(len(x), length, x.shape[2])  # whose queries ask for nothing, and whose outputs are dropped
        found: Tensor = self.attention(torch.cat([rows, x], 1), **kwargs)
        return found[:, length:]


def add_prefixes(blocks: nn.Sequential) -> list[PrefixedAttention]:
    """Make the attention of these blocks of a transformer one that takes prefixes."""
    found = []
    for block in blocks:
        name = attention_name(block)
        found.append(PrefixedAttention(getattr(block, name)))
        setattr(block, name, found[-1])
    return found


@contextmanager
def prefixed(attentions: Sequence[PrefixedAttention], prefixes: Tensor) -> Iterator[None]:
    """Run with prefixes (len(attentions), B, L, D): in each L / 2 keys, then as many values."""
    for each, prefix in zip(attentions, prefixes, strict=True):
        each.attention.qkv.prefix = prefix.chunk(2, 1)
    try:
        yield
    finally:
        for each in attentions:
            each.attention.qkv.prefix = None


def attention_name(block: nn.Module) -> str:
    """How a transformer's block calls its attention; "" where it has none of the kind that prompts are for."""
    for name in ("attention", "attn"):
        attention = getattr(block, name, None)
        if isinstance(getattr(attention, "qkv", None), nn.Linear):
            return name
    return ""


def transformer_of(network: nn.Module, name: str) -> Any:
    """The trunk of a vision transformer, for strategy `name`.

    Raises:
        UserError: it is none.
    """
    trunk: Any = getattr(network, "trunk", None)
    blocks = getattr(trunk, "blocks", None)
    has_blocks = isinstance(blocks, nn.Sequential) and len(blocks) > 0 and all(map(attention_name, blocks))
    if not has_blocks or not hasattr(trunk, "forward_features"):
        example = "model.vit, or one of timm's, e.g. model.timm:vit_tiny_patch16_224"
        raise UserError(
            f"strategies.{name}: needs a vision transformer: {example}; this network is none (name it before adapters)."
        )
    return trunk


def width(trunk: Any) -> int:
    """D of a vision transformer's trunk."""
    block = trunk.blocks[0]
    size: int = getattr(block, attention_name(block)).qkv.in_features
    return size


def among(criterion: Criterion, labels: Sequence[int]) -> Criterion:
    """The criterion on the outputs of these classes and of the mini-batch's (a memory brings others); the rest are -inf."""

    def masked(logits: Tensor, y: Tensor) -> Tensor:
        own = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        own[list(labels)] = True
        own[y] = True
        return criterion(logits.masked_fill(~own, -torch.inf), y)

    return masked


class PromptPlugin(FreezingPlugin):
    """Base of the strategies with prompts: trains prompts and head on a frozen trunk, among the experience's own classes."""

    def __init__(self, name: str, from_experience: int, is_there: bool) -> None:
        """`name`: of the strategy; `is_there`: whether there are prompts at all."""
        super().__init__()
        self.name, self.from_experience, self.is_there = name, from_experience, is_there
        self._undo: Callable[[], None] = lambda: None

    def penalty(self, trunk: Any) -> Tensor:
        """What is added to the loss; to be overridden."""
        raise NotImplementedError

    def frozen_parts(self, model: nn.Module) -> FrozenParts:
        """The trunk but for the prompts, once the first `from_experience` experiences are trained."""
        return (
            all_parts_except(model, is_added)
            if self.is_there and self.num_trained >= self.from_experience
            else ([], [])
        )

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Freeze, and leave other experiences' classes out of the loss."""
        if self.is_there and not isinstance(getattr(learner.model, "trunk", None), PromptedTrunk):
            raise UserError(f"strategies.{self.name}: the network has no prompts; make it by the strategy's `adapt`.")
        super().before_training_exp(learner, **kwargs)
        self._mask(learner)

    def on_resume(self, learner: Any) -> None:
        """The same again."""
        super().on_resume(learner)
        self._mask(learner)

    def before_backward(self, learner: Any, **kwargs: Any) -> None:
        """Add the penalty."""
        if self.is_there:
            learner.loss = learner.loss + self.penalty(learner.model.trunk)

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Hand the network and the criterion on as they came."""
        super().after_training_exp(learner, **kwargs)
        self._undo()
        self._undo = lambda: None

    def _mask(self, learner: Any) -> None:
        if self.is_there:
            labels = sorted({int(label) for label in learner.adapted_dataset.targets})
            self._undo = replace_criterion(learner, among(learner._criterion, labels))
