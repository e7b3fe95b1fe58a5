"""The worst errors: a sheet of the test pictures that the network gets wrong with the highest confidence, after each experience.

Among the test samples of the experiences up to the one just learned. Written to the trial's folder as
probes/worst_errors-<experience>.png, with a text beside it (.json) of what each picture is, what it was taken for and with
which probability. Values: `errors` (share of the samples that is wrong) and `confidence` (mean probability of the predictions on
the sheet).
Shapes: n samples, K outputs of the head, C channels, H height, W width.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import UserError
from ...files import write_bytes
from ...ledger.documents import write_json
from ._base import Probe, ProbeContext, Values, check_positive
from ._samples import ProbeSamples, gather_samples, logits

_SIDE, _COLUMNS, _TEXT = 72, 8, 28  # of a picture and its caption, in pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A sheet of the test pictures that are wrong with the highest confidence, in the trial's folder and the report.

    count: pictures on a sheet.
    """

    count: int = 24

    def __post_init__(self) -> None:
        check_positive(count=self.count)


class WorstErrors(Probe):
    """Draws a sheet after each experience."""

    def __init__(self, count: int, folder: Path) -> None:
        self.count, self.folder = count, folder

    def after_experience(self, learner: Any, number: int) -> Values:
        """Look at all test samples so far."""
        experiences = learner.stream.experiences[: number + 1]
        subset = gather_samples(learner.stream, [(i, one.test) for i, one in enumerate(experiences)], learner.device)
        confidence, predicted = logits(learner, subset).softmax(1).max(1)
        wrong = predicted != subset.y
        worst = torch.where(wrong, confidence, -1.0).sort(descending=True, stable=True).indices[: self.count]
        worst = worst[wrong[worst]]
        self._write(learner.stream, subset, worst, predicted[worst].tolist(), confidence[worst].tolist(), number)
        mean = confidence[worst].double().mean().item()
        return {"errors": wrong.double().mean().item(), "confidence": mean}

    def _write(
        self,
        stream: Any,
        subset: ProbeSamples,
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
        write_bytes(path.with_suffix(".png"), sheet(pictures(stream, subset.x[worst], subset.converted), entries))


def pictures(stream: Any, x: torch.Tensor, converted: bool) -> torch.Tensor:
    """Samples as the network takes them, or as stored -> bytes of colours (n, H, W, 3)."""
    if not converted:
        x = stream.normalise(x)
    channels = (1, -1, 1, 1)
    mean, std = (torch.tensor(values, device=x.device).view(channels) for values in (stream.mean, stream.std))
    values = (x * std + mean).clamp(0, 1).mul(255).round().to(torch.uint8)
    values = values if values.shape[1] == 3 else values[:, :1].expand(-1, 3, -1, -1)
    return values.permute(0, 2, 3, 1).cpu()


def sheet(colours: torch.Tensor, entries: list[dict[str, Any]]) -> bytes:
    """A PNG of pictures (n, H, W, 3) in rows, each with its true and its predicted class below it."""
    from PIL import Image, ImageDraw

    columns = min(_COLUMNS, max(1, len(entries)))
    width, height = _SIDE + 8, _SIDE + _TEXT + 8
    page = Image.new("RGB", (columns * width, max(1, math.ceil(len(entries) / columns)) * height), "white")
    draw = ImageDraw.Draw(page)
    for place, (picture, entry) in enumerate(zip(colours.numpy(), entries, strict=True)):
        left, top = place % columns * width + 4, place // columns * height + 4
        scale = _SIDE / max(picture.shape[:2])
        size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        page.paste(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST), (left, top))
        said = f"{_short(entry['true'])}\n> {_short(entry['predicted'])} {entry['probability']:.0%}"
        draw.multiline_text((left, top + _SIDE + 1), said, fill="black", spacing=1)
    stored = io.BytesIO()
    page.save(stored, "PNG")
    return stored.getvalue()


def _short(name: str) -> str:
    """What fits under a picture, in the letters that PIL's own font has."""
    plain = name.encode("ascii", "replace").decode()
    return plain if len(plain) <= 8 else plain[:7] + "."


def build(config: Config, context: ProbeContext) -> Probe:
    """The probe; the stream must be one of pictures."""
    if len(context.stream.shape) != 3:
        raise UserError(
            f"probes.worst_errors: the samples are no pictures; their shape is {list(context.stream.shape)}."
        )
    return WorstErrors(config.count, context.folder)
