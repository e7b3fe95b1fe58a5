"""Run searches in one process, one trial at a time, without Ray; end the process at any of its writes."""

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from helpers.processes import forkserver
from retain.platform.config.load import from_dict, load_config, to_dict
from retain.platform.config.yaml_files import dump_yaml
from retain.platform.ledger.journal import read_journal
from retain.platform.ledger.reader import run_config, trials_of
from retain.platform.ledger.writer import SweepLedger, write_status
from retain.platform.sweep.run import _unfinished, write_pending_trial
from retain.platform.sweep.search import Search
from retain.platform.sweep.search_plan import plan_search
from retain.platform.trial.run import run
from retain.platform.trial.stop_request import Stopped


class BrokenError(Exception):
    """What a test makes a trial fail with."""


SPACE = {"training.optimizer.lr": {"loguniform": [0.001, 1.0]}}


def search_config(**sweep: Any) -> dict[str, Any]:
    """Five experiences of the digits on a tiny network; the learning rate is searched."""
    return {
        "name": "searched",
        "benchmark": {"split_digits": {"validation": 0.2}},
        "model": {"mlp": {"hidden": [16]}},
        "training": {"iterations": 4, "batch_size": 16},
        "sweep": {
            "seeds": [0],
            "samples": 4,
            "objective": "validation.average_accuracy",
            "variants": {"naive": {"space": SPACE}},
            **sweep,
        },
    }


def begin(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the folder of a sweep with a search, as `sweep` does."""
    experiment = load_config(config)
    plan = plan_search(experiment)
    assert plan is not None
    fixed = plan.fixed_trials()
    text = dump_yaml(to_dict(experiment))
    with SweepLedger.create(folder, text, experiment.name, [trial.identity for trial in fixed]):
        for trial in fixed:
            write_pending_trial(folder / "trials" / trial.identity["id"], trial)


def never(trial: str, experience: int) -> bool:
    """Nothing happens to a trial."""
    return False


def drive(
    folder: Path,
    loses: Callable[[str, int], bool] = never,
    fails: Callable[[str, int], bool] = never,
    only_failed: bool = False,
) -> Search:
    """Run the search in a folder to its end, or continue it, as `retain sweep` and `retain resume` do.

    Args:
        folder: the sweep's.
        loses: asked once for each report, with the trial's id and the experience: whether it is lost with the trial's process,
            which is then started again, as Ray does.
        fails: likewise, whether the trial fails in the next experience.
        only_failed: as of `retain resume --failed`.
    """
    experiment = load_config(run_config(folder))
    plan = plan_search(experiment)
    assert plan is not None
    trials = _unfinished(experiment, folder, plan, only_failed)
    search = Search(folder, plan, write_pending_trial, [trial.id for trial in trials] if only_failed else None)
    if not trials and not search.is_open:
        return search  # `resume` starts nothing
    asked: set[tuple[str, int]] = set()
    while not search.is_finished:
        trial = search.next_trial()
        if trial is None:
            continue
        is_lost = True
        while is_lost:
            is_lost = False

            def report(metrics: dict[str, Any], name: str = trial.id, place: Path = trial.folder) -> None:
                nonlocal is_lost
                at, is_broken = (name, int(metrics["experience"])), False
                if at not in asked:
                    asked.add(at)
                    is_lost, is_broken = loses(*at), fails(*at)
                if is_lost or search.on_report(name, metrics):
                    raise Stopped
                if is_broken:  # while it trains on the next experience
                    write_status(place, "running", at[1], None)
                    raise BrokenError(f"{name} after experience {at[1]}")

            with suppress(Stopped, BrokenError):
                run(from_dict(trial.config()), trial.folder, identity=trial.identity, report=report)
        search.ended(trial.id)
    return search


def drive_and_die(folder: Path, write: int) -> None:
    """As `drive`; SIGKILL to this process before its write number `write` is on the disk."""
    count, fsync = 0, os.fsync

    def counted(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == write:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    os.fsync = counted
    drive(folder)


def driven_in_a_process(folder: Path, write: int) -> bool:
    """Drive in a new process that is killed at its write number `write`; return whether it came to the end before."""
    process = forkserver().Process(target=drive_and_die, args=(folder, write))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


def outcome(folder: Path) -> dict[str, Any]:
    """What a search has decided and measured: everything but times."""
    lines = [{key: value for key, value in line.items() if key != "elapsed"} for line in read_journal(folder)]
    trials = {}
    for trial in trials_of(folder):
        matrix = trial.read("matrix") or {}
        trials[trial.id] = (trial.status().status, matrix.get("task_agnostic"), matrix.get("validation"))
    return {"journal": lines, "trials": trials}
