"""Corrupt pictures as in ImageNet-C, at five severities with the strengths of CIFAR-10-C.

Noise: gaussian, shot, impulse. Blur: defocus, gaussian, motion, zoom. Weather: fog, brightness. Digital: contrast, elastic,
pixelate, jpeg. Left out: frost (needs photographs of frost as textures), snow and spatter (many stages that mean little on
grey handwriting), glass blur (a walk over single pixels). Lengths in pixels are for 32 pixels. Larger pictures scale them up;
smaller ones keep them, because half a pixel of blur does nothing.

A picture's noise is seeded by (name, severity, part, index of the picture), so a picture is always corrupted in the same way.
Arithmetic is in float64 and rounded to bytes at the end. The bytes are the same on all machines, apart from rare differences
of one; jpeg also depends on the JPEG library.

Source: Hendrycks & Dietterich 2019 (1903.12261) and the strengths in their make_cifar_c.py. Ours differs in edge padding, in
motion blur (theirs is ImageMagick's) and in the amount of impulse noise, which is exact in the mean.
Shapes: N pictures, n of them in a chunk, C channels, H height, W width; x (n, C, H, W) float64 in [0, 1].
"""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, Literal

import numpy as np

from ..seeding import derive
from .image_filters import bilinear_sample, box_resize, convolve, disk, gaussian_blur, plasma, zoom

Corruption = Literal[
    "none",
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "gaussian_blur",
    "motion_blur",
    "zoom_blur",
    "fog",
    "brightness",
    "contrast",
    "elastic",
    "pixelate",
    "jpeg",
]
VERSION = "v1"  # part of the cache keys: raise it when a corruption changes

_Array = np.ndarray[Any, np.dtype[Any]]
_Generators = Sequence[np.random.Generator]  # one generator per picture
_CHUNK = 256


def corrupt(name: Corruption, severity: int, pictures: _Array, part: str = "", first: int = 0) -> _Array:
    """Corrupt pictures (N, C, H, W) uint8.

    Args:
        name: the corruption; "none" returns the pictures.
        severity: 1 to 5.
        pictures: (N, C, H, W) uint8.
        part: "train" or "test"; seeds the noise.
        first: index in the part of the first picture; seeds the noise.
    """
    if name == "none":
        return pictures
    change, strengths = _CORRUPTIONS[name]
    seed = derive(0, "corruption", name, severity, part)
    result = np.empty_like(pictures)
    for start in range(0, len(pictures), _CHUNK):
        x = pictures[start : start + _CHUNK] / 255
        generators = [np.random.default_rng([seed, number]) for number in range(first + start, first + start + len(x))]
        changed = change(x, strengths[severity - 1], generators)
        result[start : start + _CHUNK] = np.round(np.clip(changed, 0, 1) * 255)
    return result


def _sample_each(generators: _Generators, sample: Callable[[np.random.Generator], Any]) -> _Array:
    return np.stack([sample(generator) for generator in generators])


def _scale(x: _Array) -> float:
    """Return the factor for lengths that are given for 32 pixels."""
    return max(1.0, float(min(x.shape[2:])) / 32)


def _gaussian_noise(x: _Array, strength: float, generators: _Generators) -> _Array:
    return x + strength * _sample_each(generators, lambda g: g.standard_normal(x.shape[1:]))


def _shot_noise(x: _Array, strength: float, generators: _Generators) -> _Array:
    """Count photons: the fewer, the noisier."""
    counts = [generator.poisson(picture * strength) for generator, picture in zip(generators, x, strict=True)]
    return np.stack(counts) / strength


def _impulse_noise(x: _Array, strength: float, generators: _Generators) -> _Array:
    """Salt and pepper: half of the changed values become 1, half 0."""
    u = _sample_each(generators, lambda g: g.random(x.shape[1:]))
    return np.where(u < strength / 2, 0.0, np.where(u < strength, 1.0, x))


def _defocus_blur(x: _Array, strength: tuple[float, float], generators: _Generators) -> _Array:
    radius, soft = strength
    return convolve(x, disk(radius * _scale(x), soft * _scale(x)))


def _gaussian_blur(x: _Array, strength: float, generators: _Generators) -> _Array:
    return gaussian_blur(x, strength * _scale(x))


