"""The stability gap: accuracy on small test subsets of every experience learned so far, every few iterations.

    min-ACC_k = mean over learned j < k of the least acc_j(i), i: measurements after j was learned, up to the end of experience k
    WC-ACC_k  = acc_k(end of k) / k + (1 - 1/k) min-ACC_k

Accuracy on earlier experiences may drop sharply when a new experience begins and recover by its end; the accuracy matrix does
not show this. Values during training: experience_01, ... (accuracy on each). Values after an experience: the same, `min_acc`
and `wc_acc` (k counts the experiences that were trained on). In a task-incremental stream a sample's experience is given.

Source: De Lange et al. 2023 (2205.13452).
"""

from typing import Any

from ...config.settings import PositiveInt, settings
from ...data.samples import PartSamples
from ._base import Probe, ProbeContext, Values
from ._samples import accuracies, draw_evenly


@settings
class Config:
    """Accuracy on small test subsets every few iterations, and the worst of it (min-ACC, WC-ACC).

    every: iterations between measurements, from the start of each experience.
    samples: test samples of each experience, always the same ones.
    """

    every: PositiveInt = 10
    samples: PositiveInt = 100


class StabilityGap(Probe):
    """Measures every few iterations and after each experience."""

    def __init__(self, config: Config, seed: int) -> None:
        self.iterations, self.samples, self.seed = config.every, config.samples, seed
        self._least: dict[int, float] = {}  # learned experience -> least accuracy since
        self._number = -1  # last experience in the current samples
        self._subset: PartSamples | None = None

    def during(self, learner: Any) -> Values:
        """Return the accuracy on each experience learned so far, and on the current one."""
        accuracy = self._look(learner, learner.experience.current_experience)
        if learner.clock.train_exp_iterations:  # before the first, nothing has happened since the last experience
            self._update_least(accuracy)
        return _by_name(accuracy)

    def after_experience(self, learner: Any, number: int) -> Values:
        """Return the accuracy on each experience learned so far, `min_acc` and `wc_acc`."""
        accuracy = self._look(learner, number)
        self._update_least(accuracy)
        count = len(self._least) + 1
        worst = sum(self._least.values()) / len(self._least) if self._least else None
        self._least[number] = 1.0
        wc_acc = accuracy[number] / count + (1 - 1 / count) * (worst or 0.0)
        return {**_by_name(accuracy), "min_acc": worst, "wc_acc": wc_acc}

    def _look(self, learner: Any, number: int) -> dict[int, float]:
        if self._subset is None or self._number != number:
            parts = {index: learner.stream.experiences[index].test for index in range(number + 1)}
            self._subset = draw_evenly(learner, parts, self.samples * len(parts), self.seed, "stability_gap")
            self._number = number
        numbers = list(range(number + 1))
        return dict(zip(numbers, accuracies(learner, self._subset, numbers), strict=True))

    def _update_least(self, accuracy: dict[int, float]) -> None:
        self._least = {index: min(least, accuracy[index]) for index, least in self._least.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the least accuracy since each experience was learned."""
        return {"least": dict(self._least)} if self._least else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the least accuracies; the samples are chosen again."""
        self._least = dict(state.get("least", {}))


def _by_name(by_experience: dict[int, float]) -> dict[str, float]:
    return {f"experience_{number + 1:02d}": value for number, value in by_experience.items()}


def build(config: Config, context: ProbeContext) -> Probe:
    """Build the probe."""
    return StabilityGap(config, context.seed)
