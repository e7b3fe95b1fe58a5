"""Change the colour or style of pictures: (N, 1 or 3, H, W) uint8 becomes RGB (N, 3, H, W).

Integer arithmetic gives the same bytes on every machine. Source: Arjovsky et al. 2019 (1907.02893, Coloured MNIST), but with
one colour for all classes, so that the colour does not reveal the class.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

Style = Literal["as_is", "inverted", "tinted", "hue_rotated", "posterised", "sketch"]
VERSION = "v1"  # part of the cache keys: raise it when a style changes

_Array = np.ndarray[Any, np.dtype[Any]]
_GROUND, _INK = (32, 40, 96), (255, 208, 64)  # tinted: black becomes dark blue, white becomes amber
_LEVELS = 4  # per channel of a posterised picture
_CHUNK = 1024


def restyle(style: Style, pictures: _Array) -> _Array:
    """Convert pictures (N, 1 or 3, H, W) uint8 to a style, (N, 3, H, W) uint8.

    as_is: unchanged; grey becomes three equal channels. inverted: the negative. tinted: brightness from dark blue to amber.
    hue_rotated: red, green and blue are permuted (120 degrees). posterised: four levels per channel. sketch: dark lines on white
    where the brightness changes (Sobel).
    """
    count, channels, height, width = pictures.shape
    result = np.empty((count, 3, height, width), dtype=np.uint8)
    for start in range(0, count, _CHUNK):
        x = pictures[start : start + _CHUNK].astype(np.int32)
        result[start : start + _CHUNK] = _STYLES[style](np.repeat(x, 3, axis=1) if channels == 1 else x)
    return result


def brightness(x: _Array) -> _Array:
    """Return the luma (N, H, W) of pictures (N, 3, H, W), integers 0..255 (ITU-R BT.601 in 1000ths)."""
    luma: _Array = (299 * x[:, 0] + 587 * x[:, 1] + 114 * x[:, 2] + 500) // 1000
    return luma


def _tinted(x: _Array) -> _Array:
    light = brightness(x)[:, None]
    ground, ink = (np.array(colour).reshape(1, 3, 1, 1) for colour in (_GROUND, _INK))
    mixed: _Array = (ground * (255 - light) + ink * light + 127) // 255
    return mixed


def _posterised(x: _Array) -> _Array:
    return x * _LEVELS // 256 * 255 // (_LEVELS - 1)


def _sketch(x: _Array) -> _Array:
    grey = np.pad(brightness(x), ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]  # smoothed across rows, (N, H, W + 2)
    columns = grey[:, :, :-2] + 2 * grey[:, :, 1:-1] + grey[:, :, 2:]
    steepness = np.abs(rows[:, :, 2:] - rows[:, :, :-2]) + np.abs(columns[:, 2:] - columns[:, :-2])
    return np.repeat(255 - np.minimum(255, steepness // 4)[:, None], 3, axis=1)


_STYLES: dict[str, Callable[[_Array], _Array]] = {
    "as_is": lambda x: x,
    "inverted": lambda x: 255 - x,
    "tinted": _tinted,
    "hue_rotated": lambda x: x[:, [2, 0, 1]],
    "posterised": _posterised,
    "sketch": _sketch,
}
