"""Everything that a trial is, in one object: learner, accuracy matrices, place in the ledger; saved and restored as one."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import checkpoint, metrics
from .assembly import Parts
from .environment import gpu_memory_reset, usage
from .files import VIEWS
from .learner import Learner
from .ledger import TrialLedger
from .settings import Experiment


@dataclass(frozen=True, slots=True)
class Result:
    """What a trial gave: its folder, `summary` (metrics per view) and accuracy matrices per view, (T + 1, T)."""

    folder: Path
    summary: dict[str, Any]
    matrices: dict[str, np.ndarray]


class TrialState:
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
        self._epoch_started = time.perf_counter()  # the next epoch's seconds are its own

    def finish(self) -> Result:
        """Write the summary and say that the trial is done."""
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
