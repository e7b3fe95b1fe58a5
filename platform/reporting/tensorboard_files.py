"""Write ledgers as TensorBoard files: curves, and settings with metrics for its HParams tab.

The only module that imports tensorboard; by import_module, since the package has no types.
"""

import contextlib
import importlib
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..ledger.reader import Trial
from .polling import LedgerCursor
from .projector_state import ProjectorState, signature
from .wandb_runs import ENDED

_SETTINGS = ("benchmark", "model", "training", "strategies")  # of a trial's config


class TensorBoardFiles:
    """Writes TensorBoard files of a folder's trials to <folder>/tensorboard/<trial>."""

    def __init__(self, folder: Path, state: ProjectorState) -> None:
        """Write under `folder`; record in `state` what was written."""
        self._folder, self._state = folder / "tensorboard", state
        self._live: dict[str, tuple[Any, LedgerCursor]] = {}

    def update(self, trial: Trial, last: bool) -> bool:
        """Write what is new of a trial.

        Args:
            trial: the trial.
            last: close its files, even if it is still running.

        Returns:
            True if something was written.
        """
        event, summary = (
            importlib.import_module(f"tensorboard.compat.proto.{name}_pb2") for name in ("event", "summary")
        )
        entry = self._state.entry(trial)
        digest = signature(trial)
        is_written = entry.get("tensorboard") == digest and (self._folder / trial.id).exists()
        if trial.status().status == "pending" or is_written:
            return False
        writer, cursor = self._live.get(trial.id) or self._begin(trial)
        self._live[trial.id] = writer, cursor
        for row in cursor.new():
            values = [summary.Summary.Value(tag=name, simple_value=value) for name, value in row.values.items()]
            writer.add_event(event.Event(wall_time=time.time(), step=row.step, summary=summary.Summary(value=values)))
        writer.flush()
        if last or trial.status().status in ENDED:
            writer.add_event(_event(_session_end(trial)))
            writer.close()
            del self._live[trial.id]
            entry["tensorboard"] = digest
            self._state.changed = True
        return True

    def drop(self) -> None:
        """Close all files after a failure: the next updates write them again."""
        for writer, _ in self._live.values():
            with contextlib.suppress(Exception):  # what failed before fails again
                writer.close()
        self._live.clear()

    def _begin(self, trial: Trial) -> tuple[Any, LedgerCursor]:
        """Delete a trial's files and start again: the ledger has everything that an older projector wrote."""
        # import_module, since the package has no types
        writers = importlib.import_module("tensorboard.summary.writer.event_file_writer")
        folder = self._folder / trial.id
        if folder.exists():
            shutil.rmtree(folder)
        writer = writers.EventFileWriter(str(folder))
        for summary in _settings(trial):
            writer.add_event(_event(summary))
        return writer, LedgerCursor(trial)


def _event(summary: Any) -> Any:
    """Return an event of no step."""
    return importlib.import_module("tensorboard.compat.proto.event_pb2").Event(wall_time=time.time(), summary=summary)


def _hparams(name: str, message: Any) -> Any:
    """Return a summary for the HParams tab from its protocol buffer; tensorboard's own functions for it need TensorFlow."""
    plugin, metadata = (
        importlib.import_module(f"tensorboard.plugins.hparams.{m}") for m in ("plugin_data_pb2", "metadata")
    )
    proto = importlib.import_module("tensorboard.compat.proto.summary_pb2")
    data = plugin.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **{name: message})
    content = proto.SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString())
    tag = getattr(metadata, f"{name.upper()}_TAG")
    return proto.Summary(value=[proto.Summary.Value(tag=tag, metadata=proto.SummaryMetadata(plugin_data=content))])


def _settings(trial: Trial) -> Iterator[Any]:
    """Yield what the HParams tab needs of a trial: which metrics to show, and the settings, one column each."""
    from ..metrics import DIRECTIONS  # here: it imports numpy, and the projector starts without it

    api, plugin = (importlib.import_module(f"tensorboard.plugins.hparams.{m}") for m in ("api_pb2", "plugin_data_pb2"))
    try:
        config = trial.read("config") or {}
    except UserError:  # damaged: the curves are written all the same
        config = {}
    chosen = {key: config[key] for key in _SETTINGS if key in config}
    columns = {"variant": trial.variant, "stream": trial.stream, "seed": trial.seed, **dict(flat(chosen))}
    metrics = [api.MetricInfo(name=api.MetricName(tag=f"task_agnostic/{name}")) for name in DIRECTIONS]
    yield _hparams("experiment", api.Experiment(metric_infos=metrics))
    start = plugin.SessionStartInfo(group_name=trial.id)
    for key, value in columns.items():
        kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
        setattr(start.hparams[key], f"{kind}_value", value)
    yield _hparams("session_start_info", start)


def _session_end(trial: Trial) -> Any:
    """Return the summary that says how a trial has ended."""
    api, plugin = (importlib.import_module(f"tensorboard.plugins.hparams.{m}") for m in ("api_pb2", "plugin_data_pb2"))
    states = {"done": api.STATUS_SUCCESS, "failed": api.STATUS_FAILURE}
    status = states.get(trial.status().status, api.STATUS_UNKNOWN)
    return _hparams("session_end_info", plugin.SessionEndInfo(status=status))


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | float | str]]:
    """Yield settings by dotted key; a list as text; null is left out, since a column has one type."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.") if value else [(f"{prefix}{key}", True)]
        elif value is not None:
            yield f"{prefix}{key}", value if isinstance(value, bool | int | float | str) else str(value)
