"""Read the folders of trials and sweeps. Errors name the damaged file.

A folder may come from someone else. Its content is data: no code in it runs, and no path in it may lead out of it. Imports
nothing heavy: `retain --help`, the report and the projector read ledgers without torch.
"""

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, get_args

from ..config.renamed import translate
from ..config.yaml_files import parse_yaml
from ..errors import UserError
from ..files import digest, open_regular
from ..run_folders import refuse_links
from .documents import NAME_FIELDS, DamagedError, identity_problem, read_json, read_text, strict_json, unreadable
from .journal import NAME as JOURNAL
from .journal import added_identities, extended_experiment, read_journal, superseded_ids

# "pruned": stopped early by a search's scheduler, for good
StatusName = Literal["pending", "running", "done", "failed", "stopped", "pruned"]
Document = Literal["matrix", "summary", "environment", "config"]
_MAX_LINE = 2**24  # bytes of an event
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """A trial's progress, as in status.json.

    Attributes:
        status: the state.
        experience: the last finished experience; 0: none.
        error: the reason of a failure or of a repair.
        updated: unix time in seconds.
    """

    status: StatusName
    experience: int
    error: str | None
    updated: float


def status_of(folder: Path) -> Status:
    """Return the status of the trial in a folder; "pending" without a status.json.

    With a damaged status.json the trial counts as stopped, so that it is resumed.
    """
    path = folder / "status.json"
    if not path.exists():
        return Status("pending", 0, None, 0.0)
    try:
        data = read_json(path)
    except DamagedError:
        data = {}
    state, experience, error, updated = (data.get(key) for key in ("status", "experience", "error", "updated"))
    valid = state in get_args(StatusName) and type(experience) is int and isinstance(error, str | None)
    if valid and isinstance(updated, int | float) and 0 <= updated < 1e11:
        return Status(state, experience, error, float(updated))  # type: ignore[arg-type]  # `valid` has checked the types
    return Status("stopped", 0, "status.json is damaged", 0.0)


