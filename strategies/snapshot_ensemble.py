"""Snapshot ensemble: the networks at the ends of the last experiences vote along with the present one.

    p(x) = 1 / M sum_m softmax(f_m(x))      f_M: the network as it is; f_1 ... f_{M-1}: as the experiences before left it

Each network has one vote. One whose head lacks a class gives it probability 0, so an old network's vote on a new class goes to
old classes: the ensemble is slower to learn new classes, and slower to forget old ones. Where the task is given, softmax is
taken among the classes of each task, and only networks that have the task's classes vote on it
(with training.full_head: all). What is trained does not
change. A snapshot is the whole network, taken where the next experience begins (with whatever other strategies did to it at
the end of the last one). With ``training.schedule: cosine`` every experience is one cycle of the paper.
Shapes: B batch, K outputs of the head, K_m of a snapshot's (K_m <= K), M members.

Sources: Huang et al. 2017 (1704.00109), whose snapshots are the ends of cosine cycles on one data set; Soutif-Cormerais 2023
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
    """Predict with the mean probabilities of the networks at the ends of the last experiences.

    members: networks that vote, the present one among them; 1: that one alone. Each takes the room of a network.
    """

    members: int = 3

    def __post_init__(self) -> None:
        members = self.members
        if members < 1:
            raise ValueError(f"{members=}: must be >= 1")


class SnapshotEnsemblePlugin(Plugin):
    """Keeps the networks, oldest first, and lets them vote."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._snapshots: list[dict[str, Tensor]] = []
        self._trained = False

    def state_dict(self) -> dict[str, Any]:
        """The snapshots, and whether any experience has been trained."""
        return {"snapshots": [dict(one) for one in self._snapshots], "trained": self._trained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the snapshots over."""
        self._snapshots, self._trained = [dict(one) for one in state["snapshots"]], state["trained"]

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """The network has ended an experience, and its head has not grown yet."""
        if self._trained and self.config.members > 1:
            taken = {name: tensor.detach().clone() for name, tensor in learner.model.state_dict().items()}
            self._snapshots = [*self._snapshots, taken][1 - self.config.members :]

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """From now on there is something to keep."""
        self._trained = True

    def predict(self, learner: Any, x: Tensor, network: Any) -> Tensor:
        """Log of the mean probabilities (B, K)."""
        if not self._snapshots:
            return network(x)  # type: ignore[no-any-return]
        stream = getattr(learner, "stream", None)
        own = stream.own if stream is not None and stream.scenario == "task" else None
        members = [{name: t.to(x.device) for name, t in one.items()} for one in self._snapshots]
        logits = [*(functional_call(learner.model, one, (x,)) for one in members), network(x)]
        return as_logits(average_probabilities([probabilities(one, own) for one in logits], alone=own is not None))


def build(config: Config, seed: int) -> SnapshotEnsemblePlugin:
    """The plugin; it draws no random numbers."""
    return SnapshotEnsemblePlugin(config)
