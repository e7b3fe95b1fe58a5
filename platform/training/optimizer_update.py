"""Keep an optimizer's state when some of the network's parameters have been replaced or added."""

from collections.abc import Mapping

import torch
from torch.nn import Parameter

from ..errors import UserError


def update_optimizer(
    optimizer: torch.optim.Optimizer, now: Mapping[str, Parameter], before: Mapping[str, Parameter]
) -> None:
    """Make an optimizer train the network's present parameters; does what Avalanche's `update_optimizer` does.

    A parameter that replaces another one (a head that grew) takes its position, without its state. A new parameter joins the
    group of the parameters with the nearest names. All others keep their state.

    Args:
        optimizer: changed in place.
        now: the network's parameters by name.
        before: its parameters by name when the optimizer was made or last updated.

    Raises:
        UserError: the parameters with names near that of a new one are in several groups.
    """
    places = {
        id(parameter): (number, position)
        for number, group in enumerate(optimizer.param_groups)
        for position, parameter in enumerate(group["params"])
    }
    groups: dict[str, int] = {}  # the number of each known parameter's group
    for name, parameter in now.items():
        old = before.get(name, parameter)
        if id(old) not in places:
            continue
        groups[name], position = places[id(old)]
        if old is not parameter:
            optimizer.param_groups[groups[name]]["params"][position] = parameter
            if optimizer.state.pop(old, None) is not None:
                optimizer.state[parameter] = {}
    for name in [name for name in now if name not in groups]:
        number = 0 if len(optimizer.param_groups) == 1 else _nearest_group(name, groups)
        optimizer.param_groups[number]["params"].append(now[name])
        optimizer.state[now[name]] = {}


def _nearest_group(name: str, groups: Mapping[str, int]) -> int:
    """The group of the parameters that share the longest dotted prefix with `name`."""
    prefix, near = name, set[int]()
    while prefix and not near:
        prefix = prefix.rpartition(".")[0]
        near = {group for other, group in groups.items() if not prefix or other.startswith(f"{prefix}.")}
    if len(near) != 1:
        raise UserError(
            f"training.optimizer.groups: the network got a new parameter, {name}, whose neighbours are in several groups; "
            f"set training.optimizer.reset=true, so that each experience has a new optimizer."
        )
    return near.pop()
