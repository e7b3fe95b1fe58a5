"""Features of a network all of which is frozen but the head, computed once an experience instead of in each iteration.

Shapes: B mini-batch, n samples of the experience, D features, C outputs.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ..models.heads import Classifier
from . import plugin_api

_CACHED_BYTES = 512 * 2**20  # of what is kept for the samples of an experience
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class FrozenFeatureCache:
    """What the head is given for the mini-batch, taken from features (n, D) that are computed once.

    None wherever that could differ from a pass through the network: its input changes (augmentation, a plugin that mixes
    samples), something in it learns or draws (a free parameter, BatchNorm's statistics, dropout), somebody watches its layers,
    or its forward pass is not ours. What is frozen is looked at again each epoch. The bits are those of a pass on one
    thread: bits depend on a mini-batch's size, so those of another size (the last of an epoch) do pass through the network.
    (In MKL's narrowest products, up to 11 outputs of inputs that are no multiple of 4, they depend on a row's place as well.)
    """

    def __init__(self) -> None:
        self._decided: tuple[int, int] | None = None  # (experience, epoch) that the following hold for
        self._usable = False
        self._kept: Tensor | None = None  # for learner.adapted_dataset, (n, D)
        self._made_with: list[
            tuple[int, int]
        ] = []  # the tensors, and how often each was changed, that they were made with

    def of(self, learner: Any) -> Tensor | None:
        """Features (B, D) of the present mini-batch; rows that are appended (a memory) pass through the network as they come."""
        now = (learner.experience.current_experience, learner.clock.train_exp_epochs)
        if now != self._decided:
            self._decide(learner, now)
        if not self._usable:
            return None
        index, size = learner.mb_index, min(learner.train_mb_size, len(learner.adapted_dataset))
        if index is None or len(index) != size or not _is_untouched(learner, size):
            return None
        if self._kept is None:
            self._kept = _all_features(learner, size)
        known = self._kept.index_select(0, index)
        appended = learner.mb_x[len(index) :]
        return torch.cat([known, _features(learner.model, appended)]) if len(appended) else known

    def _decide(self, learner: Any, now: tuple[int, int]) -> None:
        """Whether they are used in this epoch; those of another experience, or of a network since changed, are dropped."""
        model = learner.model
        another = self._decided is None or self._decided[0] != now[0]
        self._decided, self._usable = now, False
        if (
            learner.num_iterations <= len(learner.dataloader)
            or not plugin_api.is_cacheable(learner)
            or not is_fixed(model)
        ):
            self._kept = None
            return
        tensors = [tensor for module in _body(model) for tensor in _own(module)]
        versions = [(id(tensor), tensor._version) for tensor in tensors]
        if another or versions != self._made_with:
            self._kept, self._made_with = None, versions
        self._usable = self._kept is not None or self._is_worth_it(learner)

    def _is_worth_it(self, learner: Any) -> bool:
        """Whether they can be kept: no module behaves otherwise in training, and they are not too large."""
        tried = _tried(learner.model, learner.mb_x)
        num_bytes = 0 if tried is None else tried[0].numel() * tried.element_size() * len(learner.adapted_dataset)
        return tried is not None and num_bytes <= _CACHED_BYTES


def is_fixed(model: nn.Module) -> bool:
    """Whether a `Classifier` learns nothing but its head, draws nothing before it, and has no hook there."""
    if not isinstance(model, Classifier) or type(model).forward is not Classifier.forward:
        return False
    for module in _body(model):
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            return False
        if any(getattr(module, kind) for kind in _HOOKS):
            return False
        if module.training and (isinstance(module, _BatchNorm) or isinstance(module, _DropoutNd) and module.p > 0):
            return False
    return True


def _body(model: nn.Module) -> list[nn.Module]:
    """The modules but for the head and what is in it."""
    inside = set(model.head.modules())  # type: ignore[union-attr]
    return [module for module in model.modules() if module not in inside]


def _own(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _tried(model: nn.Module, x: Tensor) -> Tensor | None:
    """Features of `x`; None where a pass in the present mode differs from one in evaluation mode, or changes something."""
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        twin = copy.deepcopy(model)
        found = _features(twin, x)
        unchanged = all(map(torch.equal, model.buffers(), twin.buffers()))
        return found if unchanged and torch.equal(found, _features(twin.eval(), x)) else None


def _is_untouched(learner: Any, length: int) -> bool:
    """Whether the first rows of the mini-batch are what the loader gave."""
    given: Tensor = learner.dataloader.inputs
    x: Tensor = learner.mb_x
    if x is given:
        return bool(given._version == learner.dataloader.version)
    return len(x) > length and torch.equal(x[:length], given)


def _all_features(learner: Any, size: int) -> Tensor:
    """Features (n, D) of the experience's samples, all in mini-batches of the same size: the last one reaches back."""
    length = len(learner.adapted_dataset)
    whole = length // size * size
    order = torch.cat([torch.arange(whole), torch.arange(length - size, length)[: size if length % size else 0]])
    batches = plugin_api.dataset_batches(learner.adapted_dataset, size, order)
    found = torch.cat([_features(learner.model, x.to(learner.device)) for x, _ in batches])
    return torch.cat([found[:whole], found[len(found) - length % size :]])


@torch.no_grad()
def _features(model: Any, x: Tensor) -> Tensor:
    features: Tensor = model.features(x)
    return features