class Trial:
    """Reader of one trial's folder. It works while the trial runs, and before it has started.

    Attributes:
        folder: the trial's folder.
        identity: id, variant, stream, seed, overrides.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any] | None = None) -> None:
        """Read trial.json, or take the identity from the sweep's list (a pending trial may have no folder yet)."""
        self.folder = folder
        path = folder / "trial.json"
        self.identity = _identity(path, read_json(path) if identity is None else identity)

    @property
    def id(self) -> str:
        """The trial's name, unique in its sweep."""
        return str(self.identity["id"])

    @property
    def variant(self) -> str:
        """The name of the variant: the set of overrides that is compared."""
        return str(self.identity["variant"])

    @property
    def stream(self) -> str:
        """The name of the stream."""
        return str(self.identity["stream"])

    @property
    def seed(self) -> int:
        """The trial's seed."""
        return int(self.identity["seed"])

    @property
    def role(self) -> str:
        """What the trial is for: "reported", or "search" if it was run to choose a configuration."""
        return str(self.identity.get("role", "reported"))

    def status(self) -> Status:
        """Return the trial's current status; "pending" without a status.json."""
        return status_of(self.folder)

    def events(self, after_byte: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (byte offset of the line's end, event) for each complete line of metrics.jsonl.

        Args:
            after_byte: 0, or an offset that was yielded before, to read only newer events.

        Raises:
            DamagedError: a complete line is not an event.
        """
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return
        with _opened(path) as file:
            offset = file.seek(after_byte)
            while line := file.readline(_MAX_LINE + 1):
                if len(line) > _MAX_LINE:
                    raise DamagedError(f"{path} is damaged at byte {offset}: a line has more than {_MAX_LINE} bytes")
                if not line.endswith(b"\n"):
                    return
                event = _event(line, f"{path} is damaged at byte {offset}")
                offset += len(line)
                yield offset, event

    def read(self, name: Document) -> dict[str, Any] | None:
        """Return matrix.json, summary.json, environment.json or config.yaml; None if it does not exist (yet)."""
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
        """Return the text of config.yaml; UserError if it is missing or has changed since it was written."""
        path = self.folder / "trial.json"
        sha256 = _recorded_sum(read_json(path), "config_sha256") if path.exists() else None
        return read_text(self.folder / "config.yaml", sha256)

    def config(self) -> dict[str, Any]:
        """Return the trial's config as plain data; UserError if config.yaml is missing or has changed."""
        return parse_config(self.config_text(), self.folder / "config.yaml")

    def damage(self) -> str | None:
        """Return what is wrong with the first damaged or missing file; None if all files are as they were written."""
        try:
            self._check()
        except UserError as error:
            return str(error)
        return None

    def _check(self) -> None:
        """Raise UserError for the first file that has changed since it was written."""
        state = self.status()
        if state.error == "status.json is damaged":
            raise DamagedError(f"{self.folder / 'status.json'} is damaged")
        started = any((self.folder / name).exists() for name in ("trial.json", "config.yaml"))
        if state.status == "done" or started:
            identity = _identity(self.folder / "trial.json", read_json(self.folder / "trial.json"))
            if any(identity.get(key) != self.identity.get(key) for key in (*NAME_FIELDS, "seed", "overrides")):
                raise DamagedError(
                    f"{self.folder / 'trial.json'} is damaged: the sweep's trials.json names another trial here"
                )
            self.config_text()
        document = {}
        for path in (self.folder / f"{name}.json" for name in ("environment", "matrix", "summary")):
            if state.status == "done" or path.exists():
                document = read_json(path)
        if state.status == "done":
            self._check_events(document)  # the last one read: summary.json

    def _check_events(self, summary: Mapping[str, Any]) -> None:
        """Verify the length and checksum of a completed trial's events, if its summary has them (those of older runs do not)."""
        path = self.folder / "metrics.jsonl"
        if "ledger_sha256" not in summary:
            return
        length = path.stat().st_size if path.exists() else 0
        if length != summary.get("ledger_bytes") or digest(path) != summary["ledger_sha256"]:
            raise DamagedError(f"{path} is damaged: it has changed since the trial was done")


def _opened(path: Path) -> BufferedReader:
    """Open a file of events; DamagedError if it is a link, a pipe or another thing that is no file."""
    try:
        return open_regular(path)
    except OSError as error:
        raise unreadable(path, error) from None


def _event(line: bytes, where: str) -> dict[str, Any]:
    """Parse one line of metrics.jsonl."""
    try:
        event = strict_json(line)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{where}: {error}") from error
    numbers = isinstance(event, dict) and all(type(event.get(key)) is int for key in ("experience", "iteration"))
    if not numbers or not isinstance(event.get("kind"), str):
        raise DamagedError(f"{where}: no event with its kind, experience and iteration")
    return dict(event)


def _identity(path: Path, data: object) -> dict[str, Any]:
    """Return a trial's identity after checking it, since its id becomes part of paths. `path`: the file that it is from."""
    problem = identity_problem(data)
    if problem:
        raise DamagedError(f"{path} is damaged: {problem}")
    assert isinstance(data, Mapping)
    return {key: value for key, value in data.items() if key not in ("schema", "config_sha256")}


def _recorded_sum(data: Mapping[str, Any], key: str) -> str | None:
    """Return the checksum of a YAML file that a JSON document records; None in older runs."""
    return str(data[key]) if key in data else None


def parse_config(text: str, path: Path) -> dict[str, Any]:
    """Return a run's config with the current keys."""
    return translate(parse_yaml(text, str(path)))


def is_sweep(folder: Path) -> bool:
    """Return whether the folder is a sweep's."""
    return (folder / "trials.json").exists()


def run_config(folder: Path) -> dict[str, Any]:
    """Return a sweep's experiment, with what `retain add` has added, or a trial's config, as plain data.

    Raises:
        UserError: the file has changed since it was written.
    """
    if not is_sweep(folder):
        return Trial(folder).config()
    try:
        sha256 = _recorded_sum(read_json(folder / "trials.json"), "experiment_sha256")
    except DamagedError:  # trials.json is rebuilt from the trials' folders; experiment.yaml is then read unverified
        sha256 = None
    path = folder / "experiment.yaml"
    started = read_text(path, sha256)
    extended = extended_experiment(read_journal(folder))
    return parse_config(started, path) if extended is None else translate(extended)


def run_name(folder: Path) -> str:
    """Return a sweep's name, or a trial's variant."""
    return str(run_config(folder).get("name") or folder.resolve().name) if is_sweep(folder) else Trial(folder).variant


def trials_of(folder: Path) -> list[Trial]:
    """Return all trials of a sweep's folder, or the single one of a trial's folder.

    If the sweep's trials.json is damaged, the trials are read from their folders, with a warning.

    Raises:
        UserError: the folder is neither, or it has links that lead out of it.
    """
    if is_sweep(folder):
        refuse_links(folder)
        names = _names_of_folders(folder)  # first: a running sweep lists a trial before it writes its folder
        journal = read_journal(folder)
        try:
            trials = _listed_trials(folder, journal)
        except DamagedError as error:
            trials = _trials_in_folders(folder, superseded_ids(journal))
            if not trials:
                raise
            _log.warning("%s; its %d trials are read from their folders instead", error, len(trials))
            return trials
        _refuse_unlisted(folder, names - {trial.folder.name for trial in trials})
        return trials
    if (folder / "trial.json").exists():
        refuse_links(folder)
        return [Trial(folder)]
    raise UserError(f"{folder} is no folder of a trial or a sweep: it has no trial.json and no trials.json")


def listed_trials(folder: Path) -> list[Trial]:
    """Return the trials that a sweep's trials.json lists, then those that its journal adds; DamagedError if one is damaged."""
    return _listed_trials(folder, read_journal(folder))


def _listed_trials(folder: Path, journal: Sequence[Mapping[str, Any]]) -> list[Trial]:
    path, root = folder / "trials.json", os.path.realpath(folder)
    entries = read_json(path).get("trials")
    if not isinstance(entries, list):
        raise DamagedError(f"{path} is damaged: it has no list of trials")
    listed = [(path, _identity(path, entry)) for entry in entries]
    listed += [(folder / JOURNAL, identity) for identity in added_identities(journal)]
    by_id = {
        identity["id"]: (source, identity) for source, identity in listed
    }  # a rebuilt list has the journal's trials too
    return [Trial(_trial_folder(source, root, identity), identity) for source, identity in by_id.values()]


def _names_of_folders(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder / "trials"))
    except OSError:
        return set()


def _refuse_unlisted(folder: Path, names: Iterable[str]) -> None:
    """Raise DamagedError for a trial's folder that no list has: the end of the journal is missing."""
    for name in sorted(names):
        if not (folder / "trials" / name / "trial.json").is_file():
            continue
        with suppress(DamagedError):
            if Trial(folder / "trials" / name).id == name:  # else it is a copy that somebody has made
                break
    else:
        return
    raise DamagedError(f"{folder / JOURNAL} is damaged: it lacks the trial {name}, which has a folder")


def _trial_folder(path: Path, root: str, identity: Mapping[str, Any]) -> Path:
    """Return a listed trial's folder; UserError unless it is inside the sweep's."""
    folder = str(identity.get("folder"))
    inside = not os.path.isabs(folder) and ".." not in Path(folder).parts and "\0" not in folder
    if not inside or not os.path.realpath(os.path.join(root, folder)).startswith(root + os.sep):
        raise UserError(
            f"{path}: the folder '{folder}' of trial {identity['id']} is not inside of {path.parent}: correct it"
        )
    return path.parent / folder


def _trials_in_folders(folder: Path, superseded: Collection[str]) -> list[Trial]:
    """Return the trials whose folders are in a sweep's, in the order of their names.

    Args:
        folder: the sweep's.
        superseded: ids of the reported trials of an earlier choice.
    """
    trials = []
    for path in sorted(folder.glob("trials/*/trial.json")):
        try:
            identity = {"folder": f"trials/{path.parent.name}"} | Trial(path.parent).identity
            identity |= {"role": "superseded"} if identity["id"] in superseded else {}
        except DamagedError as error:
            _log.warning("%s: it is left out", error)
            continue
        trials.append(Trial(_trial_folder(path, os.path.realpath(folder), identity), identity))
    return trials


def unfinished_trials(trials: Iterable[Trial], *, only_failed: bool = False) -> list[tuple[Trial, str | None]]:
    """Return the trials that a resumed run has to run, those with damaged files too; each with its damage or None.

    These are the trials that are not done or pruned. Trials of an earlier choice are not reported, so they do not run. A failed
    trial of a search is a result, which later suggestions depend on: it runs again only with `only_failed`.

    Args:
        trials: of a folder.
        only_failed: return the failed trials, those of a search too, and no others.
    """
    unfinished = []
    for trial in (each for each in trials if each.role != "superseded"):
        is_failed = trial.status().status == "failed"
        if (only_failed and not is_failed) or (is_failed and not only_failed and trial.role == "search"):
            continue
        damage = trial.damage()
        if damage or trial.status().status not in ("done", "pruned"):
            unfinished.append((trial, damage))
    return unfinished
