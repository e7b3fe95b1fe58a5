"""The projector's state, projector.json: the W&B run of each trial, and what was sent of it."""

import contextlib
import re
import secrets
import time
from hashlib import sha1
from pathlib import Path
from typing import Any

from ..files import open_regular
from ..ledger.documents import DamagedError, read_json, write_json
from ..ledger.reader import Trial


class ProjectorState:
    """A folder's projector.json: a key that makes the ids of W&B runs unique, and for each trial what was sent.

    Entries may be lost when a process is killed, since W&B is asked for the rows that it has. The key and a trial's mode must
    not be lost.

    Attributes:
        changed: whether an entry has changed since the last write.
    """

    def __init__(self, folder: Path) -> None:
        """Read the file, or write a new one."""
        self._path = folder / "projector.json"
        self.changed, self._saved = False, 0.0
        if self._path.exists():
            self._data = _read_state(self._path)
        else:  # random: if the folder's name is used again, the server must not take the new runs for the old ones
            self._data = {"key": secrets.token_hex(8), "trials": {}}
            self.save()

    def entry(self, trial: Trial) -> dict[str, Any]:
        """Return a trial's entry, to be changed in place: run (its W&B id), then mode, bytes, signature, tensorboard."""
        run = sha1(f"{self._data['key']}/{trial.id}".encode()).hexdigest()[:12]
        entry: dict[str, Any] = self._data["trials"].setdefault(trial.id, {"run": run})
        return entry

    def save(self) -> None:
        """Write the file atomically."""
        write_json(self._path, self._data)
        self.changed, self._saved = False, time.monotonic()

    def keep(self, seconds: float = 0.0) -> None:
        """Save if `changed`, unless the last save is less than `seconds` ago: the file names every trial and may be large."""
        if self.changed and time.monotonic() >= self._saved + seconds:
            self.save()


def _read_state(path: Path) -> dict[str, Any]:
    """Read a projector.json and check its run ids, which become parts of paths."""
    data = read_json(path)
    trials = data.get("trials")
    entries = list(trials.values()) if isinstance(trials, dict) else [None]
    runs = [str(entry.get("run")) if isinstance(entry, dict) else "" for entry in entries]
    if not isinstance(data.get("key"), str) or not all(re.fullmatch("[0-9a-f]{12}", run) for run in runs):
        raise DamagedError(
            f"{path} is damaged: it is not a projector's state; without this file, everything is sent again"
        )
    return data


def signature(trial: Trial) -> str:
    """Return a digest of everything that is sent of a trial."""
    digest = sha1(trial.status().status.encode())
    for name in ("metrics.jsonl", "summary.json", "matrix.json"):
        with contextlib.suppress(FileNotFoundError), open_regular(trial.folder / name) as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
