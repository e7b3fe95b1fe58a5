"""Find files of pretrained weights, read them, and load them into a network."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ...errors import UserError

StateDict = Mapping[str, torch.Tensor]
_WRAPPERS = ("state_dict", "model")  # keys of the weights in files that hold other things too


def find_weight_file(key: str, path: str, root: Path | None) -> Path:
    """Return the file at that path: absolute, in the working folder, or in the data folder `root`.

    Raises:
        UserError: there is no such file; `key` is the setting's path in the YAML.
    """
    expanded = Path(path).expanduser()
    candidates = [expanded] if expanded.is_absolute() else [Path.cwd() / expanded, *([root / expanded] if root else [])]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        hint = (
            ""
            if root or expanded.is_absolute()
            else "; data.root (or RETAIN_DATA), where it is looked for too, is not set"
        )
        raise UserError(
            f"{key}={path!r}: there is no such file; looked for {' and '.join(map(str, candidates))}{hint}."
        )
    return file


def read_weights(key: str, path: Path) -> StateDict:
    """Read tensors by name from a .safetensors file, or from a .pth file that `torch.save` wrote (without unpickling).

    Raises:
        UserError: the file cannot be read, or holds something else.
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


def load_weights(key: str, network: nn.Module, state: StateDict, without: tuple[str, ...]) -> None:
    """Load weights into a network, except those with a prefix in `without`: its classifier's.

    Raises:
        UserError: the weights belong to another architecture; the message shows the first names that differ.
    """
    known = network.state_dict()
    versions = getattr(state, "_metadata", None) or getattr(
        known, "_metadata", None
    )  # of layers; some networks check them
    state = OrderedDict((name, value) for name, value in state.items() if not name.startswith(without))
    for name in known.keys() - state.keys():  # files written before torch 0.4.1 lack this counter
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
    problems = [f"{kind}: {_first_three(names)}" for kind, names in differences.items() if names]
    if problems:
        raise UserError(f"{key}: these weights are of another architecture; {'; '.join(problems)}.")
    state._metadata = versions  # type: ignore[attr-defined]
    network.load_state_dict(state)


def _first_three(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
