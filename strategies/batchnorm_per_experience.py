"""BatchNorm per experience: keep the statistics, weights and biases of past experiences, and use them for their test samples.

Training uses BatchNorm as usual. When the next experience begins, the layers' tensors are stored for the experience that has
ended. In evaluation, if no class is in two experiences,
    the outputs of the classes of experience e come from the network with BatchNorm as e left it
so nothing has to be guessed (in the task-aware view it is the task's BatchNorm). Otherwise (domains)
    all outputs for a sample come from it with BatchNorm as the experience left it under which the sample is the likeliest:
    argmin_e  sum_c [ log var_ec + mean_p (z_cp - mean_ec)^2 / var_ec ]
    z: input of the first BatchNorm layer; mean_e, var_e: that layer's running statistics of experience e (eps added).
The newest experience is a choice too. All other weights are shared and keep changing, so old statistics fit less and less. It
works best with a frozen trunk and trained BatchNorm. Running statistics of a short experience contain some of the one before:
name recompute_batchnorm too. It costs 2 or 4 numbers per channel and, with disjoint classes, one pass per experience.
Shapes: B batch, C channels of a layer, P positions, K outputs, E experiences.

Sources: Bilen & Vedaldi 2017 (1701.07275), Chang et al. 2019 (1906.03950, domain-specific BatchNorm), task-specific BatchNorm in
2411.00430; all three are given the domain or task, or predict it otherwise. Peers: FACIL, Mammoth and Avalanche share BatchNorm
between tasks. The choice by likelihood is ours; it is similar to AdaBN's (1603.04779) distances between statistics.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..platform.config.settings import NonNegativeInt, settings
from ..platform.models.activation_capture import ActivationCapture
from ..platform.models.batchnorm import batch_norms, batchnorm_tensors, check_running_statistics
from ..platform.models.functional import call_with
from ..platform.training.plugin import LearnerView, Plugin

NEUTRAL = {"keep": 0}
ROLES = ("predictions",)
CONFLICTS = {
    "continual_norm": "its statistics are taken after its GroupNorm, so they cannot be compared with the layer's input"
}
Bank = dict[str, Tensor]  # name of a tensor of the network -> its value after an experience


@settings
class Config:
    """Store the BatchNorm statistics of past experiences, and use them for their test samples.

    keep: of how many past experiences, the latest ones; null: of all; 0: of none, BatchNorm as it is.
    affine: store weights and biases too, not only statistics.
    """

    keep: NonNegativeInt | None = None
    affine: bool = True


def surprise(z: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Return the sums (B,) of this file's formula: z (B, C) or (B, C, *), mean (C,), var (C,) > 0."""
    z = z.reshape(*z.shape[:2], -1)
    distance = (z - mean[:, None]).square().mean(2) / var
    return (distance + var.log()).sum(1)


def select_by_likelihood(model: nn.Module, x: Tensor, banks: list[Bank]) -> Tensor:
    """Return logits (B, K), each sample's under the BatchNorm that fits it; the network's own is the last choice."""
    name, first = next(iter(batch_norms(model).items()))
    capture = ActivationCapture([name], every_run=True)
    with capture.attached(model):
        logits: Tensor = model(x)
    z = capture.runs[0].input
    choices = [*banks, batchnorm_tensors(model, affine=False)]
    statistics = [(bank[f"{name}.running_mean"], bank[f"{name}.running_var"] + first.eps) for bank in choices]
    choice = torch.stack([surprise(z, mean, var) for mean, var in statistics]).argmin(0)
    for number, bank in enumerate(banks):
        rows = (choice == number).nonzero().flatten()
        if len(rows):
            logits[rows] = call_with(model, bank, x[rows])
    return logits


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse a network without BatchNorm layers."""
    check_running_statistics("strategies.batchnorm_per_experience", model)


class BatchNormPerExperiencePlugin(Plugin[Config]):
    """Stores BatchNorm between experiences, and classifies with the one that fits."""

    STATE = ("banks", "classes", "trained")

    def init_state(self) -> None:
        """Set the initial state."""
        self.banks: dict[str, Bank] = {}  # by the number of the experience
        self.classes: dict[str, list[int]] = {}  # of each experience so far
        self.trained: str | None = None  # the experience that the network's BatchNorm belongs to

    def before_train_dataset_adaptation(self, learner: LearnerView, **kwargs: object) -> None:
        """Store the last experience's BatchNorm.

        Only now, when the network includes what other strategies did at the end of that experience (recomputed statistics).
        """
        experience, keep = learner.experience, self.config.keep
        self.classes[str(experience.current_experience)] = list(experience.classes_in_this_experience)
        if self.trained is not None and keep != 0:
            self.banks[self.trained] = batchnorm_tensors(learner.model, self.config.affine)
            latest = list(self.banks.items())[-(keep or len(self.banks)) :]
            self.banks, self.trained = dict(latest), None

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Remember that the network's BatchNorm belongs to this experience until the next one begins."""
        self.trained = str(learner.experience.current_experience)

    def predict(self, learner: LearnerView, x: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Return logits (B, K) under the BatchNorm of each class's experience, or of the likeliest experience."""
        if not self.banks:
            return network(x)
        banks = {number: {name: t.to(x.device) for name, t in bank.items()} for number, bank in self.banks.items()}
        labels = [label for classes in self.classes.values() for label in classes]
        if len(labels) > len(set(labels)):
            return select_by_likelihood(learner.model, x, list(banks.values()))
        logits = network(x)
        for number, bank in banks.items():
            columns = self.classes[number]
            logits[:, columns] = call_with(learner.model, bank, x)[:, columns]
        return logits
