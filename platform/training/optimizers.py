"""SGD, Adam and AdamW of torch, with the same arithmetic, in less time.

They do not import torch._dynamo, which takes as long as importing torch itself. Their `step` and `zero_grad` leave out torch's
labels for its profiler while it does not run, and its hooks while there are none: a hundredth of a small network's iteration.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch._C._autograd import _profiler_enabled
from torch.optim import optimizer as torch_optimizer

T = TypeVar("T", bound=torch.optim.Optimizer)
_WRAPPED = ("add_param_group", "state_dict", "load_state_dict")  # torch wraps them for its compiler


def _without_compiler(optimizer: type[T]) -> type[T]:
    """Return a subclass with the methods as they were before torch wrapped them for its compiler: the same arithmetic."""
    methods: dict[str, Any] = {name: getattr(optimizer, name).__wrapped__ for name in _WRAPPED}
    methods["step"] = _step(optimizer.step.__wrapped__)  # type: ignore[attr-defined]
    methods["zero_grad"] = _zero_grad(optimizer.zero_grad.__wrapped__)  # type: ignore[attr-defined]
    return type(optimizer.__name__, (optimizer,), {"__module__": __name__, "__doc__": optimizer.__doc__, **methods})


def _step(arithmetic: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `step` that runs torch's profiler label and step hooks only where there is a profiler or a hook."""
    plain = torch.no_grad()(arithmetic)
    labelled = torch.optim.Optimizer.profile_hook_step(plain)

    def step(self: torch.optim.Optimizer, closure: Callable[[], float] | None = None) -> Any:
        hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        hooks = hooks or torch_optimizer._global_optimizer_pre_hooks or torch_optimizer._global_optimizer_post_hooks
        return (labelled if hooks or _profiler_enabled() else plain)(self, closure)

    step.hooked = True  # type: ignore[attr-defined]  # otherwise torch wraps it
    return step


def _zero_grad(labelled: Callable[..., None]) -> Callable[..., None]:
    """Return a `zero_grad` without torch's profiler label while no profiler runs."""

    def zero_grad(self: torch.optim.Optimizer, set_to_none: bool = True) -> None:
        if not set_to_none or _profiler_enabled():
            labelled(self, set_to_none)
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    return zero_grad


SGD = _without_compiler(torch.optim.SGD)
Adam = _without_compiler(torch.optim.Adam)
AdamW = _without_compiler(torch.optim.AdamW)
