"""Cache the features of a network that is frozen but for its head: once per experience instead of in each iteration.

Shapes: B mini-batch, n samples of the experience, D features, C outputs.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ..models.features import FEATURES
from ..models.heads import Classifier
from . import plugin_api
from .per_sample_cache import PerSampleCache

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class FrozenFeatureCache:
    """The head's input for each mini-batch, looked up in features (n, D) that are computed once.

    `lookup` returns None wherever the features could differ from those of a pass through the network: the input changes
    (augmentation, a plugin that mixes samples), a module learns or uses random numbers (a free parameter, BatchNorm's statistics,
    dropout), a hook watches the layers, or the forward pass is not `Classifier`'s. This is checked again each epoch.

    Features are bit-identical to those of a pass on one thread. Bits depend on a mini-batch's size, so mini-batches of another
    size (the last of an epoch) do pass through the network. (In MKL's narrowest products, up to 11 outputs of inputs that are no
    multiple of 4, bits also depend on a row's position.)
    """

    def __init__(self) -> None:
        self._decided: tuple[int, int] | None = None  # (experience, epoch) of the values below
        self._usable = False
        self._cache = PerSampleCache(last_batch="overlap")
        # (id, version) of the tensors that the cached features were computed with
        self._versions: list[tuple[int, int]] = []

    def lookup(self, learner: Any) -> Tensor | None:
        """Return features (B, D) of the mini-batch, or None; appended rows (a memory) pass through the network."""
        now = (learner.experience.current_experience, learner.clock.train_exp_epochs)
        if now != self._decided:
            self._decide(learner, now)
        if not self._usable:
            return None
        index, size = learner.mb_index, min(learner.train_mb_size, len(learner.adapted_dataset))
        if index is None or len(index) != size or not _is_untouched(learner, size):
            return None
        cached = self._cache.lookup(learner, lambda x: {FEATURES: _features(learner.model, x)})
        return None if cached is None else cached[FEATURES]

    def _decide(self, learner: Any, now: tuple[int, int]) -> None:
        """Decide whether cached features are used in this epoch.

        Features of another experience, or of a network that has changed since, are dropped.
        """
        model = learner.model
        another = self._decided is None or self._decided[0] != now[0]
        self._decided, self._usable = now, False
        if (
            learner.num_iterations <= len(learner.dataloader)
            or not plugin_api.is_cacheable(learner)
            or not is_fixed(model)
        ):
            self._cache.clear()
            return
        tensors = [tensor for module in _modules_without_head(model) for tensor in _direct_tensors(module)]
        versions = [(id(tensor), tensor._version) for tensor in tensors]
        if another or versions != self._versions:
            self._cache.clear()
            self._versions = versions
        self._usable = bool(self._cache) or _is_mode_independent(learner.model, learner.mb_x)


def is_fixed(model: nn.Module) -> bool:
    """Return whether only the head of a `Classifier` learns, and nothing before it is random or has a hook."""
    if not isinstance(model, Classifier) or type(model).forward is not Classifier.forward:
        return False
    for module in _modules_without_head(model):
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            return False
        if has_hooks(module):
            return False
        if module.training and (isinstance(module, _BatchNorm) or isinstance(module, _DropoutNd) and module.p > 0):
            return False
    return True


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module calls hooks in a forward or backward pass."""
    return any(getattr(module, kind) for kind in HOOKS)


def _modules_without_head(model: nn.Module) -> list[nn.Module]:
    """All modules except the head and those inside it."""
    inside = set(model.head.modules())  # type: ignore[union-attr]
    return [module for module in model.modules() if module not in inside]


def _direct_tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _is_mode_independent(model: nn.Module, x: Tensor) -> bool:
    """Whether a pass in the current mode gives the features of one in evaluation mode, and changes no buffer."""
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        twin = copy.deepcopy(model)
        features = _features(twin, x)
        unchanged = all(map(torch.equal, model.buffers(), twin.buffers()))
        return unchanged and torch.equal(features, _features(twin.eval(), x))


def _is_untouched(learner: Any, length: int) -> bool:
    """Whether the first rows of the mini-batch are those of the loader, unchanged."""
    inputs: Tensor = learner.dataloader.last_x
    x: Tensor = learner.mb_x
    if x is inputs:
        return bool(inputs._version == learner.dataloader.last_version)
    return len(x) > length and torch.equal(x[:length], inputs)


@torch.no_grad()
def _features(model: Any, x: Tensor) -> Tensor:
    features: Tensor = model.features(x)
    return features
