"""Apply the key `training.augmentation`: random transformations of a mini-batch before the network sees it.

augmentation: cifar
augmentation: [{crop: {padding: 4}}, flip, {brightness: {amount: 0.2}}]

A list is applied in order, with separate random numbers for each sample. Adjacent rotation, scale and translation are combined
into one resampling. Shapes: B samples, C channels, H height, W width.
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
    """Augments mini-batches of a stream; the result depends only on the seed, the position and the samples."""

    def __init__(self, stream: Stream, transformations: Sequence[Transformation], seed: int) -> None:
        self.transformations, self.seed = tuple(transformations), seed
        self._mean = torch.tensor(stream.mean).view(-1, 1, 1)
        self._std = torch.tensor(stream.std).view(-1, 1, 1)

    @torch.no_grad()
    def __call__(self, x: Tensor, position: tuple[int, int, int]) -> Tensor:
        """Augment normalised pictures (B, C, H, W) of the mini-batch at `position` (experience, epoch, iteration)."""
        self._mean, self._std = self._mean.to(x.device), self._std.to(x.device)
        widths = [transformation.num_draws for transformation in self.transformations]
        rng = generator(self.seed, "augmentation", *position)
        u = torch.rand(len(x), sum(widths), generator=rng, dtype=torch.float64)
        pictures = (x * self._std).add_(self._mean)
        return apply_all(pictures, self.transformations, u.split(widths, 1)).sub_(self._mean).div_(self._std)


def apply_all(x: Tensor, transformations: Sequence[Transformation], draws: Sequence[Tensor]) -> Tensor:
    """Apply transformations in order to pictures (B, C, H, W) in [0, 1], each with its random numbers (B, k)."""
    pending: Tensor | None = None  # product of adjacent affine matrices
    for transformation, u in zip(transformations, draws, strict=True):
        if isinstance(transformation, Affine):
            matrix = transformation.matrix(u, (x.shape[2], x.shape[3]))
            pending = matrix if pending is None else matrix @ pending
            continue
        x, pending = transformation.apply(x if pending is None else warp(x, pending), u), None
    return x if pending is None else warp(x, pending)


def check_stream(transformations: Sequence[tuple[str, Transformation]], stream: Stream) -> None:
    """Check that the named transformations fit a stream's samples.

    Raises:
        UserError: samples that are not pictures in [0, 1], colour changes of grey pictures, lengths beyond the picture.
    """
    if not transformations:
        return
    if len(stream.shape) != 3:
        raise UserError(f"training.augmentation: needs pictures (channels, height, width); samples are {stream.shape}.")
    x = stream.experiences[0].train.arrays.x
    if x.is_floating_point() and not (x.min() >= 0 and x.max() <= 1):  # from an Avalanche benchmark with transforms
        raise UserError(
            f"training.augmentation: needs pictures in [0, 1]; those of benchmark.{stream.name} are in "
            f"[{float(x.min()):.3g}, {float(x.max()):.3g}]: let its transforms not normalise."
        )
    for number, (name, transformation) in enumerate(transformations):
        try:
            transformation.check_shape(stream.shape)
        except ValueError as error:
            path = f"training.augmentation[{number}].{name}{'.' if '=' in str(error) else ': '}"
            raise UserError(f"{path}{error}.") from None
