"""Cut a trial's stream down to what a search's protocol allows, and its lists with one value per experience to match."""

from dataclasses import replace
from typing import Any, Literal

from ..config.load import from_dict, to_dict
from ..config.schema import StreamPart
from ..config.settings import per_experience
from ..errors import UserError
from ..trial.resolve import ResolvedExperiment, resolve_experiment


def cut_stream(
    resolved: ResolvedExperiment, *, first: int | None = None, after: int = 0, test: Literal["validation"] | None = None
) -> ResolvedExperiment:
    """Return an experiment whose stream is cut further than its own `stream_part` cuts it.

    Its lists fit its own part of the stream, so they lose the values of those experiences only that are cut here.

    Args:
        resolved: the experiment.
        first: keep only so many experiences of its part; None: all.
        after: leave out so many at the start of its part.
        test: "validation": the validation samples stand in for the test samples; None: as in its own part.

    Raises:
        UserError: no experience is left.
    """
    own = resolved.experiment.stream_part
    stop = own.first
    if first is not None:
        stop = own.after + first if own.first is None else min(own.after + first, own.first)
    if stop is not None and own.after + after >= stop:
        raise UserError(
            f"sweep.protocol.first_experiences.k={after}: must be below {stop - own.after}, the experiences of stream_part "
            f"(first={own.first}, after={own.after}): none would be left to evaluate on."
        )
    part = StreamPart(first=stop, after=own.after + after, test=test or own.test)
    kept = slice(after, None if stop == own.first else first)
    cut = _with_lists(resolved, kept)
    return replace(cut, experiment=replace(cut.experiment, stream_part=part))


def _with_lists(resolved: ResolvedExperiment, kept: slice) -> ResolvedExperiment:
    """Cut lists with one value per experience."""
    plain = to_dict(resolved.experiment)
    training = resolved.experiment.training
    is_cut = [_cut(plain["training"], training, kept), _cut(plain["training"]["optimizer"], training.optimizer, kept)]
    is_cut += [_cut(plain["strategies"][each.name], each.config, kept) for each in resolved.strategies]
    return resolve_experiment(from_dict(plain)) if any(is_cut) else resolved


def _cut(plain: dict[str, Any], config: Any, kept: slice) -> bool:
    """Cut the lists of a section in place; return whether one has changed."""
    is_cut = False
    for key in per_experience(config):
        values = plain.get(key)
        if isinstance(values, list):
            plain[key] = values[kept] or values[-1:]
            is_cut |= len(plain[key]) < len(values)
    return is_cut
