"""Detection of run folders, and protection against code and links in them."""

import contextlib
import os
from pathlib import Path
from typing import Any

from .errors import UserError


def run_folder_of(path: Path) -> Path | None:
    """Return the outermost trial or sweep folder that is `path` or contains it; None if there is none."""
    path = path.resolve()
    folders = (path, *path.parents)
    run_folders = [
        folder for folder in folders if any(os.path.exists(folder / name) for name in ("trial.json", "trials.json"))
    ]
    return run_folders[-1] if run_folders else None


def outside_run_folders() -> contextlib.AbstractContextManager[Any]:
    """Leave the run folder for the duration of the block, if the working directory is in one.

    Ray's workers look for modules in the working directory, and W&B for its settings.
    """
    inside = run_folder_of(Path.cwd()) is not None
    return contextlib.chdir(Path.cwd().anchor) if inside else contextlib.nullcontext()


def refuse_links(folder: Path) -> None:
    """Raise UserError if an entry of a folder is a link that leads out of it: writes must stay inside."""
    root = folder.resolve()
    for entry in os.scandir(folder):
        if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
            raise UserError(f"{entry.path} is a link that leads out of its folder: replace it with what it points to")
