"""The state of a running trial (learner, accuracy matrices, position in the ledger), saved and restored as one."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import metrics
from ..config.schema import Experiment, seconds
from ..errors import UserError, comma_separated
from ..ledger.documents import VIEWS
from ..ledger.writer import TrialLedger
from ..seeding import seed_globals
from ..training import learner_state
from ..training.learner import Learner
from ..training.optimization import base_lr
from . import checkpoint
from .builder import TrialBuilder
from .checkpoint_timer import CheckpointTimer
from .divergence import divergence_advice
from .environment import gpu_memory_reset, resource_usage
from .probe_runner import ProbeRunner
from .stop_request import StopRequest
from .stopwatch import Stopwatch
from .watchdog import Watchdog


@dataclass(frozen=True, slots=True)
class TrialServices:
    """The services around a trial: stop requests, the watchdog of its iterations, the writer of its checkpoints."""

    stop_request: StopRequest
    watchdog: Watchdog
    writer: checkpoint.CheckpointWriter


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The result of a trial: its folder, `summary` (metrics per view) and accuracy matrices per view, (T + 1, T)."""

    folder: Path
    summary: dict[str, Any]
    matrices: dict[str, np.ndarray]


class TrialState:
    """The state of a running trial: the learner, its accuracy matrices, its position in the ledger; saved and restored as one.

    Its callbacks (`on_epoch`, `on_note`, `on_iteration`) are called by the learner.

    Attributes:
        matrices: accuracies per view, (T + 1, T); NaN where not measured.
        stopwatch: seconds of training and evaluation.
    """

    def __init__(self, config: Experiment, builder: TrialBuilder, ledger: TrialLedger, services: TrialServices) -> None:
        self.config, self.builder, self.ledger, self.services = config, builder, ledger, services
        self.stream = builder.stream
        self.learner = builder.learner(self.on_epoch, self.on_note, self.on_iteration)
        self.probes = ProbeRunner(builder.probes(ledger.folder / "probes"))
        num_experiences = len(builder.stream.experiences)
        self.matrices = {view: np.full((num_experiences + 1, num_experiences), np.nan) for view in VIEWS}
        self.stopwatch = Stopwatch()
        every = config.checkpoint.every
        self._timer = CheckpointTimer(None if every is None else seconds("checkpoint.every", every))
        self._resumable = not self.learner.not_resumable
        self._newest_checkpoint = ""  # its name
        gpu_memory_reset(self.learner.device)

    def restore(self) -> int:
        """Restore the newest valid checkpoint; without one, start the trial and evaluate the untrained network.

        Returns:
            The number of completed experiences.
        """
        for path, state in self._checkpoints():
            try:
                self.ledger.truncate(state["ledger"]["bytes"], state["ledger"]["sha256"])
            except UserError as error:
                checkpoint.log_skipped(path, str(error))
                continue
            learner_state.restore(self.learner, state["learner"])
            self.probes.load_state_dict(state["probes"])
            self.matrices = {view: state["matrices"][view].numpy() for view in VIEWS}
            self.stopwatch.load_state_dict(state)
            self._newest_checkpoint = path.name
            self._write_matrix()  # the file may be damaged, and after the last experience nothing else would write it
            return int(state["experience"])
        self.ledger.truncate(0)
        if not self._resumable:
            names = comma_separated(self.learner.not_resumable)
            self.on_note(f"{names}: no state_dict; after a stop this trial starts again from its first experience")
        self.add_row(0)
        return 0

    def _checkpoints(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        if not self._resumable:
            return iter(())
        return checkpoint.valid_checkpoints(self.ledger.folder / "checkpoints", self.services.writer.config)

    def train(self, number: int) -> None:
        """Train on experience `number` (0-based), or on the rest of it after resuming mid-experience."""
        if not self.learner.in_experience:
            seed_globals(self.builder.seeds.data, "experience", number)
            self.probes.before_experience(self.learner, number)
        self.stopwatch.start_training()
        try:
            self.learner.train_experience(number)
        except FloatingPointError as error:  # the loss is not finite
            error.args = (f"{error} {divergence_advice(self.builder.resolved, self.stream)}",)
            raise
        self.stopwatch.split_training()
        self.services.watchdog.reset()

    def on_iteration(self, learner: Learner) -> None:
        """Between two iterations: save or stop if due, then call the probes.

        A checkpoint saved here does not contain the probes' results at this iteration: a resumed trial calls them again.
        """
        if self._timer.is_check_due or self.services.stop_request.signal is not None:
            self._save_or_stop(learner)
        if (
            learner.clock.train_iterations == 1
        ):  # after saving: a checkpoint here must not hold the event, which comes again
            self._append("first_step", {"unix_seconds": time.time()})
        spent = self.probes.seconds_spent
        for event in self.probes.between_iterations(learner):
            self._append("probe", event)
        self.stopwatch.exclude(self.probes.seconds_spent - spent)

    def _save_or_stop(self, learner: Learner) -> None:
        """Reset the watchdog, save a checkpoint if one is due, stop if requested."""
        self.services.watchdog.reset()
        stop = self.services.stop_request.requested()
        due = self._timer.is_checkpoint_due and not self.services.writer.busy
        if (stop or due) and learner.can_checkpoint:
            self._save(learner.experience.current_experience, learner.clock.train_exp_iterations)
        if stop:
            self.services.stop_request.raise_stop()
        self._timer.checked()

    def _save(self, experience: int, iteration: int | None = None) -> None:
        """Save a checkpoint after `experience` experiences or, with `iteration`, mid-experience in the next one."""
        name = checkpoint.checkpoint_name(experience, iteration)
        if name == self._newest_checkpoint:  # resumed from it, and nothing has been trained since
            return
        self.learner.check_loss_finite()
        if iteration is not None:
            self.stopwatch.split_training()
        state = {
            "experience": experience,
            "ledger": {"bytes": self.ledger.flush(), "sha256": self.ledger.digest()},
            "matrices": {view: torch.from_numpy(matrix) for view, matrix in self.matrices.items()},
            **self.stopwatch.state_dict(),
            "learner": learner_state.capture(self.learner),
            "probes": self.probes.state_dict(),
        }
        self.services.writer.save(name, state)
        self._newest_checkpoint = name
        self._timer.saved()

    def add_row(self, row: int) -> None:
        """Evaluate on all experiences and write the accuracies to row `row` of the matrices."""
        self.stopwatch.start_evaluation()
        accuracy = self.learner.evaluate()
        for view in VIEWS:
            self.matrices[view][row] = getattr(accuracy, view)

    def record(self, experience: int) -> None:
        """Write the results of experience `experience` (from 1) to the ledger, then a checkpoint with the ledger's length."""
        timing = self.stopwatch.complete_experience() | {"samples": self.learner.samples}
        rows = {view: self.matrices[view][experience].tolist() for view in VIEWS}
        iteration = self.learner.clock.train_iterations
        self.ledger.append("experience", experience, iteration, {**rows, "metrics": self.so_far(experience), **timing})
        self.ledger.append("resources", experience, iteration, resource_usage(self.learner.device))
        for event in self.probes.after_experience(self.learner, experience - 1):
            self.ledger.append("probe", experience, iteration, event)
            self.services.watchdog.reset()
        self._write_matrix()
        if self._resumable:
            self._save(experience)

    def finish(self) -> TrialResult:
        """Write the summary and the status "done"; return the result."""
        num_experiences = len(self.stream.experiences)
        summary: dict[str, Any] = dict(self.so_far(num_experiences))
        summary |= {"seconds": self.stopwatch.completed, "samples": self.learner.samples}
        self.services.writer.wait()
        summary |= {"ledger_bytes": self.ledger.flush(), "ledger_sha256": self.ledger.digest()}
        self.ledger.write("summary", summary)
        self.ledger.status("done", experience=num_experiences)
        return TrialResult(self.ledger.folder, summary, self.matrices)

    def on_epoch(self, learner: Learner) -> None:
        """Write an event for the epoch: mean loss, learning rate, seconds, and what probes and plugins measured."""
        event = {
            "epoch": learner.clock.train_exp_epochs,
            "loss": learner.epoch_loss,
            "lr": base_lr(learner.optimizer),
            "seconds": self.stopwatch.split_epoch(),
        }
        spent = self.probes.seconds_spent
        probe_values = self.probes.after_epoch(learner)
        self.stopwatch.exclude(self.probes.seconds_spent - spent)
        self._append("epoch", probe_values | event | learner.measured)

    def on_note(self, text: str) -> None:
        """Write a strategy's note as an event."""
        self._append("note", {"text": text})

    def _append(self, kind: str, event: Mapping[str, Any]) -> None:
        clock = self.learner.clock
        self.ledger.append(kind, clock.train_exp_counter + 1, clock.train_iterations, event)

    def so_far(self, experience: int) -> dict[str, dict[str, float | None]]:
        """Return the metrics over the first `experience` experiences, by view and name; None where undefined."""
        sizes = self.learner.test_set.sizes[:experience]
        by_view = {view: metrics.summary(self.matrices[view][: experience + 1, :experience], sizes) for view in VIEWS}
        return {view: {n: None if math.isnan(v) else v for n, v in values.items()} for view, values in by_view.items()}

    def _write_matrix(self) -> None:
        names = [experience.name for experience in self.stream.experiences]
        shape = {"num_experiences": len(names), "experiences": names, "sizes": self.learner.test_set.sizes}
        about = {"scenario": self.stream.scenario, "class_names": list(self.stream.class_names)}
        self.ledger.write("matrix", shape | about | {view: self.matrices[view].tolist() for view in VIEWS})
