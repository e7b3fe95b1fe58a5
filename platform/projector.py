"""Ledgers -> Weights & Biases and TensorBoard; the only module that imports wandb and tensorboard.

One projector follows all trials of a folder, in a process of its own beside the sweep (`start`, `stop`) or after it
(`project`). A trial is one W&B run, and a row of its ledger is one step of it. So what the server has is known by counting, and
a run goes on after any crash with no step twice or missing. Offline, a trial is written whole once it has ended.
No failure here reaches a trial: it is told in <folder>/projector.log and tried again.
"""

import argparse
import contextlib
import logging
import netrc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from .errors import UserError
from .ledger import Trial, is_sweep, read_json, trials_of
from .rows import VIEWS, Book, Follower, fingerprint, metric_values, signature

if TYPE_CHECKING:
    import wandb
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

Mode = Literal["online", "offline", "disabled"]
STOP = ".projector-stop"  # a file of this name in the folder ends its projector
_ENDED = ("done", "failed", "stopped")
_POLL = 1.0  # seconds between two looks at the ledgers
_RETRY = 10.0  # seconds until the next attempt after a failure, doubled for a run up to _RETRY_MAX
_RETRY_MAX = 300.0
_log = logging.getLogger("retain.projector")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What to project to.

    Attributes:
        mode: of W&B; None: what WANDB_MODE says, else online where a key is found, else offline.
        project, entity: where the runs go on W&B.
        group: of the runs; None: the experiment's name.
        tags: on each run, beside its variant, stream and strategies.
        tensorboard: whether to write <folder>/tensorboard too.
    """

    mode: Mode | None = None
    project: str = "retain"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    tensorboard: bool = False


def resolve_mode(mode: Mode | None) -> Mode:
    """Return the mode that W&B will be in; UserError for online without a key."""
    wanted = mode or os.environ.get("WANDB_MODE")
    if wanted == "online" and not _has_key():
        raise UserError("wandb.mode=online: no W&B key is set. Run `wandb login`, set WANDB_API_KEY, or use offline")
    if wanted in get_args(Mode):
        return wanted  # type: ignore[return-value]  # mypy does not narrow by get_args
    if wanted is not None:
        raise UserError(f"WANDB_MODE={wanted}: must be one of {', '.join(get_args(Mode))}")
    return "online" if _has_key() else "offline"


def _has_key() -> bool:
    """Whether W&B would find a key without asking."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    given = os.environ.get("NETRC")
    paths = [Path(given)] if given else [Path("~/.netrc"), Path("~/_netrc")]
    found = [path.expanduser() for path in paths if path.expanduser().exists()]
    if not found:
        return False
    import wandb  # knows the host, which may be in its settings file; slow, so only here

    host = urlsplit(str(wandb.setup().settings.base_url)).netloc
    with contextlib.suppress(netrc.NetrcParseError, OSError):
        return netrc.netrc(found[0]).authenticators(host) is not None
    return False


class _Runs:
    """W&B runs of a folder's trials."""

    def __init__(self, folder: Path, settings: Settings, mode: Mode, book: Book) -> None:
        self._folder, self._settings, self._mode, self._book = folder, settings, mode, book
        self._live: dict[str, tuple[wandb.Run, Follower]] = {}

    def update(self, trial: Trial, last: bool) -> bool:
        """Send what is new of a trial; `last`: nothing will follow. True when something was sent."""
        ended = trial.status().status in _ENDED
        entry = self._book.entry(trial)
        if self._mode == "offline" and not (ended or last):
            return False
        if trial.id not in self._live and self._is_sent(trial, entry):
            return False
        if trial.id not in self._live:
            self._live[trial.id] = self._begin(trial, entry)
        run, follower = self._live[trial.id]
        digest = signature(trial)
        for row in follower.new():
            run.log({row.axis: row.step, **row.values})
        if ended or last:
            _summarise(run, trial)
            del self._live[trial.id]
            run.finish(exit_code=int(trial.status().status == "failed"))
            entry["signature"] = digest
            if self._mode == "online":
                self._drop_offline(entry["run"])
        entry |= {"mode": self._mode, "bytes": follower.offset}
        self._book.save()
        return True

    def _is_sent(self, trial: Trial, entry: Mapping[str, Any]) -> bool:
        """Whether a trial needs no sending: it is all there, or sending it offline would double what the server has."""
        if trial.status().status == "pending":
            return True
        if entry.get("signature") == signature(trial) and entry["mode"] in (self._mode, "online"):
            return True
        on_server = entry.get("mode") == "online" or any(self._offline(entry["run"], "*.synced"))
        if self._mode == "offline" and on_server:
            _log.warning("%s: its run was uploaded and its ledger has grown: `retain sync` sends the rest", trial.id)
            return True
        return False

    def _begin(self, trial: Trial, entry: Mapping[str, Any]) -> "tuple[wandb.Run, Follower]":
        """Start or resume a trial's run, and skip the rows that the server has."""
        if self._mode == "offline":
            self._drop_offline(entry["run"])
        run = _init(trial, self._folder, self._settings, self._mode, entry["run"])
        return run, Follower(trial, skip=run.starting_step)

    def _offline(self, run: str, pattern: str = "") -> list[Path]:
        return list((self._folder / "wandb").glob(f"offline-run-*-{run}*/{pattern}"))

    def _drop_offline(self, run: str) -> None:
        """Delete a run's offline files that were not uploaded: they are in the ledger."""
        for folder in self._offline(run):
            if not any(folder.glob("*.synced")):
                shutil.rmtree(folder)


