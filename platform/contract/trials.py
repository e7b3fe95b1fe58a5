"""Short trials for the checks: run, remembered, and stopped and resumed."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from .. import seeding
from ..config.load import from_dict, to_dict
from ..config.schema import Experiment
from ..ledger.reader import Trial
from ..training.learner import Learner
from ..training.plugin import is_resumable
from ..trial.builder import build_trial
from ..trial.checks import training_problems
from ..trial.resolve import resolve_experiment
from ..trial.run import run
from ..trial.stop_request import Stopped
from .errors import require
from .outcome import Outcome, outcome

Settings = Mapping[str, Any]
StreamName = Literal["split", "pair", "rotated", "task"]
STOPPER = f"{__package__}.stopper"  # dotted paths of two strategies
WATCHER = f"{__package__}.watcher"
CNN: Settings = {"small_cnn": {"channels": [4], "hidden": 16, "norm": "batch"}}
NETWORKS: Sequence[Settings] = (
    {"mlp": {"hidden": [16]}},
    CNN,
    {"vit": {"dim": 16, "depth": 2, "heads": 2, "patch": 4, "mlp_ratio": 2}},
)
_MORE_EPOCHS = (2, 4, 8, 16, 32, 64)
_MANY_EXPERIENCES = 1000  # so that no limit by their number matters here
_STREAMS: dict[StreamName, tuple[Settings, Settings]] = {  # the benchmark and the settings of the training
    "split": ({"split_digits": {}}, {"epochs": 2, "batch_size": 32}),
    "pair": ({"split_digits": {"num_experiences": 2}}, {"epochs": 1, "batch_size": 64}),
    "rotated": ({"rotated_digits": {"angles": [0, 45, 90]}}, {"epochs": 1, "batch_size": 64}),
    "task": ({"task_incremental": {"data": "digits", "num_experiences": 2}}, {"epochs": 1, "batch_size": 64}),
}


def short_experiment(
    stream: StreamName | Settings,
    network: Settings,
    strategies: Settings | None = None,
    probes: Settings | None = None,
    **training: Any,
) -> Experiment:
    """Return an experiment that takes about a second, on scikit-learn's digits or on the given benchmark."""
    benchmark, defaults = _STREAMS[stream] if isinstance(stream, str) else (stream, {"epochs": 1, "batch_size": 16})
    return from_dict(
        {
            "name": "check",
            "benchmark": benchmark,
            "model": network,
            "strategies": strategies or {},
            "probes": {"curves": {"every": None}, **(probes or {})},
            "training": {**defaults, **training},
        }
    )


def with_enough_epochs(experiment: Experiment) -> Experiment:
    """Return the experiment with the epochs that its strategies need in order to act: a patience must be able to run out."""
    strategies, first = resolve_experiment(experiment).strategies, experiment.training.epochs
    for epochs in (first, *_MORE_EPOCHS) if isinstance(first, int) and experiment.training.iterations is None else ():
        if not any(training_problems(each, [epochs] * _MANY_EXPERIENCES) for each in strategies):
            return replace(experiment, training=replace(experiment.training, epochs=epochs))
    return experiment


