"""Names of run folders, new ones, detection of existing ones, and protection against code and links in them."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from .errors import UserError

_RESERVED = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")  # names of devices on Windows


def folder_name(text: str) -> str:
    """Return a text as the name of a folder that is legal on every file system: ASCII, not hidden, at most 125 characters."""
    name = re.sub(r"[^A-Za-z0-9_.=+-]+", "_", text)[:124].strip(".") or "_"
    return f"_{name}" if _RESERVED.fullmatch(name) else name


def is_run_folder(folder: Path) -> bool:
    """Return whether a folder is that of a trial or a sweep; False for a path that cannot be read."""
    return any(os.path.exists(folder / name) for name in ("trial.json", "trials.json"))


def run_folder_of(path: Path) -> Path | None:
    """Return the outermost trial or sweep folder that is `path` or contains it; None if there is none."""
    path = path.resolve()
    folders = (path, *path.parents)
    run_folders = [folder for folder in folders if is_run_folder(folder)]
    return run_folders[-1] if run_folders else None


def check_new_file(path: Path) -> None:
    """Raise UserError, before anything is computed, for a path that cannot be that of a new file; nothing is written."""
    if os.path.isdir(path):
        raise UserError(f"{path}: cannot be written: it is a folder: name a file in it.")
    _refuse_unusable(path.absolute(), path.absolute().parent, ".")
    try:
        os.stat(path)
    except FileNotFoundError:
        return
    except OSError as error:  # such as a name that is too long
        raise UserError(f"{path}: cannot be written: {error.strerror}.") from None


def _refuse_unusable(path: Path, folder: Path, advice: str) -> None:
    """Refuse a path that is not UTF-8, has a dangling link in it, or a file where a folder must be: `folder` or above."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{ascii(str(path))[1:-1]}: is not valid text (UTF-8){advice}") from None
    for part in (path, *path.parents):
        if os.path.islink(part) and not os.path.exists(part):
            raise UserError(f"{path}: {part} is a link to {os.readlink(part)}, which does not exist{advice}")
    for part in (folder, *folder.parents):
        if os.path.exists(part) and not os.path.isdir(part):
            raise UserError(f"{path}: {part} is a file, not a folder{advice}")


@contextlib.contextmanager
def new_folder(folder: Path | str | None, output: str, name: str) -> Iterator[Path]:
    """Make the folder of a new run for the duration of the block; if it is empty at the end, it is removed again.

    Args:
        folder: the folder, which may exist; None: a new one, ``output/name-time``, with a suffix if another process took it.
        output: the config's output.
        name: the config's name.

    Yields:
        The absolute path.

    Raises:
        UserError: the folder cannot be made or written.
    """
    advice = "; choose another with --output or output=PATH."
    if folder is None:
        stem = Path(os.path.expanduser(output), f"{folder_name(name)}-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
    else:
        stem = Path(folder).absolute()
    parent, made = stem.parent, list[Path]()
    try:
        _refuse_unusable(stem, stem, advice)
        outer = None if os.path.exists(stem) else run_folder_of(stem.parent)
        if outer is not None:
            raise UserError(f"{stem}: is inside {outer}, the folder of another run{advice}")
        existed = os.path.exists(stem) and folder is not None
        made = [path for path in (parent, *parent.parents) if not os.path.exists(path)]
        parent.mkdir(parents=True, exist_ok=True)
        path = _make(stem, must_be_new=folder is None)
        made = [*([] if existed else [path]), *made]
        if not os.access(path, os.W_OK | os.X_OK) and not is_run_folder(path):  # a run's folder is resumed, not chosen
            raise UserError(f"{path}: cannot be written{advice}")
    except (OSError, ValueError) as error:
        _remove_empty(made)
        if isinstance(error, UserError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{folder or parent}: cannot be written: {reason}{advice}") from None
    try:
        yield path
    finally:
        _remove_empty(made)


def _make(stem: Path, must_be_new: bool) -> Path:
    """Make a folder and return it: `stem`, or if that must be new but exists, the first free one of stem-2, stem-3, ..."""
    for number in count(1):
        path = stem if number == 1 else stem.with_name(f"{stem.name}-{number}")
        try:
            path.mkdir(exist_ok=not must_be_new)  # in one step: of two processes, one gets the folder
        except FileExistsError:
            if not must_be_new:
                raise
            continue
        return path
    raise AssertionError("count() has no end")


def _remove_empty(folders: list[Path]) -> None:
    """Remove those of the folders that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def outside_run_folders() -> contextlib.AbstractContextManager[Any]:
    """Leave the run folder for the duration of the block, if the working directory is in one.

    Ray's workers look for modules in the working directory, and W&B for its settings.
    """
    inside = run_folder_of(Path.cwd()) is not None
    return contextlib.chdir(Path.cwd().anchor) if inside else contextlib.nullcontext()


def refuse_links(folder: Path) -> None:
    """Raise UserError for what a run folder from someone else may hold to make us write outside of it, or wait for ever.

    These are, at any depth, links that lead out of the folder, pipes, sockets and devices. The folder itself may be a link.
    """
    root, folders = folder.resolve(), [os.fspath(folder)]
    wandb = os.path.join(folders[0], "wandb")  # W&B links its log into each of its runs; we read no file in there
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        _refuse_outside(Path(entry.path), root)
                    elif entry.is_dir(follow_symlinks=False):
                        folders += [] if entry.path == wandb else [entry.path]
                    elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                        raise UserError(f"{entry.path} is a pipe, socket or device: remove it")
        except FileNotFoundError:  # a running trial replaces its checkpoints
            continue
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None


def _refuse_outside(link: Path, root: Path) -> None:
    """Raise UserError for a link that leads out of the folder `root`, or in circles."""
    try:
        inside = link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # RuntimeError: a circle
        inside = False
    if not inside:
        raise UserError(f"{link} is a link that leads out of its folder: replace it with what it points to")
