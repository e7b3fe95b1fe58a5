"""Draw a trial's training pictures as a PNG: samples with their augmented versions, or samples of each experience.

Shapes: n pictures of a row, C channels, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..data.streams import Experience, Stream
from ..errors import UserError
from ..run_folders import check_new_file, folder_name
from ..trial.builder import TrialBuilder, build_trial
from ..trial.resolve import ResolvedExperiment

_ROWS, _COLUMNS, _EPOCHS = 12, 12, 8
_SIDE = 80  # approximate side of a picture in pixels: small pictures are enlarged by whole factors
_LABEL, _LINE, _GAP, _EDGE = 190, 16, 4, 16  # pixels


@dataclass(frozen=True, slots=True, eq=False)
class SheetRow:
    """A row of the sheet.

    Attributes:
        title: the text at its left.
        more: a second line under the title.
        pictures: (n, C, H, W) in [0, 1].
        captions: n texts under the pictures ("": none).
    """

    title: str
    more: str
    pictures: Tensor
    captions: tuple[str, ...]


def write_image_sheet(resolved: ResolvedExperiment, path: Path | None) -> Path:
    """Write the sheet of an experiment.

    With augmentation it shows some samples and their augmented versions, otherwise samples of each experience.

    Args:
        resolved: the resolved experiment.
        path: the PNG to write (default: NAME-augmentation.png in the working folder).

    Returns:
        The file's path.

    Raises:
        UserError: the stream's samples are not pictures; the file cannot be written; or as `build_trial` raises.
    """
    name = resolved.experiment.name
    path = path or Path(f"{folder_name(name)}-augmentation.png")
    check_new_file(path)
    builder = build_trial(resolved, planning=True)
    stream, augmented = builder.stream, builder.augmentation() is not None
    if len(stream.shape) != 3 or stream.shape[0] not in (1, 3):
        raise UserError(
            f"benchmark.{stream.name}: its samples are not grey or colour pictures: their shape is {stream.shape}."
        )
    heads = ["original", *(f"epoch {epoch}" for epoch in range(1, _EPOCHS + 1))] if augmented else []
    rows = augmented_rows(builder) if augmented else experience_rows(stream)
    subtitle = transformations_text(resolved) if augmented else "training pictures of each experience, not augmented"
    try:
        draw_sheet((f"{name}: {stream.name}", subtitle), heads, rows).save(path, "PNG")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}.") from None
    return path


def transformations_text(resolved: ResolvedExperiment) -> str:
    """Return the transformations with their settings, in one line."""
    named = ((name, asdict(transformation)) for name, transformation in resolved.transformations)
    return " · ".join(f"{name}({', '.join(f'{k}={v}' for k, v in settings.items())})" for name, settings in named)


def augmented_rows(builder: TrialBuilder) -> list[SheetRow]:
    """Return rows of samples, each with its augmented versions in the first epochs (as the first mini-batch)."""
    stream, augment = builder.stream, builder.augmentation()
    assert augment is not None
    experiences = _evenly_spaced(stream.experiences)
    each = max(1, _ROWS // len(experiences))
    samples = [
        (experience, int(i))
        for row, experience in enumerate(experiences)
        for i in balanced(experience, each, first=row * each)
    ]
    x = stream.normalise(torch.cat([experience.train.arrays.x[[i]] for experience, i in samples]))
    versions = torch.stack([x, *(augment(x, (0, epoch, 0)) for epoch in range(_EPOCHS))], 1)
    return [
        SheetRow(
            stream.class_names[int(experience.train.arrays.y[i])],
            experience.name,
            _to_pixels(stream, pictures),
            ("",) * len(pictures),
        )
        for (experience, i), pictures in zip(samples, versions, strict=True)
    ]


def experience_rows(stream: Stream) -> list[SheetRow]:
    """Return a row of samples for each experience, its classes in turn."""
    rows = []
    for experience in _evenly_spaced(stream.experiences):
        chosen = balanced(experience, _COLUMNS)
        captions = tuple(stream.class_names[label] for label in experience.train.arrays.y[chosen].tolist())
        pictures = _to_pixels(stream, stream.normalise(experience.train.arrays.x[chosen]))
        rows.append(SheetRow(experience.name, f"{len(experience.train)} training samples", pictures, captions))
    return rows


def _evenly_spaced(experiences: Sequence[Experience]) -> list[Experience]:
    """All experiences, or _ROWS of them at equal distances, with the first and the last."""
    count = min(_ROWS, len(experiences))
    return [experiences[round(i * (len(experiences) - 1) / max(1, count - 1))] for i in range(count)]


def balanced(experience: Experience, count: int, first: int = 0) -> Tensor:
    """Return the indices (count,) of training samples whose classes take turns.

    Args:
        experience: where the samples are from.
        count: how many samples.
        first: how many samples of this sequence to skip.
    """
    train = experience.train
    members = [train.indices[train.y == label] for label in train.y.unique()]
    turns = ((members[i % len(members)], i // len(members)) for i in range(first, first + count))
    return torch.stack([indices[turn % len(indices)] for indices, turn in turns])


def _to_pixels(stream: Stream, x: Tensor) -> Tensor:
    """Network inputs -> pictures in [0, 1]."""
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (stream.mean, stream.std))
    return (x * std + mean).clamp_(0, 1)


def draw_sheet(titles: tuple[str, str], heads: Sequence[str], rows: Sequence[SheetRow]) -> Image.Image:
    """Draw the sheet: two lines of title, the columns' headings, the rows of pictures.

    Args:
        titles: the two lines.
        heads: headings of the columns; none if empty.
        rows: at least one; all pictures have the same size.
    """
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
    """Writes text into an image, shortened to a maximal width."""

    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)

    def write(self, text: str, x: int, y: int, room: int, size: int, colour: str = "black") -> None:
        """Write one line with its upper left corner at (x, y), at most `room` pixels wide, in a font of `size` pixels."""
        font = ImageFont.load_default(size)
        line = " ".join(text.split())
        while line and self._draw.textlength(line, font) > room:
            line = line[:-2].rstrip("…") + "…" if len(line) > 2 else ""
        self._draw.text((x, y), line, fill=colour, font=font)


def _image(picture: Tensor, factor: int) -> Image.Image:
    """One picture (C, H, W), each pixel enlarged to a square of `factor` pixels."""
    values = (picture * 255).round().to(torch.uint8).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    array = values.expand(3, -1, -1).permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(array), "RGB")
