"""retain: continual-learning experiments, scheduled by Ray, with what is forgotten measured and reported.

Importing it loads nothing heavy; each name below is loaded when it is first used.

A trial from a notebook:

>>> from retain import load_config, run
>>> config = load_config("quickstart", ["training.epochs=1", "wandb.mode=disabled"])
>>> result = run(config, folder=getfixture("tmp_path") / "trial")
>>> result.summary["task_agnostic"]["average_accuracy"] > 0
True
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "load_config": "platform.config.load",
    "Experiment": "platform.config.schema",
    "UserError": "platform.errors",
    "Plugin": "platform.training.plugin",
    "Probe": "platform.training.probes._base",
    "note": "platform.training.plugin_api",
    "stream_of": "platform.data.avalanche_import",
    "Stream": "platform.data.streams",
    "run": "platform.trial.run",
    "sweep": "platform.sweep.run",
    "resume": "platform.sweep.run",
    "report": "platform.reporting.html_report",
    "strategies": "strategies",
    "benchmarks": "benchmarks",
}
__all__ = ["__version__", *_NAMES]


def __getattr__(name: str) -> Any:
    """Load a public name, or a strategy's or benchmark's module, when it is first used."""
    if name not in _NAMES:
        raise AttributeError(f"module 'retain' has no attribute '{name}'")
    module = import_module(f".{_NAMES[name]}", __name__)
    value = module if _NAMES[name] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Names for tab completion."""
    return sorted(__all__)
