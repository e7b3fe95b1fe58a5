"""What to change after a loss that is not finite: the settings that decide how large a network's outputs start."""

from ..data.streams import Stream
from .resolve import ResolvedExperiment


def divergence_advice(resolved: ResolvedExperiment, stream: Stream) -> str:
    """Return a sentence that names the network's initial weights and the pixels' normalisation, with their present values.

    The message of the loss itself names learning rate and clipping.
    """
    init = getattr(resolved.network.config, "init", None)
    smaller = "the smallest weights" if init == "torch" else "torch: smaller weights"
    first = f"{resolved.network.path}.init={init} ({smaller}) and " if init else ""
    return f"It also depends on {first}{_pixels(resolved, stream)}."


def _pixels(resolved: ResolvedExperiment, stream: Stream) -> str:
    """Return in words how pixels are normalised, with the setting that changes it if the data set has one."""
    if not any(stream.mean) and all(deviation == 1 for deviation in stream.std):
        return "the pixels, which are in [0, 1] here, not normalised"
    by = f"mean {_numbers(stream.mean)} and deviation {_numbers(stream.std)}"
    largest = max(max(mean, 1 - mean) / std for mean, std in zip(stream.mean, stream.std, strict=True))
    data = getattr(resolved.benchmark.config, "data", None)
    name = next((name for name, settings in data.items() if "normalise" in settings), None) if data else None
    key = f"; {resolved.benchmark.path}.data: {{{name}: {{normalise: false}}}} leaves them in [0, 1]" if name else ""
    return f"the pixels, which are normalised by {by}, so up to {largest:.1f}{key}"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
