"""SGD, Adam and AdamW of torch that do not import torch._dynamo, which takes as long as importing torch itself."""

from typing import Any, TypeVar

import torch

T = TypeVar("T", bound=torch.optim.Optimizer)
_WRAPPED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")  # torch wraps them for its compiler


def _without_compiler(optimizer: type[T]) -> type[T]:
    """Return a subclass with the methods as they were before torch wrapped them for its compiler: the same arithmetic."""
    methods: dict[str, Any] = {name: getattr(optimizer, name).__wrapped__ for name in _WRAPPED}
    methods["step"] = torch.no_grad()(optimizer.step.__wrapped__)  # type: ignore[attr-defined]
    return type(optimizer.__name__, (optimizer,), {"__module__": __name__, "__doc__": optimizer.__doc__, **methods})


SGD = _without_compiler(torch.optim.SGD)
Adam = _without_compiler(torch.optim.Adam)
AdamW = _without_compiler(torch.optim.AdamW)
