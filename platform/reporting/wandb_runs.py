"""Send ledgers to W&B as runs.

A trial is one W&B run, and each row of its ledger is one step of the run. Counting the server's steps therefore tells which
rows it has: after any crash, a run resumes without a doubled or missing step. Offline, a trial is written as a whole once it
has ended.
"""

import contextlib
import errno
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ..errors import UserError
from ..ledger.reader import Trial, is_sweep, run_name
from .polling import LedgerCursor
from .projector_state import ProjectorState, signature
from .rows import Mode, ProjectorSettings, final_values
from .wandb_account import NAME_LENGTH, TAG_LENGTH

if TYPE_CHECKING:
    import wandb

ENDED = ("done", "failed", "stopped", "pruned")
_TIMEOUT = 20.0  # seconds for starting a run, and for the upload of the rest when it ends
_ROOM = 2**20  # bytes: with less room on the disk, a file that W&B has written may be incomplete
_INTERVAL = 15.0  # seconds between two uploads of a live run
_PATIENCE = (0.0, 0.5, 1.0, 2.0, 4.0)  # seconds before each query of a run's row count, which lags behind the rows
# W&B's step axes, and the prefixes of the names that are shown over each
_AXES = {
    "iteration": ("train", "validation", "resources", "probe_during"),
    "experience": (
        *("accuracy", "task_agnostic", "task_aware", "cost", "probe"),
        *("validation_accuracy", "validation_task_agnostic", "validation_task_aware"),
    ),
}
_log = logging.getLogger("retain.projector")


class WandbRuns:
    """Sends a folder's trials to W&B as runs, in the context `wandb_account.isolated`."""

    def __init__(self, folder: Path, settings: ProjectorSettings, mode: Mode, state: ProjectorState) -> None:
        """Send in `mode` (from `resolve_mode`); record in `state` what was sent."""
        self._folder, self._settings, self._mode, self._state = folder, settings, mode, state
        self._live: dict[str, tuple[wandb.Run, LedgerCursor]] = {}

    def update(self, trial: Trial, last: bool) -> bool:
        """Send what is new of a trial.

        Args:
            trial: the trial.
            last: finish its run, even if the trial is still running.

        Returns:
            True if something was sent.
        """
        ended = last or trial.status().status in ENDED
        entry = self._state.entry(trial)
        if self._mode == "offline" and not ended:
            return False
        if trial.id not in self._live:
            if self._is_sent(trial, entry):
                return False
            self._live[trial.id] = self._begin(trial, entry)
        try:
            digest = self._send(trial, ended)
        except UserError:  # the ledger is damaged: the run has the rows before the damage
            self._live.pop(trial.id)[0].finish(exit_code=1)
            raise
        if ended:
            entry["signature"] = digest
        return True

    def _send(self, trial: Trial, ended: bool) -> str:
        """Send new rows, and finish the run of a trial that has ended; return a digest of what was sent at least."""
        run, cursor = self._live[trial.id]
        entry, digest = self._state.entry(trial), signature(trial)
        for row in cursor.new():
            run.log({row.axis: row.step, **row.values})
        entry["bytes"] = cursor.offset
        self._state.changed = True
        if ended:
            run.summary.update(final_values(trial))
            failed = trial.status().status == "failed"
            del self._live[trial.id]
            run.finish(exit_code=int(failed))
            if self._mode == "online":
                _confirm(run, cursor.count)
                self._clear(entry["run"], "offline-run")
            elif shutil.disk_usage(self._folder).free < _ROOM:  # W&B does not say that it could not write its file
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder / "wandb"))
        return digest

    def drop(self) -> None:
        """Forget all open runs after a failure: the next updates resume them after the rows that the server has.

        W&B's service process is killed: it does not release the id of a run that it could not start, and waits forever for
        an upload that fails. Nothing is lost, since the ledgers have everything.
        """
        self._live.clear()
        for child in psutil.Process().children():
            if child.name().startswith("wandb-core"):
                child.kill()
        with contextlib.suppress(SystemExit, Exception):  # teardown raises SystemExit when the service was killed
            import wandb

            wandb.teardown(exit_code=1)

    def _is_sent(self, trial: Trial, entry: Mapping[str, Any]) -> bool:
        """Whether to skip a trial: everything was sent, or writing it offline would double the server's rows."""
        if trial.status().status == "pending":
            return True
        if entry.get("signature") == signature(trial) and entry["mode"] in (self._mode, "online"):
            return True
        uploaded = any(any(local.glob("*.synced")) for local in self._local(entry["run"], "offline-run"))
        on_server = uploaded or entry.get("mode") == "online"
        if self._mode == "offline" and on_server:
            _log.warning("%s: its run was uploaded, but its ledger has grown: `retain sync` sends the rest", trial.id)
            return True
        return False

    def _begin(self, trial: Trial, entry: dict[str, Any]) -> "tuple[wandb.Run, LedgerCursor]":
        """Start or resume a trial's run; the cursor skips the rows that the server has."""
        self._clear(entry["run"], "offline-run" if self._mode == "offline" else "run")
        run = _init(trial, self._folder, self._settings, self._mode, entry["run"])
        if (
            entry.get("mode") != self._mode
        ):  # saved before the first row, so that rows on the server are never written offline
            entry["mode"] = self._mode
            self._state.save()
        return run, LedgerCursor(trial, skip=run.starting_step)

    def _local(self, run: str, kind: str) -> list[Path]:
        return list((self._folder / "wandb").glob(f"{kind}-*-{run}*"))

    def _clear(self, run: str, kind: str) -> None:
        """Delete a run's local files ("offline-run" or "run") unless they were uploaded: the ledger has everything."""
        for folder in self._local(run, kind):
            if not any(folder.glob("*.synced")):
                shutil.rmtree(folder)


