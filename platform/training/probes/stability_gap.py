"""The stability gap: accuracy on small test subsets of every experience learned so far, every few iterations.

    min-ACC_k = mean over learned j < k of the least acc_j(i), i: looks after j was learned, up to the end of experience k
    WC-ACC_k  = acc_k(end of k) / k + (1 - 1/k) min-ACC_k

Accuracy on what was learned may fall deeply when a new experience begins and recover by its end, which the accuracy matrix
does not show. Values while training: experience_01, ... (accuracy on each); after an experience the same and `min_acc`,
`wc_acc` (k counts the experiences that were trained on). In a task-incremental stream a sample's experience is given.

Source: De Lange et al. 2023 (2205.13452).
"""

from dataclasses import dataclass
from typing import Any

from ._base import Probe, ProbeContext, Values, check_positive
from ._samples import ProbeSamples, accuracies, draw_evenly


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Accuracy on small test subsets every few iterations, and the worst of it (min-ACC, WC-ACC).

    every: iterations from one look to the next, from the start of each experience.
    samples: test samples of each experience, always the same.
    """

    every: int = 10
    samples: int = 100

    def __post_init__(self) -> None:
        check_positive(every=self.every, samples=self.samples)


class StabilityGap(Probe):
    """Looks every so many iterations and after each experience."""

    def __init__(self, config: Config, seed: int) -> None:
        self.iterations, self.samples, self.seed = config.every, config.samples, seed
        self._least: dict[int, float] = {}  # experience that was learned -> least accuracy since then
        self._number = -1  # of the experience up to which samples are at hand
        self._subset: ProbeSamples | None = None

    def during(self, learner: Any) -> Values:
        """Accuracy on each experience learned so far, and on the one that is being learned."""
        found = self._look(learner, learner.experience.current_experience)
        if learner.clock.train_exp_iterations:  # before the first, nothing has happened since the last experience
            self._note(found)
        return _named(found)

    def after_experience(self, learner: Any, number: int) -> Values:
        """The same, and the worst since each was learned."""
        found = self._look(learner, number)
        self._note(found)
        count = len(self._least) + 1
        worst = sum(self._least.values()) / len(self._least) if self._least else None
        self._least[number] = 1.0
        wc_acc = found[number] / count + (1 - 1 / count) * (worst or 0.0)
        return {**_named(found), "min_acc": worst, "wc_acc": wc_acc}

    def _look(self, learner: Any, number: int) -> dict[int, float]:
        if self._subset is None or self._number != number:
            parts = {one: learner.stream.experiences[one].test for one in range(number + 1)}
            self._subset = draw_evenly(learner, parts, self.samples * len(parts), self.seed, "stability_gap")
            self._number = number
        numbers = list(range(number + 1))
        return dict(zip(numbers, accuracies(learner, self._subset, numbers), strict=True))

    def _note(self, found: dict[int, float]) -> None:
        self._least = {one: min(least, found[one]) for one, least in self._least.items()}

    def state_dict(self) -> dict[str, Any]:
        """The least accuracy since each experience was learned."""
        return {"least": dict(self._least)} if self._least else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over; the samples are drawn again."""
        self._least = dict(state.get("least", {}))


def _named(found: dict[int, float]) -> dict[str, float]:
    return {f"experience_{number + 1:02d}": accuracy for number, accuracy in found.items()}


def build(config: Config, context: ProbeContext) -> Probe:
    """The probe."""
    return StabilityGap(config, context.seed)
