"""Read a benchmark's key `data`: the name of a data set, or a mapping of one name to its settings.

data: mnist
data: {image_folder: {path: pictures, size: 64}}
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..config import registry
from ..config.load import build_config
from .cache import DataFolders
from .dataset import DataSet

DataKey = str | Mapping[str, Mapping[str, Any] | None]


def with_defaults(source: DataKey) -> dict[str, dict[str, Any]]:
    """Return the key with all settings filled in; for the `__post_init__` of a benchmark's `Config`.

    Raises:
        UserError: unknown data set, or settings that it refuses; the message's key starts with ``data``.
    """
    name, _, config = _resolved(source)
    return {name: asdict(config)}


def load_data_set(source: DataKey, folders: DataFolders) -> DataSet:
    """Open the data set from the cache, or prepare it."""
    _, module, config = _resolved(source)
    data_set: DataSet = module.build(config, folders)
    return data_set


def data_sets_with_domains() -> list[str]:
    """Return the names of the shipped data sets with domains, whose modules set ``HAS_DOMAINS = True``."""
    return [
        name for name in registry.names("datasets") if getattr(registry.resolve("datasets", name), "HAS_DOMAINS", False)
    ]


def _resolved(source: DataKey) -> tuple[str, Any, Any]:
    named = {source: {}} if isinstance(source, str) else source
    if len(named) != 1:
        raise ValueError(f"data={list(named)}: must hold exactly one name, of {', '.join(registry.names('datasets'))}")
    ((name, settings),) = named.items()
    module = registry.resolve("datasets", name)
    return name, module, build_config(module.Config, settings or {}, f"data.{name}")


def num_classes(source: DataKey) -> int | None:
    """Return the number of classes where the data set's module states it (NUM_CLASSES), so before it is opened; else None."""
    _, module, _ = _resolved(source)
    number: int | None = getattr(module, "NUM_CLASSES", None)
    return number
