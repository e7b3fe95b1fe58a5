"""Vision transformers with prompts: learned tokens next to a picture's, chosen for each picture by what the network sees in it.

The trunk runs twice: without prompts, for the query, and with the prompts that the query chooses. It works with our ViT
(model.vit) and timm's.
Shapes: B batch, N tokens of a picture, P of the prompts, L of a prefix, D width of a token, K outputs of the head.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models.blocks import is_added
from ..models.inference import evaluation_mode
from ..training.learner_view import LearnerView
from ..training.plugin import Plugin, replace_criterion, strategy_name
from .freezing import NOTHING, Freezer, FrozenParts, all_parts_except
from .positions import positions_on

Criterion = Callable[[Tensor, Tensor], Tensor]
_REASON = "each freezes what the other adds or lets learn, so only the head would be left"
PROMPT_CONFLICTS = {"adapters": _REASON, "bitfit": _REASON, "lora": _REASON}  # CONFLICTS of strategies with prompts


class PromptedTrunk(nn.Module):
    """Base of the modules that replace a vision transformer's trunk; `query` is that of the last forward pass in training.

    The names of a subclass's parameters start with "prompt": `freezing` and similar strategies leave such parameters trainable.
    """

    query: Tensor

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk: Any = trunk

    def prompted(self, x: Tensor, query: Tensor) -> Tensor:
        """Return features (B, D) of pictures (B, C, H, W), with the prompts for the queries (B, D); subclasses override it."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, D) of pictures (B, C, H, W)."""
        with evaluation_mode(self.trunk):
            query = self.trunk(x).float()
        if self.training:
            self.query = query
        return self.prompted(x, query)


class PrependedBlocks(nn.Sequential):
    """A transformer's blocks, which can run with other tokens prepended."""

    _tokens: Tensor | None = None
    _keeps = False

    @contextmanager
    def prepended(self, tokens: Tensor, keeps: bool) -> Iterator[None]:
        """Run with `tokens` (B, P, D) prepended; `keeps`: whether the output still has them."""
        self._tokens, self._keeps = tokens, keeps
        try:
            yield
        finally:
            self._tokens = None

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, D) for tokens (B, N, D), or (B, P + N, D) if the prepended ones are kept."""
        if self._tokens is None:
            return super().forward(x)  # type: ignore[no-untyped-call,no-any-return]
        outputs: Tensor = super().forward(torch.cat([self._tokens.to(x.dtype), x], 1))  # type: ignore[no-untyped-call]
        return outputs if self._keeps else outputs[:, self._tokens.shape[1] :]


class _PrefixedProjection(nn.Module):
    """The layer that computes queries, keys and values; a prefix replaces the keys and values of the first tokens."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.prefix: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, 3 D) for tokens (B, N, D)."""
        projected: Tensor = self.layer(x)
        if self.prefix is None:
            return projected
        keys, values = self.prefix
        rows = torch.cat([torch.zeros_like(keys), keys, values], 2).to(projected.dtype)
        return torch.cat([rows, projected[:, rows.shape[1] :]], 1)


class PrefixedAttention(nn.Module):
    """Attention in which the tokens also attend to given keys and values (prefix tuning, Li & Liang 2021, 2101.00190)."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention
        attention.qkv = _PrefixedProjection(attention.qkv)

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Return (B, N, D) for tokens (B, N, D)."""
        prefix = self.attention.qkv.prefix
        if prefix is None:
            return self.attention(x, **kwargs)  # type: ignore[no-any-return]
        length = prefix[0].shape[1]
        rows = x.new_zeros(len(x), length, x.shape[2])  # their queries are 0, and their outputs are dropped
        outputs: Tensor = self.attention(torch.cat([rows, x], 1), **kwargs)
        return outputs[:, length:]


def add_prefixes(blocks: nn.Sequential) -> list[PrefixedAttention]:
    """Replace the attention of these transformer blocks by one that takes prefixes, and return the new modules."""
    attentions = []
    for block in blocks:
        name = attention_name(block)
        attentions.append(PrefixedAttention(getattr(block, name)))
        setattr(block, name, attentions[-1])
    return attentions


