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
    record = _read(folder)
    return None if record is None else record[1]


def pruned_after(folder: Path) -> int | None:
    """Return the experience after which the trial was stopped early; None if it was not. Raises as `pruned_in`."""
    record = _read(folder)
    return None if record is None else record[0]


def _read(folder: Path) -> tuple[int, str] | None:
    path = folder / _NAME
    if not path.exists():
        return None
    found = read_json(path)
    experience, reason = found.get("experience"), found.get("reason")
    if not isinstance(experience, int) or not isinstance(reason, str):
        raise DamagedError(f"{path} is damaged: it has no experience or no reason")
    return experience, reason
