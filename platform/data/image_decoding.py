"""One picture file as an array: decoded, upright, of the wanted channels, resized.

Shapes: C channels (3: RGB, 1: grey), S the picture's side.
"""

import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

VERSION = 1  # part of the cache's keys: to be raised when what is decoded changes
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "BMP",
    "GIF",
    "TIFF",
    "PPM",
)  # JPEG has MPO in it; no EPS: that would start Ghostscript
_MODES = {1: "L", 3: "RGB"}


class UnreadableError(Exception):
    """A file is no picture that can be decoded: the message says why."""


def decode(path: Path, size: int, channels: int, crop: bool) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Read a picture as (C, S, S) uint8: the shorter side becomes `size` and the centre is kept, or all of it is squeezed.

    It is turned as its EXIF data say; what is transparent becomes white; of 16 bits the upper eight are kept; of several
    frames the first. Resizing is bilinear with antialiasing. A JPEG much larger than needed is decoded at 1/2, 1/4 or 1/8.

    Raises:
        UnreadableError: it is damaged, truncated, of another format, or too large to be honest.
    """
    from PIL import Image, ImageOps

    unreadable = (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
        struct.error,
    )
    try:
        with Image.open(path, formats=_FORMATS) as image:
            image.draft(None, (2 * size, 2 * size))
            image.load()
            upright = ImageOps.exif_transpose(image)
        box = _centre(*upright.size) if crop else None
        square = _flat(upright, _MODES[channels]).resize((size, size), Image.Resampling.BILINEAR, box)
    except (*unreadable, zlib.error, MemoryError, Image.DecompressionBombError) as error:
        raise UnreadableError(_reason(error, path)) from error
    array = np.asarray(square, dtype=np.uint8)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def printable(name: str | Path) -> str:
    """A file's name for people and for text files: what is no UTF-8 or would break a line is escaped."""
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _centre(width: int, height: int) -> tuple[float, float, float, float]:
    """The largest square in the middle: left, upper, right, lower."""
    side = min(width, height)
    left, upper = (width - side) / 2, (height - side) / 2
    return left, upper, left + side, upper + side


def _flat(image: "Image.Image", mode: str) -> "Image.Image":
    """The picture without transparency, in 8 bits and the wanted mode."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point values, whose range is unknown")
    if image.mode.startswith("I"):
        return Image.fromarray(_upper_bits(np.asarray(image))).convert(mode)
    if image.has_transparency_data:
        drawn = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)
    return image.convert(mode)


def _upper_bits(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The upper eight of 16 bits."""
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("more than 16 bits in a value, whose range is unknown")
    return (values >> 8).astype(np.uint8)


def _reason(error: BaseException, path: Path) -> str:
    """A short reason without the path, which stands before it."""
    if type(error).__name__ == "UnidentifiedImageError":
        return "no picture of a known format" if path.stat().st_size else "empty"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).replace(str(path), "").strip()
