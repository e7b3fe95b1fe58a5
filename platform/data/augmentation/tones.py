"""Operations on the tones of pictures, used by the policies, in 256 levels as in the papers. Shapes: see `augmentation.base`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import per_sample
from .colour import blend


def levels(x: Tensor) -> Tensor:
    """Return the pictures as integer levels 0..255."""
    return (x * 255).round_()


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` (B,) bits."""
    step = per_sample(2 ** (8 - bits), x)
    return (levels(x) / step).floor_() * step / 255


def solarize(x: Tensor, threshold: Tensor) -> Tensor:
    """Invert values at or above `threshold` (B,), 0..256."""
    return torch.where(levels(x) >= per_sample(threshold, x), 1 - x, x)


def autocontrast(x: Tensor) -> Tensor:
    """Stretch each channel of each picture to [0, 1]; a channel with a single level after rounding stays the same."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    stretched = (x - low) / (high - low).clamp(min=1e-12)
    return torch.where(levels(high) > levels(low), stretched, x)


def equalize(x: Tensor) -> Tensor:
    """Flatten the histogram of each channel of each picture, like Pillow's ImageOps."""
    channels = x.shape[0] * x.shape[1]
    pixels = levels(x).long().view(channels, -1)
    bins = pixels + 256 * torch.arange(channels, device=x.device)[:, None]
    empty = torch.zeros(256 * channels, dtype=torch.int64, device=x.device)  # bincount would wait for a GPU
    histogram = empty.scatter_add_(0, bins.flatten(), torch.ones_like(bins).flatten()).view(channels, 256)
    below = histogram.cumsum(1) - histogram
    highest = pixels.amax(1, keepdim=True)
    step = below.gather(1, highest) // 255  # pixels below the highest level, over 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=x.device))
    return table.gather(1, pixels).to(x).div_(255).view_as(x)


def sharpness(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with a smoothed picture (except its edge), by `factor` (B,)."""
    if min(x.shape[2:]) < 3:
        return x
    kernel = torch.ones(3, 3, device=x.device)
    kernel[1, 1] = 5
    smooth = x.clone()
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(x.flatten(0, 1)[:, None], kernel[None, None] / 13).unflatten(0, x.shape[:2])[
        :, :, 0
    ]
    return blend(x, smooth, factor)
