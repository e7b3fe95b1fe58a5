"""Learning to Prompt: a pool of prompts on a frozen vision transformer; each image uses the prompts with the nearest keys.

    q = f(x),   S(x) = the top_k of the keys k_1..k_pool by cos(q, k_s),   features = mean over prompt tokens of f([P_S(x); x])
    L = L_CE + weight * mean over the mini-batch of sum_{s in S(x)} (1 - cos(q, k_s))

f: the transformer. q (the query): its features for an image without prompts. P_s: `length` tokens before those of the image, in
front of the first block. Prompts, keys and head are learned; everything else is frozen from `from_experience` on.
The loss uses only the outputs of the experience's classes (and of classes that a memory adds), as in the published
class-incremental results. Where all experiences have the same classes this changes nothing.
Shapes: B batch, D width of a token.

Source: Wang et al. 2022 (2112.08654). Peers: l2p-pytorch, LAMDA-PILOT, Mammoth and Avalanche's LearningToPrompt have size = pool,
prompt_length = length, pull_constraint_coeff = weight (0.1; the paper: 0.5). Their loss subtracts the cosine, which differs by
a constant. They let a mini-batch vote for one set of prompts (batchwise_prompt), so a test image's class depends on its
neighbours; here each image chooses, as in the paper. The paper's optional penalty on frequent prompts is left out.
Prompts and keys are initialised uniformly in [-1, 1], as there. Use a learning rate that suits prompts (Adam, 0.001 to 0.03): the
frozen trunk needs none.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..platform.config.settings import FromExperience, NonNegativeFloat, NonNegativeInt, PositiveInt, settings
from ..platform.methods import prompted_vit

NEUTRAL = {"length": 0}
ROLES, WRAPS_CRITERION, CONFLICTS = ("criterion",), True, prompted_vit.PROMPT_CONFLICTS


@settings
class Config:
    """Train a pool of prompts for a frozen vision transformer; each image uses those with the nearest keys (L2P).

    pool: number of prompts, >= top_k.
    length: tokens of a prompt; 0: no prompts, and nothing is frozen.
    top_k: prompts per image, >= 1.
    weight: weight of the term that pulls the chosen keys towards the query, >= 0.
    readout: features are the mean of the "prompts" after the last block, or the class "token".
    from_experience: how many experiences are trained first with nothing frozen; 0 for a pretrained network.
    """

    pool: PositiveInt = 10
    length: NonNegativeInt = 5
    top_k: PositiveInt = 5
    weight: NonNegativeFloat = 0.1
    readout: Literal["prompts", "token"] = "prompts"
    from_experience: FromExperience = 0

    def __post_init__(self) -> None:
        if self.pool < self.top_k:
            raise ValueError(f"pool={self.pool}: must be at least top_k={self.top_k}")


def cosines(query: Tensor, keys: Tensor) -> Tensor:
    """Return cos(q, k_s) (B, pool) for a query (B, D) and keys (pool, D)."""
    similar: Tensor = functional.normalize(query) @ functional.normalize(keys).T
    return similar


def select_prompts(query: Tensor, keys: Tensor, prompts: Tensor, top_k: int) -> Tensor:
    """Return the tokens (B, top_k * length, D) of the prompts with the nearest keys, nearest first.

    Args:
        query: (B, D).
        keys: (pool, D).
        prompts: (pool, length, D).
        top_k: prompts per image.
    """
    indices = cosines(query, keys.detach()).topk(top_k).indices
    # a product instead of an index: its gradient is summed in a fixed order
    selection = indices.unsqueeze(-1) == torch.arange(len(prompts), device=indices.device)
    rows = selection.to(prompts.dtype) @ prompts.flatten(1)
    tokens: Tensor = rows.unflatten(2, prompts.shape[1:]).flatten(1, 2)
    return tokens


def key_pull(query: Tensor, keys: Tensor, top_k: int) -> Tensor:
    """Return the second term of the loss without its weight, a scalar, for a query (B, D) and keys (pool, D)."""
    return (1 - cosines(query, keys).topk(top_k).values).sum(1).mean()


class L2PTrunk(prompted_vit.PromptedTrunk):
    """A transformer with the pool of prompts."""

    def __init__(self, trunk: Any, config: Config, generator: torch.Generator) -> None:
        super().__init__(trunk)
        trunk.blocks = prompted_vit.PrependedBlocks(*trunk.blocks)
        self.config = config
        dim = prompted_vit.width(trunk)
        self.prompts = nn.Parameter(torch.rand(config.pool, config.length, dim, generator=generator) * 2 - 1)
        self.prompt_keys = nn.Parameter(torch.rand(config.pool, dim, generator=generator) * 2 - 1)

    def prompted(self, x: Tensor, query: Tensor) -> Tensor:
        """Return features (B, D) of images (B, C, H, W), with the prompts for the query (B, D)."""
        tokens = select_prompts(query, self.prompt_keys, self.prompts, self.config.top_k)
        at_prompts = self.config.readout == "prompts"
        with self.trunk.blocks.prepended(tokens, keeps=at_prompts):
            if not at_prompts:
                return self.trunk(x)  # type: ignore[no-any-return]
            features = self.trunk.forward_features(x)[:, : tokens.shape[1]].mean(1)
        return getattr(self.trunk, "fc_norm", nn.Identity())(features)  # type: ignore[no-any-return]


def adapt(config: Config, network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Add the pool to a vision transformer; with length 0 the network is unchanged.

    Raises:
        UserError: the network is not a vision transformer.
    """
    trunk = prompted_vit.transformer_of(network, "l2p")
    if config.length:
        network.trunk = L2PTrunk(trunk, config, generator)
    return network


class L2PPlugin(prompted_vit.PromptPlugin[Config]):
    """Adds the pull of the chosen keys to the loss; the prompts themselves belong to the network."""

    def penalty(self, trunk: Any) -> Tensor:
        """Return the weighted pull for the queries of the last pass, a scalar."""
        return self.config.weight * key_pull(trunk.query, trunk.prompt_keys, self.config.top_k)
