"""Files of pretrained weights: where they are, how they are read, and how they come into a network."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ...errors import UserError

State = Mapping[str, torch.Tensor]
_WRAPPERS = ("state_dict", "model")  # under which training scripts save the weights beside other things


def located(key: str, path: str, root: Path | None) -> Path:
    """The file of that path: absolute, in the working folder, or in the data folder `root`.

    Raises:
        UserError: there is none; `key` is what names it.
    """
    given = Path(path).expanduser()
    places = [given] if given.is_absolute() else [Path.cwd() / given, *([root / given] if root else [])]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        hint = (
            ""
            if root or given.is_absolute()
            else "; data.root (or RETAIN_DATA), where it is looked for too, is not set"
        )
        raise UserError(f"{key}={path!r}: there is no such file; looked for {' and '.join(map(str, places))}{hint}.")
    return found


def read(key: str, path: Path) -> State:
    """The tensors by name of a .safetensors file, or of a .pth file that `torch.save` wrote (read without unpickling).

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    unpickling = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]  # torch raises Python's
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, ValueError, RuntimeError, SafetensorError, unpickling) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{key}='{path}': is no file of weights (a state_dict as .pth or .safetensors): {reason}"
        ) from None
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{key}='{path}': holds no state_dict, a mapping of names to tensors.")
    return state


def load(key: str, network: nn.Module, state: State, without: tuple[str, ...]) -> None:
    """Put weights into a network, all but those whose names start with one of `without`: its classifier's.

    Raises:
        UserError: they are of another architecture; the first names that differ are shown.
    """
    known = network.state_dict()
    versions = getattr(state, "_metadata", None) or getattr(known, "_metadata", None)  # of layers; some networks ask
    state = OrderedDict((name, value) for name, value in state.items() if not name.startswith(without))
    for name in known.keys() - state.keys():  # files from before torch 0.4.1 have no such counter
        if name.endswith(".num_batches_tracked"):
            state[name] = known[name]
    shapes = [
        f"{name} ({list(state[name].shape)} instead of {list(known[name].shape)})"
        for name in known.keys() & state.keys()
        if state[name].shape != known[name].shape
    ]
    differences = {
        "missing": sorted(known.keys() - state.keys()),
        "unexpected": sorted(state.keys() - known.keys()),
        "of another shape": sorted(shapes),
    }
    said = [f"{what}: {_first(names)}" for what, names in differences.items() if names]
    if said:
        raise UserError(f"{key}: these weights are of another architecture; {'; '.join(said)}.")
    state._metadata = versions  # type: ignore[attr-defined]
    network.load_state_dict(state)


def _first(names: list[str]) -> str:
    """The first three, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
