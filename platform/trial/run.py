"""Run one trial (a network, a stream, strategies, one seed) from the first experience to the summary.

All output of a trial is in its folder (see ledger/writer.py). Never imports ray or wandb.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from ..config.load import as_experiment, from_dict, to_dict
from ..config.schema import Experiment
from ..config.yaml_files import dump_yaml
from ..disk_errors import reraise_disk_errors
from ..errors import UserError
from ..files import digest
from ..ledger.reader import Trial
from ..ledger.writer import TrialLedger
from ..run_folders import folder_name, new_folder
from .builder import build_trial
from .checkpoint import CheckpointWriter
from .environment import describe_environment
from .failure_status import record_failure
from .gpu_memory import explain_out_of_memory
from .resolve import resolve_experiment
from .state import TrialResult, TrialServices, TrialState
from .stop_request import STOP_FILE, StopRequest
from .torch_settings import torch_settings
from .watchdog import Watchdog

_log = logging.getLogger(__name__)


def run(
    config: Experiment | Mapping[Any, Any],
    folder: Path | str | None = None,
    *,
    identity: Mapping[str, Any] | None = None,
    report: Callable[[dict[str, Any]], None] = lambda metrics: None,
    stopped: Callable[[], bool] = lambda: False,
    timeout: float | None = None,
) -> TrialResult:
    """Run one trial in this process, or resume the trial in `folder`.

    On SIGTERM, `retain stop` or Ctrl-C it writes a checkpoint and stops before the next iteration. A second Ctrl-C stops it at
    once.

    Args:
        config: the experiment, or a dict or DictConfig of one; its `sweep` section is ignored.
        folder: a new folder for the trial (default: ``output/name-time``), or that of an unfinished trial with the same config.
        identity: the names for trial.json (id, variant, stream, seed, overrides); by default from the config.
        report: called after each experience with its number and the metrics so far (for a scheduler): average_accuracy,
            validation.average_accuracy (on the validation splits, if there are any), task_aware.average_accuracy, ...
            When a trial is resumed, first with those of the last finished experience, once more.
        stopped: called regularly; when it returns True, the trial writes a checkpoint and stops.
        timeout: seconds without an iteration after which the process is ended; None: never.

    Returns:
        The folder, the summary and the accuracy matrices, on test samples and on the validation splits.

    Raises:
        UserError: the config does not fit its data or modules, or the folder is occupied or damaged.
        Stopped: a stop was requested (a SystemExit).
    """
    resolved = resolve_experiment(as_experiment(config))
    config = resolved.experiment
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder(folder, config.output, config.name))
        stack.enter_context(reraise_disk_errors(folder))
        stack.enter_context(torch_settings(config.resources))
        builder = build_trial(resolved)
        for text in builder.warnings if identity is None else ():  # of a sweep's trials the driver has logged them
            _log.warning("%s", text)
        ledger = stack.enter_context(_open(config, folder, identity or identity_of(config)))
        log = stack.enter_context(
            (folder / "trial.log").open("a", buffering=1, encoding="utf-8", errors="backslashreplace")
        )
        stack.enter_context(redirect_stdout(log))
        stack.enter_context(redirect_stderr(log))
        (folder / STOP_FILE).unlink(missing_ok=True)  # of an earlier run, which had ended before it saw the file
        stack.callback((folder / STOP_FILE).unlink, missing_ok=True)
        stop_request = stack.enter_context(StopRequest(stopped, folder / STOP_FILE))
        stack.enter_context(record_failure(ledger))
        stack.enter_context(explain_out_of_memory(config))
        watchdog = stack.enter_context(Watchdog(timeout, log))
        config_hash = digest(folder / "config.yaml")
        writer = stack.enter_context(CheckpointWriter(folder / "checkpoints", config.checkpoint.keep, config_hash))
        state = TrialState(config, builder, ledger, TrialServices(stop_request, watchdog, writer))
        return _run_experiences(state, report)


def identity_of(config: Experiment) -> dict[str, Any]:
    """Return the identity of a trial outside a sweep: the experiment's name as variant, the benchmark's as stream."""
    return {
        "id": folder_name(config.name),
        "variant": config.name,
        "stream": next(iter(config.benchmark)),
        "seed": config.seed,
        "overrides": {},
    }


def _open(config: Experiment, folder: Path, identity: Mapping[str, Any]) -> TrialLedger:
    """Create a ledger, or open that of an unfinished trial with the same config."""
    text = _config_text(config)
    if (folder / "trial.json").is_file():
        trial = Trial(folder)
        # the same text is the usual case, and spares resolving every plugin again
        if trial.status().status != "done" and (
            trial.config_text() == text or _current_config_text(trial.config()) == text
        ):
            return TrialLedger.open(folder)
    return TrialLedger.create(folder, text, identity)


def _config_text(config: Experiment) -> str:
    """Return the YAML of a config, for config.yaml."""
    return dump_yaml(to_dict(config))


def _current_config_text(data: Mapping[str, Any]) -> str | None:
    """Return the YAML that this version writes for a run's config, which may be an older version's; None if it is refused."""
    try:
        return _config_text(resolve_experiment(from_dict(data)).experiment)
    except UserError:
        return None


def _run_experiences(state: TrialState, report: Callable[[dict[str, Any]], None]) -> TrialResult:
    """For each experience: train on it, evaluate on all, write the results, save a checkpoint."""
    environment = describe_environment(state.learner.device)
    state.ledger.write("environment", {**environment, "data_notes": list(state.stream.notes)})
    finished = state.restore()
    if finished > 0:  # the process that has finished it may have been killed before it could report
        report({"experience": finished, **state.reported(finished)})
    for number in range(finished, len(state.stream.experiences)):
        state.ledger.status("running", experience=number)
        if not state.learner.should_train(number):  # joint waits for the last experience: its matrix has that row only
            continue
        state.train(number)
        state.add_row(number + 1)
        report({"experience": number + 1, **state.record(number + 1)})
    return state.finish()
