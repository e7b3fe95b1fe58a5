"""Benchmarks, which build streams of experiences: one file for each kind, and names for common ones in aliases.yaml."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Return the module of an alias, such as `split_mnist`."""
    from ..platform.config import registry

    if name in registry.aliases():
        return registry.alias(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
