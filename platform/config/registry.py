"""Where strategies, benchmarks and networks are found by name, and what strategies ask of whatever runs them.

A module of one of these kinds has a frozen dataclass `Config` and a function `build`; its file's name is its name in the YAML.
A colon (``torchvision:resnet18``) gives the module its setting `name`.
A dotted path (``mypkg.mymodule``) names a module of the user's own with the same contract; under ``strategies`` it may also
name an Avalanche plugin class (``avalanche.training.plugins.EWCPlugin``), under ``benchmark`` a function that makes an Avalanche
benchmark (``avalanche.benchmarks.SplitCIFAR100``): the settings are then its arguments.
This file imports no torch at the top: names are checked before anything heavy is loaded.
"""

import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UserError, listed, nearest
from ..files import run_folder_of
from .dotted_paths import import_path, parted

if TYPE_CHECKING:
    import torch

Kind = Literal["strategies", "benchmarks", "networks", "datasets", "probes"]
_ROOT = Path(__file__).resolve().parents[2]
_PACKAGE = __package__.rpartition(".platform.")[0]  # retain
_FOLDERS: dict[Kind, str] = {
    "strategies": "strategies",
    "benchmarks": "benchmarks",
    "networks": "platform/models/networks",
    "datasets": "platform/data/datasets",
    "probes": "platform/training/probes",
}
_BENCHMARKS = "avalanche.benchmarks.classic."  # elsewhere Avalanche has functions that unpickle what they are given
KEYS: dict[Kind, str] = {  # the key of each kind in the YAML; data sets stand inside of benchmarks
    "strategies": "strategies",
    "benchmarks": "benchmark",
    "networks": "model",
    "datasets": "data",
    "probes": "probes",
}


def names(kind: Kind) -> list[str]:
    """Names of the shipped modules of a kind, sorted: the files of its folder."""
    folder = _ROOT / _FOLDERS[kind]
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def check_name(kind: Kind, name: str) -> None:
    """Refuse a name that no module has, without importing anything (a dotted path is left to `resolve`)."""
    module, _ = parted(name)
    if "." not in module and module not in names(kind):
        known = names(kind)
        raise UserError(
            f"{KEYS[kind]}.{name}: there is no such name.{nearest(module, known)} Known: {listed(known)}; "
            f"or give the dotted path of a module of your own."
        )


def resolve(kind: Kind, name: str) -> Any:
    """Return the module (or, for a dotted path, Avalanche's plugin class or benchmark function) that `name` stands for.

    Raises:
        UserError: nothing of that name can be imported, or it has not the contract (`Config` and `build`).
    """
    check_name(kind, name)
    name, _ = parted(name)
    if "." not in name:
        return importlib.import_module(f"{_PACKAGE}.{_FOLDERS[kind].replace('/', '.')}.{name}")
    found = import_path(f"{KEYS[kind]}.{name}", name)
    if isinstance(found, ModuleType) and hasattr(found, "Config") and hasattr(found, "build"):
        return found
    where = str(getattr(found, "__module__", ""))
    if kind == "strategies" and isinstance(found, type) and not where.startswith("avalanche.logging"):
        return found
    if kind == "benchmarks" and callable(found) and where.startswith(_BENCHMARKS):
        return found
    raise UserError(
        f"{KEYS[kind]}.{name}: is no module with a dataclass `Config` and a function `build` (see README.md), no plugin class "
        f"and no function of {_BENCHMARKS}*."
    )


def module_path(path: Sequence[str]) -> list[str]:
    """`path` (as sys.path) with the working folder first: there are the user's own modules.

    Not where that is inside of a run's folder, which may be somebody else's: no code is taken from there.
    """
    here = os.getcwd()
    if run_folder_of(Path(here)) is None:
        return list(dict.fromkeys([here, *path]))
    return [entry for entry in path if entry and run_folder_of(Path(entry)) is None]


def note(strategy: Any, text: str) -> None:
    """Put a sentence into the trial's ledger; in a plain Avalanche script, where there is none, nothing happens."""
    if hasattr(strategy, "note"):
        strategy.note(text)


def measure(strategy: Any, name: str, value: float) -> None:
    """Put a number into the ledger's line of this epoch; in a plain Avalanche script nothing happens."""
    if hasattr(strategy, "measured"):
        strategy.measured[name] = value


def own_outputs(strategy: Any, logits: "torch.Tensor", tasks: "torch.Tensor") -> "torch.Tensor":
    """Logits (n, K): where the task is given, those of other tasks' classes are -inf; as they are in a plain Avalanche script."""
    return strategy.own_outputs(logits, tasks) if hasattr(strategy, "own_outputs") else logits


def own_heads(strategy: Any, num_outputs: int) -> "list[torch.Tensor]":
    """Where the task is given: positions among the first `num_outputs` of each experience's own outputs, if any; else []."""
    heads = getattr(strategy, "heads", None)
    found = [] if heads is None else [own.nonzero().flatten() for own in heads[:, :num_outputs]]
    return [own for own in found if len(own)]


def validation(experience: Any) -> Any | None:
    """The validation dataset of a training experience, from its benchmark's ``valid`` stream; None where there is none.

    Avalanche 0.6 does not tell its streams which benchmark they belong to: a plain script sets ``stream.benchmark``.
    """
    streams = getattr(experience.origin_stream.benchmark, "streams", {})
    if "valid" not in streams:
        return None
    dataset = streams["valid"][experience.current_experience].dataset
    return dataset.eval() if len(dataset) else None


def is_cacheable(strategy: Any) -> bool:
    """Whether what a fixed network makes of a sample can be computed once: its input never changes and `mb_index` names it."""
    return hasattr(strategy, "mb_index") and not getattr(strategy, "augments", False)


def samples(dataset: Any, indices: "torch.Tensor | None" = None) -> "tuple[torch.Tensor, torch.Tensor]":
    """Samples of a dataset as the network takes them: x (n, *shape) float32, y (n,) int64, at `indices` or all.

    Fast for our resident datasets; item by item for any other Avalanche dataset.
    """
    from ..data.streams import resident

    found = resident(dataset)
    if found is None:
        return _items(dataset, range(len(dataset)) if indices is None else indices.tolist())
    x, y = (found.x, found.y) if indices is None else (found.x[indices], found.y[indices])
    return found.stream.normalise(x), y


def batches(
    dataset: Any, size: int, order: "torch.Tensor | None" = None
) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
    """The samples of a dataset, `size` at a time, as `samples` returns them; `order` (n,): at these positions, null: all."""
    import torch

    from ..data.streams import resident

    found = resident(dataset)
    for index in (torch.arange(len(dataset)) if order is None else order).split(size):
        if found is None:
            yield _items(dataset, index.tolist())
        else:
            yield found.stream.normalise(found.x[index]), found.y[index]


def _items(dataset: Any, positions: Iterable[int]) -> "tuple[torch.Tensor, torch.Tensor]":
    """Samples of any dataset, one by one."""
    import torch

    items = [dataset[i] for i in positions]
    return torch.stack([item[0] for item in items]), torch.tensor([int(item[1]) for item in items])
