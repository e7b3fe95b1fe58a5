"""Compile the network by torch.compile in training: `training.compile: inductor`.

Shapes: B mini-batch, K outputs of the head.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .frozen_feature_cache import has_hooks

_MAX_SHAPES = 8  # of inputs that are compiled for; more, and compiling would take longer than it saves


class InductorCompiler:
    """Compiles the network for each experience, whose head has another size.

    Only mini-batches whose part from the loader is complete are compiled for; the last one of an epoch, which may be smaller,
    runs as usual. So the bits do not depend on where a trial was stopped and resumed.
    """

    def __init__(self) -> None:
        self._experience = -1  # that the network below is compiled for
        self._network: _CompiledNetwork | None = None

    def run_epoch(self, learner: Any) -> None:
        """Train for an epoch with the compiled network."""
        number = learner.experience.current_experience
        if number != self._experience:
            torch.compiler.reset()  # drop what was compiled for a smaller head
            self._experience, self._network = number, _CompiledNetwork(learner)
        watched = [name or "the network" for name, module in learner.model.named_modules() if has_hooks(module)]
        if watched and learner.clock.train_exp_iterations == 0:  # a trial that resumes must not write it again
            learner.note(
                f"training.compile=inductor: runs without, since a strategy watches layers: {', '.join(watched)}"
            )
        learner.compiled_network = None if watched else self._network
        try:
            learner.training_epoch()
        finally:
            learner.compiled_network = None


class _CompiledNetwork:
    """The network of an experience: (B, *shape) -> logits (B, K)."""

    def __init__(self, learner: Any) -> None:
        self._learner = learner
        self._plain: Callable[[Tensor], Any] = learner.model
        # deterministic: without timing alternatives, whose choice can differ between processes and changes bits
        options: dict[str, Any] = {"deterministic": True} if torch.are_deterministic_algorithms_enabled() else {}
        self._compiled: Callable[[Tensor], Any] = torch.compile(learner.model, dynamic=False, options=options or None)
        self._shapes: set[torch.Size] = set()

    def __call__(self, x: Tensor) -> Any:
        """Return the network's output."""
        if self._learner.retain_graph or not self._is_complete() or not self._is_compiled_for(x.shape):
            return self._plain(x)
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self._compiled(x)
        except TorchDynamoException as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise UserError(
                f"training.compile='inductor': torch.compile failed on this network: {reason} Use null."
            ) from error

    def _is_complete(self) -> bool:
        """Whether the mini-batch has as many samples from the loader as most."""
        learner, index = self._learner, self._learner.mb_index
        return index is not None and len(index) == min(learner.train_mb_size, len(learner.adapted_dataset))

    def _is_compiled_for(self, shape: torch.Size) -> bool:
        if len(self._shapes) < _MAX_SHAPES:
            self._shapes.add(shape)
        return shape in self._shapes
