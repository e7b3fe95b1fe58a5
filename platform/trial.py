"""One trial: a network, a stream, strategies, one seed; from the first experience to the summary.

Everything a trial leaves is in its folder (see ledger.py). Never imports ray or wandb.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from . import checkpoint, metrics
from .assembly import Parts, assemble
from .config import Experiment, check_plugins, to_dict
from .environment import describe, gpu_memory_reset, usage
from .learner import Learner
from .ledger import Trial, TrialLedger
from .recording import recording, threads_set_to
from .seeding import seed_globals

VIEWS = ("task_agnostic", "task_aware")


@dataclass(frozen=True, slots=True)
class Result:
    """What a trial gave: its folder, `summary` (metrics per view) and accuracy matrices per view, (T + 1, T)."""

    folder: Path
    summary: dict[str, Any]
    matrices: dict[str, np.ndarray]


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
    progress = _Progress(config, parts, ledger)
    learner = progress.learner
    ledger.write("environment", describe(learner.device))
    for number in range(progress.restore(), len(parts.stream.experiences)):
        ledger.status("running", experience=number)
        seed_globals(parts.seeds.data, "experience", number)
        started = time.perf_counter()
        if not learner.trains_on(number):  # joint waits for the last experience: its matrix has that row only
            continue
        learner.train_experience(number)
        trained = time.perf_counter()
        progress.add_row(number + 1)
        progress.record(number + 1, trained - started, time.perf_counter() - trained)
        report({"experience": number + 1, **progress.so_far(number + 1)["task_agnostic"]})
    return progress.finish()


class _Progress:
    """Everything that a trial is: the learner, the rows of its matrices, its place in the ledger; saved and restored as one."""

    def __init__(self, config: Experiment, parts: Parts, ledger: TrialLedger) -> None:
        self.config, self.stream, self.ledger = config, parts.stream, ledger
        self.learner = parts.learner(self.on_epoch, self.on_note)
        num_experiences = len(parts.stream.experiences)
        self.matrices = {view: np.full((num_experiences + 1, num_experiences), np.nan) for view in VIEWS}
        self.seconds = 0.0
        self._epoch_started = time.perf_counter()
        gpu_memory_reset(self.learner.device)

    def restore(self) -> int:
        """Go on from the newest valid checkpoint; the number of experiences that are done (0: from the start)."""
        state = checkpoint.load_newest(self.ledger.folder / "checkpoints") if self.learner.resumable else None
        if state is None:
            self.ledger.truncate(0)
            if not self.learner.resumable:
                self.on_note(
                    "a strategy here cannot save its state: after a stop this trial starts again from its first experience"
                )
            self.add_row(0)
            return 0
        self.ledger.truncate(state["ledger"])
        self.learner.load_state_dict(state["learner"])
        self.matrices = {view: state["matrices"][view].numpy() for view in VIEWS}
        self.seconds = state["seconds"]
        return int(state["experience"])

    def add_row(self, row: int) -> None:
        """Evaluate on every experience and put the accuracies into row `row` of the matrices."""
        accuracy = self.learner.evaluate()
        for view in VIEWS:
            self.matrices[view][row] = getattr(accuracy, view)

    def record(self, experience: int, train_seconds: float, evaluation_seconds: float) -> None:
        """Write an experience's results to the ledger, then a checkpoint that knows how long the ledger was."""
        self.seconds += train_seconds + evaluation_seconds
        rows = {view: self.matrices[view][experience].tolist() for view in VIEWS}
        timing = {
            "train_seconds": train_seconds,
            "evaluation_seconds": evaluation_seconds,
            "samples": self.learner.samples,
        }
        iteration = self.learner.clock.train_iterations
        self.ledger.append("experience", experience, iteration, {**rows, "metrics": self.so_far(experience), **timing})
        self.ledger.append("resources", experience, iteration, usage(self.learner.device))
        self._write_matrix()
        if self.learner.resumable:
            tensors = {view: torch.from_numpy(matrix) for view, matrix in self.matrices.items()}
            state = {
                "experience": experience,
                "ledger": self.ledger.flush(),
                "matrices": tensors,
                "seconds": self.seconds,
            }
            state["learner"] = self.learner.state_dict()
            checkpoint.save(self.ledger.folder / "checkpoints", experience, state, self.config.checkpoint.keep)

    def finish(self) -> Result:
        """Write the summary, undo what the strategies changed in the network, and say that the trial is done."""
        num_experiences = len(self.stream.experiences)
        summary: dict[str, Any] = dict(self.so_far(num_experiences))
        summary |= {"seconds": self.seconds, "samples": self.learner.samples}
        self.ledger.flush()
        self.ledger.write("summary", summary)
        self.ledger.status("done", experience=num_experiences)
        return Result(self.ledger.folder, summary, self.matrices)

    def on_epoch(self, learner: Learner) -> None:
        """A line per epoch: mean loss, learning rate, seconds."""
        now = time.perf_counter()
        event = {
            "epoch": learner.clock.train_exp_epochs,
            "loss": learner.epoch_loss,
            "lr": learner.optimizer.param_groups[0]["lr"],
        }
        event["seconds"], self._epoch_started = now - self._epoch_started, now
        event |= learner.measured
        self._append("epoch", event)

    def on_note(self, text: str) -> None:
        """A sentence from a strategy."""
        self._append("note", {"text": text})

    def _append(self, kind: str, event: Mapping[str, Any]) -> None:
        clock = self.learner.clock
        self.ledger.append(kind, clock.train_exp_counter + 1, clock.train_iterations, event)

    def so_far(self, experience: int) -> dict[str, dict[str, float | None]]:
        """The metrics over the first `experience` experiences, per view; None where the matrix does not give one."""
        sizes = self.learner.test_set.sizes[:experience]
        found = {view: metrics.summary(self.matrices[view][: experience + 1, :experience], sizes) for view in VIEWS}
        return {view: {n: None if math.isnan(v) else v for n, v in values.items()} for view, values in found.items()}

    def _write_matrix(self) -> None:
        names = [experience.name for experience in self.stream.experiences]
        shape = {"num_experiences": len(names), "experiences": names, "sizes": self.learner.test_set.sizes}
        about = {"scenario": self.stream.scenario, "class_names": list(self.stream.class_names)}
        self.ledger.write("matrix", shape | about | {view: self.matrices[view].tolist() for view in VIEWS})
