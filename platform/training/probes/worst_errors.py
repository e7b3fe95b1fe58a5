"""The worst errors: a sheet of the test pictures that the network gets wrong with the highest confidence, after each experience.

It looks at the test samples of the experiences up to the one just learned. It writes probes/worst_errors-<experience>.png to the
trial's folder, and a .json with each picture's class, its predicted class and the probability of that prediction. Values:
`errors` (share of the samples that is wrong) and `confidence` (mean probability of the predictions on the sheet).
Shapes: n samples, K outputs of the head, C channels, H height, W width.
"""

import io
import math
from pathlib import Path
from typing import Any

import torch

from ...config.settings import PositiveInt, settings
from ...data.samples import PartSamples, gather_parts
from ...errors import UserError
from ...files import write_bytes
from ...ledger.documents import write_json
from ._base import Probe, ProbeContext, Values
from ._samples import logits_for

_SIDE, _COLUMNS, _TEXT = 72, 8, 28  # pixels a picture's side; pictures a row; pixels of a caption's height


@settings
class Config:
    """A sheet of the test pictures that are wrong with the highest confidence, in the trial's folder and the report.

    count: maximum number of pictures on a sheet.
    """

    count: PositiveInt = 24


class WorstErrors(Probe):
    """Writes a sheet after each experience."""

    def __init__(self, count: int, folder: Path) -> None:
        self.count, self.folder = count, folder

    def after_experience(self, learner: Any, number: int) -> Values:
        """Write the sheet for all test samples so far, and return its values."""
        experiences = learner.stream.experiences[: number + 1]
        subset = gather_parts(
            learner.stream, [(i, experience.test) for i, experience in enumerate(experiences)], learner.device
        )
        confidence, predicted = logits_for(learner, subset).softmax(1).max(1)
        wrong = predicted != subset.y
        worst = torch.where(wrong, confidence, -1.0).sort(descending=True, stable=True).indices[: self.count]
        worst = worst[wrong[worst]]
        self._write(learner.stream, subset, worst, predicted[worst].tolist(), confidence[worst].tolist(), number)
        mean = confidence[worst].double().mean().item()
        return {"errors": wrong.double().mean().item(), "confidence": mean}

    def _write(
        self,
        stream: Any,
        subset: PartSamples,
        worst: torch.Tensor,
        predicted: list[int],
        shares: list[float],
        number: int,
    ) -> None:
        names = dict(enumerate(stream.class_names))
        entries = [
            {"true": names[true], "predicted": names.get(label, str(label)), "probability": round(share, 4)}
            for true, label, share in zip(subset.y[worst].tolist(), predicted, shares, strict=True)
        ]
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"worst_errors-{number + 1:03d}"
        write_json(path.with_suffix(".json"), {"experience": number + 1, "errors": entries})
        colours = to_colours(stream, subset.inputs.select(worst))
        write_bytes(path.with_suffix(".png"), render_sheet(colours, entries))


def to_colours(stream: Any, x: torch.Tensor) -> torch.Tensor:
    """Return colours (n, H, W, 3) as bytes, of network inputs (n, *shape)."""
    channels = (1, -1, 1, 1)
    mean, std = (torch.tensor(values, device=x.device).view(channels) for values in (stream.mean, stream.std))
    values = (x * std + mean).clamp(0, 1).mul(255).round().to(torch.uint8)
    values = values if values.shape[1] == 3 else values[:, :1].expand(-1, 3, -1, -1)
    return values.permute(0, 2, 3, 1).cpu()


def render_sheet(colours: torch.Tensor, entries: list[dict[str, Any]]) -> bytes:
    """Return a PNG of pictures (n, H, W, 3) in rows, with the true and the predicted class below each."""
    from PIL import Image, ImageDraw

    columns = min(_COLUMNS, max(1, len(entries)))
    width, height = _SIDE + 8, _SIDE + _TEXT + 8
    page = Image.new("RGB", (columns * width, max(1, math.ceil(len(entries) / columns)) * height), "white")
    draw = ImageDraw.Draw(page)
    for index, (picture, entry) in enumerate(zip(colours.numpy(), entries, strict=True)):
        left, top = index % columns * width + 4, index // columns * height + 4
        scale = _SIDE / max(picture.shape[:2])
        size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        page.paste(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST), (left, top))
        caption = f"{_short(entry['true'])}\n> {_short(entry['predicted'])} {entry['probability']:.0%}"
        draw.multiline_text((left, top + _SIDE + 1), caption, fill="black", spacing=1)
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()


def _short(name: str) -> str:
    """As much of a name as fits under a picture, in the characters of PIL's default font."""
    plain = name.encode("ascii", "replace").decode()
    return plain if len(plain) <= 8 else plain[:7] + "."


def build(config: Config, context: ProbeContext) -> Probe:
    """Build the probe.

    Raises:
        UserError: the samples of the stream are not pictures.
    """
    if len(context.stream.shape) != 3:
        raise UserError(
            f"probes.worst_errors: the samples are no pictures; their shape is {list(context.stream.shape)}."
        )
    return WorstErrors(config.count, context.folder)
