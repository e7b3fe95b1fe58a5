"""The folders of trials and sweeps, read; what is damaged is told by the file's name.

A folder may be somebody else's. What is in it is data: nothing of it is run, and no path in it leads out of it. This file
imports nothing heavy: `retain --help`, the report and the projector read ledgers without torch.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..config.renamed import translate
from ..errors import UserError
from ..files import digest
from ..run_folders import refuse_links
from .documents import DamagedError, read_json, read_text

State = Literal["pending", "running", "done", "failed", "stopped"]
Document = Literal["matrix", "summary", "environment", "config"]
_NAMES = ("id", "variant", "stream")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """Where a trial stands, as status.json says (`updated`: unix seconds)."""

    status: State
    experience: int
    error: str | None
    updated: float


def status_of(folder: Path) -> Status:
    """Where the trial of a folder stands; one whose status.json is damaged is taken for stopped, so that it goes on."""
    path = folder / "status.json"
    if not path.exists():
        return Status("pending", 0, None, 0.0)
    try:
        data = read_json(path)
    except DamagedError:
        data = {}
    state, experience, error, updated = (data.get(key) for key in ("status", "experience", "error", "updated"))
    known = state in get_args(State) and type(experience) is int and isinstance(error, str | None)
    if known and isinstance(updated, int | float) and 0 <= updated < 1e11:
        return Status(state, experience, error, float(updated))  # type: ignore[arg-type]  # `known` says what they are
    return Status("stopped", 0, "status.json is damaged", 0.0)


class Trial:
    """The reader of one trial's folder; works while the trial runs, and before it has started.

    Attributes:
        folder: the trial's folder.
        identity: id, variant, stream, seed, overrides.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any] | None = None) -> None:
        """Read trial.json, unless the sweep's list gives the identity (a pending trial may have no folder yet)."""
        self.folder = folder
        path = folder / "trial.json"
        self.identity = _identity(path, read_json(path) if identity is None else identity)

    @property
    def id(self) -> str:
        """Name of the trial, unique in its sweep."""
        return str(self.identity["id"])

    @property
    def variant(self) -> str:
        """Name of the set of overrides that is compared."""
        return str(self.identity["variant"])

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return str(self.identity["stream"])

    @property
    def seed(self) -> int:
        """The trial's seed."""
        return int(self.identity["seed"])

    def status(self) -> Status:
        """Where the trial stands now; pending when nothing says otherwise."""
        return status_of(self.folder)

    def events(self, after_byte: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (offset of the line's end in bytes, event) for each complete line after an offset given so before."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            offset = file.seek(after_byte)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                event = _event(line, f"{path} is damaged at byte {offset}")
                offset += len(line)
                yield offset, event

    def read(self, name: Document) -> dict[str, Any] | None:
        """Return matrix.json, summary.json, environment.json or config.yaml; None when it is not there (yet)."""
        path = self.folder / ("config.yaml" if name == "config" else f"{name}.json")
        if not path.exists():
            return None
        if name == "config":
            return self.config()
        data = read_json(path)
        if any(not isinstance(data.get(key) or {}, Mapping) for key in ("packages", "git")):
            raise DamagedError(f"{path} is damaged: its packages and git must be mappings")
        return data

    def config_text(self) -> str:
        """The text of config.yaml as it was written; UserError when it is missing or has changed."""
        path = self.folder / "trial.json"
        return read_text(self.folder / "config.yaml", _sum(read_json(path), "config_sha256") if path.exists() else None)

    def config(self) -> dict[str, Any]:
        """The trial's config as plain data; UserError when config.yaml is missing or has changed."""
        self.config_text()
        return _yaml(self.folder / "config.yaml")

    def damage(self) -> str | None:
        """What is wrong with the trial's files, the first by name; None when all are there that must be, as they were written."""
        try:
            self._check()
        except UserError as error:
            return str(error)
        return None

    def _check(self) -> None:
        """Raise UserError for the first file that is not as it was written."""
        state = self.status()
        if state.error == "status.json is damaged":
            raise DamagedError(f"{self.folder / 'status.json'} is damaged")
        there = [name for name in ("trial.json", "config.yaml") if (self.folder / name).exists()]
        if state.status == "done" or there:
            told = _identity(self.folder / "trial.json", read_json(self.folder / "trial.json"))
            if any(told.get(key) != self.identity.get(key) for key in (*_NAMES, "seed", "overrides")):
                raise DamagedError(
                    f"{self.folder / 'trial.json'} is damaged: the sweep's trials.json names another trial here"
                )
            self.config_text()
        found = {}
        for path in (self.folder / f"{name}.json" for name in ("environment", "matrix", "summary")):
            if state.status == "done" or path.exists():
                found = read_json(path)
        if state.status == "done":
            self._check_events(found)

    def _check_events(self, summary: Mapping[str, Any]) -> None:
        """Compare the events of a trial that is done with what its summary says of them (of older ones it says nothing)."""
        path = self.folder / "metrics.jsonl"
        if "ledger_sha256" not in summary:
            return
        length = path.stat().st_size if path.exists() else 0
        if length != summary.get("ledger_bytes") or digest(path) != summary["ledger_sha256"]:
            raise DamagedError(f"{path} is damaged: it has changed since the trial was done")


def _event(line: bytes, where: str) -> dict[str, Any]:
    """One event from its line."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{where}: {error}") from error
    numbers = isinstance(event, dict) and all(type(event.get(key)) is int for key in ("experience", "iteration"))
    if not numbers or not isinstance(event.get("kind"), str):
        raise DamagedError(f"{where}: no event with its kind, experience and iteration")
    return dict(event)


def _identity(path: Path, data: object) -> dict[str, Any]:
    """What names a trial, checked; its id is a part of paths. `path`: the file that says it."""
    if not isinstance(data, Mapping):
        raise DamagedError(f"{path} is damaged: a trial must be a mapping")
    for name in _NAMES:
        if not isinstance(data.get(name), str):
            raise DamagedError(f"{path} is damaged: a trial's {name} must be a text")
    if type(data.get("seed")) is not int:
        raise DamagedError(f"{path} is damaged: a trial's seed must be a whole number")
    if data["id"] in ("", ".", "..") or set(data["id"]) & set("/\\\0"):
        raise DamagedError(f"{path} is damaged: a trial's id {data['id']!r} must be the name of a folder")
    return {key: value for key, value in data.items() if key not in ("schema", "config_sha256")}


def _sum(data: Mapping[str, Any], key: str) -> str | None:
    """The checksum of a YAML file that its JSON neighbour holds; None in older runs."""
    return str(data[key]) if key in data else None


def _yaml(path: Path) -> dict[str, Any]:
    """A config that a run holds, with today's keys."""
    from ..config.yaml_overrides import read_yaml  # here: OmegaConf, which it imports, is slow

    return translate(read_yaml(path))


def is_sweep(folder: Path) -> bool:
    """Whether the folder is a sweep's."""
    return (folder / "trials.json").exists()


def run_config(folder: Path) -> dict[str, Any]:
    """The resolved experiment of a sweep's folder, or a trial's config, as plain data; UserError when it has changed."""
    if not is_sweep(folder):
        return Trial(folder).config()
    try:
        told = _sum(read_json(folder / "trials.json"), "experiment_sha256")
    except DamagedError:  # what it says of its trials is found in their own folders
        told = None
    read_text(folder / "experiment.yaml", told)
    return _yaml(folder / "experiment.yaml")


def run_name(folder: Path) -> str:
    """A sweep's name, or a trial's variant."""
    return str(run_config(folder).get("name") or folder.resolve().name) if is_sweep(folder) else Trial(folder).variant


def trials_of(folder: Path) -> list[Trial]:
    """All trials of a sweep's folder, or the one of a trial's folder; UserError for any other folder.

    A sweep's damaged list is made anew from its trials' own folders, with a warning.
    """
    if is_sweep(folder):
        refuse_links(folder)
        try:
            return listed_trials(folder)
        except DamagedError as error:
            found = _found_trials(folder)
            if not found:
                raise
            _log.warning("%s; its %d trials are told by their folders", error, len(found))
            return found
    if (folder / "trial.json").exists():
        refuse_links(folder)
        return [Trial(folder)]
    raise UserError(f"{folder} is no folder of a trial or a sweep: it has no trial.json and no trials.json")


def listed_trials(folder: Path) -> list[Trial]:
    """The trials that a sweep's trials.json lists; DamagedError when it is not as it was written."""
    path, root = folder / "trials.json", os.path.realpath(folder)
    entries = read_json(path).get("trials")
    if not isinstance(entries, list):
        raise DamagedError(f"{path} is damaged: it has no list of trials")
    identities = [_identity(path, entry) for entry in entries]
    return [Trial(_place(path, root, identity), identity) for identity in identities]


def _place(path: Path, root: str, identity: Mapping[str, Any]) -> Path:
    """A listed trial's folder, which must be inside of the sweep's."""
    place = str(identity.get("folder"))
    inside = not os.path.isabs(place) and ".." not in Path(place).parts and "\0" not in place
    if not inside or not os.path.realpath(os.path.join(root, place)).startswith(root + os.sep):
        raise UserError(
            f"{path}: the folder '{place}' of trial {identity['id']} is not inside of {path.parent}: correct it"
        )
    return path.parent / place


def _found_trials(folder: Path) -> list[Trial]:
    """The trials whose folders are in a sweep's, in the order of their names."""
    found = []
    for path in sorted(folder.glob("trials/*/trial.json")):
        try:
            identity = {"folder": f"trials/{path.parent.name}"} | Trial(path.parent).identity
        except DamagedError as error:
            _log.warning("%s: it is left out", error)
            continue
        found.append(Trial(_place(path, os.path.realpath(folder), identity), identity))
    return found


def unfinished_trials(trials: Iterable[Trial]) -> list[tuple[Trial, str | None]]:
    """The trials that are not done, and those that are but have damaged files; each with its damage."""
    found = [(trial, trial.damage()) for trial in trials]
    return [(trial, damage) for trial, damage in found if damage or trial.status().status != "done"]
