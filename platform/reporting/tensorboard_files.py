"""TensorBoard files of trials, written from their ledgers. The only module that imports tensorboard."""

import importlib
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ledger.reader import Trial
from .polling import LedgerCursor
from .projector_state import ProjectorState, signature

if TYPE_CHECKING:
    pass

from .wandb_runs import ENDED


class TensorBoardFiles:
    """TensorBoard files of a folder's trials: <folder>/tensorboard/<trial>, from the start or as of the last look."""

    def __init__(self, folder: Path, book: ProjectorState) -> None:
        """Write under `folder`; remember in `book`."""
        self._folder, self._book = folder / "tensorboard", book
        self._live: dict[str, tuple[Any, LedgerCursor]] = {}

    def update(self, trial: Trial, last: bool) -> bool:
        """Write what is new of a trial; `last`: nothing will follow. True when something was written."""
        event, summary = (
            importlib.import_module(f"tensorboard.compat.proto.{name}_pb2") for name in ("event", "summary")
        )
        entry = self._book.entry(trial)
        digest = signature(trial)
        if trial.status().status == "pending" or entry.get("tensorboard") == digest:
            return False
        writer, follower = self._live.get(trial.id) or self._begin(trial)
        self._live[trial.id] = writer, follower
        for row in follower.new():
            values = [summary.Summary.Value(tag=name, simple_value=value) for name, value in row.values.items()]
            writer.add_event(event.Event(wall_time=time.time(), step=row.step, summary=summary.Summary(value=values)))
        writer.flush()
        if last or trial.status().status in ENDED:
            writer.close()
            del self._live[trial.id]
            entry["tensorboard"] = digest
            self._book.changed = True
        return True

    def drop(self) -> None:
        """Forget all open files after a failure: the next updates begin them again."""
        self._live.clear()

    def _begin(self, trial: Trial) -> tuple[Any, LedgerCursor]:
        """Start a trial's files afresh: the ledger has all that an older projector wrote."""
        writers = importlib.import_module("tensorboard.summary.writer.event_file_writer")  # by name: it has no types
        folder = self._folder / trial.id
        if folder.exists():
            shutil.rmtree(folder)
        return writers.EventFileWriter(str(folder)), LedgerCursor(trial)
