"""The learner: trains a network on the experiences of a stream, evaluates it on all of them, and can be stopped and resumed.

The whole stream is evaluated in one pass unless a plugin has evaluation hooks.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch

from ..data.resident_loader import ResidentLoader
from ..data.samples import resident_samples
from ..models.inference import evaluation_mode, logits_of
from .evaluation import AccuracyRow, EvaluationSet, TestSet, ValidationSet, collect_logits
from .loop import Loop, Phase
from .plugin import EVAL_EVENTS, Plugin, is_resumable, overrides_hook, strategy_name


class Learner(Loop):
    """Trains a network on the experiences of a stream and evaluates it on all of them."""

    def should_train(self, number: int) -> bool:
        """Return whether every plugin wants training on experience `number` (0-based)."""
        num_experiences = len(self.stream.experiences)
        return all(p.should_train(number, num_experiences) for p in self.plugins if isinstance(p, Plugin))

    def note(self, text: str) -> None:
        """Write a sentence to the ledger."""
        self.on_note(text)

    # Evaluation.

    @cached_property
    def test_set(self) -> TestSet:
        """The test samples of the whole stream."""
        return TestSet(self.stream, self.device)

    @property
    def tests_on_validation(self) -> bool:
        """Return whether the test samples are the validation samples, as in a search that must not see test samples."""
        return all(experience.test is experience.validation for experience in self.stream.experiences)

    @cached_property
    def validation_set(self) -> EvaluationSet | None:
        """The validation samples of the whole stream; None if it has none."""
        if not any(len(experience.validation) for experience in self.stream.experiences):
            return None
        return self.test_set if self.tests_on_validation else ValidationSet(self.stream, self.device)

    def evaluate(self) -> AccuracyRow:
        """Return accuracy on the test set of every experience; changes no state of the trial."""
        return self.test_set.row(self.logits())

    def evaluate_validation(self) -> AccuracyRow | None:
        """Return accuracy on the validation split of every experience, NaN where it is empty; None if the stream has none.

        Changes no state of the trial.
        """
        samples = self.validation_set
        if samples is None:
            return None
        experiences = [experience for experience in self.benchmark.valid_stream if len(experience.dataset)]
        return samples.row(self._logits(samples, experiences))

    def logits(self) -> torch.Tensor:
        """Return logits (N, K) of all test samples, in the order of `test_set`; changes no state of the trial."""
        return self._logits(self.test_set, self.benchmark.test_stream)

    def _logits(self, samples: EvaluationSet, experiences: Sequence[Any]) -> torch.Tensor:
        """Return logits (N, K) of `samples`; `experiences` of the benchmark have the same samples in the same order."""
        if any(overrides_hook(plugin, event) for plugin in self.strategies for event in EVAL_EVENTS):
            with collect_logits(self.plugins, self.clock) as logits:
                self._collect_hooks()
                self.eval(experiences)
            self._collect_hooks()
            return torch.cat(logits)
        return logits_of(self.model, samples.batches(self.training.evaluation_batch_size), self.predict)

    @torch.no_grad()
    def eval(self, experiences: Any) -> None:
        """Evaluate one or several experiences with the plugins' evaluation hooks; training can continue afterwards."""
        before = self.phase, self.experience, self.adapted_dataset, self.dataloader
        self.current_eval_stream = experiences if isinstance(experiences, Iterable) else [experiences]
        with evaluation_mode(self.model):
            self._enter(Phase.EVALUATING)
            self._call_hooks("before_eval")
            for experience in self.current_eval_stream:
                self.experience = experience
                self._call_hooks("before_eval_dataset_adaptation")
                self.adapted_dataset = experience.dataset.eval()
                self._call_hooks("after_eval_dataset_adaptation")
                self.make_eval_dataloader()
                self._call_hooks("before_eval_exp")
                self.eval_epoch()
                self._call_hooks("after_eval_exp")
            self._call_hooks("after_eval")
        self._forget_experience()
        phase, self.experience, self.adapted_dataset, self.dataloader = before
        self._enter(phase)

    def make_eval_dataloader(self) -> None:
        """Load an experience's samples in order."""
        samples = resident_samples(self.adapted_dataset)
        if samples is None:
            self.make_foreign_dataloader()
            return
        self.dataloader = ResidentLoader(samples, self.eval_mb_size, self.device, None)

    def eval_epoch(self) -> None:
        """Evaluate an experience's mini-batches."""
        for mbatch in self.dataloader:
            self.mbatch = mbatch
            self._unpack_minibatch()
            self._call_hooks("before_eval_iteration")
            self._call_hooks("before_eval_forward")
            self.mb_output = self.forward()
            self._call_hooks("after_eval_forward")
            self.loss = self.criterion()
            self._call_hooks("after_eval_iteration")

    # Stopping and resuming; learner_state.py captures and restores the state.

    @property
    def in_experience(self) -> bool:
        """Return whether the training of an experience has begun and not ended."""
        return self.phase in (Phase.TRAINING, Phase.RESUMED)

    @property
    def not_resumable(self) -> list[str]:
        """Return the strategies that cannot save their state: Avalanche's, and others without a `state_dict`."""
        return [strategy_name(plugin) for plugin in self.strategies if not is_resumable(plugin)]

    @property
    def can_checkpoint(self) -> bool:
        """Return whether a checkpoint is possible here.

        Every strategy must have a `state_dict`, and the loader must be ours: the order of its samples can be resumed.
        """
        return not self.not_resumable and self.dataloader is self._own_loader

    def reopen_experience(self, number: int) -> None:
        """Choose the data of experience `number` again, whose training was interrupted.

        Network and plugins must be restored. The hooks before the training are not called again. `train_experience` continues at
        the clock's position.
        """
        self._enter(Phase.RESUMED)
        self._set_up(number)
        self.experience = self.benchmark.train_stream[number]
        self.train_dataset_adaptation()
        self._call_hooks("after_train_dataset_adaptation")
        self.make_train_dataloader()
