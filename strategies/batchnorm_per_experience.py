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

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..platform.errors import UserError
from ..platform.models.batchnorm import batch_norms
from ..platform.training.plugin import Plugin

NEUTRAL: dict[str, Any] | None = {"keep": 0}
ROLES = ("predictions",)
CONFLICTS = {
    "continual_norm": "its statistics are taken after its GroupNorm, so they cannot be compared with the layer's input"
}
Bank = dict[str, Tensor]  # name of a tensor of the network -> its value after an experience


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Store the BatchNorm statistics of past experiences, and use them for their test samples.

    keep: of how many past experiences, the latest ones; null: of all; 0: of none, BatchNorm as it is.
    affine: store weights and biases too, not only statistics.
    """

    keep: int | None = None
    affine: bool = True

    def __post_init__(self) -> None:
        keep = self.keep
        if keep is not None and keep < 0:
            raise ValueError(f"{keep=}: must be >= 0, or null for all")


def bank_of(model: nn.Module, affine: bool) -> Bank:
    """Return copies of the BatchNorm layers' tensors."""
    kinds = ("running_mean", "running_var", *(("weight", "bias") if affine else ()))
    bank: Bank = {}
    for name, layer in batch_norms(model).items():
        tensors = {f"{name}.{kind}": getattr(layer, kind) for kind in kinds}
        bank |= {key: tensor.detach().clone() for key, tensor in tensors.items() if tensor is not None}
    return bank


def surprise(z: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Return the sums (B,) of this file's formula: z (B, C) or (B, C, *), mean (C,), var (C,) > 0."""
    z = z.reshape(*z.shape[:2], -1)
    distance = (z - mean[:, None]).square().mean(2) / var
    return (distance + var.log()).sum(1)


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse a network without BatchNorm layers."""
    if config.keep != 0 and not batch_norms(model):
        raise UserError(
            "strategies.batchnorm_per_experience: the network has no BatchNorm layer with running statistics; leave it out, "
            "or choose such a network (e.g. model.small_cnn.norm: batch)."
        )


class BatchNormPerExperiencePlugin(Plugin):
    """Stores BatchNorm between experiences, and classifies with the one that fits."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._banks: dict[str, Bank] = {}  # by the number of the experience
        self._classes: dict[str, list[int]] = {}  # of each experience so far
        self._trained: str | None = None  # the experience that was trained last

    def state_dict(self) -> dict[str, Any]:
        """Return the banks, the classes, and the experience that the next bank belongs to."""
        banks = {number: dict(bank) for number, bank in self._banks.items()}
        return {"banks": banks, "classes": dict(self._classes), "trained": self._trained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the banks."""
        self._banks, self._classes, self._trained = dict(state["banks"]), dict(state["classes"]), state["trained"]

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """Store the last experience's BatchNorm.

        Only now, when the network includes what other strategies did at the end of that experience (recomputed statistics).
        """
        experience = learner.experience
        self._classes[str(experience.current_experience)] = list(experience.classes_in_this_experience)
        if self._trained is not None and self.config.keep != 0:
            self._banks[self._trained] = bank_of(learner.model, self.config.affine)
            latest = list(self._banks)[-(self.config.keep or len(self._banks)) :]
            self._banks = {number: self._banks[number] for number in latest}
            self._trained = None

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Remember that the network's BatchNorm belongs to this experience until the next one begins."""
        self._trained = str(learner.experience.current_experience)

    def predict(self, learner: Any, x: Tensor, network: Any) -> Tensor:
        """Return logits (B, K) under the BatchNorm of each class's experience, or of the likeliest experience."""
        if not self._banks:
            return network(x)  # type: ignore[no-any-return]
        banks = {number: {name: t.to(x.device) for name, t in bank.items()} for number, bank in self._banks.items()}
        labels = [label for classes in self._classes.values() for label in classes]
        if len(labels) > len(set(labels)):
            return _by_likelihood(learner.model, x, list(banks.values()))
        logits: Tensor = network(x)
        for number, bank in banks.items():
            columns = self._classes[number]
            logits[:, columns] = functional_call(learner.model, bank, (x,))[:, columns]
        return logits


def _by_likelihood(model: nn.Module, x: Tensor, banks: list[Bank]) -> Tensor:
    """Each sample under the BatchNorm that fits it; the last choice is the network's current BatchNorm."""
    name, first = next(iter(batch_norms(model).items()))
    first_inputs: list[Tensor] = []
    handle = first.register_forward_pre_hook(lambda layer, inputs: first_inputs.append(inputs[0]))
    logits: Tensor = model(x)
    handle.remove()
    choices = [*banks, bank_of(model, affine=False)]
    surprises = [
        surprise(first_inputs[0], c[f"{name}.running_mean"], c[f"{name}.running_var"] + first.eps) for c in choices
    ]
    choice = torch.stack(surprises).argmin(0)
    for number, bank in enumerate(banks):
        rows = (choice == number).nonzero().flatten()
        if len(rows):
            logits[rows] = functional_call(model, bank, (x[rows],))
    return logits


def build(config: Config, seed: int) -> BatchNormPerExperiencePlugin:
    """Return the plugin; it uses no random numbers."""
    return BatchNormPerExperiencePlugin(config)
