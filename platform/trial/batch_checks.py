"""Checks of mini-batches of one sample, which BatchNorm cannot normalise in training: refused before the start."""

import copy
from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import nn

from ..data.streams import Stream
from ..errors import UserError
from ..training.plugin import Plugin
from .resolve import ResolvedPart
from .training_plan import PlannedExperience


def check_batches_of_one(
    planned: Sequence[PlannedExperience],
    stream: Stream,
    network: nn.Module,
    strategies: Sequence[ResolvedPart],
    plugins: Sequence[Any],
) -> None:
    """Refuse a trial in which the network is trained on a single sample that it cannot be trained on.

    Args:
        planned: the experiences that are trained on.
        stream: the stream.
        network: the network, with what strategies add to it.
        strategies: the strategies.
        plugins: their plugins, in the same order.

    Raises:
        UserError: a mini-batch of one sample, new or remembered, and a network with BatchNorm.
    """
    ours = [(part, plugin) for part, plugin in zip(strategies, plugins, strict=True) if isinstance(plugin, Plugin)]
    known: dict[frozenset[int], str] = {}  # frozen layers -> problem: experiences of one network differ in these only

    def problem_after(num_trained: int) -> str:
        frozen = frozenset(id(norm) for _, plugin in ours for norm in plugin.always_frozen(network, num_trained)[1])
        if frozen not in known:
            known[frozen] = _problem(network, stream, frozen)
        return known[frozen]

    for num_trained, experience in enumerate(planned):
        appended = any(plugin.num_appended(num_trained) for _, plugin in ours)
        if experience.has_batch_of_one and not appended:
            if problem := problem_after(num_trained):
                raise UserError(_message(experience, problem))
        for part, plugin in ours:
            if not part.does_nothing and plugin.separate_batch_size(experience.batch_size, num_trained) == 1:
                if problem := problem_after(num_trained):
                    raise UserError(
                        f"{part.path}: replays a single sample at a time in '{experience.name}', which this network "
                        f"cannot be trained on ({problem}): let it remember and replay more."
                    )


def _message(experience: PlannedExperience, problem: str) -> str:
    size = experience.batch_size
    where = "for the last mini-batch" if size > 1 else "for each mini-batch"
    return (
        f"training.batch_size={size}: leaves one sample {where} of '{experience.name}' "
        f"({experience.num_samples} samples), which this network cannot be trained on ({problem}): choose another."
    )


def _problem(network: nn.Module, stream: Stream, frozen: Container[int]) -> str:
    """Return why the network cannot be trained on one sample; an empty text if it can. Frozen layers need no second one."""
    trained = copy.deepcopy(network).train()
    for own, copied in zip(network.modules(), trained.modules(), strict=True):
        if id(own) in frozen:
            copied.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            trained(torch.zeros(1, *stream.shape))
    except ValueError as error:  # torch: expected more than 1 value per channel when training
        return str(error)
    return ""
