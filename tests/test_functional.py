"""Networks that run with replaced tensors: as a copy that loaded them, also where modules or weights are shared."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from retain.platform.models.functional import call_with


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))


def same_module_twice() -> nn.Sequential:
    net = plain()
    return nn.Sequential(net[0], nn.Tanh(), net[0], net[1], net[3])


def same_weight_twice() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    return net


@pytest.mark.parametrize("names", ["parameters", "buffers", "state_dict"])
@pytest.mark.parametrize("make", [plain, same_module_twice, same_weight_twice])
def test_a_call_with_other_tensors_equals_a_copy_that_loaded_them(make: Callable[[], nn.Module], names: str) -> None:
    net, x = make().eval(), torch.randn(5, 4)
    tensors = {
        "parameters": dict(net.named_parameters()), "buffers": dict(net.named_buffers()), "state_dict": net.state_dict()
    }[names]  # fmt: skip
    other = {name: tensor * 2 + 1 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    before, identities = copy.deepcopy(net.state_dict()), [id(p) for p in net.parameters()]
    expected = copy.deepcopy(net)
    expected.load_state_dict({**net.state_dict(), **_everywhere(net, other)})
    torch.testing.assert_close(call_with(net, other, x), expected(x), rtol=0, atol=0)
    assert identities == [id(p) for p in net.parameters()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def _everywhere(net: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the names of shared tensors the replacement that is listed under another name."""
    stored = net.state_dict(keep_vars=True)
    return {name: new for name in stored for other, new in tensors.items() if stored[name] is stored.get(other, None)}
