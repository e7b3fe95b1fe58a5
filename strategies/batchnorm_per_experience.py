"""BatchNorm of its own for each experience: past statistics, weights and biases are kept, and used for its test samples.

While an experience is trained, BatchNorm is as ever. Where the next one begins, what the layers hold is put aside for the one
that has ended. In evaluation, where no class comes in two experiences,
    the outputs of the classes of experience e come from the network with BatchNorm as e left it
so nothing has to be guessed (in the task-aware view it is BatchNorm of the task). Elsewhere (domains)
    all outputs for a sample come from it with BatchNorm as the experience left it under which the sample is the likeliest:
    argmin_e  sum_c [ log var_ec + mean_p (z_cp - mean_ec)^2 / var_ec ]
    z: what reaches the first BatchNorm layer; mean_e, var_e: that layer's running statistics of experience e (eps added).
The newest experience is a choice too. All other weights are shared and go on changing, so old statistics fit less and less:
at its best with a frozen trunk whose BatchNorm is trained. Running statistics of a short experience hold some of the one
before: name recompute_batchnorm too. It costs 2 or 4 numbers a channel and, with disjoint classes, a pass per experience.
Shapes: B batch, C channels of a layer, P positions, K outputs, E experiences.

Sources: Bilen & Vedaldi 2017 (1701.07275), Chang et al. 2019 (1906.03950, domain-specific BatchNorm), task-specific BatchNorm in
2411.00430; all three are told the domain or task, or predict it otherwise. Peers: FACIL, Mammoth and Avalanche share BatchNorm
over tasks. The choice by likelihood is our own, near to AdaBN's (1603.04779) distances between statistics.
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
    "continual_norm": "its statistics are of what its GroupNorm gives, which cannot be compared with what reaches it"
}
Bank = dict[str, Tensor]  # name of a tensor of the network -> what an experience left in it


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Keep BatchNorm of past experiences for their test samples.

    keep: of how many past experiences, the latest ones; null: of all; 0: of none, BatchNorm as it is.
    affine: keep weights and biases too, not only statistics.
    """

    keep: int | None = None
    affine: bool = True

    def __post_init__(self) -> None:
        keep = self.keep
        if keep is not None and keep < 0:
            raise ValueError(f"{keep=}: must be >= 0, or null for all")


def bank_of(model: nn.Module, affine: bool) -> Bank:
    """What the BatchNorm layers hold, copied."""
    kinds = ("running_mean", "running_var", *(("weight", "bias") if affine else ()))
    found: Bank = {}
    for name, layer in batch_norms(model).items():
        held = {f"{name}.{kind}": getattr(layer, kind) for kind in kinds}
        found |= {key: tensor.detach().clone() for key, tensor in held.items() if tensor is not None}
    return found


def surprise(z: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """The (B,) sums of this file's formula: z (B, C) or (B, C, *), mean (C,), var (C,) > 0."""
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
    """Puts BatchNorm aside between experiences, and classifies with the one that fits."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._banks: dict[str, Bank] = {}  # by the number of the experience
        self._classes: dict[str, list[int]] = {}  # of each experience so far
        self._trained: str | None = None  # the experience that was trained last

    def state_dict(self) -> dict[str, Any]:
        """The banks, the classes, and whose the next bank will be."""
        banks = {number: dict(bank) for number, bank in self._banks.items()}
        return {"banks": banks, "classes": dict(self._classes), "trained": self._trained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the banks over."""
        self._banks, self._classes, self._trained = dict(state["banks"]), dict(state["classes"]), state["trained"]

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """Whatever others did at the end of the last experience (recomputed statistics) is in the network now."""
        experience = learner.experience
        self._classes[str(experience.current_experience)] = list(experience.classes_in_this_experience)
        if self._trained is not None and self.config.keep != 0:
            self._banks[self._trained] = bank_of(learner.model, self.config.affine)
            kept = list(self._banks)[-(self.config.keep or len(self._banks)) :]
            self._banks = {number: self._banks[number] for number in kept}
            self._trained = None

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """The network's BatchNorm is this experience's until the next one begins."""
        self._trained = str(learner.experience.current_experience)

    def predict(self, learner: Any, x: Tensor, network: Any) -> Tensor:
        """Logits (B, K) under the BatchNorm of each class's own, or of the likeliest experience."""
        if not self._banks:
            return network(x)  # type: ignore[no-any-return]
        banks = {number: {name: t.to(x.device) for name, t in bank.items()} for number, bank in self._banks.items()}
        every = [label for classes in self._classes.values() for label in classes]
        if len(every) > len(set(every)):
            return _by_likelihood(learner.model, x, list(banks.values()))
        logits: Tensor = network(x)
        for number, bank in banks.items():
            columns = self._classes[number]
            logits[:, columns] = functional_call(learner.model, bank, (x,))[:, columns]
        return logits


def _by_likelihood(model: nn.Module, x: Tensor, banks: list[Bank]) -> Tensor:
    """Each sample under the BatchNorm that fits it; the last choice is the network's present one."""
    name, first = next(iter(batch_norms(model).items()))
    met: list[Tensor] = []
    handle = first.register_forward_pre_hook(lambda layer, given: met.append(given[0]))
    logits: Tensor = model(x)
    handle.remove()
    choices = [*banks, bank_of(model, affine=False)]
    found = [surprise(met[0], c[f"{name}.running_mean"], c[f"{name}.running_var"] + first.eps) for c in choices]
    choice = torch.stack(found).argmin(0)
    for number, bank in enumerate(banks):
        rows = (choice == number).nonzero().flatten()
        if len(rows):
            logits[rows] = functional_call(model, bank, (x[rows],))
    return logits


def build(config: Config, seed: int) -> BatchNormPerExperiencePlugin:
    """The plugin; it draws no random numbers."""
    return BatchNormPerExperiencePlugin(config)
