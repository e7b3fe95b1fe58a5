"""Record that a search has stopped a trial early: ``pruned.json`` in its folder, written before the trial is stopped."""

from pathlib import Path

from ..ledger.documents import read_json, write_json

_NAME = "pruned.json"


def record_pruned(folder: Path, experience: int, reason: str) -> None:
    """Record in a trial's folder that it is stopped after an experience."""
    write_json(folder / _NAME, {"experience": experience, "reason": reason})


def pruned_in(folder: Path) -> str | None:
    """Return why the trial was stopped early; None if it was not."""
    path = folder / _NAME
    return str(read_json(path).get("reason")) if path.exists() else None
