"""Filter and resample stacks of pictures in float64, and make cloud textures; used by the corruptions.

Shapes: n pictures, C channels, H height, W width; x (n, C, H, W). Beyond the edge, the edge pixels are repeated.
"""

import math
from typing import Any

import numpy as np

_Array = np.ndarray[Any, np.dtype[Any]]


def gaussian(sigma: float) -> _Array:
    """Return the weights (2r + 1,) of a Gaussian over whole pixels, summing to 1; r = 4 sigma, rounded, at least 1."""
    reach = max(1, round(4 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-6)) ** 2)
    return np.asarray(weights / weights.sum())


def gaussian_blur(x: _Array, sigma: float) -> _Array:
    """Blur with a Gaussian, first along one axis, then along the other."""
    weights = gaussian(sigma)
    return convolve(convolve(x, weights[:, None]), weights[None])


def convolve(x: _Array, kernel: _Array) -> _Array:
    """Return the weighted mean of each pixel's neighbourhood; `kernel` (odd, odd) is symmetric about its middle."""
    up, left = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (up, up), (left, left)), mode="edge")
    total = np.zeros_like(x)
    for (row, column), weight in np.ndenumerate(kernel):
        if weight:
            total += weight * padded[:, :, row : row + x.shape[2], column : column + x.shape[3]]
    return total


def disk(radius: float, soft: float) -> _Array:
    """Return the kernel of an unfocused lens: the pixels within `radius`, softened by a 3 x 3 Gaussian of sigma `soft`."""
    reach = math.floor(radius) + 1
    rows, columns = np.indices((2 * reach + 1, 2 * reach + 1)) - reach
    inside = (rows**2 + columns**2 <= radius**2).astype(np.float64)
    tap = np.exp(-0.5 * (np.arange(-1, 2) / soft) ** 2)
    tap /= tap.sum()
    softened = sum(
        a * b * np.roll(inside, (i, j), axis=(0, 1))
        for i, a in zip((-1, 0, 1), tap, strict=True)
        for j, b in zip((-1, 0, 1), tap, strict=True)
    )
    return np.asarray(softened / np.sum(softened))


def bilinear_sample(x: _Array, rows: _Array, columns: _Array) -> _Array:
    """Interpolate x bilinearly at positions (n, H, W), the same in each channel."""
    height, width = x.shape[2:]
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    top, left = (np.floor(at).astype(np.int64) for at in (rows, columns))
    low, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, across = (rows - top)[:, None], (columns - left)[:, None]
    flat = x.reshape(*x.shape[:2], height * width)

    def at(row: _Array, column: _Array) -> _Array:
        positions = (row * width + column).reshape(len(row), 1, -1)
        return np.take_along_axis(flat, positions, axis=2).reshape(x.shape)

    upper = at(top, left) * (1 - across) + at(top, right) * across
    lower = at(low, left) * (1 - across) + at(low, right) * across
    return np.asarray(upper * (1 - down) + lower * down)


def zoom(x: _Array, factor: float) -> _Array:
    """Enlarge x about its middle by a factor of at least 1, bilinearly, and keep the frame."""
    return np.asarray(_hats(x.shape[2], factor) @ x @ _hats(x.shape[3], factor).T)


def _hats(size: int, factor: float) -> _Array:
    """Return the bilinear weight (size, size) of each old pixel in each new one."""
    middle = (size - 1) / 2
    positions = (np.arange(size) - middle) / factor + middle
    return np.asarray(np.maximum(1 - np.abs(positions[:, None] - np.arange(size)), 0))


def box_resize(x: _Array, height: int, width: int) -> _Array:
    """Resize x to (n, C, height, width) like PIL's BOX filter: the mean of the pixels in an area, or the nearest pixel."""
    return np.asarray(_areas(x.shape[2], height) @ x @ _areas(x.shape[3], width).T)


def _areas(size: int, new_size: int) -> _Array:
    """Return weights (new_size, size) of old pixels in each new one: equal for those whose middle lies in its area."""
    scale = size / new_size
    middles = (np.arange(new_size) + 0.5) * scale
    distance = (np.arange(size) + 0.5 - middles[:, None]) / max(scale, 1)
    inside = ((distance > -0.5) & (distance <= 0.5)).astype(np.float64)
    return np.asarray(inside / inside.sum(axis=1, keepdims=True))


def plasma(noise: _Array, decay: float) -> _Array:
    """Make clouds (n, S, S) in 0 to 1 from noise (n, S, S) in [-1, 1] by the diamond-square method; S is a power of two.

    Each time the grid is halved, the added noise is divided by `decay` squared, as in ImageNet-C's code. The field wraps around
    at its edges. Source: Fournier, Fussell & Carpenter 1982.
    """
    field = np.zeros_like(noise)
    step, amount = noise.shape[1], 1.0
    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=1)
        centres = (pairs + np.roll(pairs, -1, axis=2)) / 4 + amount * noise[:, half::step, half::step]
        field[:, half::step, half::step] = centres
        along = corners + np.roll(corners, -1, axis=2) + centres + np.roll(centres, 1, axis=1)
        field[:, ::step, half::step] = along / 4 + amount * noise[:, ::step, half::step]
        down = pairs + centres + np.roll(centres, 1, axis=2)
        field[:, half::step, ::step] = down / 4 + amount * noise[:, half::step, ::step]
        step, amount = half, amount / decay**2
    field -= field.min(axis=(1, 2), keepdims=True)
    return np.asarray(field / np.maximum(field.max(axis=(1, 2), keepdims=True), 1e-9))