def _init(trial: Trial, folder: Path, settings: ProjectorSettings, mode: Mode, run: str) -> "wandb.Run":
    """Open a trial's W&B run with retain's step axes, without W&B's samples of the machine and captures of output and code."""
    import wandb

    config = trial.read("config") or {}
    sweep = run_name(folder) if is_sweep(folder) else config.get("name", folder.name)
    tags = dict.fromkeys((trial.variant, trial.stream, *(config.get("strategies") or {}), *settings.tags))
    wandb.setup(wandb.Settings(silent=True, sagemaker_disable=True))  # SageMaker would choose the run's id
    wandb_run = wandb.init(
        id=run,
        resume="allow" if mode == "online" else None,
        mode=mode,
        project=settings.project,
        entity=settings.entity,
        group=(settings.group or sweep)[:NAME_LENGTH],
        name=f"{trial.variant}/{trial.stream}/{trial.seed}"[:NAME_LENGTH],
        job_type="trial",
        tags=[tag[:TAG_LENGTH] for tag in tags if tag],
        config={**config, "variant": trial.variant, "stream": trial.stream, "seed": trial.seed, "trial": trial.id},
        dir=folder,
        reinit="create_new",
        settings=wandb.Settings(
            console="off",
            silent=True,
            symlink=False,
            use_dot_wandb=False,
            disable_git=True,
            disable_code=True,
            save_code=False,
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
        wandb_run.define_metric(axis, hidden=True)
        for prefix in prefixes:
            wandb_run.define_metric(f"{prefix}/*", step_metric=axis)
    return wandb_run


def _confirm(run: "wandb.Run", count: int) -> None:
    """Raise ConnectionError unless the server has all rows of a finished run: W&B drops rows silently on some refusals."""
    import wandb

    received = None
    for seconds in _PATIENCE:
        time.sleep(seconds)
        server_run = wandb.Api(timeout=round(_TIMEOUT)).run(f"{run.entity}/{run.project}/{run.id}")
        received = getattr(server_run, "historyLineCount", None)
        if received is None or received >= count:  # a server without this field is trusted
            return
    raise ConnectionError(f"W&B has {received} of {count} rows")
