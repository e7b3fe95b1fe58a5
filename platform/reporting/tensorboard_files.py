"""Write ledgers as TensorBoard files. The only module that imports tensorboard."""

import contextlib
import importlib
import shutil
import time
from pathlib import Path
from typing import Any

from ..ledger.reader import Trial
from .polling import LedgerCursor
from .projector_state import ProjectorState, signature
from .wandb_runs import ENDED


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
        return writers.EventFileWriter(str(folder)), LedgerCursor(trial)
