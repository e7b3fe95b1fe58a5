"""Record that a search has stopped a trial early: ``pruned.json`` in its folder, written before the trial is stopped."""

from pathlib import Path

from .documents import DamagedError, read_json, write_json

_NAME = "pruned.json"


def record_pruned(folder: Path, experience: int, reason: str) -> None:
    """Record in a trial's folder that it is stopped after an experience."""
    write_json(folder / _NAME, {"experience": experience, "reason": reason})


def pruned_in(folder: Path) -> str | None:
    """Return why the trial was stopped early; None if it was not.

    Raises:
        DamagedError: the file has changed since it was written.
    """
    path = folder / _NAME
    if not path.exists():
        return None
    reason = read_json(path).get("reason")
    if not isinstance(reason, str):
        raise DamagedError(f"{path} is damaged: it has no reason")
    return reason
