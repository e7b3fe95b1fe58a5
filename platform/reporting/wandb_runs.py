"""A trial's W&B run and TensorBoard files, written from its ledger; the only module that imports wandb and tensorboard.

A trial is one W&B run, and a row of its ledger is one step of it. So what the server has is known by counting: a run
goes on after any crash with no step twice or missing. Offline, a trial is written whole once it has ended.
"""

import contextlib
import logging
import netrc
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlsplit

import psutil

from ..errors import UserError
from ..ledger.reader import Trial, is_sweep, run_name
from .polling import LedgerCursor
from .projector_state import ProjectorState, signature
from .rows import Mode, ProjectorSettings, final_values

if TYPE_CHECKING:
    import wandb

ENDED = ("done", "failed", "stopped")
_TIMEOUT = 20.0  # seconds that beginning a run, or uploading its rest at its end, may take
_INTERVAL = 15.0  # seconds between two uploads of a live run
_PATIENCE = (0.0, 0.5, 1.0, 2.0, 4.0)  # seconds before each count of a run's rows: it may come later than they do
# W&B's step axes, and the prefixes of what is shown over each
_AXES = {
    "iteration": ("train", "validation", "resources", "probe_during"),
    "experience": ("accuracy", "task_agnostic", "task_aware", "cost", "probe"),
}
_log = logging.getLogger("retain.projector")


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


class WandbRuns:
    """W&B runs of a folder's trials."""

    def __init__(self, folder: Path, settings: ProjectorSettings, mode: Mode, book: ProjectorState) -> None:
        """Send to `mode`, which `resolve_mode` gave; remember in `book`."""
        self._folder, self._settings, self._mode, self._book = folder, settings, mode, book
        self._live: dict[str, tuple[wandb.Run, LedgerCursor]] = {}

    def update(self, trial: Trial, last: bool) -> bool:
        """Send what is new of a trial; `last`: nothing will follow. True when something was sent."""
        ended = last or trial.status().status in ENDED
        entry = self._book.entry(trial)
        if self._mode == "offline" and not ended:
            return False
        if trial.id not in self._live:
            if self._is_sent(trial, entry):
                return False
            self._live[trial.id] = self._begin(trial, entry)
        try:
            digest = self._send(trial, ended)
        except UserError:  # its ledger is damaged: the run holds what came before
            self._live.pop(trial.id)[0].finish(exit_code=1)
            raise
        if ended:
            entry["signature"] = digest
        return True

    def _send(self, trial: Trial, ended: bool) -> str:
        """Send new rows, and close the run of a trial that has ended; return the digest of what was sent, at least."""
        run, follower = self._live[trial.id]
        entry, digest = self._book.entry(trial), signature(trial)
        for row in follower.new():
            run.log({row.axis: row.step, **row.values})
        entry["bytes"] = follower.offset
        self._book.changed = True
        if ended:
            run.summary.update(final_values(trial))
            failed = trial.status().status == "failed"
            del self._live[trial.id]
            run.finish(exit_code=int(failed))
            if self._mode == "online":
                _confirm(run, follower.count)
                self._clear(entry["run"], "offline-run")
        return digest

    def drop(self) -> None:
        """Forget all open runs after a failure: the next updates begin them again, from what the server has.

        W&B's service goes too: it holds on to the id of a run that it could not begin, and would wait without end for
        an upload that fails. Nothing is lost with it: the ledger is the truth.
        """
        self._live.clear()
        for child in psutil.Process().children():
            if child.name().startswith("wandb-core"):
                child.kill()
        with contextlib.suppress(SystemExit, *failures()):  # it exits the process when the service was killed
            import wandb

            wandb.teardown(exit_code=1)

    def _is_sent(self, trial: Trial, entry: Mapping[str, Any]) -> bool:
        """Whether a trial needs no sending: it is all there, or sending it offline would double what the server has."""
        if trial.status().status == "pending":
            return True
        if entry.get("signature") == signature(trial) and entry["mode"] in (self._mode, "online"):
            return True
        uploaded = any(any(local.glob("*.synced")) for local in self._local(entry["run"], "offline-run"))
        on_server = uploaded or entry.get("mode") == "online"
        if self._mode == "offline" and on_server:
            _log.warning("%s: its run was uploaded and its ledger has grown: `retain sync` sends the rest", trial.id)
            return True
        return False

    def _begin(self, trial: Trial, entry: dict[str, Any]) -> "tuple[wandb.Run, LedgerCursor]":
        """Start or resume a trial's run, and skip the rows that the server has."""
        self._clear(entry["run"], "offline-run" if self._mode == "offline" else "run")
        run = _init(trial, self._folder, self._settings, self._mode, entry["run"])
        if entry.get("mode") != self._mode:  # known before a row is sent: what the server has is never sent offline too
            entry["mode"] = self._mode
            self._book.save()
        return run, LedgerCursor(trial, skip=run.starting_step)

    def _local(self, run: str, kind: str) -> list[Path]:
        return list((self._folder / "wandb").glob(f"{kind}-*-{run}*"))

    def _clear(self, run: str, kind: str) -> None:
        """Delete a run's local files ("offline-run" or "run") unless they were uploaded: all is in the ledger."""
        for folder in self._local(run, kind):
            if not any(folder.glob("*.synced")):
                shutil.rmtree(folder)


def _init(trial: Trial, folder: Path, settings: ProjectorSettings, mode: Mode, run: str) -> "wandb.Run":
    """Open a trial's W&B run, with our own step axes and nothing sampled or captured."""
    import wandb

    config = trial.read("config") or {}
    sweep = run_name(folder) if is_sweep(folder) else config.get("name", folder.name)
    tags = dict.fromkeys((trial.variant, trial.stream, *(config.get("strategies") or {}), *settings.tags))
    wandb.setup(wandb.Settings(silent=True))
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
            init_timeout=_TIMEOUT,
            finish_timeout=_TIMEOUT,
            finish_timeout_raises=True,
            x_file_stream_transmit_interval=_INTERVAL,
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


def _confirm(run: "wandb.Run", count: int) -> None:
    """Raise ConnectionError unless the server has a finished run's rows: W&B drops them silently on some refusals."""
    import wandb

    found = None
    for seconds in _PATIENCE:
        time.sleep(seconds)
        there = wandb.Api(timeout=round(_TIMEOUT)).run(f"{run.entity}/{run.project}/{run.id}")
        found = getattr(there, "historyLineCount", None)
        if found is None or found >= count:  # a server that does not say is believed
            return
    raise ConnectionError(f"W&B has {found} of {count} rows")


def failures() -> tuple[type[Exception], ...]:
    """What W&B raises when its service, its server or the network fails; not all of it has one base class."""
    found: tuple[type[Exception], ...] = (OSError, ImportError)
    with contextlib.suppress(ImportError):
        import wandb

        found += (wandb.Error,)
    with contextlib.suppress(ImportError):
        from wandb.sdk.lib.service.service_token import WandbServiceConnectionError
        from wandb.sdk.mailbox.mailbox import MailboxClosedError
        from wandb.sdk.mailbox.mailbox_handle import HandleAbandonedError, ServerResponseError

        found += (
            MailboxClosedError,
            HandleAbandonedError,
            ServerResponseError,
            WandbServiceConnectionError,
        )
    return found