@contextmanager
def prefixed(attentions: Sequence[PrefixedAttention], prefixes: Tensor) -> Iterator[None]:
    """Run with prefixes (len(attentions), B, L, D): each holds L / 2 keys, then as many values."""
    for attention, prefix in zip(attentions, prefixes, strict=True):
        attention.attention.qkv.prefix = prefix.chunk(2, 1)
    try:
        yield
    finally:
        for attention in attentions:
            attention.attention.qkv.prefix = None


def attention_name(block: nn.Module) -> str:
    """Return the attribute name of a block's attention, or "" if it has none of the kind that prompts need."""
    for name in ("attention", "attn"):
        attention = getattr(block, name, None)
        if isinstance(getattr(attention, "qkv", None), nn.Linear):
            return name
    return ""


def transformer_of(network: nn.Module, name: str) -> Any:
    """Return the trunk of a vision transformer, for strategy `name`.

    Raises:
        UserError: The network is no vision transformer.
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
    """Return D of a vision transformer's trunk."""
    block = trunk.blocks[0]
    size: int = getattr(block, attention_name(block)).qkv.in_features
    return size


def restrict_to_classes(criterion: Criterion, labels: Sequence[int]) -> Criterion:
    """Return the criterion restricted to the outputs of these classes and of the mini-batch's; the other outputs are -inf.

    A memory brings classes into the mini-batch that are not among `labels`.
    """

    def masked(logits: Tensor, y: Tensor) -> Tensor:
        allowed = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        allowed[positions_on(logits.device, labels)] = True
        allowed[y] = True
        return criterion(logits.masked_fill(~allowed, -torch.inf), y)

    return masked


class PromptSettings(Protocol):
    """Settings that all strategies with prompts have."""

    @property
    def length(self) -> int:
        """Return the tokens of a prompt; 0: there are no prompts, and nothing is done."""

    @property
    def from_experience(self) -> int:
        """Return how many experiences are trained first with nothing frozen."""


S = TypeVar("S", bound=PromptSettings)


class PromptPlugin(Plugin[S]):
    """Base of the strategies with prompts: trains prompts and head on a frozen trunk, among the experience's classes."""

    STATE = ("num_trained",)

    def init_state(self) -> None:
        """Set the initial state."""
        self.num_trained = 0  # number of experiences
        self._frozen = Freezer()
        self._undo: Callable[[], None] = lambda: None

    def penalty(self, trunk: Any) -> Tensor:
        """Return the term to add to the loss; subclasses override it."""
        raise NotImplementedError

    def frozen_parts(self, model: nn.Module) -> FrozenParts:
        """Return the trunk without the prompts, after the first `from_experience` experiences."""
        return PromptPlugin.always_frozen(self, model, self.num_trained)

    def always_frozen(self, model: nn.Module, num_trained: int) -> FrozenParts:
        """Return the trunk without the prompts, after the first `from_experience` experiences."""
        is_on = self.config.length and num_trained >= self.config.from_experience
        return all_parts_except(model, is_added) if is_on else NOTHING

    def on_start(self, learner: LearnerView) -> None:
        """Freeze, and mask other experiences' classes in the loss."""
        if self.config.length and not isinstance(getattr(learner.model, "trunk", None), PromptedTrunk):
            raise UserError(
                f"strategies.{strategy_name(self)}: the network has no prompts; make it by the strategy's `adapt`."
            )
        self._frozen.freeze_only(*self.frozen_parts(learner.model))
        if self.config.length:
            labels = sorted({int(label) for label in learner.adapted_dataset.targets})
            self._undo = replace_criterion(learner, restrict_to_classes(learner._criterion, labels))

    def before_training_epoch(self, learner: LearnerView, **kwargs: Any) -> None:
        """Freeze again: ``model.train()`` may have unfrozen BatchNorm's statistics."""
        self._frozen.freeze_only(*self.frozen_parts(learner.model))

    def before_backward(self, learner: LearnerView, **kwargs: Any) -> None:
        """Add the penalty."""
        if self.config.length:
            learner.loss = learner.loss + self.penalty(learner.model.trunk)

    def after_training_exp(self, learner: LearnerView, **kwargs: Any) -> None:
        """Unfreeze, restore the criterion, and count the experience."""
        self._frozen.release()
        self._undo()
        self._undo = lambda: None
        self.num_trained += 1
