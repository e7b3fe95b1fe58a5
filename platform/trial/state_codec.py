"""Convert a state (nested dicts and lists of tensors, numbers, strings, None) to JSON and named tensors, and back."""

from typing import Any

import torch


def flatten(value: Any, tensors: dict[str, torch.Tensor], path: str = "") -> Any:
    """Return `value` as JSON data in which each tensor is replaced by its name.

    A dict with keys that are not strings (an optimizer's) becomes a list of pairs.

    Args:
        value: the state.
        tensors: receives a copy of each tensor, on the CPU, by name.
        path: the position of `value` in the whole state, for names and errors.

    Raises:
        TypeError: a value is not a tensor, number, string, None, list or dict.
    """
    if isinstance(value, torch.Tensor):
        name = f"{len(tensors)}:{path}"
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"__tensor__": name} | ({"channels_last": True} if _is_channels_last(value) else {})
    if isinstance(value, dict):
        pairs = [[key, flatten(item, tensors, f"{path}/{key}")] for key, item in value.items()]
        if not all(isinstance(key, str | int) for key in value):
            raise TypeError(f"{path}: the keys of a state are strings or integers, not {list(value)}")
        plain = all(isinstance(key, str) for key in value) and not value.keys() & {"__tensor__", "__pairs__"}
        return dict(pairs) if plain else {"__pairs__": pairs}
    if isinstance(value, list | tuple):
        return [flatten(item, tensors, f"{path}/{index}") for index, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path}: a state holds tensors, numbers, strings, lists and dicts, not {type(value).__name__}")


def unflatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Return the state that `flatten` converted; tuples become lists."""
    if isinstance(value, list):
        return [unflatten(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "__tensor__" in value:
        tensor = tensors[value["__tensor__"]]
        if value.get("channels_last"):  # not contiguous(...), which leaves a tensor with one channel as it is
            return torch.empty_like(tensor, memory_format=torch.channels_last).copy_(tensor)
        return tensor
    if "__pairs__" in value:
        return {key: unflatten(item, tensors) for key, item in value["__pairs__"]}
    return {key: unflatten(item, tensors) for key, item in value.items()}


def _is_channels_last(tensor: torch.Tensor) -> bool:
    """Return whether the layout is channels_last (training.channels_last): the bits of a convolution depend on the strides."""
    if tensor.ndim != 4:
        return False
    usual, last = (
        torch.empty(tensor.shape, device="meta", memory_format=each).stride()
        for each in (torch.contiguous_format, torch.channels_last)
    )
    return tensor.stride() == last != usual
