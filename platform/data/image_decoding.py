"""Decode a picture file to an array: upright, converted to the requested channels, resized.

Shapes: C channels (3: RGB, 1: grey), S the picture's side.
"""

import struct
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

VERSION = 1  # part of the cache keys: raise it when decoding changes
# all usual ones of _FORMATS; JPEG includes MPO, PNG APNG
EXTENSIONS = (
    *(
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".jfi",
        ".mpo",
        ".png",
        ".apng",
        ".webp",
        ".avif",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
    ),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
# no EPS, which would start Ghostscript; Pillow reads AVIF from version 11.3 on
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 89_478_485  # Pillow's own limit, at which it warns
_MODES = {1: "L", 3: "RGB"}


class UnreadableError(Exception):
    """A file cannot be decoded as a picture; the message gives the reason."""


def decode(
    path: Path,
    size: int,
    channels: int,
    crop: bool,
    *,
    max_pixels: int = MAX_PIXELS,
    room: Callable[[int], AbstractContextManager[object]] = lambda pixels: nullcontext(),
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Read a picture as (C, S, S) uint8.

    The EXIF orientation is applied. Transparent areas become white. Of 16 bits the upper eight are kept, of several frames the
    first. Resizing is bilinear with antialiasing. A JPEG much larger than needed is decoded at 1/2, 1/4 or 1/8 scale.

    Args:
        path: the file.
        size: side S of the result in pixels.
        channels: 3 for RGB, 1 for grey.
        crop: resize the shorter side to `size` and keep the centre; False: squeeze the whole picture into the square.
        max_pixels: pixels that the header may declare; a picture of more is not decoded.
        room: entered, with the number of pixels, while the picture is in memory.

    Raises:
        UnreadableError: the file is damaged, truncated, of another format, no regular file, or has too many pixels.
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
        if path.exists() and not path.is_file():
            raise ValueError("no regular file")  # opening a FIFO would wait for ever
        with Image.open(path, formats=_readable_formats()) as image:
            if (pixels := image.width * image.height) > max_pixels:
                raise ValueError(
                    f"{image.width} x {image.height} = {pixels:,} pixels, more than max_pixels={max_pixels}"
                )
            image.draft(None, (2 * size, 2 * size))
            with room(image.width * image.height):
                image.load()
                upright = ImageOps.exif_transpose(image)
                box = _centre(*upright.size) if crop else None
                square = _flat(upright, _MODES[channels]).resize((size, size), Image.Resampling.BILINEAR, box)
    except (*unreadable, zlib.error, MemoryError, Image.DecompressionBombError) as error:
        raise UnreadableError(_reason(error, path)) from error
    array = np.asarray(square, dtype=np.uint8)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


@cache
def _readable_formats() -> tuple[str, ...]:
    """Return those of the formats that the installed Pillow reads."""
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def printable(name: str | Path) -> str:
    """Return a file name for display and text files: escape bytes that are not UTF-8 and unprintable characters."""
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def _centre(width: int, height: int) -> tuple[float, float, float, float]:
    """Return the largest centred square: left, upper, right, lower."""
    side = min(width, height)
    left, upper = (width - side) / 2, (height - side) / 2
    return left, upper, left + side, upper + side


def _flat(image: "Image.Image", mode: str) -> "Image.Image":
    """Convert a picture to 8 bits and the given mode, without transparency."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point values, whose range is unknown")
    if image.mode.startswith("I"):
        return Image.fromarray(_upper_bits(np.asarray(image))).convert(mode)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert(mode)


def _upper_bits(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the upper eight of 16 bits."""
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("more than 16 bits in a value, whose range is unknown")
    return (values >> 8).astype(np.uint8)


def _reason(error: BaseException, path: Path) -> str:
    """Return a short reason without the path, which the message already has."""
    if type(error).__name__ == "UnidentifiedImageError":
        return "no picture of a known format" if path.stat().st_size else "empty"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).replace(str(path), "").strip()
