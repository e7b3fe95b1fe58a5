"""The state of a running trial (learner, accuracy matrices, position in the ledger), saved and restored as one."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
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
    """The result of a trial.

    Attributes:
        folder: its folder.
        summary: metrics per view; under "validation", those of the validation matrices per view.
        matrices: accuracy matrix per view, (T + 1, T).
        validation: the same on the validation splits; {} if the stream has none.
    """

    folder: Path
    summary: dict[str, Any]
    matrices: dict[str, np.ndarray]
    validation: dict[str, np.ndarray] = field(default_factory=dict)


class TrialState:
    """The state of a running trial: the learner, its accuracy matrices, its position in the ledger; saved and restored as one.

    Its callbacks (`on_epoch`, `on_note`, `on_iteration`) are called by the learner.

    Attributes:
        matrices: accuracies per view, (T + 1, T); NaN where not measured.
        validation: the same on the validation splits; {} if the stream has none.
        stopwatch: seconds of training and evaluation.
    """

    def __init__(self, config: Experiment, builder: TrialBuilder, ledger: TrialLedger, services: TrialServices) -> None:
        self.config, self.builder, self.ledger, self.services = config, builder, ledger, services
        self.stream = builder.stream
        self.learner = builder.learner(self.on_epoch, self.on_note, self.on_iteration)
        self.probes = ProbeRunner(builder.probes(ledger.folder / "probes"))
        self.matrices = self._missing_matrices()
        self.validation = self._missing_matrices() if self.learner.validation_set is not None else {}
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
            self._restore_validation(state)
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

    def _missing_matrices(self) -> dict[str, np.ndarray]:
        num_experiences = len(self.stream.experiences)
        return {view: np.full((num_experiences + 1, num_experiences), np.nan) for view in VIEWS}

    def _restore_validation(self, state: Mapping[str, Any]) -> None:
        """Restore the validation matrices; rows that an older version did not evaluate stay NaN, which a note says."""
        num_completed = int(state["experience"])
        if not self.validation:
            return
        if "validation" in state:
            self.validation = {view: state["validation"][view].numpy() for view in VIEWS}
        elif num_completed == len(self.stream.experiences):
            self.validation = {}
        else:
            self.on_note(
                "This trial was started by a version of retain that did not evaluate the validation splits: rows 0 to "
                f"{num_completed} of its validation matrix are missing, and so are the metrics that need them."
            )

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
            **self._validation_state(),
            **self.stopwatch.state_dict(),
            "learner": learner_state.capture(self.learner),
            "probes": self.probes.state_dict(),
        }
        self.services.writer.save(name, state)
        self._newest_checkpoint = name
        self._timer.saved()

    def _validation_state(self) -> dict[str, Any]:
        """What a checkpoint stores of the validation matrices; nothing if the stream has no validation samples."""
        tensors = {view: torch.from_numpy(matrix) for view, matrix in self.validation.items()}
        return {"validation": tensors} if tensors else {}

    def add_row(self, row: int) -> None:
        """Evaluate on all experiences and write the accuracies to row `row` of the matrices."""
        self.stopwatch.start_evaluation()
        # validation first, so that evaluation hooks have seen the test data last, as without validation
        validation = self.learner.evaluate_validation() if self.validation else None
        self.services.watchdog.reset()
        same = validation is not None and self.learner.tests_on_validation
        test = validation if same else self.learner.evaluate()
        for view in VIEWS:
            self.matrices[view][row] = getattr(test, view)
            if validation is not None:
                self.validation[view][row] = getattr(validation, view)

    def record(self, experience: int) -> dict[str, float | None]:
        """Write the results of experience `experience` (from 1) to the ledger, then a checkpoint with the ledger's length.

        Returns:
            The metrics so far, for a scheduler: task-agnostic ones as NAME and validation.NAME (of the validation matrix),
            task-aware ones as task_aware.NAME and validation.task_aware.NAME.
        """
        timing = self.stopwatch.complete_experience() | {"samples": self.learner.samples}
        results = self._results(experience)
        iteration = self.learner.clock.train_iterations
        self.ledger.append("experience", experience, iteration, results | timing)
        self.ledger.append("resources", experience, iteration, resource_usage(self.learner.device))
        for event in self.probes.after_experience(self.learner, experience - 1):
            self.ledger.append("probe", experience, iteration, event)
            self.services.watchdog.reset()
        self._write_matrix()
        if self._resumable:
            self._save(experience)
        return _reported(results)

    def reported(self, experience: int) -> dict[str, float | None]:
        """Return what `record` has returned for a finished experience (from 1), in this process or in an earlier one."""
        return _reported(self._results(experience))

    def _results(self, experience: int) -> dict[str, Any]:
        results = _fields(self.matrices, experience, self.so_far(experience))
        if self.validation:
            results["validation"] = _fields(self.validation, experience, self.validation_so_far(experience))
        return results

    def finish(self) -> TrialResult:
        """Write the summary and the status "done"; return the result."""
        num_experiences = len(self.stream.experiences)
        summary: dict[str, Any] = dict(self.so_far(num_experiences))
        if self.validation:
            summary["validation"] = self.validation_so_far(num_experiences)
        summary |= {"seconds": self.stopwatch.completed, "samples": self.learner.samples}
        self.services.writer.wait()
        summary |= {"ledger_bytes": self.ledger.flush(), "ledger_sha256": self.ledger.digest()}
        self.ledger.write("summary", summary)
        self.ledger.status("done", experience=num_experiences)
        return TrialResult(self.ledger.folder, summary, self.matrices, self.validation)

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
        return _metrics_so_far(metrics.summary, self.matrices, self.learner.test_set.sizes, experience)

    def validation_so_far(self, experience: int) -> dict[str, dict[str, float | None]]:
        """Return the metrics of the validation matrices as `so_far` does; the stream must have validation samples."""
        samples = self.learner.validation_set
        assert samples is not None
        return _metrics_so_far(metrics.validation_summary, self.validation, samples.sizes, experience)

    def _write_matrix(self) -> None:
        names = [experience.name for experience in self.stream.experiences]
        shape = {"num_experiences": len(names), "experiences": names, "sizes": self.learner.test_set.sizes}
        about = {"scenario": self.stream.scenario, "class_names": list(self.stream.class_names)}
        document: dict[str, Any] = shape | about | {view: self.matrices[view].tolist() for view in VIEWS}
        if self.validation and (samples := self.learner.validation_set) is not None:
            document["validation"] = {"sizes": samples.sizes} | {v: self.validation[v].tolist() for v in VIEWS}
        self.ledger.write("matrix", document)


def _fields(matrices: Mapping[str, np.ndarray], row: int, so_far: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an experience's event: a row of each view's matrix, and the metrics so far."""
    return {**{view: matrices[view][row].tolist() for view in VIEWS}, "metrics": so_far}


def _reported(results: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the metrics of an experience's results, those of validation with their prefix."""
    reported = _flat(results["metrics"], "")
    if "validation" in results:
        reported |= _flat(results["validation"]["metrics"], metrics.VALIDATION)
    return reported


def _flat(by_view: Mapping[str, Mapping[str, float | None]], prefix: str) -> dict[str, float | None]:
    """Return the metrics of all views by name; the names of task-aware ones begin with "task_aware."."""
    views = {"": by_view["task_agnostic"], "task_aware.": by_view["task_aware"]}
    return {f"{prefix}{view}{name}": value for view, values in views.items() for name, value in values.items()}


def _metrics_so_far(
    summary: Callable[[np.ndarray, list[int]], dict[str, float]],
    matrices: Mapping[str, np.ndarray],
    sizes: list[int],
    experience: int,
) -> dict[str, dict[str, float | None]]:
    """Return the metrics over the first `experience` rows and columns, by view and name; None where undefined."""
    by_view = {view: summary(matrices[view][: experience + 1, :experience], sizes[:experience]) for view in VIEWS}
    return {view: {n: None if math.isnan(v) else v for n, v in values.items()} for view, values in by_view.items()}
