"""The teacher: a frozen copy of the network as it was before the experience, and its outputs for the experience's samples.

Shapes: B batch, K outputs of the teacher.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..models.activation_capture import layer_outputs
from ..training.per_sample_cache import MAX_BYTES, PerSampleCache, compute_padded
from .logit_distillation import Softened, soften

LOGITS, SOFTENED = "logits", "softened"


class Teacher:
    """A frozen copy of the network; outputs for a sample are computed once per experience if its input never changes.

    Call `take` in `before_train_dataset_adaptation`, where the head has not grown yet, and `drop` in `after_training_exp`. Pass
    on `on_resume`.

    Args:
        layers: what `outputs` returns besides the logits: names of modules, or `models.features.FEATURES`.
        reduce: what is kept of a layer: a function of its name and float32 output (B, ...) to (B, ...).
        temperature: of the softmax that `softened` returns, for which `outputs` then has (B, 3, K) under `SOFTENED`, and no
            logits; None: `softened` is not called.
    """

    MERGED = True  # its entries are stored next to those of its plugin

    def __init__(
        self,
        layers: Sequence[str] = (),
        reduce: Callable[[str, Tensor], Tensor] = lambda layer, output: output,
        temperature: float | None = None,
    ) -> None:
        self.layers, self.reduce, self.temperature = tuple(layers), reduce, temperature
        self.model: nn.Module | None = None
        self._saved: dict[str, Tensor] | None = None  # its tensors, until `on_resume` rebuilds it
        self._cache = PerSampleCache(last_batch="pad")

    def __bool__(self) -> bool:
        """Return whether there is a teacher."""
        return self.model is not None

    def take(self, model: nn.Module) -> None:
        """Make a copy of the network the teacher."""
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._saved = None
        self._cache.clear()

    def drop(self) -> None:
        """Delete the teacher and its cache."""
        self.model, self._saved = None, None
        self._cache.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the teacher's tensors; {} without a teacher."""
        saved = self._saved if self.model is None else dict(self.model.state_dict())
        return {} if saved is None else {"teacher": saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the tensors; `on_resume` rebuilds the teacher."""
        self.model, self._saved = None, state.get("teacher")
        self._cache.clear()

    def on_resume(self, learner: Any) -> None:
        """Rebuild the teacher from its tensors: the model's structure, with the saved (smaller) head."""
        if self._saved is None:
            return
        self.model = copy.deepcopy(learner.model).eval().requires_grad_(False)
        tensors = dict(self.model.named_parameters(remove_duplicate=False))
        tensors |= dict(self.model.named_buffers(remove_duplicate=False))
        for name, tensor in self._saved.items():
            tensors[name].data = tensor.to(tensors[name].device)
        self._saved = None

    def logits(self, learner: Any) -> Tensor:
        """Return float32 logits (B, K) on the current mini-batch."""
        return self.outputs(learner)[LOGITS]

    def softened(self, learner: Any) -> Softened:
        """Return the logits (B, K) on the current mini-batch, softened by `temperature` once for each sample."""
        return Softened(*self.outputs(learner)[SOFTENED].unbind(1))

    def outputs(self, learner: Any) -> dict[str, Tensor]:
        """Return the logits under `LOGITS` and the layers' outputs by name, on the current mini-batch.

        If the learner provides `mb_index` and does not augment, each sample is computed once per experience, also one of a
        memory. Other rows that a strategy has appended are computed each time.
        """
        max_bytes = MAX_BYTES if self.layers else math.inf  # logits are few
        cached = self._cache.lookup(learner, self.outputs_for, max_bytes)
        if cached is not None:
            return cached
        # of the cache's size: a smaller mini-batch may give other bits
        return compute_padded(self.outputs_for, learner.mb_x, getattr(learner, "train_mb_size", 0))

    @torch.no_grad()
    def outputs_for(self, x: Tensor) -> dict[str, Tensor]:
        """Return the same for any samples (B, *shape)."""
        assert self.model is not None, "there is no teacher"
        logits, layer_results = layer_outputs(self.model, x, self.layers) if self.layers else (self.model(x), {})
        logits = logits.float()
        reduced = {name: self.reduce(name, output.float()) for name, output in layer_results.items()}
        if self.temperature is None:
            return {LOGITS: logits} | reduced
        return {SOFTENED: torch.stack(soften(logits, self.temperature), 1)} | reduced  # one tensor: looked up at once
