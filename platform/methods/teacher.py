"""The teacher: the network as an experience found it, frozen, and what it gives for the samples of that experience.

Shapes: B batch, K outputs of the teacher, n samples of the experience.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..models.activation_capture import layer_outputs
from ..training import plugin_api

LOGITS = "logits"
_CACHED_BYTES = 512 * 2**20  # of what is kept for the samples of an experience


class Teacher:
    """A frozen copy of the network; its outputs for a sample are computed once an experience where its input never changes.

    `layers`: what is given beside the logits, names of modules or `representation.FEATURES`; `reduce`: what is kept of a layer
    (name, float32 output (B, ...)) -> (B, ...). Take it in `before_train_dataset_adaptation`, where the head has not grown yet;
    drop it in `after_training_exp`; pass on `on_resume`.
    """

    def __init__(
        self, layers: Sequence[str] = (), reduce: Callable[[str, Tensor], Tensor] = lambda layer, output: output
    ) -> None:
        self.layers, self.reduce = tuple(layers), reduce
        self.model: nn.Module | None = None
        self._saved: dict[str, Tensor] | None = None  # its tensors, until `on_resume` makes it of them
        self._cached: dict[str, Tensor] | None = None  # outputs for learner.adapted_dataset, each (n, ...)

    def __bool__(self) -> bool:
        """Whether there is one."""
        return self.model is not None

    def take(self, model: nn.Module) -> None:
        """The network as it is becomes the teacher."""
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._saved, self._cached = None, None

    def drop(self) -> None:
        """The teacher has done its work."""
        self.model, self._saved, self._cached = None, None, None

    def state_dict(self) -> dict[str, Any]:
        """Its tensors; {} where there is none."""
        saved = self._saved if self.model is None else dict(self.model.state_dict())
        return {} if saved is None else {"teacher": saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The teacher itself is made in `on_resume`."""
        self.model, self._saved, self._cached = None, state.get("teacher"), None

    def on_resume(self, learner: Any) -> None:
        """Make the teacher from its tensors: the model's structure, with the saved (smaller) head put into it."""
        if self._saved is None:
            return
        self.model = copy.deepcopy(learner.model).eval().requires_grad_(False)
        own = dict(self.model.named_parameters(remove_duplicate=False))
        own |= dict(self.model.named_buffers(remove_duplicate=False))
        for name, tensor in self._saved.items():
            own[name].data = tensor.to(own[name].device)
        self._saved = None

    def logits(self, learner: Any) -> Tensor:
        """Logits (B, K) float32 on the present mini-batch."""
        return self.outputs(learner)[LOGITS]

    def outputs(self, learner: Any) -> dict[str, Tensor]:
        """The logits under `LOGITS` and the layers' outputs by name on the present mini-batch.

        Where the learner tells `mb_index` and does not augment, each sample is seen once an experience; rows that are appended
        (a memory) are seen as they come.
        """
        index = learner.mb_index if plugin_api.is_cacheable(learner) else None
        size = getattr(learner, "train_mb_size", 0)
        if index is None or not self._is_small(learner):  # another loader, augmented samples, large maps
            return self._filled(learner.mb_x, size)
        if self._cached is None:
            batches = plugin_api.dataset_batches(learner.adapted_dataset, size)
            parts = [self._filled(x.to(learner.device), size) for x, _ in batches]
            self._cached = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        known = {name: kept.index_select(0, index) for name, kept in self._cached.items()}
        appended = learner.mb_x[len(index) :]
        if not len(appended):
            return known
        met = self.of(appended)
        return {name: torch.cat([rows, met[name]]) for name, rows in known.items()}

    @torch.no_grad()
    def of(self, x: Tensor) -> dict[str, Tensor]:
        """The same for any samples (B, *shape)."""
        assert self.model is not None, "there is no teacher"
        logits, found = layer_outputs(self.model, x, self.layers) if self.layers else (self.model(x), {})
        return {LOGITS: logits.float()} | {name: self.reduce(name, output.float()) for name, output in found.items()}

    def _filled(self, x: Tensor, size: int) -> dict[str, Tensor]:
        """The same in a pass of `size` samples at least: fewer may give other bits, and then cached would not be recomputed."""
        missing = size - len(x)
        if missing <= 0:
            return self.of(x)
        found = self.of(torch.cat([x, x[:1].expand(missing, *x.shape[1:])]))
        return {name: output[: len(x)] for name, output in found.items()}

    def _is_small(self, learner: Any) -> bool:
        """Whether the outputs for the whole experience may be kept; tried with one sample, once."""
        if self._cached is not None or not self.layers:
            return True
        each = sum(output.numel() for output in self.of(learner.mb_x[:1]).values())
        return each * 4 * len(learner.adapted_dataset) <= _CACHED_BYTES
