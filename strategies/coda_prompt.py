"""CODA-Prompt: prompts of a frozen vision transformer are weighted sums of components; each experience learns some components.

    w_m(x) = cos(q * a_m, k_m),   p(x) = sum_m w_m(x) p_m,   in each of the first five blocks with separate a, k, p
    L = L_CE + weight * sum over these blocks of [R(k) + R(a) + R(p)],   R(t) = mean of the squared elements of t t^T - I

q (the query): the transformer's features for a picture without prompts; m: components; *: elementwise; a_m: the attention to
parts of the query. The first half of p(x) are keys, the second half values; the tokens of that block attend to them as well as
to each other (prefix tuning). The `pool` is divided into `experiences` equal parts. Experience t weights the components of the
parts 1..t and learns those of part t; older ones do not change by a bit. Everything else but the head is frozen from
`from_experience` on. As in `l2p`, the loss sees only the outputs of the experience's classes (and of those from a memory).
Shapes: B batch, M components, n of a part, D width of a token.

Source: Smith et al. 2023 (2211.13218). Peers: the authors' code and LAMDA-PILOT: prompt_param [100, 8, mu] is pool, length and
weight (there R is scaled by 1e-6). Components start as rows of one orthogonal matrix; later versions' Gram-Schmidt is left out.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..platform.config.settings import FromExperience, NonNegativeFloat, NonNegativeInt, PositiveInt, settings
from ..platform.errors import UserError
from ..platform.methods import prompted_vit
from ..platform.methods.freezing import FrozenParts
from ..platform.training.plugin import LearnerView

NEUTRAL = {"length": 0}
ROLES, WRAPS_CRITERION, CONFLICTS = ("criterion",), True, prompted_vit.PROMPT_CONFLICTS
_KINDS = ("prompts", "prompt_keys", "prompt_attention")  # p, k and a, each of a part of the pool


@settings
class Config:
    """Train prompts of a frozen vision transformer as weighted sums of components that each experience adds (CODA-Prompt).

    pool: components in all, a multiple of `experiences`.
    experiences: how many parts the pool has; at least the stream's experiences.
    length: of a prompt, keys and values together: even; 0: no prompts, and nothing is frozen.
    weight: of the components' distance from being orthogonal, >= 0.
    from_experience: how many experiences are trained as a whole before; 0 for a pretrained network.
    """

    pool: PositiveInt = 100
    experiences: PositiveInt = 10
    length: NonNegativeInt = 8
    weight: NonNegativeFloat = 0.1
    from_experience: FromExperience = 0

    def __post_init__(self) -> None:
        if self.pool % self.experiences:
            raise ValueError(f"pool={self.pool}: must be a multiple of experiences={self.experiences}")
        if self.length % 2:
            raise ValueError(f"length={self.length}: must be even, keys and values")


def weights(query: Tensor, keys: Tensor, attention: Tensor) -> Tensor:
    """Return w (B, M) of this file's formula: query (B, D), keys k (M, D), attention a (M, D)."""
    attended = functional.normalize(query.unsqueeze(1) * attention, dim=2)
    return (attended * functional.normalize(keys)).sum(2)


def redundancy(rows: Tensor) -> Tensor:
    """Return R of this file's formula, a scalar, of rows (M, ...)."""
    flat = rows.flatten(1)
    return (flat @ flat.T - torch.eye(len(flat), device=flat.device)).square().mean()


class CodaTrunk(prompted_vit.PromptedTrunk):
    """A transformer with the pool; parameters of a kind are prompts_0, prompts_1, ..., each (layers, n, ...) of a part."""

    active: Tensor  # (experiences,) bool: the parts that are weighted

    def __init__(self, trunk: Any, config: Config, generator: torch.Generator) -> None:
        super().__init__(trunk)
        dim, self.attentions = prompted_vit.width(trunk), prompted_vit.add_prefixes(trunk.blocks[:5])
        self.register_buffer("active", torch.arange(config.experiences).eq(0))
        for kind, shape in zip(_KINDS, ((config.length, dim), (dim,), (dim,)), strict=True):
            rows = [nn.init.orthogonal_(torch.empty(config.pool, *shape), generator=generator) for _ in self.attentions]
            for number, part in enumerate(torch.stack(rows).chunk(config.experiences, 1)):
                self.register_parameter(f"{kind}_{number}", nn.Parameter(part.clone()))

    def components(self, kind: str, num_parts: int) -> Tensor:
        """Return the components of the first parts, (layers, M, ...).

        It uses getattr because others replace parameters by plain tensors.
        """
        return torch.cat([getattr(self, f"{kind}_{number}") for number in range(num_parts)], 1)

    def prompted(self, x: Tensor, query: Tensor) -> Tensor:
        """Return features (B, D) of pictures (B, C, H, W)."""
        values, keys, attention = (self.components(kind, len(self.active)) for kind in _KINDS)
        is_active = self.active.repeat_interleave(values.shape[1] // len(self.active))
        component_weights = [weights(query, *each) * is_active for each in zip(keys, attention, strict=True)]
        prefixes = torch.einsum("ebm,emld->ebld", torch.stack(component_weights), values)
        with prompted_vit.prefixed(self.attentions, prefixes):
            return self.trunk(x)  # type: ignore[no-any-return]


def adapt(config: Config, network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Add the pool to a vision transformer (UserError for other networks); with length 0 it stays as it is."""
    trunk = prompted_vit.transformer_of(network, "coda_prompt")
    if config.length:
        network.trunk = CodaTrunk(trunk, config, generator)
    return network


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse more experiences than the pool has parts."""
    if config.length and num_experiences > config.experiences:
        key = f"strategies.coda_prompt.experiences={config.experiences}"
        raise UserError(f"{key}: must be at least {num_experiences}, the experiences trained on")


class CodaPromptPlugin(prompted_vit.PromptPlugin[Config]):
    """Adds a part of the pool for each experience; the components themselves belong to the network."""

    def num_parts(self) -> int:
        """Return the number of parts that are weighted now."""
        return min(self.num_trained + 1, self.config.experiences)

    def frozen_parts(self, model: Any) -> FrozenParts:
        """Return the trunk, and the components of all parts but this experience's."""
        parameters, norms = super().frozen_parts(model)
        components = model.trunk.named_parameters(recurse=False) if self.config.length else ()
        now = f"_{self.num_parts() - 1}"
        return [*parameters, *(each for name, each in components if not name.endswith(now))], norms

    def on_start(self, learner: LearnerView) -> None:
        """Weight one more part."""
        super().on_start(learner)
        if self.config.length:
            learner.model.trunk.active[: self.num_parts()] = True

    def penalty(self, trunk: Any) -> Tensor:
        """Return the weighted R of the components so far, summed over layers and kinds."""
        each = [redundancy(rows) for kind in _KINDS for rows in trunk.components(kind, self.num_parts())]
        return self.config.weight * torch.stack(each).sum()
