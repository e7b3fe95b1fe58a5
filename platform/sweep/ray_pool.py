"""Run a list of trials on workers: Ray actors, each of which runs one trial after another.

A worker takes the next trial as soon as it is free, so short trials cost no scheduling, and long ones do not wait for each other.
Ray Tune needs about a tenth of a second to start a trial; it runs the sweeps that search (`search_on_ray`).
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..config.dotted_paths import module_path
from ..config.schema import Experiment
from ..ledger.reader import Trial
from .ray_tune import SweepStopper, give_up_reason
from .ray_worker import Worker

_WAIT = 0.1  # seconds until the next look at the stopper, and at folders that are being written
_COUNT = 5.0  # seconds between two counts of the cluster's nodes
_Reference = Any  # Ray's ObjectRef: the result of a call to an actor


@dataclass(frozen=True, slots=True)
class Ended:
    """What has ended in a worker.

    Attributes:
        trial: the trial; None: the start of the worker.
        report: what `Worker.run` returned.
        error: why the worker has died, or could not run the trial; None: it is free again.
    """

    trial: Trial | None
    report: dict[str, Any] | None = None
    error: BaseException | None = None


class Workers:
    """The workers of a sweep: as many as the cluster has room for.

    In a cluster that was joined, as many again wait for room: that others leave, or of nodes that join later.
    """

    def __init__(self, config: Experiment, *, can_grow: bool) -> None:
        """Make an empty pool; Ray must be connected.

        Args:
            config: has the resources of a trial, and `ray.max_concurrent`.
            can_grow: whether the cluster may get room that it has not now.
        """
        import ray

        self._ray: Any = ray
        resources = config.resources
        self._needs = {name: n for name, n in (("CPU", resources.cpus), ("GPU", resources.gpus)) if n > 0}
        self._actor: Any = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus)(Worker)
        self._max, self._can_grow = config.ray.max_concurrent, can_grow
        self._room, self._counted = 0, -_COUNT
        self._starting: dict[_Reference, Any] = {}  # the result of `ready` -> worker
        self._idle: list[Any] = []
        self._running: dict[_Reference, tuple[Any, Trial]] = {}  # the result of `run` -> worker and trial
        self.has_started = False  # whether any worker ever was ready

    @property
    def num_running(self) -> int:
        """Return how many trials run."""
        return len(self._running)

    def start(self, num_trials: int) -> None:
        """Start workers until there is one for each of `num_trials` trials, or no more room."""
        existing = len(self._starting) + len(self._idle) + len(self._running)
        for _ in range(min(num_trials, self._limit()) - existing):
            worker = self._actor.remote()
            self._starting[worker.ready.remote()] = worker

    def _limit(self) -> int:
        """Return how many workers there may be."""
        if time.monotonic() - self._counted > _COUNT:
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            # 1e-9: 0.3 / 0.1 is less than 3
            fits = (min(node.get(name, 0.0) / need + 1e-9 for name, need in self._needs.items()) for node in nodes)
            self._room, self._counted = sum(map(int, fits)), time.monotonic()
        limit = 2 * self._room if self._can_grow else self._room
        return limit if self._max is None else min(limit, self._max)

    def run(self, trial: Trial, settings: dict[str, Any]) -> bool:
        """Run a trial on a worker that is free, with the settings of `run_trial`; return False if there is none."""
        if not self._idle:
            return False
        worker = self._idle.pop()
        self._running[worker.run.remote(settings)] = worker, trial
        return True

    def wait(self) -> list[Ended]:
        """Wait a moment until something ends, and return it."""
        references = [*self._running, *self._starting]
        if not references:
            time.sleep(_WAIT)
            return []
        ready, _ = self._ray.wait(references, num_returns=1, timeout=_WAIT)
        return [self._end(reference) for reference in ready]

    def _end(self, reference: _Reference) -> Ended:
        """Take the result of a call; its worker is free, or has died."""
        worker, trial = self._running.pop(reference, None) or (self._starting.pop(reference), None)
        try:
            report = self._ray.get(reference)
        except Exception as error:  # noqa: BLE001 - Ray's, or what a worker raised: it did not run the trial to its end
            self._ray.kill(worker)
            return Ended(trial, error=error)
        self._idle.append(worker)
        self.has_started = True
        return Ended(trial, report)

    def kill(self) -> None:
        """End all workers."""
        for worker in (*self._starting.values(), *self._idle, *(worker for worker, _ in self._running.values())):
            self._ray.kill(worker)
        self._starting, self._idle, self._running = {}, [], {}


def run_pool(
    workers: Workers,
    config: Experiment,
    trials: Sequence[Trial],
    stopper: SweepStopper,
    is_written: Callable[[Trial], bool] = lambda trial: True,
) -> dict[str, str]:
    """Run trials in their order, each on the next worker that is free.

    A trial whose process has died is run again by another worker, at most `ray.max_failures` times. An exception in a trial is
    its result: the trial has failed.

    Args:
        workers: run the trials; they are ended.
        config: the experiment.
        trials: what to run.
        stopper: ends the sweep early.
        is_written: whether a trial's folder exists, so that the trial can be run.

    Returns:
        Trial folder name -> why the trial was given up.
    """
    queue = TrialQueue(trials, config.ray.max_failures + 1)
    path = module_path(sys.path)
    try:
        while (queue.num_waiting or workers.num_running) and not stopper.should_stop():
            if not stopper.is_stopping:
                workers.start(queue.num_waiting + workers.num_running)
                while (trial := queue.first(is_written)) is not None and workers.run(
                    trial, {"folder": str(trial.folder), "sweep": str(stopper.folder), "path": path}
                ):
                    queue.took_first()
            for ended in workers.wait():
                if ended.report is not None:
                    stopper.on_result(ended.report)
                if ended.error is not None:
                    queue.failed(ended.trial, ended.error, workers.has_started)
    finally:
        workers.kill()
    return queue.given_up


class TrialQueue:
    """The trials that wait for a worker.

    Attributes:
        given_up: trial folder name -> why it was given up.
    """

    def __init__(self, trials: Sequence[Trial], times: int) -> None:
        """Hold trials, each of which is run at most `times` times."""
        self.given_up: dict[str, str] = {}
        self._waiting, self._times = deque(trials), times
        self._failures: Counter[str] = Counter()

    @property
    def num_waiting(self) -> int:
        """Return how many trials wait."""
        return len(self._waiting)

    def first(self, is_written: Callable[[Trial], bool]) -> Trial | None:
        """Return the first trial, if its folder is written."""
        return self._waiting[0] if self._waiting and is_written(self._waiting[0]) else None

    def took_first(self) -> None:
        """Remove the first trial."""
        self._waiting.popleft()

    def failed(self, trial: Trial | None, error: BaseException, has_started: bool) -> None:
        """Put a trial whose process has died first again, or give it up.

        A worker that could not start counts for the trial that it would have run. If none ever started, none will: all trials
        are given up together.

        Args:
            trial: the trial; None: the worker had not started.
            error: Ray's.
            has_started: whether any worker ever has.
        """
        if trial is None and not self._waiting:
            return
        if trial is None:
            trial = self._waiting.popleft()
        elif trial.status().status in ("done", "failed"):  # the process died after the trial
            return
        self._failures[trial.id] += 1
        if self._failures[trial.id] < self._times:
            self._waiting.appendleft(trial)
            return
        lost = [trial] if has_started else [trial, *self._waiting]
        self.given_up |= dict.fromkeys((each.folder.name for each in lost), give_up_reason(error, self._times))
        if not has_started:
            self._waiting.clear()
