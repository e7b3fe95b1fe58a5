"""Rotate pictures in integer arithmetic, so that the bytes are the same on every machine.

Shapes: N pictures, C channels, H height, W width.
"""

import math
from typing import Any

import numpy as np

VERSION = "v1"  # part of the cache keys: raise it when the pictures change
_Array = np.ndarray[Any, np.dtype[Any]]


def rotate(pictures: _Array, angle: float) -> _Array:
    """Rotate pictures (N, C, H, W) uint8 counter-clockwise about their centre by `angle` degrees.

    Bilinear; pixels from outside the picture are black.
    """
    count, channels, height, width = pictures.shape
    neighbours, weights = _bilinear(height, width, math.radians(angle))
    flat = np.zeros((count * channels, height * width + 1), dtype=np.uint8)  # the last column is the black background
    flat[:, :-1] = pictures.reshape(count * channels, -1)
    result = np.empty((count * channels, height * width), dtype=np.uint8)
    for start in range(0, len(flat), 1024):
        chunk = flat[start : start + 1024]
        total = sum(np.take(chunk, n, axis=1) * w for n, w in zip(neighbours, weights, strict=True))
        result[start : start + 1024] = (total + 2**19) >> 20
    return result.reshape(pictures.shape)


def _bilinear(height: int, width: int, turn: float) -> tuple[_Array, _Array]:
    """Return the four source pixels (4, H * W) of each result pixel, and their weights, which sum to 2**20."""
    rows, columns = np.indices((height, width)).reshape(2, -1) - np.array([[(height - 1) / 2], [(width - 1) / 2]])
    # rows go down, so a counter-clockwise rotation of the picture is this clockwise rotation of the source positions
    y = rows * math.cos(turn) + columns * math.sin(turn) + (height - 1) / 2
    x = columns * math.cos(turn) - rows * math.sin(turn) + (width - 1) / 2
    sources, weights = [], []
    for step in ((0, 0), (0, 1), (1, 0), (1, 1)):
        (row, in_row), (column, in_column) = (
            _side(coordinate, up) for coordinate, up in zip((y, x), step, strict=True)
        )
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        sources.append(np.where(inside, row * width + column, height * width))
        weights.append(in_row * in_column)
    return np.stack(sources), np.stack(weights).astype(np.int32)


def _side(coordinate: _Array, up: int) -> tuple[_Array, _Array]:
    """Return the grid line below (`up` 0) or above (1) each coordinate, and its weight in 1024ths."""
    fine = np.round(coordinate * 1024).astype(np.int64)
    line, rest = fine // 1024, fine % 1024
    return (line + 1, rest) if up else (line, 1024 - rest)
