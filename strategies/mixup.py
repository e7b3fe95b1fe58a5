"""Mixup and CutMix: mix each sample, and its label, with another sample of the mini-batch.

    mixup:   x' = r x + (1 - r) x_p,                       r ~ Beta(alpha, alpha)
    cutmix:  x' = x with a box of x_p in it,               r = 1 - area of the box / area of the image
    L = r L(logits(x'), y) + (1 - r) L(logits(x'), y_p),   L: the previous criterion (cross-entropy, smoothed or not)

p is a permutation of the mini-batch. r, p and the box are sampled once per mini-batch, after its augmentation; they are derived
from the seed and the position. The box has sides sqrt(1 - r) H and sqrt(1 - r) W before it is cut at the image's edges. With both
alphas above 0 one of the two is chosen with equal probability. Remembered samples that other strategies append are mixed too. In
a task-incremental stream only samples of the same task are mixed.
Shapes: B mini-batch, C outputs, H height, W width.

Sources: Zhang et al. 2018 (1710.09412), Yun et al. 2019 (1905.04899). Peers: timm's Mixup has mixup_alpha = alpha, cutmix_alpha,
mode "batch" and switch_prob 0.5; it flips the mini-batch where ours permutes it. torchvision's v2.MixUp and v2.CutMix roll it.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..platform.config.settings import NonNegativeFloat, settings
from ..platform.errors import UserError
from ..platform.seeding import generator
from ..platform.training.plugin import LearnerView, Plugin, replace_criterion

NEUTRAL = {"alpha": 0.0, "cutmix_alpha": 0.0}
ROLES, WRAPS_CRITERION = ("criterion",), True
CONFLICTS = {"der": "der stores the logits of each mini-batch, which would be those of mixed samples"}


@settings
class Config:
    """Train on mixtures of a mini-batch's samples and labels (Mixup, CutMix).

    alpha: of mixup's Beta distribution, >= 0; 0: no mixup.
    cutmix_alpha: of CutMix's Beta distribution, >= 0; 0: no CutMix.
    """

    alpha: NonNegativeFloat = 0.2
    cutmix_alpha: NonNegativeFloat = 0.0


def sample_ratio(alpha: float, draw: torch.Generator) -> float:
    """Return r ~ Beta(alpha, alpha), sampled by numpy, as torch's Beta uses the global generator."""
    seed = int(torch.randint(2**62, (), generator=draw))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def box(height: int, width: int, r: float, draw: torch.Generator) -> tuple[slice, slice]:
    """Return rows and columns of a box with (1 - r) of the area around a random centre, cut at the edges."""
    sides = []
    for side in (height, width):
        half = int(side * math.sqrt(1 - r)) // 2
        centre = int(torch.randint(side, (), generator=draw))
        sides.append(slice(max(0, centre - half), min(side, centre + half)))
    return sides[0], sides[1]


def paste_box(x: Tensor, other: Tensor, rows: slice, columns: slice) -> tuple[Tensor, float]:
    """Return `x` (B, channels, H, W) with the box of `other`, and r: the remaining share of `x`."""
    mixed = x.clone()
    mixed[..., rows, columns] = other[..., rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, 1 - area / (x.shape[-2] * x.shape[-1])


class MixupPlugin(Plugin[Config]):
    """Mixes before the forward pass, and evaluates the criterion for both labels."""

    STATE = ()  # everything is derived from the position
    augments = True

    def init_state(self) -> None:
        """Set the initial state."""
        self._partner: Tensor | None = None  # p (B,) of the present mini-batch
        self._share = 1.0
        self._undo: Callable[[], None] | None = None

    def on_start(self, learner: LearnerView) -> None:
        """Wrap the criterion."""
        if max(self.config.alpha, self.config.cutmix_alpha) > 0:
            self._undo = replace_criterion(learner, partial(self._mixed_loss, learner._criterion))

    def before_forward(self, learner: LearnerView, **kwargs: object) -> None:
        """Mix the samples."""
        if self._undo is None:
            return
        x, position = learner.mb_x, (learner.experience.current_experience, learner.clock.train_exp_iterations)
        draw = generator(self.seed, "mixup", *position)
        self._partner = torch.randperm(len(x), generator=draw).to(x.device, non_blocking=True)
        if len(learner.mbatch) > 2:
            tasks = learner.mbatch[2]
            same_task = tasks[self._partner] == tasks
            self._partner = torch.where(same_task, self._partner, torch.arange(len(x), device=x.device))
        learner.mbatch[0], self._share = self._mix(x, x[self._partner], draw)

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Restore the criterion."""
        if self._undo is not None:
            self._undo()
        self._undo, self._partner = None, None

    def _mix(self, x: Tensor, other: Tensor, draw: torch.Generator) -> tuple[Tensor, float]:
        """Return x' and r, by mixup or CutMix."""
        alpha, cutmix = self.config.alpha, self.config.cutmix_alpha
        if cutmix > 0 and (alpha == 0 or bool(torch.rand((), generator=draw) < 0.5)):
            if x.ndim != 4:
                path = f"strategies.mixup.cutmix_alpha={cutmix}"
                raise UserError(f"{path}: needs pictures; samples are {list(x.shape[1:])}")
            return paste_box(x, other, *box(x.shape[-2], x.shape[-1], sample_ratio(cutmix, draw), draw))
        r = sample_ratio(alpha, draw)
        return torch.lerp(other, x, r), r

    def _mixed_loss(self, criterion: Callable[[Tensor, Tensor], Tensor], logits: Tensor, y: Tensor) -> Tensor:
        """Return the loss for both labels of each sample."""
        if self._partner is None or len(y) != len(self._partner):  # called for other samples
            return criterion(logits, y)
        return self._share * criterion(logits, y) + (1 - self._share) * criterion(logits, y[self._partner])