class Trials:
    """Runs trials in new folders, each trial once; the outcome is remembered.

    The global generators are seeded before each run, so that a strategy that draws from them fails `check_seed` only.

    Attributes:
        folder: where the trials' folders are made.
        flag: the path that the strategy `STOPPER` looks at.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.flag = folder, folder / "flag"
        self._outcomes: dict[tuple[str, int], Outcome] = {}
        self._num_folders = 0

    def new_folder(self) -> Path:
        """Return a folder that does not exist yet."""
        self._num_folders += 1
        return self.folder / f"trial-{self._num_folders}"

    def __call__(self, experiment: Experiment, global_seed: int = 0) -> Outcome:
        """Run the trial, or return the remembered outcome; `global_seed`: of the global generators before the run."""
        key = json.dumps(to_dict(experiment)), global_seed
        if key not in self._outcomes:
            folder = self.new_folder()
            _run(experiment, folder, global_seed)
            self._outcomes[key] = outcome(folder, has_checkpoint=_is_resumable(experiment))
        return self._outcomes[key]

    def with_stopper(self, experiment: Experiment) -> Experiment:
        """Return the experiment with the strategy that stops it where `flag` says."""
        return replace(experiment, strategies={**experiment.strategies, STOPPER: {"flag": str(self.flag)}})

    def stopped(self, experiment: Experiment, stops: Sequence[int], how: Literal["TERM", "raise"]) -> Outcome:
        """Run a trial that has the stopper, stop it before each of these iterations, and resume it each time.

        Args:
            experiment: the trial.
            stops: iterations, from 0, in order.
            how: "TERM", which keeps the experience's progress, or "raise", which loses it.

        Raises:
            ContractError: the trial did not stop, or no checkpoint holds the progress.
        """
        folder = self.new_folder()
        for iteration in stops:
            self.flag.write_text(f"{how} {iteration}", encoding="utf-8")
            try:
                _run(experiment, folder)
            except (KeyboardInterrupt, Stopped):
                if self.flag.exists():  # somebody else stopped it, such as the user with Ctrl-C
                    raise
            finally:
                self.flag.unlink(missing_ok=True)  # it must stop no other trial
            require(Trial(folder).status().status == "stopped", f"the trial did not stop at iteration {iteration}")
            newest = max((path.name for path in (folder / "checkpoints").glob("0*")), default="")
            kept = how != "TERM" or "+" in newest
            require(kept, "no checkpoint was possible mid-experience: give every strategy STATE or a state_dict")
        _run(experiment, folder)
        return outcome(folder)


def _is_resumable(experiment: Experiment) -> bool:
    """Return whether the state of all strategies can be saved; otherwise a trial writes no checkpoint."""
    return all(is_resumable(part.build_strategy(0)) for part in resolve_experiment(experiment).strategies)


def _run(experiment: Experiment, folder: Path, global_seed: int = 0) -> None:
    """Run or resume a trial."""
    seeding.seed_globals(global_seed, "before a trial")
    run(experiment, folder)


def stops_of(events: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return iterations to stop before: mid-experience in each, and the first of each but the first (a boundary)."""
    ends = [0, *(event["iteration"] for event in events if event["kind"] == "experience")]
    middles = [(start + end) // 2 for start, end in zip(ends[:-1], ends[1:], strict=True)]
    return sorted({*middles, *ends[1:-1]})


def stops_mid_experience(events: Sequence[Mapping[str, Any]], often: bool) -> list[int]:
    """Return iterations to stop before, mid-epoch and around the ends of epochs.

    `often`: in the middle of every experience, and around the last iteration of its first epoch; otherwise in the first epoch, in
    the middle of every other later experience and, in the last of those, two iterations later (with all state from before).
    """
    ends = [event["iteration"] for event in events if event["kind"] == "epoch"]
    stops = stops_of(events)
    if often:
        stops += [*ends[:3], *(end - way for end in ends[:2] for way in (1, 2))]
    else:
        stops = stops[2::4] or stops
        stops += [ends[0] - 1, stops[-1] + 2]
    return sorted({stop for stop in stops if 0 < stop < ends[-1] - 1})  # the last iteration is too late


def trained(experiment: Experiment, on_epoch: Callable[[Learner], None] = lambda learner: None) -> Learner:
    """Return a learner at the end of its stream, trained as in a trial."""
    seeding.seed_globals(0, "before a trial")
    builder = build_trial(resolve_experiment(experiment))
    learner = builder.learner(on_epoch, lambda text: None)
    for number in range(len(builder.stream.experiences)):
        seeding.seed_globals(builder.seeds.data, "experience", number)
        if learner.should_train(number):
            learner.train_experience(number)
    return learner
