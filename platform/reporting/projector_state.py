"""projector.json: which W&B run belongs to which trial, and what was sent."""

import re
import secrets
import time
from hashlib import sha1
from pathlib import Path
from typing import Any

from ..ledger.documents import DamagedError, read_json, write_json
from ..ledger.reader import Trial


class ProjectorState:
    """A folder's projector.json: the key that makes run ids unique, and what each trial has sent.

    What W&B has is asked of W&B: entries may be lost with a process, the key and a trial's mode may not.
    """

    def __init__(self, folder: Path) -> None:
        """Read it, or start one."""
        self._path = folder / "projector.json"
        self.changed, self._saved = False, 0.0
        if self._path.exists():
            self._data = _read_state(self._path)
        else:  # random: the folder's name may be used again, and the server would take the new run for the old one
            self._data = {"key": secrets.token_hex(8), "trials": {}}
            self.save()

    def entry(self, trial: Trial) -> dict[str, Any]:
        """What is known of a trial, to be changed in place: run (its id), then mode, bytes, signature, tensorboard."""
        run = sha1(f"{self._data['key']}/{trial.id}".encode()).hexdigest()[:12]
        entry: dict[str, Any] = self._data["trials"].setdefault(trial.id, {"run": run})
        return entry

    @property
    def left(self) -> int:
        """How many trials the last projector has left to the next one; as many as there are when it was killed."""
        return int(self._data.get("left", 0))

    @left.setter
    def left(self, count: int) -> None:
        """Remember it at once."""
        self._data["left"] = count
        self.save()

    def save(self) -> None:
        """Write it, atomically."""
        write_json(self._path, self._data)
        self.changed, self._saved = False, time.monotonic()

    def keep(self, seconds: float = 0.0) -> None:
        """Write it if it was `changed`, unless that was done less than so many seconds ago: it names every trial."""
        if self.changed and time.monotonic() >= self._saved + seconds:
            self.save()


def _read_state(path: Path) -> dict[str, Any]:
    """Read a projector.json; the ids of its runs are parts of paths."""
    data = read_json(path)
    trials = data.get("trials")
    entries = list(trials.values()) if isinstance(trials, dict) else [None]
    runs = [str(entry.get("run")) if isinstance(entry, dict) else "" for entry in entries]
    if not isinstance(data.get("key"), str) or not all(re.fullmatch("[0-9a-f]{12}", run) for run in runs):
        raise DamagedError(f"{path} is damaged: it is no book of what was sent; without it all is sent anew")
    return data


def signature(trial: Trial) -> str:
    """Digest of all that is projected of a trial."""
    digest = sha1(trial.status().status.encode())
    for name in ("metrics.jsonl", "summary.json", "matrix.json"):
        path = trial.folder / name
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()