def _init(trial: Trial, folder: Path, settings: Settings, mode: Mode, run: str) -> "wandb.Run":
    """Open a trial's W&B run, with our own step axes and nothing sampled or captured."""
    import wandb

    config = trial.read("config") or {}
    sweep = read_json(folder / "trials.json")["name"] if is_sweep(folder) else config.get("name", folder.name)
    tags = dict.fromkeys((trial.variant, trial.stream, *(config.get("strategies") or {}), *settings.tags))
    begun = wandb.init(
        id=run,
        resume="allow" if mode == "online" else None,
        mode=mode,
        project=settings.project,
        entity=settings.entity,
        group=settings.group or sweep,
        name=f"{trial.variant}/{trial.stream}/{trial.seed}",
        job_type="trial",
        tags=[tag[:64] for tag in tags],
        config={**config, "variant": trial.variant, "stream": trial.stream, "seed": trial.seed, "trial": trial.id},
        dir=folder,
        reinit="create_new",
        settings=wandb.Settings(
            console="off",
            silent=True,
            symlink=False,
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            init_timeout=20,
            finish_timeout=20,
            finish_timeout_raises=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        ),
    )
    for axis, prefixes in _AXES.items():
        begun.define_metric(axis, hidden=True)
        for prefix in prefixes:
            begun.define_metric(f"{prefix}/*", step_metric=axis)
    return begun


def _summarise(run: "wandb.Run", trial: Trial) -> None:
    """Put the final metrics of both views and the accuracy matrices into the run's summary (not its history)."""
    summary = trial.read("summary") or {}
    cost = {f"cost/{name}": summary[name] for name in ("seconds", "samples") if summary.get(name) is not None}
    run.summary.update({"status": trial.status().status, **cost, **metric_values(summary)})
    matrix = trial.read("matrix")
    for view in VIEWS if matrix else ():
        run.summary[f"accuracy_matrix/{view}"] = matrix[view]


class _Scalars:
    """TensorBoard files of a folder's trials: <folder>/tensorboard/<trial>, from the start or as of the last look."""

    def __init__(self, folder: Path, book: Book) -> None:
        self._folder, self._book = folder / "tensorboard", book
        self._live: dict[str, tuple[EventFileWriter, Follower]] = {}

    def update(self, trial: Trial, last: bool) -> bool:
        """Write what is new of a trial; `last`: nothing will follow. True when something was written."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        entry = self._book.entry(trial)
        digest = signature(trial)
        if trial.status().status == "pending" or entry.get("tensorboard") == digest:
            return False
        writer, follower = self._live.get(trial.id) or self._begin(trial)
        self._live[trial.id] = writer, follower
        for row in follower.new():
            values = [Summary.Value(tag=name, simple_value=value) for name, value in row.values.items()]
            writer.add_event(Event(wall_time=time.time(), step=row.step, summary=Summary(value=values)))
        writer.flush()
        if last or trial.status().status in _ENDED:
            writer.close()
            del self._live[trial.id]
            entry["tensorboard"] = digest
            self._book.save()
        return True

    def _begin(self, trial: Trial) -> "tuple[EventFileWriter, Follower]":
        """Start a trial's files afresh: the ledger has all that an older projector wrote."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = self._folder / trial.id
        if folder.exists():
            shutil.rmtree(folder)
        return EventFileWriter(str(folder)), Follower(trial)


@dataclass(slots=True)
class _Retry:
    """When what failed is tried again: later each time for a trial; and nothing at all for a short while."""

    pause: float = 0.0
    trials: dict[str, tuple[float, float]] = field(default_factory=dict)  # id -> (when, the next delay)

    def due(self, trial: Trial) -> bool:
        """Whether the trial may be tried now."""
        return time.monotonic() >= max(self.pause, self.trials.get(trial.id, (0.0, 0.0))[0])

    def failed(self, trial: Trial) -> None:
        """Note a failure."""
        now = time.monotonic()
        delay = self.trials.get(trial.id, (0.0, _RETRY))[1]
        self.trials[trial.id] = now + delay, min(2 * delay, _RETRY_MAX)
        self.pause = now + _RETRY


def project(
    folder: Path, settings: Settings, *, follow: bool = False, stopped: Callable[[], bool] = lambda: False
) -> int:
    """Send what W&B and TensorBoard lack of a folder's trials, from their ledgers.

    Args:
        folder: a trial's or a sweep's; its wandb/, tensorboard/, projector.json and projector.log are written.
        settings: what to project to.
        follow: go on until `stopped()`, then once more; failures are logged and tried again.
        stopped: asked ten times a second.

    Returns:
        how many times a trial had something new.

    Raises:
        UserError: no trial's folder, another projector is at work, no key; without `follow` also: W&B or the network
            failed, or a ledger is damaged.
    """
    trials, mode = trials_of(folder), resolve_mode(settings.mode)
    with _working(folder):
        book = Book(folder)
        sinks: list[_Runs | _Scalars] = [_Scalars(folder, book)] if settings.tensorboard else []
        if mode != "disabled":
            sinks.append(_Runs(folder, settings, mode, book))
        sent, seen, retry = 0, {}, _Retry()
        while follow and not stopped():
            for trial in trials:
                found = fingerprint(trial)
                if found and seen.get(trial.id) != found and retry.due(trial):
                    done = _try(sinks, trial, False)
                    sent += bool(done)
                    if done is None:
                        retry.failed(trial)
                    else:
                        seen[trial.id] = found
            _sleep(stopped)
        ...
    return sent
