"""retain: continual-learning experiments, scheduled by Ray; forgetting is measured and reported.

The import is fast: each name below is loaded when it is first used.

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
    # run
    "load_config": "platform.config.load",
    "Experiment": "platform.config.schema",
    "UserError": "platform.errors",
    "run": "platform.trial.run",
    "sweep": "platform.sweep.run",
    "resume": "platform.sweep.run",
    "report": "platform.reporting.html_report",
    "results": "platform.reporting.dataframes",
    # extend: settings of any module
    "settings": "platform.config.settings",
    "OnlyWith": "platform.config.settings",
    "PositiveInt": "platform.config.settings",
    "NonNegativeInt": "platform.config.settings",
    "PositiveFloat": "platform.config.settings",
    "NonNegativeFloat": "platform.config.settings",
    # extend: strategies
    "Plugin": "platform.training.plugin",
    "LearnerView": "platform.training.learner_view",
    "replace_criterion": "platform.training.plugin",
    "note": "platform.training.plugin_api",
    "measure": "platform.training.plugin_api",
    "validation_dataset": "platform.data.samples",
    "dataset_samples": "platform.data.samples",
    "dataset_batches": "platform.data.samples",
    # extend: networks, data sets, benchmarks, probes
    "Classifier": "platform.models.heads",
    "DataFolders": "platform.data.cache",
    "DataSet": "platform.data.dataset",
    "Arrays": "platform.data.streams",
    "Part": "platform.data.streams",
    "Experience": "platform.data.streams",
    "Stream": "platform.data.streams",
    "stream_of": "platform.data.avalanche_import",
    "Probe": "platform.training.probes._base",
    "ProbeContext": "platform.training.probes._base",
    # shipped ones
    "strategies": "strategies",
    "benchmarks": "benchmarks",
}
_MODULES = ("strategies", "benchmarks", "results")
__all__ = ["__version__", *_NAMES]


def __getattr__(name: str) -> Any:
    """Load a public name, or a strategy's or benchmark's module, when it is first used."""
    if name not in _NAMES:
        raise AttributeError(f"module 'retain' has no attribute '{name}'")
    module = import_module(f".{_NAMES[name]}", __name__)
    value = module if name in _MODULES else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Names for tab completion."""
    return sorted(__all__)
