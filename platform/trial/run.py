"""One trial: a network, a stream, strategies, one seed; from the first experience to the summary.

Everything a trial leaves is in its folder (see ledger.py). Never imports ray or wandb.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from ..config.load import from_dict, to_dict
from ..config.schema import Experiment
from ..disk_errors import reraise_disk_errors
from ..errors import UserError
from ..files import digest
from ..ledger.reader import Trial
from ..ledger.writer import TrialLedger
from .builder import build_trial
from .checkpoint import CheckpointWriter
from .environment import describe_environment
from .failure_status import record_failure
from .resolve import check_plugins
from .state import TrialResult, TrialServices, TrialState
from .stop_request import StopRequest
from .torch_settings import torch_settings
from .watchdog import Watchdog


def run(
    config: Experiment,
    folder: Path | str | None = None,
    *,
    identity: Mapping[str, Any] | None = None,
    report: Callable[[dict[str, Any]], None] = lambda metrics: None,
    stopped: Callable[[], bool] = lambda: False,
    timeout: float | None = None,
) -> TrialResult:
    """Run one trial in this process, or go on with the one that `folder` holds.

    SIGTERM and Ctrl-C make it write a checkpoint and stop before its next iteration (a second Ctrl-C: at once).

    Args:
        config: the experiment; its `sweep` section is not looked at.
        folder: a new folder for the trial (default: ``output/name-time``), or one with an unfinished trial of the same config.
        identity: names in trial.json (id, variant, stream, seed, overrides); by default taken from the config.
        report: called after each experience with its number and the metrics so far (for a scheduler).
        stopped: asked now and then whether the trial is to write a checkpoint and stop.
        timeout: after so many seconds without an iteration the process is ended.

    Raises:
        UserError: the config does not fit what it names, or the folder is occupied or damaged.
        Stopped: it was asked to stop (a SystemExit).
    """
    config = check_plugins(config)
    folder = (
        Path(folder) if folder is not None else Path(config.output) / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    identity = identity or identity_of(config)
    with ExitStack() as stack:
        stack.enter_context(reraise_disk_errors(folder))
        stack.enter_context(torch_settings(config.resources))
        parts = build_trial(config)
        ledger = stack.enter_context(_open(config, folder, identity))
        log = stack.enter_context((folder / "trial.log").open("a", buffering=1))
        stack.enter_context(redirect_stdout(log))
        stack.enter_context(redirect_stderr(log))
        stop_request = stack.enter_context(StopRequest(stopped))
        stack.enter_context(record_failure(ledger))
        watchdog = stack.enter_context(Watchdog(timeout, log))
        whose = digest(folder / "config.yaml")
        writer = stack.enter_context(CheckpointWriter(folder / "checkpoints", config.checkpoint.keep, whose))
        return _experiences(TrialState(config, parts, ledger, TrialServices(stop_request, watchdog, writer)), report)


def identity_of(config: Experiment) -> dict[str, Any]:
    """What a single trial is called: the experiment's name as variant, the benchmark's as stream."""
    return {
        "id": config.name,
        "variant": config.name,
        "stream": next(iter(config.benchmark)),
        "seed": config.seed,
        "overrides": {},
    }


def _open(config: Experiment, folder: Path, identity: Mapping[str, Any]) -> TrialLedger:
    """A new ledger, or that of the same trial, unfinished."""
    text = _text(config)
    if (folder / "trial.json").is_file():
        trial = Trial(folder)
        if trial.status().status != "done" and _resolved_text(trial.config()) == text:
            return TrialLedger.open(folder)
    return TrialLedger.create(folder, text, identity)


def _text(config: Experiment) -> str:
    """The YAML of a config, for config.yaml."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def _resolved_text(data: Mapping[str, Any]) -> str | None:
    """The YAML that this version writes for a run's config, which an older one may have written; None where it refuses it."""
    try:
        return _text(check_plugins(from_dict(data)))
    except UserError:
        return None


def _experiences(state: TrialState, report: Callable[[dict[str, Any]], None]) -> TrialResult:
    """The loop: train on an experience, evaluate on all, write it down, checkpoint."""
    state.ledger.write("environment", describe_environment(state.learner.device))
    for number in range(state.restore(), len(state.stream.experiences)):
        state.ledger.status("running", experience=number)
        if not state.learner.should_train(number):  # joint waits for the last experience: its matrix has that row only
            continue
        state.train(number)
        state.add_row(number + 1)
        state.record(number + 1)
        report({"experience": number + 1, **state.so_far(number + 1)["task_agnostic"]})
    return state.finish()
