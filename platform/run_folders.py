"""Which folders belong to a run, and what must not happen in them."""

import contextlib
import os
from pathlib import Path
from typing import Any

from .errors import UserError


def run_folder_of(path: Path) -> Path | None:
    """The outermost trial's or sweep's folder that is or holds `path`; None where there is none."""
    path = path.resolve()
    folders = (path, *path.parents)
    found = [one for one in folders if any(os.path.exists(one / name) for name in ("trial.json", "trials.json"))]
    return found[-1] if found else None


def outside_run_folders() -> contextlib.AbstractContextManager[Any]:
    """Within, the working folder is in no run's: Ray's workers look for modules in it, and W&B for its settings."""
    inside = run_folder_of(Path.cwd()) is not None
    return contextlib.chdir(Path.cwd().anchor) if inside else contextlib.nullcontext()


def refuse_links(folder: Path) -> None:
    """Refuse a folder whose entries lead out of it: what is written to it must not be written elsewhere."""
    root = folder.resolve()
    for entry in os.scandir(folder):
        if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
            raise UserError(f"{entry.path} is a link that leads out of its folder: put what it names in its place")
