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

import copy
from collections.abc import Callable

from torch import Tensor

from ..platform.config.settings import PositiveInt, settings
from ..platform.methods.probability_averaging import as_logits, average_probabilities, probabilities
from ..platform.models.functional import call_with
from ..platform.training.plugin import LearnerView, Plugin

NEUTRAL = {"members": 1}
ROLES = ("predictions",)


@settings
class Config:
    """Predict with the mean probabilities of networks from the ends of the last experiences.

    members: number of networks that vote, including the present one; 1: no ensemble. Each needs the memory of a network.
    """

    members: PositiveInt = 3


class SnapshotEnsemblePlugin(Plugin[Config]):
    """Keeps the snapshots, oldest first, and averages their predictions."""

    STATE = ("snapshots", "trained")

    def init_state(self) -> None:
        """Set the initial state."""
        self.snapshots: list[dict[str, Tensor]] = []
        self.trained = False  # any experience

    def before_train_dataset_adaptation(self, learner: LearnerView, **kwargs: object) -> None:
        """Take a snapshot after an experience, before the head grows."""
        if self.trained and self.config.members > 1:
            snapshot = copy.deepcopy(learner.model.state_dict())
            self.snapshots = [*self.snapshots, snapshot][1 - self.config.members :]

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Note that there is a trained network to take a snapshot of."""
        self.trained = True

    def predict(self, learner: LearnerView, x: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the log of the mean probabilities (B, K)."""
        if not self.snapshots:
            return network(x)
        stream = getattr(learner, "stream", None)
        own = stream.class_mask if stream is not None and stream.scenario == "task" else None  # classes of each task
        members = [{name: t.to(x.device) for name, t in snapshot.items()} for snapshot in self.snapshots]
        votes = [*(call_with(learner.model, member, x) for member in members), network(x)]
        return as_logits(average_probabilities([probabilities(logits, own) for logits in votes], alone=own is not None))
