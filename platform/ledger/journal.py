"""The journal of a sweep, ``journal.jsonl``: trials that were added after its start, and the decisions of its search.

It only grows, one JSON object a line, and each line is durable before anything depends on it: a killed sweep continues from
there. Kinds of lines, by their ``kind``:

- ``trial``: a trial that a search has added: its identity, as in trials.json.
- ``suggested``, ``repeated``: a configuration of a search, with its point; a suggestion that repeats an earlier one does not run.
- ``closed``: a search suggests no more, although it has not had all of its samples, with the reason and the limits it had then.
- ``worse``: a configuration that needs no further seeds.
- ``chosen``: the configuration of a stream and variant that is reported, the identities of its new reported trials, the ids of
  those of an earlier choice (``superseded``), and of those among them that are reported again (``again``): all or nothing.
- ``retry``: failed trials of a search that run again, with their last experience; their search then chooses once more.
- ``extended``: what `retain add` has added: the whole experiment, and the identities of new trials.
- ``earlier``: results of earlier searches that this one begins with.

Each line has a checksum. `read_journal` checks lines once, so that what reads them need not.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import fsync, open_regular
from .documents import DamagedError, checksum, identity_problem, strict_json, to_json, unreadable

NAME = "journal.jsonl"
_MAX_BYTES = 2**28
_BLOCK = 2**16
_UNKNOWN_TRIAL = "it names a trial that no earlier line has"
CLOSING_REASONS = {  # why a search ends before it has had all of its samples
    "time_limit": "ended by the time limit",
    "exhausted": "every point of the space was suggested",
    "repeats": "ended because 100 suggestions in a row repeated earlier points",
}


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a sweep's journal; an incomplete last line, of a killed process, is left out.

    Raises:
        DamagedError: a line has changed since it was written, or says what cannot be; the message has its number.
    """
    path = folder / NAME
    if not path.exists() and not path.is_symlink():
        return []
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from None
    if len(data) > _MAX_BYTES:
        raise DamagedError(f"{path} is damaged: it has more than {_MAX_BYTES} bytes")
    entries, earlier = [], _Earlier()
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        entry = _line(line, f"{path} is damaged in line {number}")
        if problem := earlier.problem(entry):
            raise DamagedError(f"{path} is damaged in line {number}: {problem}")
        entries.append(entry)
    return entries


def _line(line: bytes, where: str) -> dict[str, Any]:
    try:
        entry = strict_json(line)
        recorded = entry.pop("sha256", None) if isinstance(entry, dict) else None
        if recorded is None or recorded != checksum(entry):
            raise DamagedError(f"{where}: it has changed since it was written")
    except DamagedError:  # it is also a ValueError
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{where}: {error}") from error
    return dict(entry)


@dataclass(slots=True)
class _Earlier:
    """What a line can refer to: the configurations and trials of earlier lines."""

    configurations: dict[tuple[str, str], int] = field(default_factory=dict)  # (stream, variant) -> how many
    trials: set[str] = field(default_factory=set)

    def problem(self, entry: Mapping[str, Any]) -> str:
        """Return what is wrong with the next line; an empty text if nothing is."""
        kind, number = entry.get("kind"), entry.get("number")
        if kind == "trial":
            return self._trial_problem(entry)
        if kind == "extended":
            return self._extension_problem(entry)
        if kind == "earlier":
            return _earlier_problem(entry)
        if kind not in ("suggested", "repeated", "closed", "worse", "chosen", "retry"):
            return f"unknown kind {kind!r:.80}"
        if not isinstance(entry.get("stream"), str) or not isinstance(entry.get("variant"), str):
            return "it has no stream and variant"
        study = entry["stream"], entry["variant"]
        count = self.configurations.get(study, 0)
        if kind in ("suggested", "repeated"):
            self.configurations[study] = count + (kind == "suggested")
            return _suggestion_problem(entry, count)
        if kind == "closed":
            return _closing_problem(entry)
        if kind == "retry":
            return self._retry_problem(entry)
        is_none = kind == "chosen" and number is None and "number" in entry
        if not is_none and not (type(number) is int and 0 <= number < count):
            return f"there is no configuration {number!r:.80}"
        return self._choice_problem(entry) if kind == "chosen" else ""

    def _choice_problem(self, entry: Mapping[str, Any]) -> str:
        """Return what is wrong with the trials of a choice."""
        if not all(isinstance(entry.get(key), list) for key in ("trials", "superseded", "again")):
            return "it has no lists of trials"
        if not all(self._has(each) for each in (*entry["superseded"], *entry["again"])):
            return _UNKNOWN_TRIAL
        return next((problem for each in entry["trials"] if (problem := self._trial_problem(each))), "")

    def _retry_problem(self, entry: Mapping[str, Any]) -> str:
        trials = entry.get("trials")
        if not isinstance(trials, dict) or not all(type(each) is int and each >= 0 for each in trials.values()):
            return "it has no trials with their experiences"
        return "" if all(map(self._has, trials)) else _UNKNOWN_TRIAL

    def _has(self, trial_id: object) -> bool:
        return isinstance(trial_id, str) and trial_id in self.trials

    def _trial_problem(self, identity: object) -> str:
        if problem := identity_problem(identity):
            return problem
        assert isinstance(identity, Mapping)
        number = identity.get("configuration")
        if number is not None:
            counts = self.configurations
            own = [counts.get((identity["stream"], str(identity.get("searched"))), 0)]
            if identity.get("role") != "search":  # with the protocol `transfer` its stream is another one
                own = [count for (_, variant), count in counts.items() if variant == identity["variant"]]
            if type(number) is not int or not 0 <= number < max(own, default=0):
                return f"there is no configuration {number!r:.80}"
        self.trials.add(identity["id"])
        return ""

    def _extension_problem(self, entry: Mapping[str, Any]) -> str:
        if not isinstance(entry.get("experiment"), dict) or not isinstance(entry.get("trials"), list):
            return "it has no experiment and trials"
        return next((problem for each in entry["trials"] if (problem := self._trial_problem(each))), "")


