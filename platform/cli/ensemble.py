"""Finished seeds of one variant vote: the mean of their networks' probabilities on the test stream.

Each trial's learner is made again from its config and newest checkpoint, so that strategies' own ways to predict are followed.
Shapes: N test samples, K outputs of the head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ..config.load import from_dict
from ..errors import UserError
from ..files import digest
from ..methods.probability_averaging import as_logits, average_probabilities, probabilities
from ..metrics import interval
from ..reporting.results import ComparedTrial, finished, format_cell, results_of
from ..training import learner_state
from ..training.evaluation import TestSet
from ..training.learner import Learner
from ..trial import checkpoint
from ..trial.builder import TrialBuilder, build_trial, seeds_of
from ..trial.resolve import check_plugins
from ..trial.torch_settings import torch_settings


@dataclass(frozen=True, slots=True)
class Ensemble:
    """What came of one variant: accuracy on each experience's test set, of each seed and of all together.

    Attributes:
        stream: its name.
        variant: its name.
        experiences: their names.
        members: seed -> accuracies, one per experience.
        together: accuracies of the mean of their probabilities.
    """

    stream: str
    variant: str
    experiences: tuple[str, ...]
    members: Mapping[int, list[float]]
    together: list[float]


def ensembles(folders: Sequence[Path]) -> list[Ensemble]:
    """Let the seeds of each variant in these folders vote, where it has at least two that are done.

    Raises:
        UserError: no variant has two; seeds of one have different test samples or labels; a trial has no checkpoint.
    """
    variants = [
        (stream, label, seeds)
        for stream, found in finished(results_of(folders)).items()
        for label, seeds in found.items()
        if len(seeds) > 1
    ]
    if not variants:
        raise UserError(
            f"{folders[0]}: no variant has two finished trials that differ in their seed alone (sweep.seeds), as an ensemble "
            f"needs."
        )
    return [_ensemble(stream, label, seeds) for stream, label, seeds in variants]


def _ensemble(stream: str, label: str, seeds: Sequence[ComparedTrial]) -> Ensemble:
    """One learner after another; what is kept of each is its probabilities."""
    members: dict[int, list[float]] = {}
    votes: list[Tensor] = []
    first: tuple[TrialBuilder, TestSet] | None = None
    for result in seeds:
        parts = _parts(result, first[0] if first else None)
        with torch_settings(parts.config.resources):
            learner = _learner(result, parts)
            if first is not None:
                _check_same(first[1], learner.test_set, label, seeds[0].seed, result.seed)
            first = first or (parts, learner.test_set)
            logits = learner.logits()
        members[result.seed] = learner.test_set.row(logits).task_agnostic
        given = parts.stream.scenario == "task"
        votes.append(probabilities(logits, parts.stream.own if given else None))
    assert first is not None
    together = first[1].row(as_logits(average_probabilities(votes))).task_agnostic
    return Ensemble(stream, label, seeds[0].experiences, members, together)


def _parts(result: ComparedTrial, first: TrialBuilder | None) -> TrialBuilder:
    """What the trial is made of; on the CPU where there is no GPU, whatever it was trained on."""
    config = check_plugins(from_dict(dict(result.config)))
    stream = None
    if first is not None:  # the same one need not be built again
        sources = [(c.benchmark, c.data, seeds_of(c).class_order) for c in (first.config, config)]
        stream = first.stream if sources[0] == sources[1] else None
    return build_trial(config, planning=not torch.cuda.is_available(), stream=stream)


def _learner(result: ComparedTrial, parts: TrialBuilder) -> Learner:
    """The learner as its trial left it."""
    folder = result.trial.folder
    state = checkpoint.load_newest_checkpoint(folder / "checkpoints", digest(folder / "config.yaml"))
    if state is None:
        raise UserError(f"{folder}: has no valid checkpoint, so its network cannot be made again.")
    learner = parts.learner(lambda learner: None, lambda text: None)
    learner_state.restore(learner, state["learner"])
    return learner


def _check_same(one: TestSet, other: TestSet, label: str, seed: int, other_seed: int) -> None:
    """Networks can only vote on the same samples, with the same numbers for classes."""
    alike = one.sizes == other.sizes and torch.equal(one.y, other.y) and torch.equal(one.x, other.x)
    if not alike or one.stream.class_names != other.stream.class_names:
        raise UserError(
            f"{label}: seeds {seed} and {other_seed} have streams of their own (order of classes, or of domains), so that their "
            f"networks cannot vote; train them with one: set seeds.class_order, e.g. seeds.class_order=0."
        )


def table(found: Ensemble) -> Table:
    """Accuracies in per cent: experiences by seeds, their mean with its 95 % interval, and the ensemble."""
    shown = Table(
        title=Text(f"{found.stream}, {found.variant}", style="bold"),
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    shown.add_column("accuracy at the end")
    for heading in (*(f"seed {seed}" for seed in found.members), "mean", "ensemble"):
        shown.add_column(heading, justify="right", no_wrap=True)
    columns = [*found.members.values(), found.together]
    averages = [mean(accuracies) for accuracies in columns]
    lines = [("ACC", averages), *zip(found.experiences, zip(*columns, strict=True), strict=True)]
    for name, values in lines:
        *seeds, together = values
        cells = [format_cell(value, float("nan")) for value in seeds]
        cells += [format_cell(*interval(seeds)), format_cell(together, float("nan"))]
        shown.add_row(Text(name), *cells, style="bold" if name == "ACC" else "")
    return shown
