"""Snapshot ensemble: networks from the ends of the last experiences vote together with the present one.

    p(x) = 1 / M sum_m softmax(f_m(x))      f_M: the present network; f_1 ... f_{M-1}: networks from the ends of past experiences

Each network has one vote. A network whose head lacks a class gives it probability 0, so an old network's vote on a new class goes
to old classes: the ensemble is slower to learn new classes, and slower to forget old ones. Where the task is given, softmax is
over the classes of each task, and only networks that have the task's classes vote on it (with training.full_head: all).
Training does not change. A snapshot is the whole network, copied where the next experience begins (including what other
strategies did to it at the end of the last one). With ``training.schedule: cosine`` every experience is one cycle of the paper.
Shapes: B batch, K outputs of the head, K_m of a snapshot's (K_m <= K), M members.

Sources: Huang et al. 2017 (1704.00109), whose snapshots are the ends of cosine cycles on one data set. Soutif-Cormerais 2023
(2306.16817) finds that ensembles of networks from several experiences help, and replaces them by an average (see `ema`).
Peers: Avalanche, FACIL and Mammoth have none.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.func import functional_call

from ..platform.methods.probability_averaging import as_logits, average_probabilities, probabilities
from ..platform.training.plugin import Plugin

NEUTRAL: dict[str, Any] | None = {"members": 1}
ROLES = ("predictions",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Predict with the mean probabilities of networks from the ends of the last experiences.

    members: number of networks that vote, including the present one; 1: no ensemble. Each needs the memory of a network.
    """

    members: int = 3

    def __post_init__(self) -> None:
        members = self.members
        if members < 1:
            raise ValueError(f"{members=}: must be >= 1")


class SnapshotEnsemblePlugin(Plugin):
    """Keeps the snapshots, oldest first, and averages their predictions."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._snapshots: list[dict[str, Tensor]] = []
        self._trained = False

    def state_dict(self) -> dict[str, Any]:
        """Return the snapshots, and whether any experience has been trained."""
        return {"snapshots": [dict(snapshot) for snapshot in self._snapshots], "trained": self._trained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the snapshots."""
        self._snapshots, self._trained = [dict(snapshot) for snapshot in state["snapshots"]], state["trained"]

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """Take a snapshot after an experience, before the head grows."""
        if self._trained and self.config.members > 1:
            snapshot = {name: tensor.detach().clone() for name, tensor in learner.model.state_dict().items()}
            self._snapshots = [*self._snapshots, snapshot][1 - self.config.members :]

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Note that there is a trained network to take a snapshot of."""
        self._trained = True

    def predict(self, learner: Any, x: Tensor, network: Any) -> Tensor:
        """Return the log of the mean probabilities (B, K)."""
        if not self._snapshots:
            return network(x)  # type: ignore[no-any-return]
        stream = getattr(learner, "stream", None)
        own = stream.class_mask if stream is not None and stream.scenario == "task" else None  # classes of each task
        members = [{name: t.to(x.device) for name, t in snapshot.items()} for snapshot in self._snapshots]
        votes = [*(functional_call(learner.model, member, (x,)) for member in members), network(x)]
        return as_logits(average_probabilities([probabilities(logits, own) for logits in votes], alone=own is not None))


def build(config: Config, seed: int) -> SnapshotEnsemblePlugin:
    """Return the plugin; it uses no random numbers."""
    return SnapshotEnsemblePlugin(config)