def _suggestion_problem(entry: Mapping[str, Any], count: int) -> str:
    """Return what is wrong with the suggestion of a study that has `count` configurations."""
    number = entry.get("number")
    if not isinstance(entry.get("point"), dict) or not isinstance(entry.get("attributes", {}), dict):
        return "it has no point"
    if not _has_time(entry):
        return "it has no time"
    if entry["kind"] == "suggested" and (type(number) is not int or number != count):
        return f"configuration {number!r:.80}: {count} was to follow"
    return ""


def _closing_problem(entry: Mapping[str, Any]) -> str:
    """Return what is wrong with a line that says why a search suggests no more."""
    reason = entry.get("reason")
    if not isinstance(reason, str) or reason not in CLOSING_REASONS or not isinstance(entry.get("limits"), dict):
        return "it has no reason and limits"
    return "" if _has_time(entry) else "it has no time"


def _has_time(entry: Mapping[str, Any]) -> bool:
    elapsed = entry.get("elapsed")
    return isinstance(elapsed, int | float) and not isinstance(elapsed, bool) and 0 <= elapsed < 1e11


def _earlier_problem(entry: Mapping[str, Any]) -> str:
    """Return what is wrong with a line that has results of an earlier search."""

    def valid(result: object) -> bool:
        values = result.get("values") if isinstance(result, dict) else None
        numbers = isinstance(values, list) and all(isinstance(each, int | float) for each in values)
        return isinstance(result, dict) and isinstance(result.get("point"), dict) and numbers

    results = entry.get("results")
    texts = all(isinstance(entry.get(key), str) for key in ("folder", "stream", "variant"))
    return "" if texts and isinstance(results, list) and all(map(valid, results)) else "it has no results"


def append_to_journal(folder: Path, kind: str, entry: Mapping[str, Any]) -> None:
    """Add a line; it is durable when this returns. The sweep's folder must be locked by this process."""
    path = folder / NAME
    is_new = not path.exists()
    plain = json.loads(to_json({"kind": kind, **entry}))
    data = to_json({**plain, "sha256": checksum(plain)}).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with open(descriptor, "r+b") as file:
        file.seek(_end_of_lines(file))
        file.truncate()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        fsync(folder)


def _end_of_lines(file: Any) -> int:
    """Return the length up to the last complete line: a process that was killed may have left a part of one."""
    start = int(file.seek(0, os.SEEK_END))
    while start > 0:
        end, start = start, max(0, start - _BLOCK)
        file.seek(start)
        position = file.read(end - start).rfind(b"\n")
        if position >= 0:
            return start + int(position) + 1
    return 0


def added_identities(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the identities of the trials that journal lines add; those of an earlier choice have the role "superseded"."""
    identities: dict[str, dict[str, Any]] = {}
    for entry in entries:
        added = (
            [entry] if entry["kind"] == "trial" else entry["trials"] if entry["kind"] in ("extended", "chosen") else []
        )
        for each in added:
            identities[each["id"]] = {key: value for key, value in each.items() if key != "kind"}
    for trial_id in superseded_ids(entries):
        identities[trial_id]["role"] = "superseded"
    return list(identities.values())


def superseded_ids(entries: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the ids of the reported trials of an earlier choice that no later choice reports again."""
    ids: set[str] = set()
    for entry in entries:
        if entry["kind"] == "chosen":
            ids = (ids | set(entry["superseded"])) - set(entry["again"])
    return ids


def current_choices(entries: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return (stream, variant) -> the line of the choice, of the searches that have chosen.

    What `retain add` adds, and failed trials that run again, may change a choice: such a search has not chosen until it does.
    """
    choices: dict[tuple[str, str], Mapping[str, Any]] = {}
    for entry in entries:
        if entry["kind"] == "extended":
            choices = {}
        if entry["kind"] == "retry":
            choices.pop((entry["stream"], entry["variant"]), None)
        if entry["kind"] == "chosen":
            choices[entry["stream"], entry["variant"]] = entry
    return choices


def extended_experiment(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the experiment after the last `retain add`, as plain data; None if nothing was added."""
    return next((dict(each["experiment"]) for each in reversed(entries) if each["kind"] == "extended"), None)
