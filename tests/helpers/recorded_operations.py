"""Record tensor operations and repeat them on the same tensors: what a CUDA graph does, on any device.

Whatever the recorded work decided in Python is fixed, as in a graph, and so is each tensor that it read or wrote. So work whose
recording gives other bits than the work itself would be wrong as a CUDA graph, too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

_aten = torch.ops.aten
WAITS = (  # operations whose result the host reads
    _aten._local_scalar_dense.default,  # item, float, bool, int
    _aten.equal.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten._unique2.default,
)


class RecordedOperations(TorchDispatchMode):
    """A recorder for `GraphCompiler`.

    Attributes:
        num_recorded: recordings so far.
        num_replayed: runs of them.
    """

    def __init__(self, state: Callable[[], Sequence[Tensor]]) -> None:
        """Prepare to record work that changes the tensors of `state`: recording must not change them, and so puts them back."""
        super().__init__()
        self._state = state
        self._operations: list[tuple[Any, Any, Any, Any]] = []
        self.num_recorded = self.num_replayed = 0

    def stream(self) -> Any:
        """Return a context for the work: there are no streams."""
        return nullcontext()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITS:
            raise RuntimeError(f"{func} waits for the device")
        result = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, result))
        return result

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the operations of `work`; its changes are undone, since a graph's operations have not run yet."""
        operations = self._operations = []
        before = [tensor.detach().clone() for tensor in self._state()]
        with torch.random.fork_rng(devices=[]), without_profiling(), self:
            work()
        with torch.no_grad():
            for tensor, content in zip(self._state(), before, strict=True):
                tensor.copy_(content)
        self.num_recorded += 1

        def replay() -> None:
            self.num_replayed += 1
            with torch.no_grad():
                for func, args, kwargs, result in operations:
                    _put(func(*args, **kwargs), result)

        return replay


@contextmanager
def without_profiling() -> Iterator[None]:
    """Leave out the optimizers' marks for a profiler: under a dispatch mode they import torch's compiler, which takes seconds."""
    record_function = torch.autograd.profiler.record_function
    torch.autograd.profiler.record_function = lambda name: nullcontext()
    try:
        yield
    finally:
        torch.autograd.profiler.record_function = record_function


def _put(new: Any, recorded: Any) -> None:
    """Put an operation's results where the recorded ones are; those of in-place operations and views are there already."""
    for tensor, place in zip(tree_flatten(new)[0], tree_flatten(recorded)[0], strict=True):
        if isinstance(tensor, Tensor) and tensor.data_ptr() != place.data_ptr():
            place.detach().copy_(tensor)


def state_of(learner: Any) -> list[Tensor]:
    """Return the tensors that a learner's iteration changes."""
    states = [value for each in learner.optimizer.state.values() for value in each.values()]
    return [
        *learner.model.parameters(),
        *learner.model.buffers(),
        *(each for each in states if isinstance(each, Tensor)),
    ]
