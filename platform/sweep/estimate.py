"""Check a sweep and estimate its cost before it starts, within a limit of time.

A separate process builds the streams, checks the trials and trains representative ones for a few iterations. At the limit it is
ended, wherever it is, and what it has reported by then is used.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..config.schema import Experiment
from ..config.user_code import user_line
from ..errors import UserError
from .plan import PlannedTrial
from .search_checks import all_trials, check_all
from .trial_cost import Cost, measure

LIMIT = 20.0  # seconds of a dry run, from its start
_CLOSE = 0.5  # seconds of it for ending the process and for printing
_START = (8.0, 40.0)  # seconds for Ray and the workers' imports
_PER_TRIAL = (0.1, 1.0)  # seconds between two trials
_TRIAL_SECONDS = (0.5, 4.0)  # least and most to train a representative trial
_UNCERTAINTY = (0.75, 1.5)  # cores that share memory and turbo frequency, the cost of later experiences


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimated cost of a sweep on this machine.

    Attributes:
        low: seconds of wall time, at least.
        high: seconds, at most.
        disk: bytes.
        num_measured: kinds of trials that were measured.
        num_kinds: kinds of trials: those that differ in more than the seed and numbers such as the learning rate.
    """

    low: float
    high: float
    disk: float
    num_measured: int
    num_kinds: int


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a dry run knows at its limit of time.

    Attributes:
        checked: whether all trials are checked.
        estimate: the cost; None if it is not known.
        problems: errors of trials that could not be measured.
    """

    checked: bool
    estimate: Estimate | None
    problems: tuple[str, ...] = ()


def dry_run(experiment: Experiment, trials: Sequence[PlannedTrial], started: float) -> DryRun:
    """Check a sweep's trials and estimate its cost.

    Args:
        experiment: the experiment.
        trials: its trials.
        started: when the dry run began, by time.monotonic(); it ends `LIMIT` seconds later.

    Raises:
        UserError: a trial's stream or strategies are refused.
    """
    # fork has the imports done, which take seconds; no thread of torch exists yet, since planning computes nothing
    method = "fork" if sys.platform == "linux" else "spawn"
    context: Any = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    with TemporaryDirectory(prefix="retain-dry-run-", ignore_cleanup_errors=True) as scratch:
        end = started + LIMIT - _CLOSE
        planned = trials if method == "fork" else None  # modules cannot be pickled
        process = context.Process(target=_check_and_measure, args=(experiment, planned, sender, end, Path(scratch)))
        process.start()
        sender.close()
        checked, costs, problems = False, dict[int, Cost](), list[str]()
        try:
            while receiver.poll(max(0.0, end - time.monotonic())):
                kind, value = receiver.recv()
                if kind == "refused":
                    raise UserError(value)
                checked |= kind == "checked"
                if kind == "cost":
                    costs[value[0]] = value[1]
                if kind == "problem":
                    problems.append(value)
        except EOFError:  # it has ended
            process.join()
            if not checked:
                raise UserError("the trials could not be checked: the error is above.") from None
        finally:
            _end(process)
    return DryRun(checked, _combined(trials, costs) if costs else None, tuple(problems))


def _end(process: Any) -> None:
    """End the process and those that it has started, such as decoders of pictures."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _check_and_measure(
    experiment: Experiment, planned: Sequence[PlannedTrial] | None, sender: Connection, end: float, scratch: Path
) -> None:
    """Check the trials, then measure one of each kind, one kind of each stream and network first."""
    with suppress(OSError):
        os.setsid()
    torch.set_num_threads(1)  # a fork does not have the threads that the parent may have started
    trials = planned or all_trials(experiment)
    try:
        check_all(experiment, trials)
    except UserError as error:
        sender.send(("refused", str(error)))
        return
    except Exception as error:
        if not (line := user_line(error)):
            raise
        sender.send(("refused", f"{line}: {type(error).__name__}: {error}"))
        return
    sender.send(("checked", None))
    kinds = _kinds(trials)
    for position, number in enumerate(_varied_first(trials, kinds)):
        if time.monotonic() > end:
            break
        share = (end - time.monotonic()) / (len(kinds) - position)
        seconds = min(max(share / 2, _TRIAL_SECONDS[0]), _TRIAL_SECONDS[1])
        try:
            measure(trials[number], seconds, scratch / str(number), partial(_send_cost, sender, number))
        except Exception as error:  # noqa: BLE001 - any error of a trial, or of the user's modules, is printed
            sender.send(("problem", f"{trials[number].identity['id']}: {type(error).__name__}: {error}"))
    sender.close()


def _send_cost(sender: Connection, number: int, cost: Cost) -> None:
    sender.send(("cost", (number, cost)))


def _kinds(trials: Sequence[PlannedTrial]) -> dict[str, list[int]]:
    """Return the numbers of the trials of each kind."""
    kinds: dict[str, list[int]] = {}
    for number, trial in enumerate(trials):
        kinds.setdefault(_kind(trial), []).append(number)
    return kinds


def _kind(trial: PlannedTrial) -> str:
    """Return what the cost of a trial depends on, as a text."""
    training = trial.config.training
    sizes = (training.epochs, training.iterations, training.batch_size, training.evaluation_batch_size)
    how = (training.precision, training.augmentation, training.optimizer.name, training.full_head)
    return repr(
        (_base(trial), sorted(trial.config.strategies), sizes, how, trial.config.probes, trial.config.resources)
    )


def _base(trial: PlannedTrial) -> str:
    return repr((trial.config.benchmark, trial.config.model))


def _varied_first(trials: Sequence[PlannedTrial], kinds: dict[str, list[int]]) -> list[int]:
    """Return one trial of each kind: the first kind of every stream and network, then the second of each, ..."""
    position: dict[str, int] = {}
    order = []
    for numbers in kinds.values():
        base = _base(trials[numbers[0]])
        position[base] = position.get(base, -1) + 1
        order.append((position[base], numbers[0]))
    return [number for _, number in sorted(order)]


def _combined(trials: Sequence[PlannedTrial], costs: dict[int, Cost]) -> Estimate:
    """Add the trials up; a kind that was not measured costs between the cheapest and the dearest of its stream and network."""
    kinds = _kinds(trials)
    by_base: dict[str, list[Cost]] = {}
    for number, cost in costs.items():
        by_base.setdefault(_base(trials[number]), []).append(cost)
    low = high = disk = longest = 0.0
    for numbers in kinds.values():
        measured = costs.get(numbers[0])
        like = [measured] if measured else by_base.get(_base(trials[numbers[0]]), list(costs.values()))
        low += len(numbers) * (min(cost.low for cost in like) + _PER_TRIAL[0])
        high += len(numbers) * (max(cost.high for cost in like) + _PER_TRIAL[1])
        disk += len(numbers) * max(cost.disk for cost in like)
        longest = max(longest, *(cost.low for cost in like))
    slots = _slots(trials)
    low, high = max(low / slots, longest), high / slots + longest * (1 - 1 / slots)  # the last trial may run alone
    return Estimate(_START[0] + low * _UNCERTAINTY[0], _START[1] + high * _UNCERTAINTY[1], disk, len(costs), len(kinds))


def _slots(trials: Sequence[PlannedTrial]) -> int:
    """Return how many trials run at the same time on this machine."""
    config = trials[0].config
    limits = [len(trials), config.ray.max_concurrent or len(trials), int((os.cpu_count() or 1) / config.resources.cpus)]
    if config.resources.gpus:
        limits.append(int(torch.cuda.device_count() / config.resources.gpus))
    return max(1, min(limits))
