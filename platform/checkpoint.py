"""Checkpoints: complete or absent, checked when read, safe to load (safetensors and JSON, nothing pickled).

A checkpoint is a folder ``000003`` with ``tensors.safetensors``, ``state.json`` and ``manifest.json`` (SHA-256 of both). It is
written under another name, flushed to the disk and renamed, so that one that has its final name is whole. A damaged newest one
is passed over for the one before.
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .files import digest, sync

FORMAT = 1
_FILES = ("tensors.safetensors", "state.json")
_log = logging.getLogger(__name__)


def save(folder: Path, number: int, state: dict[str, Any], keep: int) -> Path:
    """Write `state` (nested dicts and lists of tensors, numbers, strings, None) as number `number`; keep the newest `keep`."""
    final = folder / f"{number:06d}"
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors: dict[str, torch.Tensor] = {}
    plain = _flatten(state, tensors, "")
    save_file(tensors, temporary / "tensors.safetensors")
    (temporary / "state.json").write_text(json.dumps(plain))
    digests = {name: digest(temporary / name) for name in _FILES}
    (temporary / "manifest.json").write_text(json.dumps({"format": FORMAT, "sha256": digests}))
    for path in (*temporary.iterdir(), temporary):
        sync(path)
    if final.exists():
        shutil.rmtree(final)
    os.rename(temporary, final)
    sync(folder)
    numbered = _numbered(folder)
    kept = numbered[: numbered.index(final) + 1][-keep:]  # later ones were passed over: damaged, or of another past
    for other in numbered:
        if other not in kept:
            shutil.rmtree(other)
    for left in folder.glob(".*.tmp"):  # by a process that was killed
        shutil.rmtree(left)
    return final


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The state of the newest valid checkpoint, on the CPU; None where there is none. A damaged one is logged and passed over."""
    for path in reversed(_numbered(folder)):
        problem = _problem(path)
        if problem is None:
            tensors = load_file(path / "tensors.safetensors")
            state = _unflatten(json.loads((path / "state.json").read_text()), tensors)
            assert isinstance(state, dict)
            return state
        _log.warning("checkpoint %s is passed over: %s", path, problem)
    return None


def _numbered(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def _problem(path: Path) -> str | None:
    """Why a checkpoint cannot be used, or None."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            return f"format {manifest['format']} (this version reads {FORMAT})"
        for name in _FILES:
            if digest(path / name) != manifest["sha256"][name]:
                return f"{name} has changed since it was written"
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _flatten(value: Any, tensors: dict[str, torch.Tensor], path: str) -> Any:
    """Replace tensors by their names in `tensors`; a dict whose keys are no strings (an optimizer's) becomes a list of pairs."""
    if isinstance(value, torch.Tensor):
        name = f"{len(tensors)}:{path}"
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"__tensor__": name}
    if isinstance(value, dict):
        pairs = [[key, _flatten(item, tensors, f"{path}/{key}")] for key, item in value.items()]
        if not all(isinstance(key, str | int) for key in value):
            raise TypeError(f"{path}: the keys of a state are strings or integers, not {list(value)}")
        plain = all(isinstance(key, str) for key in value) and not value.keys() & {"__tensor__", "__pairs__"}
        return dict(pairs) if plain else {"__pairs__": pairs}
    if isinstance(value, list | tuple):
        return [_flatten(item, tensors, f"{path}/{index}") for index, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path}: a state holds tensors, numbers, strings, lists and dicts, not {type(value).__name__}")


def _unflatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unflatten(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "__tensor__" in value:
        return tensors[value["__tensor__"]]
    if "__pairs__" in value:
        return {key: _unflatten(item, tensors) for key, item in value["__pairs__"]}
    return {key: _unflatten(item, tensors) for key, item in value.items()}
