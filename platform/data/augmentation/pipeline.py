"""The key `training.augmentation`: what is done at random to the pictures of a mini-batch before the network sees them.

augmentation: cifar
augmentation: [{crop: {padding: 4}}, flip, {brightness: {amount: 0.2}}]

A list is applied in its order, each sample with random numbers of its own; rotation, scale and translation that stand
together are one resampling. Shapes: B samples, C channels, H height, W width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import UserError
from ...seeding import generator
from ..streams import Stream
from .affine import Affine, warp
from .base import Transformation


class Augmentation:
    """Augments mini-batches of a stream; what comes out depends on the seed, the position and the samples alone."""

    def __init__(self, stream: Stream, transformations: Sequence[Transformation], seed: int) -> None:
        self.transformations, self.seed = tuple(transformations), seed
        self._mean = torch.tensor(stream.mean).view(-1, 1, 1)
        self._std = torch.tensor(stream.std).view(-1, 1, 1)

    @torch.no_grad()
    def __call__(self, x: Tensor, position: tuple[int, int, int]) -> Tensor:
        """Normalised pictures (B, C, H, W) of the mini-batch at (experience, epoch, iteration) -> the same, augmented."""
        self._mean, self._std = self._mean.to(x.device), self._std.to(x.device)
        widths = [one.num_draws for one in self.transformations]
        draw = generator(self.seed, "augmentation", *position)
        u = torch.rand(len(x), sum(widths), generator=draw, dtype=torch.float64)
        pictures = (x * self._std).add_(self._mean)
        return transformed(pictures, self.transformations, u.split(widths, 1)).sub_(self._mean).div_(self._std)


def transformed(x: Tensor, transformations: Sequence[Transformation], draws: Sequence[Tensor]) -> Tensor:
    """Apply one after another to pictures (B, C, H, W) in [0, 1], each with its random numbers (B, k)."""
    waiting: Tensor | None = None  # matrices of affine ones that stand together
    for one, u in zip(transformations, draws, strict=True):
        if isinstance(one, Affine):
            matrix = one.matrix(u, (x.shape[2], x.shape[3]))
            waiting = matrix if waiting is None else matrix @ waiting
            continue
        x, waiting = one.apply(x if waiting is None else warp(x, waiting), u), None
    return x if waiting is None else warp(x, waiting)


def check_stream(transformations: Sequence[tuple[str, Transformation]], stream: Stream) -> None:
    """Refuse transformations, with their names, that a stream's samples cannot have.

    Raises:
        UserError: samples that are no pictures in [0, 1], colours of grey ones, lengths beyond the picture.
    """
    if not transformations:
        return
    if len(stream.shape) != 3:
        raise UserError(f"training.augmentation: needs pictures (channels, height, width); samples are {stream.shape}.")
    x = stream.experiences[0].train.arrays.x
    if x.is_floating_point() and not (x.min() >= 0 and x.max() <= 1):  # an Avalanche benchmark's, with its transforms
        raise UserError(
            f"training.augmentation: needs pictures in [0, 1]; those of benchmark.{stream.name} are in "
            f"[{float(x.min()):.3g}, {float(x.max()):.3g}]: let its transforms not normalise."
        )
    for number, (name, one) in enumerate(transformations):
        try:
            one.check_shape(stream.shape)
        except ValueError as error:
            path = f"training.augmentation[{number}].{name}{'.' if '=' in str(error) else ': '}"
            raise UserError(f"{path}{error}.") from None
