"""Pictures of what a trial trains on, as a PNG: samples beside their augmented versions, or the samples of each experience.

Shapes: n pictures of a row, C channels, H height, W width.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..config.schema import Experiment
from ..data.augmentation.presets import resolve_transformations
from ..data.streams import Experience, Stream
from ..errors import UserError
from ..trial.builder import TrialBuilder, build_trial

_ROWS, _COLUMNS, _EPOCHS = 12, 12, 8
_SIDE = 80  # a picture's, about: small ones are enlarged by whole factors
_LABEL, _LINE, _GAP, _EDGE = 190, 16, 4, 16


@dataclass(frozen=True, slots=True, eq=False)
class SheetRow:
    """A row of the sheet: its title with a second line, its pictures (n, C, H, W) in [0, 1], a caption under each ("": none)."""

    title: str
    more: str
    pictures: Tensor
    captions: tuple[str, ...]


def write_image_sheet(config: Experiment, path: Path | None) -> Path:
    """Write the sheet (by default beside the user, by the experiment's name) and return its path.

    With augmentation it shows some samples and what training makes of them, else the samples of each experience.

    Raises:
        UserError: the stream's samples are no pictures; the file cannot be written; as `assemble` does.
    """
    parts = build_trial(config, planning=True)
    stream, augmented = parts.stream, parts.augmentation() is not None
    if len(stream.shape) != 3 or stream.shape[0] not in (1, 3):
        raise UserError(
            f"benchmark.{stream.name}: its samples are no grey or colour pictures: they are {stream.shape}."
        )
    path = path or Path(re.sub(r"[^\w.=+-]+", "_", config.name) + "-augmentation.png")
    heads = ["original", *(f"epoch {epoch}" for epoch in range(1, _EPOCHS + 1))] if augmented else []
    rows = augmented_rows(parts) if augmented else experience_rows(stream)
    explained = described(config) if augmented else "training pictures of each experience, not augmented"
    try:
        sheet((f"{config.name}: {stream.name}", explained), heads, rows).save(path, "PNG")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}.") from None
    return path


def described(config: Experiment) -> str:
    """The transformations with their settings, in a line."""
    named = ((name, asdict(built)) for name, built in resolve_transformations(config))
    return " · ".join(f"{name}({', '.join(f'{k}={v}' for k, v in settings.items())})" for name, settings in named)


def augmented_rows(parts: TrialBuilder) -> list[SheetRow]:
    """Samples of the stream, and what training would make of each in its first epochs (as a first mini-batch)."""
    stream, augment = parts.stream, parts.augmentation()
    assert augment is not None
    steps = _spread(stream.experiences)
    each = max(1, _ROWS // len(steps))
    samples = [(step, int(i)) for row, step in enumerate(steps) for i in balanced(step, each, first=row * each)]
    x = stream.normalise(torch.cat([step.train.arrays.x[[i]] for step, i in samples]))
    versions = torch.stack([x, *(augment(x, (0, epoch, 0)) for epoch in range(_EPOCHS))], 1)
    return [
        SheetRow(
            stream.class_names[int(step.train.arrays.y[i])],
            step.name,
            _visible(stream, pictures),
            ("",) * len(pictures),
        )
        for (step, i), pictures in zip(samples, versions, strict=True)
    ]


def experience_rows(stream: Stream) -> list[SheetRow]:
    """Samples of each experience, their classes in turn."""
    rows = []
    for step in _spread(stream.experiences):
        chosen = balanced(step, _COLUMNS)
        captions = tuple(stream.class_names[label] for label in step.train.arrays.y[chosen].tolist())
        pictures = _visible(stream, stream.normalise(step.train.arrays.x[chosen]))
        rows.append(SheetRow(step.name, f"{len(step.train)} training samples", pictures, captions))
    return rows


def _spread(experiences: Sequence[Experience]) -> list[Experience]:
    """All, or as many as there are rows, from the first to the last."""
    count = min(_ROWS, len(experiences))
    return [experiences[round(i * (len(experiences) - 1) / max(1, count - 1))] for i in range(count)]


def balanced(experience: Experience, count: int, first: int = 0) -> Tensor:
    """Positions (count,) of training samples, the classes in turn, beginning with the one at `first`."""
    part = experience.train
    members = [part.indices[part.y == label] for label in part.y.unique()]
    turns = ((members[i % len(members)], i // len(members)) for i in range(first, first + count))
    return torch.stack([of_class[turn % len(of_class)] for of_class, turn in turns])


def _visible(stream: Stream, x: Tensor) -> Tensor:
    """Network inputs -> pictures in [0, 1]."""
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (stream.mean, stream.std))
    return (x * std + mean).clamp_(0, 1)


def sheet(titles: tuple[str, str], heads: Sequence[str], rows: Sequence[SheetRow]) -> Image.Image:
    """Draw rows of pictures under two lines of title and the columns' heads."""
    height, width = rows[0].pictures.shape[2:]
    factor = max(1, round(_SIDE / max(height, width)))
    step_x, step_y = width * factor + _GAP, height * factor + _GAP + (_LINE if any(rows[0].captions) else 0)
    top = _EDGE + 3 * _LINE + (_LINE if heads else 0)
    size = (2 * _EDGE + _LABEL + step_x * max(len(row.pictures) for row in rows), top + _EDGE + step_y * len(rows))
    image = Image.new("RGB", size, "white")
    pen = _Pen(image)
    pen.write(titles[0], _EDGE, _EDGE, size[0] - 2 * _EDGE, 14)
    pen.write(titles[1], _EDGE, _EDGE + 20, size[0] - 2 * _EDGE, 11, "#666")
    for column, head in enumerate(heads):
        pen.write(head, _EDGE + _LABEL + column * step_x, top - _LINE, step_x, 11, "#666")
    for number, row in enumerate(rows):
        y = top + number * step_y
        pen.write(row.title, _EDGE, y, _LABEL - _EDGE, 13)
        pen.write(row.more, _EDGE, y + 18, _LABEL - _EDGE, 11, "#666")
        for column, (picture, caption) in enumerate(zip(row.pictures, row.captions, strict=True)):
            x = _EDGE + _LABEL + column * step_x
            image.paste(_image(picture, factor), (x, y))
            pen.write(caption, x, y + height * factor + 1, step_x - _GAP, 11, "#666")
    return image


class _Pen:
    """Writes into an image, no wider than there is room."""

    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)

    def write(self, text: str, x: int, y: int, room: int, size: int, colour: str = "black") -> None:
        """A line of text with its upper left corner at (x, y)."""
        font = ImageFont.load_default(size)
        text = shown = " ".join(text.split())
        while shown and self._draw.textlength(shown, font) > room:
            shown = shown[:-2].rstrip("…") + "…" if len(shown) > 2 else ""
        self._draw.text((x, y), shown, fill=colour, font=font)


def _image(picture: Tensor, factor: int) -> Image.Image:
    """One picture (C, H, W), each pixel a square."""
    values = (picture * 255).round().to(torch.uint8).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    array = values.expand(3, -1, -1).permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(array), "RGB")