def _motion_blur(x: _Array, strength: tuple[float, float], generators: _Generators) -> _Array:
    """Smear each pixel into a Gaussian trail; each picture gets one direction within 45 degrees of horizontal."""
    length, sigma = (value * _scale(x) for value in strength)
    steps = np.arange(round(length) + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    angle = np.radians(_sample_each(generators, lambda g: g.uniform(-45, 45)))[:, None, None]
    rows, columns = np.indices(x.shape[2:])
    total = np.zeros_like(x)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        total += weight * bilinear_sample(x, rows + step * np.sin(angle), columns + step * np.cos(angle))
    return total


def _zoom_blur(x: _Array, strength: float, generators: _Generators) -> _Array:
    """Average the picture with copies enlarged by 0, 1, 2 ... per cent up to the strength."""
    factors = [1 + number / 100 for number in range(round(strength * 100) + 1)]
    mean: _Array = (x + sum(zoom(x, factor) for factor in factors)) / (len(factors) + 1)
    return mean


def _fog(x: _Array, strength: tuple[float, float], generators: _Generators) -> _Array:
    amount, decay = strength
    side = 2 ** int(np.ceil(np.log2(max(x.shape[2:]))))
    noise = _sample_each(generators, lambda g: g.uniform(-1, 1, (side, side)))
    fog = plasma(noise, decay)[:, None, : x.shape[2], : x.shape[3]]
    largest = x.max(axis=(1, 2, 3), keepdims=True)
    mixed: _Array = (x + amount * fog) * largest / (largest + amount)
    return mixed


def _brightness(x: _Array, strength: float, generators: _Generators) -> _Array:
    """Raise HSV's value: the largest channel by the strength, the others in proportion; black becomes grey."""
    value = x.max(axis=1, keepdims=True)
    raised = np.minimum(value + strength, 1)
    brighter: _Array = np.where(value > 0, x / np.where(value > 0, value, 1) * raised, raised)
    return brighter


def _contrast(x: _Array, strength: float, generators: _Generators) -> _Array:
    mean = x.mean(axis=(2, 3), keepdims=True)
    flatter: _Array = (x - mean) * strength + mean
    return flatter


def _elastic(x: _Array, strength: tuple[float, float, float], generators: _Generators) -> _Array:
    """Move three corners of the inner third by an affine map, then add a smooth displacement field (fractions of the side)."""
    height, width = x.shape[2:]
    amount, sigma, corner = (value * min(height, width) for value in strength)
    moved = _sample_each(generators, lambda g: g.uniform(-corner, corner, (3, 2)))
    across, down = (moved[:, 0] - moved[:, 1]) / 2, (moved[:, 1] - moved[:, 2]) / 2  # corners (1,1), (1,-1), (-1,-1)
    offset = moved[:, 0] - across - down
    v, u = np.indices((height, width)) - np.array([(height - 1) / 2, (width - 1) / 2]).reshape(2, 1, 1)
    u, v = (positions / (min(height, width) // 3 or 1) for positions in (u, v))
    field = [offset[:, i, None, None] + down[:, i, None, None] * v + across[:, i, None, None] * u for i in (0, 1)]
    if amount:
        rough = _sample_each(generators, lambda g: g.uniform(-1, 1, (2, height, width)))
        smooth = amount * gaussian_blur(rough, sigma)
        field = [plain + smooth[:, i] for i, plain in enumerate(field)]
    rows, columns = np.indices((height, width))
    return bilinear_sample(x, rows + field[0], columns + field[1])


def _pixelate(x: _Array, strength: float, generators: _Generators) -> _Array:
    small = [max(1, int(size * strength)) for size in x.shape[2:]]
    return box_resize(box_resize(x, *small), *x.shape[2:])


def _jpeg(x: _Array, strength: int, generators: _Generators) -> _Array:
    from PIL import Image

    result = np.empty_like(x)
    for number, picture in enumerate(np.round(x * 255).astype(np.uint8)):
        grey = len(picture) == 1
        buffer = BytesIO()
        Image.fromarray(picture[0] if grey else picture.transpose(1, 2, 0)).save(buffer, "JPEG", quality=strength)
        decoded = np.asarray(Image.open(buffer))
        result[number] = (decoded[None] if grey else decoded.transpose(2, 0, 1)) / 255
    return result


_CORRUPTIONS: dict[str, tuple[Callable[[_Array, Any, _Generators], _Array], tuple[Any, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),  # standard deviation
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),  # photons of white
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),  # fraction of the values
    "defocus_blur": (_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),  # radius, softness
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1)),  # sigma
    "motion_blur": (_motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),  # length, sigma
    "zoom_blur": (_zoom_blur, (0.05, 0.10, 0.15, 0.20, 0.25)),
    "fog": (_fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),  # amount, decay
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic": (  # amount and sigma of the field, reach of the affine map; fractions of the side
        _elastic,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),  # size of the small picture
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),  # quality
}
