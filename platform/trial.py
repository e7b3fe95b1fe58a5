"""One trial: a network, a stream, strategies, one seed; from the first experience to the summary.

Everything a trial leaves is in its folder (see ledger.py). Never imports ray or wandb.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from .assembly import Parts, assemble
from .config import check_plugins, to_dict
from .environment import describe
from .ledger import Trial, TrialLedger
from .recording import recording, threads_set_to
from .seeding import seed_globals
from .settings import Experiment
from .state import Result, TrialState


def run(
    config: Experiment,
    folder: Path | str | None = None,
    *,
    identity: Mapping[str, Any] | None = None,
    report: Callable[[dict[str, Any]], None] = lambda metrics: None,
) -> Result:
    """Run one trial in this process, or go on with the one that `folder` holds.

    Args:
        config: the experiment; its `sweep` section is not looked at.
        folder: a new folder for the trial (default: ``output/name-time``), or one with an unfinished trial of the same config.
        identity: names in trial.json (id, variant, stream, seed, overrides); by default taken from the config.
        report: called after each experience with its number and the metrics so far (for a scheduler).

    Raises:
        UserError: the config does not fit what it names, or the folder is occupied.
    """
    config = check_plugins(config)
    folder = (
        Path(folder) if folder is not None else Path(config.output) / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    identity = identity or identity_of(config)
    with ExitStack() as stack:
        parts = assemble(config)
        ledger = stack.enter_context(_open(config, folder, identity))
        log = stack.enter_context((folder / "trial.log").open("a", buffering=1))
        stack.enter_context(redirect_stdout(log))
        stack.enter_context(redirect_stderr(log))
        stack.enter_context(threads_set_to(config.resources.threads))
        stack.enter_context(recording(ledger))
        return _experiences(config, parts, ledger, report)


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
    text = yaml.safe_dump(to_dict(config), sort_keys=False)
    started = (folder / "trial.json").is_file() and Trial(folder).status().status != "done"
    if started and (folder / "config.yaml").read_text() == text:
        return TrialLedger.open(folder)
    return TrialLedger.create(folder, text, identity)


def _experiences(
    config: Experiment, parts: Parts, ledger: TrialLedger, report: Callable[[dict[str, Any]], None]
) -> Result:
    """The loop: train on an experience, evaluate on all, write it down, checkpoint."""
    state = TrialState(config, parts, ledger)
    learner = state.learner
    ledger.write("environment", describe(learner.device))
    for number in range(state.restore(), len(parts.stream.experiences)):
        ledger.status("running", experience=number)
        seed_globals(parts.seeds.data, "experience", number)
        started = time.perf_counter()
        if not learner.trains_on(number):  # joint waits for the last experience: its matrix has that row only
            continue
        learner.train_experience(number)
        trained = time.perf_counter()
        state.add_row(number + 1)
        state.record(number + 1, trained - started, time.perf_counter() - trained)
        report({"experience": number + 1, **state.so_far(number + 1)["task_agnostic"]})
    return state.finish()
